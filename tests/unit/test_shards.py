"""A split that several jobs answer gets the bytes that one job gives it."""

import json
import runpy
from pathlib import Path

import pytest
import small
import torch
import yaml

from pedalign.core.artifacts import read_csv, write_json
from pedalign.data.conversations import Conversation, formatted_rows
from pedalign.data.responses import COLUMNS, gathered
from pedalign.generation import shared_prefix_engine
from pedalign.generation.common import GenerationSettings, History, batches
from pedalign.generation.engines import Engine
from pedalign.models.checkpoints import save_checkpoint
from pedalign.workflow.calls import read_config
from pedalign.workflow.job_settings import answering

RENDERING = {"template": "tutor", "instruction": "compact"}
GENERATION = {"max_new_tokens": 12, "min_new_tokens": 0, "repetition_penalty": 1.1, "max_batch_tokens": 800, "seed": 7}


class Tutor:
    """A small tutor, a split for it, and the two scripts that answer the split in shards."""

    def __init__(self, folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.root, self.monkeypatch = folder, root, monkeypatch
        model, tokenizer, rendering = small.small_model()
        save_checkpoint(model, rendering, tokenizer, folder / "checkpoint")
        talks = [Conversation(talk.id, talk.messages * (1 + number % 5)) for number, talk in enumerate(small.TALKS)]
        self.rows = list(formatted_rows(talks))
        write_json(folder / "rows.json", self.rows)

    def run(self, script: str, *arguments: object) -> None:
        path = str(self.root / f"scripts/{script}.py")
        self.monkeypatch.setattr("sys.argv", [path, str(self.folder / "rows.json"), *map(str, arguments)])
        runpy.run_path(path, run_name="__main__")

    def generate(self, shard: str, temperature: float, samples: int) -> Path:
        output = self.folder / f"{shard.replace('/', '-of-')}.csv"
        decoding = GENERATION | {"temperature": temperature}
        settings = {"rendering": RENDERING, "dtype": "float32", "generation": decoding, "samples": samples}
        given = ["--model", self.folder / "checkpoint", "--rubric", self.root / "datasets/rubrics/class.yaml"]
        self.run("generate", *given, "--output", output, "--settings", json.dumps(settings), "--shard", shard)
        return output

    def in_shards(self, number: int, temperature: float, samples: int) -> bytes:
        parts = [self.generate(f"{shard}/{number}", temperature, samples) for shard in range(1, number + 1)]
        output = self.folder / "responses.csv"
        self.run("gather", *reversed(parts), "--samples", samples, "--output", output)
        return output.read_bytes()


@pytest.fixture
def tutor(tmp_path, root, monkeypatch) -> Tutor:
    """Its logits depend on what shares a batch. They always do, by rounding; here so much that each reply shows it."""
    step = shared_prefix_engine._step

    def step_roughly(model, going):
        step(model, going)
        for batch in going:
            rounding = torch.Generator().manual_seed(sum(at for at, _ in batch.rows) + 1000 * len(batch.rows))
            batch.logits = batch.logits + torch.randn(batch.logits.shape[-1], generator=rounding)

    monkeypatch.setattr(shared_prefix_engine, "_step", step_roughly)
    proved = Engine("shared_prefix", shared_prefix_engine.generate)
    monkeypatch.setattr("pedalign.generation.engines.choose_engine", lambda *_: proved)
    return Tutor(tmp_path, root, monkeypatch)


@pytest.mark.parametrize(("temperature", "samples"), [(0.0, 1), (1.0, 2)])
def test_the_gathered_bytes_are_those_of_one_job_for_any_number_of_shards(tutor, temperature, samples) -> None:
    whole = tutor.generate("1/1", temperature, samples)
    assert len(read_csv(whole)) == len(tutor.rows) * samples
    for number in (1, 2, 3, 7):
        assert tutor.in_shards(number, temperature, samples) == whole.read_bytes(), number


def test_more_shards_than_conversations_leave_some_without_rows_and_without_need_of_the_model(tutor) -> None:
    whole = tutor.generate("1/1", 0.0, 1).read_bytes()
    assert tutor.in_shards(len(small.TALKS) + 1, 0.0, 1) == whole
    (tutor.folder / "checkpoint/model.safetensors").unlink()
    empty = tutor.generate(f"{len(small.TALKS) + 1}/{len(small.TALKS) + 1}", 0.0, 1)
    assert empty.read_text() == ",".join(f'"{name}"' for name in COLUMNS) + "\n"


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 50])
def test_shards_have_whole_batches_each_one_once_and_like_numbers_of_them(shards) -> None:
    histories = [History(str(at), [0] * (10 + 37 * at % 90), [5]) for at in range(200)]
    settings = GenerationSettings(**GENERATION, temperature=0.0)
    dealt = [batches(histories, settings, shard, shards) for shard in range(1, shards + 1)]
    assert sorted(batch for some in dealt for batch in some) == sorted(batches(histories, settings))
    assert sorted(at for some in dealt for batch in some for at in batch) == list(range(200))
    sizes = [len(some) for some in dealt]
    assert max(sizes) - min(sizes) <= 1


def test_the_number_of_shards_is_no_setting_of_the_replies(root) -> None:
    given = yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))["models"]["tiny"]
    other = {**given, "generate": {**given["generate"], "max_batch_tokens": 4096}}
    sharded = {**other, "generate": {**other["generate"], "shards": 5}}
    config = read_config({"models": {"other": other, "sharded": sharded}}, root / "config.yaml")
    assert answering(config, "sharded", "dpo") == answering(config, "other", "dpo")
    assert config.models["sharded"].generate.shards == 5


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "1/-3", "a/b"])
def test_a_shard_that_is_none_is_refused(tutor, text: str) -> None:
    with pytest.raises(SystemExit) as ended:
        tutor.generate(text, 0.0, 1)
    assert f"--shard: is '{text}'" in str(ended.value) and len(str(ended.value).splitlines()) == 2


def test_a_part_of_a_split_is_refused_without_a_size_of_batches(tutor, monkeypatch) -> None:
    monkeypatch.setitem(GENERATION, "max_batch_tokens", None)
    with pytest.raises(SystemExit, match="--shard: max_batch_tokens is null"):
        tutor.generate("2/3", 0.0, 1)


def test_gathering_puts_rows_into_the_splits_order_and_refuses_missing_doubled_and_foreign_ones(refused) -> None:
    rows = list(formatted_rows(small.TALKS[:12]))
    given = [
        {
            "conversation_id": row["conversation_id"],
            "turn": str(row["turn"]),
            "sample": str(sample),
            "gpt": row["chosen"][0]["content"],
        }
        for row in rows
        for sample in range(11)
    ]
    assert list(gathered(rows, [given[150:], [], given[:150]], 11, "shards")) == given
    foreign, bad = {**given[0], "conversation_id": "z"}, {**given[-1], "sample": "x"}
    missing = ([given[1:]], [given[1:], [foreign]], [given[:-1]], [[]], [given[:-1], [bad]])
    for wrong in (*missing, [given, given[-1:]], [given, [foreign]], [given, [bad]]):
        with refused(f"shards has {sum(map(len, wrong))} rows for {len(given)} prompts", "delete shards"):
            list(gathered(rows, wrong, 11, "shards"))
    with refused("shards has"):
        list(gathered(rows, [given], 10, "shards"))
    with refused("shards: row 3 (from 0): 'gpt' is not the split's gold reply", "delete shards"):
        list(gathered(rows, [[*given[:3], {**given[3], "gpt": "another"}, *given[4:]]], 11, "shards"))


def test_a_prompt_that_ends_beyond_the_models_positions_is_refused(tutor) -> None:
    path = tutor.folder / "checkpoint/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 64}))
    with pytest.raises(SystemExit, match="more than the model has positions, 64"):
        tutor.generate("1/1", 0.0, 1)
