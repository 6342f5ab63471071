"""The workloads of `snakemake benchmark`: generation, fine-tuning and alignment, by the baselines and by us."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from statistics import median
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from pedalign.benchmarks import baselines
from pedalign.benchmarks.comparison import OURS, Comparison, Way, matrix_product_rate, measure
from pedalign.data.conversations import Conversation
from pedalign.data.rubric import Rubric
from pedalign.generation.common import GenerationSettings, history
from pedalign.generation.engines import choose_engine
from pedalign.models.checkpoints import load_model, load_tokenizer
from pedalign.models.log_probs import log_probabilities
from pedalign.models.prompt_format import renderer
from pedalign.training.algorithms import AlignmentSettings
from pedalign.training.alignment import Pair, align
from pedalign.training.settings import TrainingSettings
from pedalign.training.sft import sft_rows, train_sft

# Batch sizes (prompts) to try; the fastest is the baseline.
BATCHES = {"cpu": (8, 16, 32, 64, 128), "cuda": (32, 64, 128, 256)}
BETA = 0.1

# The architectures of Llama 3.2 1B and of Mistral 7B, with a vocabulary large enough for any tokenizer of ours.
_LLAMA = {"model_type": "llama", "vocab_size": 32000, "num_attention_heads": 32, "num_key_value_heads": 8}
RANDOM = {
    "1B": {**_LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16},
    "7B": {**_LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
}
# Bytes per parameter: weights, gradients and Adam's moments in float32, and some for activations; for alignment also
# the reference model of TRL's DPO.
_TRAINED_BYTES = {"fine-tuning": 18, "alignment": 22}


@dataclass(frozen=True)
class Size:
    answered: int  # conversations
    dialogues: int
    pairs: int
    rounds: int
    whole: dict[str, Any] | None = None  # changes to config.yaml that make whole runs short enough; None: no whole runs


WHOLE = {"split": {"sft": 60, "dpo": 15, "test": 15}, "models": {"tiny": {"sft": {"epochs": 1}}}}
SIZES = {"quick": Size(8, 24, 32, 5), "full": Size(48, 96, 128, 5, WHOLE)}


@dataclass(frozen=True)
class WorkloadSettings:
    size: str
    model: str  # its name
    template: str
    instruction: str
    dtype: str
    sft: dict[str, Any]  # TrainingSettings
    alignment: dict[str, Any]  # TrainingSettings
    generation: dict[str, Any]  # GenerationSettings


@dataclass(frozen=True)
class Data:
    """The SFT split, the formatted test split, preferences.json, and their rubric."""

    conversations: Sequence[Conversation]
    rows: Sequence[dict[str, Any]]
    preferences: dict[str, list[Any]]
    rubric: Rubric


@dataclass(frozen=True)
class Subject:
    """A model to measure with. `base` is fine-tuned; `tutor` answers and is aligned. Each call makes a new model in the
    given dtype. `training`: training settings that differ from those of the workflow's model."""

    name: str
    tokenizer: PreTrainedTokenizerFast
    base: Callable[[str], PreTrainedModel]
    tutor: Callable[[str], PreTrainedModel]
    dtype: str
    training: dict[str, Any] = field(default_factory=dict)
    memory: float = math.inf  # bytes of this machine per parameter of the model

    def fits(self, comparison: str) -> bool:
        """Whether the machine has memory for all ways of a comparison."""
        return _TRAINED_BYTES.get(comparison, 0) < self.memory

    def training_settings(self, usual: dict[str, Any]) -> TrainingSettings:
        return TrainingSettings(**{**usual, "epochs": 1, "dtype": self.dtype, **self.training})


def subjects(base: str, tutor: str, settings: WorkloadSettings) -> list[Subject]:
    """The models to measure: the workflow's model, or on a machine with a GPU random ones of common sizes."""
    tokenizer = load_tokenizer(tutor)
    if not torch.cuda.is_available():
        loads = partial(load_model, base), partial(load_model, tutor)
        return [Subject(settings.model, tokenizer, *loads, dtype=settings.dtype)]
    return random_subjects(tokenizer, torch.device("cuda"), torch.cuda.get_device_properties(0).total_memory)


def random_subjects(tokenizer: PreTrainedTokenizerFast, device: torch.device, memory: int) -> list[Subject]:
    """Models of common sizes with random weights. They use gradient checkpointing, as is usual at these sizes."""
    found = []
    for name, architecture in RANDOM.items():
        make = partial(random_model, architecture, device)
        size = random_model(architecture, torch.device("meta"), "bfloat16").num_parameters()
        found.append(Subject(name, tokenizer, make, make, "bfloat16", {"gradient_checkpointing": True}, memory / size))
    return found


def random_model(architecture: dict[str, Any], device: torch.device, dtype: str) -> PreTrainedModel:
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**architecture), dtype=getattr(torch, dtype))


def generation(
    subject: Subject, data: Data, settings: WorkloadSettings, instruction: str, say: Callable[[str], None]
) -> Comparison:
    """Ways to answer every turn of some conversations."""
    model, decoding = subject.tutor(subject.dtype).eval(), GenerationSettings(**settings.generation)
    rendering = renderer(subject.tokenizer, settings.template, instruction, data.rubric)
    conversations = [list(rows) for _, rows in groupby(data.rows, key=lambda row: row["conversation_id"])]
    histories = [
        history(rows[0]["conversation_id"], [row["prompt"] for row in rows], rendering)
        for rows in conversations[: SIZES[settings.size].answered]
    ]
    engine = choose_engine(model, histories, decoding)
    say(f"  {engine}")
    prompts = [one.ids[:length] for one in histories for length in one.prompt_lengths]

    def ours() -> list[list[int]]:
        answers = engine.generate(model, histories, rendering.end_id, decoding)
        return [completion.ids for completions in answers for completion in completions]

    def batched(number: int) -> Callable[[], list[list[int]]]:
        return partial(baselines.padded_batches, model, prompts, rendering.end_id, decoding, number)

    sizes = BATCHES[model.device.type]
    ways = {str(number): Way("", partial(batched, number)) for number in sizes}
    tried = measure(Comparison("prompts", len(prompts), {**ways, OURS: Way("", lambda: ours)}), 1, say)
    best = min(sizes, key=lambda number: tried["ways"][str(number)]["seconds"]["median"])
    one = partial(baselines.one_at_a_time, model, prompts, rendering.end_id, decoding)
    return Comparison(
        "prompts",
        len(prompts),
        {
            "one at a time": Way("transformers' generate, a prompt at a time", lambda: one),
            "padded batches": Way(f"generate, {best} prompts of like length at a time", partial(batched, best)),
            OURS: Way("each history once, all its turns from it, the last rows beside the next batch", lambda: ours),
        },
        partial(_compare_replies, model, prompts),
    )


def _compare_replies(model: Any, prompts: list[list[int]], made: dict[str, list[list[int]]]) -> dict[str, Any]:
    """How many replies differ from those of `one at a time`, and the largest gap in log-probability between the
    model's two most likely tokens where a reply begins to differ."""
    model.set_attn_implementation("sdpa")
    found = {}
    plain = made.pop("one at a time")
    for name, replies in made.items():
        gaps = []
        for prompt, one, other in zip(prompts, plain, replies, strict=True):
            if one != other:
                same = [a == b for a, b in zip(one, other, strict=False)]
                at = same.index(False) if False in same else len(same)
                with torch.inference_mode():
                    ids = torch.tensor([[*prompt, *one[:at]]], device=model.device)
                    first, second = model(ids).logits[0, -1].float().log_softmax(-1).topk(2).values
                gaps.append(float(first - second))
        found[name] = {"other_replies": len(gaps), "largest_gap": max(gaps, default=0.0)}
    return {"differences": found}


def sft(subject: Subject, data: Data, settings: WorkloadSettings, say: Callable[[str], None]) -> Comparison:
    """Ways to fine-tune for one epoch on some dialogues."""
    rendering = renderer(subject.tokenizer, settings.template, settings.instruction, data.rubric)
    training = subject.training_settings(settings.sft)
    conversations = data.conversations[: SIZES[settings.size].dialogues]
    rows = sft_rows(rendering, conversations, training.max_length)
    lengths = [len(row["input_ids"]) for row in rows]

    def way(train: Callable[..., Any], *given: Any) -> Callable[[], Callable[[], Any]]:
        return lambda: partial(train, subject.base("float32"), subject.tokenizer, *given, training)

    peaks: list[float] = []  # measured before each round of ours: other work may slow the machine down

    def ours() -> Callable[[], Any]:
        model = subject.base("float32")
        peaks.append(matrix_product_rate(getattr(torch, subject.dtype), model.device))
        return partial(train_sft, model, subject.tokenizer, rendering, conversations, training)

    def arithmetic(made: dict[str, Any]) -> dict[str, Any]:
        return {"operations": training_operations(subject.base(subject.dtype), lengths), "peak": median(peaks)}

    return Comparison(
        "tokens",
        sum(lengths),
        {
            "padded to the maximum": Way(
                f"transformers' Trainer, every dialogue padded to {training.max_length} tokens",
                way(baselines.sft_padded, rows),
            ),
            "TRL": Way("SFTTrainer, batches in random order", way(baselines.sft_trl, rows)),
            OURS: Way("batches of like length, only trained positions scored", ours),
        },
        arithmetic,
    )


def training_operations(model: Any, lengths: Sequence[int]) -> float:
    """Floating-point operations of a training on rows of these lengths.

    Six per parameter and token (arXiv 2001.08361, section 2.1), and those of attention: two each for scores and
    weighted values, per layer, dimension of all heads and pair of tokens. Half of the pairs are visible, and the
    backward pass makes it three times as many.
    """
    config = model.config
    heads = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    return 6 * model.num_parameters() * sum(lengths) + 6 * heads * sum(length**2 for length in lengths)


def alignment(subject: Subject, data: Data, settings: WorkloadSettings, say: Callable[[str], None]) -> Comparison:
    """Ways to do one epoch of DPO on some pairs, the reference model's log-probabilities included."""
    rendering = renderer(subject.tokenizer, settings.template, settings.instruction, data.rubric)
    training = subject.training_settings(settings.alignment)
    pairs = baselines.preference_pairs(data.preferences)[: SIZES[settings.size].pairs]

    def ours(model: PreTrainedModel) -> None:
        totals, _ = log_probabilities(
            model, baselines.pair_tokens(rendering, pairs), settings.generation["max_batch_tokens"]
        )
        made = [
            Pair(pair["prompt"], pair["chosen"][0]["content"], pair["rejected"][0]["content"], chosen, rejected)
            for pair, chosen, rejected in zip(pairs, totals[: len(pairs)], totals[len(pairs) :], strict=True)
        ]
        align(model, subject.tokenizer, rendering, made, AlignmentSettings("dpo", BETA, 0.0), training)

    def way(train: Callable[..., Any], *given: Any) -> Callable[[], Callable[[], Any]]:
        return lambda: partial(train, subject.tutor("float32"), *given)

    longest = max(len(prompt) + len(reply) for prompt, reply in baselines.pair_tokens(rendering, pairs))
    given = (subject.tokenizer, pairs, BETA, training)
    return Comparison(
        "pairs",
        len(pairs),
        {
            "padded, second model": Way(
                f"DPOTrainer with a copy of the model as reference, every pair padded to {longest} tokens",
                way(baselines.align_padded, *given, longest),
            ),
            "TRL": Way("DPOTrainer as it comes", way(baselines.align_trl, *given)),
            OURS: Way("a pair's prompt once for both replies, the reference once, batches of like length", way(ours)),
        },
    )
