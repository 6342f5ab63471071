"""Several jobs answer a split as one does."""

import re

import pytest
import yaml

from pedalign.core.artifacts import read_csv

pytestmark = pytest.mark.slow

RESPONSES = "results/tiny/sft/test/responses.csv"


@pytest.fixture
def sharded(finished, tmp_path):
    """A finished run whose splits are to be answered anew, by three jobs each."""
    checkout = finished.copy(tmp_path / "checkout")
    config = yaml.safe_load((checkout.path / "tests/config/quick.yaml").read_text())
    config["models"]["tiny"]["generate"]["shards"] = 3
    (checkout.path / "sharded.yaml").write_text(yaml.safe_dump(config))
    return checkout


def test_three_shards_leave_the_bytes_of_one(finished, sharded):
    planned = sharded.planned("--cores", "2", config="sharded.yaml")
    assert (planned["generate_shard"], planned["gather"]) == (9, 3)
    assert "generate" not in planned and "sft" not in planned

    answer = sharded.forked("--cores", "2", RESPONSES, config="sharded.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    one, three = (where.path / RESPONSES for where in (finished, sharded))
    assert one.read_bytes() == three.read_bytes()
    assert [path.name for path in (three.parent / "shards").iterdir()] == [".provenance"]
    assert "0 with a problem" in sharded.provenance(RESPONSES)
    logs = sharded.path / "results/logs/tiny/sft/test/shards"
    said = [(logs / f"{shard}-of-3.log").read_text() for shard in (1, 2, 3)]
    rows = [int(re.search(r": (\d+) responses in ", one)[1]) for one in said]
    assert sum(rows) == len(read_csv(three)) and min(rows) > 0, rows
    assert sharded.planned("--cores", "2", RESPONSES, config="sharded.yaml") == {}


def test_shards_are_gathered_for_the_models_that_have_them_and_for_no_other(sharded):
    wanted = "results/mistral-7b/sft/test/responses.csv"
    planned = sharded.planned("--cores", "2", wanted, config="sharded.yaml")
    assert planned["generate"] == 1 and "gather" not in planned
