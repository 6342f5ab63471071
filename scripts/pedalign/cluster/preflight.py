"""Preflight: compares what the config's runs need with what there is, before anything starts.

No job is submitted. The only use of the network: the hub is asked about models that are not on this machine.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from transformers import AutoConfig

from pedalign.cluster.estimates import (
    GB,
    GPU_RESERVE,
    Memory,
    Size,
    base_bytes,
    checkpoint_bytes,
    model_size,
    read_config,
    stage_memory,
    training_state_bytes,
)
from pedalign.cluster.findings import Finding, judged, problem
from pedalign.cluster.gpu_locks import Card, listed_cards, visible_devices
from pedalign.cluster.partitions import slurm_findings
from pedalign.cluster.preflight_stages import (
    DataSettings,
    Splits,
    can_load,
    draw_splits,
    engine_in_words,
    forward_in_words,
    length_findings,
    perplexity_findings,
    scratch_model_of,
)
from pedalign.cluster.preset_choice import preset_finding
from pedalign.cluster.resources import check_machine
from pedalign.core.errors import UserError
from pedalign.core.paths import Paths
from pedalign.core.processes import accumulation
from pedalign.data.rubric import Rubric, instruction_text
from pedalign.models.adapters import expect_four_bit
from pedalign.models.checkpoints import find_checkpoint, load_model, load_tokenizer
from pedalign.models.length_limits import LengthSettings
from pedalign.models.limits import model_limits
from pedalign.models.locations import Found, find
from pedalign.models.prompt_format import renderer

_NAMES = {"sft": "fine-tuning", "align": "alignment", "generate": "generation"}
_TALK = [{"role": "user", "content": "Q."}, {"role": "assistant", "content": "A."}, {"role": "user", "content": "Why?"}]
_SMALLER = "smaller batches: device_batch_size, max_length, max_batch_tokens, or gradient_checkpointing: true"

Job = dict[str, Any]  # resource → its value


@dataclass(frozen=True)
class PreflightSettings:
    """`models`: their entries in config.yaml; `runs`: (model, policy) of each run; `jobs`: model → stage → resources of
    its jobs; `data_job`: resources of a job without a model; `here`: whether jobs run on this machine;
    `status_command`: the command that reports how a Slurm job ended, None without Slurm; `data`: DataSettings;
    `lengths`: model → LengthSettings; `seed`: the config's; `variants`: model → policy → `align`, `adapter` and `gpu`
    of an alignment that has settings of its own; `presets`: model → names of presets, and the entries that they would
    make."""

    results: str
    here: bool
    status_command: str | None
    models: dict[str, dict[str, Any]]
    runs: list[list[str]]
    jobs: dict[str, dict[str, Job]]
    data_job: Job
    data: dict[str, Any]
    lengths: dict[str, dict[str, Any]]
    seed: int
    variants: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    presets: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """The machine where jobs run: its GPUs, and memory in bytes, if known, of its smallest GPU, and its own."""

    gpus: int = 0
    gpu: float | None = None
    memory: float | None = None


def preflight(settings: PreflightSettings, rubric: Rubric) -> Iterator[Finding]:
    """All findings, each as soon as it is made."""
    models = list(settings.models)
    named = [(f"{model} {_NAMES[stage]}", job) for model in models for stage, job in _stages(settings, model)]
    machine = Machine()
    if settings.here:
        try:
            devices = visible_devices()
            cards = [card for card in listed_cards() if {card.index, card.uuid} & set(devices)] if devices else []
        except UserError as error:
            devices, cards = [], []
            yield problem("GPUs", error)
        smallest = min((card.memory for card in cards if card.memory), default=None)
        machine = Machine(len(devices), smallest, _memory_of_machine())
        yield from gpu_findings(named, devices, cards)
    splits, findings = draw_splits(DataSettings(**settings.data), rubric)
    yield from findings
    sizes: dict[str, Size] = {}
    downloads: dict[str, int] = {}
    for model in models:
        yield from model_findings(settings, model, rubric, machine, splits, sizes, downloads)
    yield from disk_findings(settings, sizes, sum(downloads.values()))
    if settings.status_command:
        yield from slurm_findings(settings.status_command, [*named, ("data and metrics", settings.data_job)])


def _stages(settings: PreflightSettings, model: str) -> list[tuple[str, Job]]:
    """The stages that run for a model, in the order in which they run."""
    return [(stage, settings.jobs[model][stage]) for stage in _NAMES if stage in settings.jobs[model]]


def model_findings(
    settings: PreflightSettings,
    model: str,
    rubric: Rubric,
    machine: Machine,
    splits: Splits | None,
    sizes: dict[str, Size],
    downloads: dict[str, int],
) -> Iterator[Finding]:
    """Check a model: its checkpoints, template, batches, stages and memory.

    Adds its size, if known, to `sizes`, and the bytes to download for its checkpoints to `downloads`.
    """
    entry, found = settings.models[model], dict[str, Found]()
    for policy, source in sources(model, entry, settings.runs).items():
        try:
            found[policy] = find(source)
        except UserError as error:
            yield problem(f"{model} {policy}", error)
            continue
        downloads[source] = found[policy].download
        yield checkpoint_finding(f"{model} {policy}", source, found[policy])
    start = found.get("sft") or found.get("base")  # what is trained, or answers first
    yield template_finding(f"{model} template", entry, start, rubric)
    for stage, job in _stages(settings, model):
        if stage != "generate":
            yield judged(f"{model} {_NAMES[stage]} batch", batch_in_words, entry[stage], job["gpu"])
    variants = settings.variants.get(model, {})
    for policy, variant in variants.items():
        yield judged(f"{model} {policy} batch", batch_in_words, variant["align"], variant["gpu"])
    if "adapter" in entry and entry["adapter"]["four_bit"]:
        yield four_bit_finding(f"{model} adapter", settings.here)
    if "init" not in entry and not (start and start.has_config()):
        yield Finding("unknown", f"{model} memory", "not estimated, as its configuration is not at hand")
        return
    try:
        size = sizes[model] = model_size(entry, read_config(start.folder) if start else None)
    except UserError as error:
        yield problem(f"{model} model", error)
        return
    adapter = f", and {size.adapter:,} of an adapter, which alone are trained" if size.adapter else ""
    yield Finding("ok", f"{model} model", f"{size.parameters:,} parameters{adapter}")
    if settings.here and start and settings.presets.get(model):
        config, presets = read_config(start.folder), dict(settings.presets[model])
        yield preset_finding(model, presets, config, machine.gpus, machine.gpu, machine.memory)
    yield from stage_findings(settings, model, rubric, start, splits, size)
    for stage, job in _stages(settings, model):
        memory = stage_memory(size, entry, stage, job["gpu"], job["nodes"])
        yield from memory_findings(f"{model} {_NAMES[stage]}", memory, job, machine)
    for policy, variant in variants.items():
        whole, job = {**entry, **variant}, {**settings.jobs[model]["align"], "gpu": variant["gpu"]}
        own = model_size(whole, read_config(start.folder) if start else None)
        yield from memory_findings(
            f"{model} {policy}", stage_memory(own, whole, "align", job["gpu"], job["nodes"]), job, machine
        )


def four_bit_finding(about: str, here: bool) -> Finding:
    try:
        expect_four_bit(here)
    except UserError as error:
        return problem(about, error)
    return Finding("ok" if here else "unknown", about, "four_bit: " + ("can be used" if here else "needs a GPU there"))


def stage_findings(
    settings: PreflightSettings, model: str, rubric: Rubric, start: Found | None, splits: Splits | None, size: Size
) -> Iterator[Finding]:
    """Try what a model's first stages do: count the splits' tokens with its tokenizer, and compute a few tokens."""
    entry, lengths = settings.models[model], LengthSettings(**settings.lengths[model])
    scratch = "init" in entry and lengths.fine_tuned
    if scratch:
        sizes = {"vocab_size": entry["vocab_size"], "bos_token_id": None, "eos_token_id": 0}
        config = AutoConfig.for_model(**entry["architecture"], **sizes)
    else:
        assert start is not None
        config = read_config(start.folder)
    limits = model_limits(config)
    if limits.positions and lengths.max_length and lengths.max_length > limits.positions:
        yield Finding(
            "warning",
            f"{model} max_length",
            f"{lengths.max_length} is more than the model's {limits.positions} positions: a conversation between the "
            "two can't be trained",
            f"set max_length to {limits.positions} in the model's entry of config.yaml",
        )
    weights = checkpoint_bytes(size, entry)
    loads, made, tokenizer = can_load(weights), None, None
    try:
        instruction = instruction_text(rubric, entry["instruction"])
        if scratch and splits is not None and loads:
            made, tokenizer = scratch_model_of(entry, splits, instruction, settings.seed)
            limits = model_limits(made.config)
        elif not scratch and start is not None and start.has_tokenizer():
            tokenizer = load_tokenizer(start.folder)
        if tokenizer is None:
            yield Finding("unknown", f"{model} lengths", "not compared, as the tokenizer or the splits are not at hand")
            return
        rendering = renderer(tokenizer, entry["template"], entry["instruction"], rubric)
    except UserError:
        return  # the finding about the template says so
    if splits is None:
        yield Finding("unknown", f"{model} lengths", "not compared, as the splits are not at hand")
    else:
        yield from length_findings(f"{model} lengths", splits, rendering, limits, lengths)
        yield from perplexity_findings(f"{model} perplexity", DataSettings(**settings.data), rubric, rendering, limits)
    if not loads:
        yield Finding("unknown", f"{model} forward pass", f"not tried: {_gb(weights)} of weights are not loaded here")
    elif made is not None or (start and start.is_whole()):
        try:
            whole = made or load_model(
                start.folder if start else "", entry["dtype"], device="cpu", attention=entry.get("attn_implementation")
            )
        except UserError as error:
            yield problem(f"{model} forward pass", error)
            return
        forward = judged(f"{model} forward pass", forward_in_words, whole, rendering.encode(_TALK)[0])
        yield forward
        if forward.status == "ok" and splits is not None:
            engine = entry["generate"].get("engine", "auto")
            yield judged(f"{model} engine", engine_in_words, whole, rendering, splits["sft"], engine)


def _gb(size: float) -> str:
    return f"{size / GB:.3g} GB"


def _memory_of_machine() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def gpu_findings(jobs: Sequence[tuple[str, Job]], devices: Sequence[str], cards: Sequence[Card]) -> Iterator[Finding]:
    kinds = Counter(card.name + (f" ({_gb(card.memory)})" if card.memory else "") for card in cards)
    named = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    yield Finding("ok", "GPUs", f"{len(devices)} visible{': ' * bool(named)}{named}" if devices else "none visible")
    for name, job in jobs:
        try:
            check_machine([("the job", job["gpu"], job["nodes"])], len(devices))
        except UserError as error:
            yield problem(name, error)


def sources(model: str, entry: dict[str, Any], runs: Sequence[Sequence[str]]) -> dict[str, str]:
    """The folders or hub ids that the config gives for a model: its base model, or tutors that are already trained."""
    given = {"sft": entry["sft"]} if isinstance(entry["sft"], str) else {}
    if "path" in entry and (not given or [model, "base"] in runs):
        given = {"base": entry["path"], **given}
    return given | {name: source for name, source in entry.get("aligned", {}).items() if [model, name] in runs}


def checkpoint_finding(about: str, source: str, found: Found) -> Finding:
    if found.lacks:
        words = f"{source} {found.where}, without {', '.join(found.lacks)}"
        return Finding("problem", about, words, "save it whole by save_pretrained in a folder, and name that")
    if found.is_whole():
        try:
            find_checkpoint(found.folder)
        except UserError as error:
            return problem(about, error)
    fetched = f"; the first job that needs it fetches {_gb(found.download)}" if found.download else ""
    return Finding("ok", about, f"{source} {found.where}{fetched}")


def template_finding(about: str, entry: dict[str, Any], start: Found | None, rubric: Rubric) -> Finding:
    """Whether a prompt can be rendered by the entry's template, instruction and tokenizer."""
    if start and start.has_tokenizer():
        return judged(about, template_in_words, entry, start.folder, rubric)
    try:
        instruction_text(rubric, entry["instruction"])
    except UserError as error:
        return problem(about, error)
    if "init" in entry:
        return Finding("ok", about, f"{entry['template']}, which its tokenizer is made for")
    return Finding("unknown", about, f"{entry['template']}: not checked, as its tokenizer is not on this machine")


def template_in_words(entry: dict[str, Any], folder: Path, rubric: Rubric) -> str:
    """The template and its prompt length. Raises UserError if the tokenizer can't be loaded, or does not know the
    template's end token."""
    tokenizer = load_tokenizer(folder)
    rendering = renderer(tokenizer, entry["template"], entry["instruction"], rubric)
    ids, _ = rendering.encode(_TALK)
    marks = [mark for mark in rendering.template.markers() if mark != rendering.template.end]
    plain = [mark for mark in marks if len(tokenizer(mark, add_special_tokens=False)["input_ids"]) > 1]
    known = [f"as plain text: {' '.join(plain)}"] if plain else []
    words = [f"a prompt is {len(ids)} tokens and more", *known, *rendering.template.notes()]
    return f"{entry['template']}: {'; '.join(words)}"


def batch_in_words(training: dict[str, Any], gpus: int) -> str:
    """How the global batch is divided. Raises UserError if it can't be divided over so many processes."""
    device, processes = training["device_batch_size"], max(1, gpus)
    steps = accumulation(training["global_batch_size"], device, processes)
    spread = f" x {processes} processes" if processes > 1 else ""
    return f"{training['global_batch_size']} = {device} at a time{spread} x {steps} accumulated"


def memory_findings(about: str, memory: Memory, job: Job, machine: Machine) -> Iterator[Finding]:
    """Compare what a stage needs with the machine; if jobs run elsewhere, with the memory that they ask for."""
    needs = f"{_gb(memory.held)}, up to {_gb(memory.total)} with the longest batch"
    node = machine.memory or job["mem_mb"] * 10**6
    where = f"; {'this machine has' if machine.memory else 'mem_mb is'} {_gb(node)}"
    larger = "a machine with more memory" if machine.memory else "more mem_mb in the model's resources"
    if not job["gpu"]:
        status = _fit(memory.held, memory.total, node)
        yield Finding(status, f"{about} memory", needs + where, f"{larger}; or {_SMALLER}")
        return
    needs += f", and {_gb(GPU_RESERVE)} that the GPU takes itself"
    cards = f"{job['gpu']} x {memory.card()} GB will do" if memory.card() else "no common GPU has so much"
    smallest = f"; the smallest GPU has {_gb(machine.gpu)}" if machine.gpu else ""
    more = f"larger GPUs, or more of them for a training of all weights, or an adapter; or {_SMALLER}"
    status = _fit(memory.held + GPU_RESERVE, memory.total + GPU_RESERVE, machine.gpu)
    yield Finding(status, f"{about} per GPU", f"{needs}: {cards}{smallest}", more)
    yield Finding(_fit(0, memory.node, node), f"{about} per node", f"up to {_gb(memory.node)}{where}", larger)


def _fit(held: float, total: float, there: float | None) -> str:
    """Status of an estimate: `held` must fit; if only `total`, a rougher estimate, does not, that is a warning."""
    if there is None:
        return "ok"
    return "problem" if held > there else "warning" if total > there else "ok"


def disk_findings(settings: PreflightSettings, sizes: dict[str, Size], download: int) -> Iterator[Finding]:
    """Check the disk space for missing checkpoints and for training states. Other artifacts are not counted."""
    checkpoints: dict[Path, float] = {}
    states: dict[str, list[float]] = {"sft": [0], "align": [0]}
    for model, size in sizes.items():
        entry, jobs, paths = settings.models[model], settings.jobs[model], Paths(settings.results).model(model)
        given = {"base", *entry.get("aligned", {})}
        aligned = [policy for name, policy in settings.runs if name == model and policy not in given]
        trained = {"sft": ["sft"] if "sft" in jobs else [], "align": aligned}  # an adopted tutor is a folder of links
        for policy in (*trained["sft"], *aligned):
            checkpoints[Path(paths.tutor(policy).checkpoint)] = checkpoint_bytes(size, entry)
        checkpoints |= {Path(paths.base): base_bytes(size)} if "init" in entry and "sft" in jobs else {}
        for stage in states.keys() & jobs.keys():
            states[stage] += len(trained[stage]) * [training_state_bytes(size, entry, jobs[stage]["gpu"])]
    # On one machine trainings run one after the other; on a cluster all trainings of a stage may run at once.
    training = max(max(each) if settings.here else sum(each) for each in states.values())
    missing = sum(needed for folder, needed in checkpoints.items() if not folder.is_dir())
    words = f"{_gb(missing)} for checkpoints that are not there yet, {_gb(training)} for training states"
    yield _disk_finding(f"disk of {settings.results}", words, missing + training, Path(settings.results), "results")
    if download:
        cache = Path(constants.HF_HUB_CACHE)
        yield _disk_finding("disk of the hub's cache", f"{_gb(download)} to fetch", download, cache, "HF_HOME")


def _disk_finding(about: str, words: str, needed: float, folder: Path, setting: str) -> Finding:
    there = next(one for one in [folder, *folder.absolute().parents] if one.exists())
    free = shutil.disk_usage(there).free
    status = "problem" if needed > free else "ok"
    return Finding(
        status, about, f"{words}; free: {_gb(free)}", f"make room, or set {setting} to a folder of a larger disk"
    )
