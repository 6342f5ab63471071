"""Private names of libraries that we use are in one list, and are there in the installed versions."""

import importlib.util
import inspect
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import snakemake.api  # noqa: F401 (before snakemake.workflow, which imports it in a circle)

ROOT = Path(__file__).parents[2]
PAGE = "docs/reference/private-names.md"
ROWS = re.findall(r"^\| `([\w.]+):([\w.]+)` \| (\S+) \|", (ROOT / PAGE).read_text(), re.MULTILINE)


def is_there(module: str, name: str) -> bool:
    """Whether a module has a name; of a class, whether it has the attribute, or sets it on its instances."""
    if module.startswith("fastchat.serve"):  # to import it writes a log file and takes over what is printed
        return re.search(rf"\b{name}\b", Path(importlib.util.find_spec(module).origin).read_text()) is not None
    found = importlib.import_module(module)
    owner, _, attribute = name.rpartition(".")
    if not owner:
        return hasattr(found, attribute)
    kind = getattr(found, owner, None)
    if kind is None or hasattr(kind, attribute):
        return kind is not None
    return any(
        re.search(rf"self\.{attribute}\b *(:[^=]+)?=|^    {attribute}:", inspect.getsource(one), re.MULTILINE)
        for one in kind.__mro__[:-1]
    )


@pytest.mark.parametrize(("module", "name", "used"), ROWS, ids=[f"{module}:{name}" for module, name, _ in ROWS])
def test_a_private_name_is_there(module: str, name: str, used: str) -> None:
    library = module.partition(".")[0].replace("_", "-")
    installed = f"{library} {version('fschat' if library == 'fastchat' else library)}"
    assert is_there(module, name), f"{installed} has no {module}:{name}; adapt {used}, and {PAGE}"


def test_a_name_that_is_not_there_is_seen() -> None:
    assert not is_there("trl", "DPOTrainer._compute_losses") and not is_there("snakemake.workflow", "Workflow.day")
    assert not is_there("fastchat.serve.model_worker", "create_model_workers")
    assert not is_there("trl.trainer.utils", "_use_tritons") and not is_there("trl", "DPOTrainers._compute_loss")


def test_the_arguments_of_the_methods_that_we_replace_are_those_that_we_give() -> None:
    from trl import DPOTrainer, KTOTrainer

    for trainer in (DPOTrainer, KTOTrainer):
        assert list(inspect.signature(trainer._compute_loss).parameters)[:3] == ["self", "model", "inputs"]
        assert list(inspect.signature(trainer._prepare_dataset).parameters)[:2] == ["self", "dataset"]


def test_the_list_names_where_each_is_used_and_every_private_name_of_the_code() -> None:
    assert len(ROWS) > 40
    for _, name, used in ROWS:
        places = [place for folder in ("scripts", "scripts/pedalign", ".") if (place := ROOT / folder / used).exists()]
        files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*.py"))]
        assert files, used
        assert any(re.search(rf"\b{name.rpartition('.')[2]}\b", file.read_text()) for file in files), (name, used)
    listed = {name.rpartition(".")[2] for _, name, _ in ROWS}
    for file in [*(ROOT / "scripts").rglob("*.py"), *(ROOT / "rules").glob("*.smk")]:
        found = re.findall(r"\b(?:utils|persistence|super\(\)|config)\.(_[a-z]\w+)", file.read_text(), re.IGNORECASE)
        assert set(found) <= listed | {"_one_line"}, file
