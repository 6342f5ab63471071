"""What all trainings share: the order of rows, the steps of a trainer, and the script around them."""

import argparse
import math
import resource
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from pedalign.core.artifacts import full_disk_named, whole_directory
from pedalign.core.errors import UserError
from pedalign.core.processes import (
    die_with_launcher,
    end_interrupted,
    is_first_process,
    local_rank,
    processes,
    sharded,
)
from pedalign.core.progress import Progress
from pedalign.core.provenance import verified, write_manifest
from pedalign.core.time_spent import begin
from pedalign.data.rubric import load_rubric
from pedalign.models.adapters import load_with_adapter, merged
from pedalign.models.checkpoints import load_model, load_tokenizer, save_checkpoint
from pedalign.models.log_probs import length_switches
from pedalign.models.prompt_format import Renderer, renderer
from pedalign.training.health_checks import unlearned
from pedalign.training.settings import StageSettings, TrainingSettings
from pedalign.training.states import TrainingStates, leave_at_exit, origin, wait_for_all
from pedalign.training.trackers import trackers
from pedalign.training.trl_log_probs import fast_head


def training_order(lengths: Sequence[int] | int, settings: TrainingSettings) -> list[int]:
    """The rows of all epochs in training order; `global_batch_size` consecutive rows make a step.

    If `lengths` lists the rows' tokens, each epoch is shuffled by the seed, with rows of similar length next to each
    other. If it is the number of rows, they keep their order. The last step of an epoch is filled up with the epoch's
    first rows. The order does not depend on the number of devices or on earlier random draws. So the result does not
    either, and a resumed training gets the same rows.
    """
    rows, size = lengths if isinstance(lengths, int) else len(lengths), settings.global_batch_size
    steps_per_epoch = math.ceil(rows / size)
    order: list[int] = []
    for epoch in range(math.ceil(settings.epochs)):
        if isinstance(lengths, int):
            indices = list(range(rows))
        else:
            generator = torch.Generator().manual_seed(settings.seed + epoch)
            indices = get_length_grouped_indices(lengths, size, generator=generator)
        filled = indices * math.ceil(size / rows + 1)
        order += filled[: steps_per_epoch * size]
    return order[: math.ceil(settings.epochs * steps_per_epoch) * size]


class Steps(TrainerCallback):
    """Shows the progress of a training, in its first process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.progress: Progress | None = None

    def on_train_begin(self, args, state, control, **_):
        if state.is_world_process_zero:
            self.progress = Progress(self.name, state.max_steps, "steps", initial=state.global_step)

    def on_log(self, args, state, control, logs=None, **_):
        if self.progress is not None and "loss" in (logs or {}):
            self.progress.set_postfix_str(f"loss {float(logs['loss']):.3f}", refresh=False)
            self.progress.update_to(state.global_step)

    def on_train_end(self, args, state, control, **_):
        if self.progress is not None:
            self.progress.close()


class FiniteLoss(TrainerCallback):
    """Ends a training at the first step whose loss or gradient norm is not finite."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_log(self, args, state, control, logs=None, **_):
        for figure in ("loss", "grad_norm"):
            value = float((logs or {}).get(figure) or 0)
            if not math.isfinite(value):
                raise UserError(
                    f"{self.name}: step {state.global_step} of {state.max_steps}: {figure} is {value}",
                    "lower 'learning_rate' in the model's entry of config.yaml, or raise 'warmup'",
                )


def run_trainer(
    trainer: Any, name: str, states: TrainingStates | None, watchers: Iterable[TrainerCallback] = ()
) -> dict[str, Any]:
    """Train, and return the facts for the manifest; "weights": the whole model's if processes hold parts, else None.

    `watchers`: further callbacks. Ends the process if SIGTERM interrupted the training.
    """
    started = time.monotonic()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Steps(f"{name} {states.checkpoint.parent}" if states else name))
    trainer.add_callback(FiniteLoss(name))
    for watcher in watchers:
        trainer.add_callback(watcher)
    if states:
        trainer.args.output_dir = str(states.folder)
        trainer.add_callback(states)
    with fast_head(), full_disk_named(Path(trainer.args.output_dir)):
        trainer.train(resume_from_checkpoint=states and states.newest())
    if states and states.interrupted:
        if is_first_process():
            step = f"step {trainer.state.global_step}/{trainer.state.max_steps}"
            print(f"{name}: ended by SIGTERM after {step}; run again, it goes on from there", flush=True)
        wait_for_all()
        end_interrupted()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        "seconds": round(time.monotonic() - started, 1),
        "steps": trainer.state.global_step,
        "final_loss": float(steps[-1]["loss"]),
        "history": [_figures(entry) for entry in steps],
        **peak_memory(),
        "weights": trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_deepspeed_enabled else None,
    }


def peak_memory() -> dict[str, int]:
    """Peak memory of this process so far, in bytes, and of its GPU, if it has one."""
    status = Path("/proc/self/status")  # on Linux, where getrusage can return the peak of a parent
    if status.is_file():
        peak = next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
    gpu = {"peak_gpu_memory_bytes": torch.cuda.max_memory_allocated()} if torch.cuda.is_available() else {}
    return {"peak_memory_bytes": peak, **gpu}


def _figures(entry: dict[str, Any]) -> dict[str, Any]:
    """The logged figures of a step, without TRL's count of tokens, which restarts when a training is resumed.

    Sorted by name, because a resumed training logs them in another order.
    """
    figures = {name: float(value) if isinstance(value, str) else value for name, value in sorted(entry.items())}
    return {name: value for name, value in figures.items() if name != "num_tokens" and not math.isnan(value)}


def telling_batches(
    lengths: Sequence[Sequence[int]], order: Sequence[int], size: int, config: Any
) -> list[Sequence[int]]:
    """The batches that would show a mistake in padding or length: the first, the most padded, one with the longest row,
    and one with rows on both sides of each length at which the model may change.

    `lengths`: tokens of each text that a row becomes; `order` and `size` say which rows make a batch.
    """
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    all_of = [[length for at in batch for length in lengths[at]] for batch in batches]
    numbers = range(len(batches))
    longest = max(numbers, key=lambda number: max(all_of[number]))
    found = {0, longest, max(numbers, key=lambda number: max(all_of[number]) - min(all_of[number]))}
    for switch in length_switches(config):
        found |= {next((at for at in numbers if min(all_of[at]) <= switch < max(all_of[at])), 0)}
    return [batches[number] for number in sorted(found)]


def expect_all_rows(kept: int, given: int) -> None:
    if kept != given:
        raise AssertionError(f"the trainer dropped {given - kept} of {given} rows")


def _without_shared_memory() -> None:
    """Make DeepSpeed communicate over gloo alone, on the CPU. For shared memory it would first compile an extension.
    That needs a compiler, and waits for ever for the lock of a compilation that was killed."""
    from deepspeed import ops  # type: ignore[import-untyped]

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


def expect_better(checkpoint: Path, history: Sequence[dict[str, Any]], otherwise: str) -> None:
    """Check that a training learned. If not, `otherwise` "stop" raises UserError; else print a warning, and the summary
    marks the tutor."""
    for problem in unlearned(history):
        if otherwise == "stop":
            raise UserError(
                f"{checkpoint}: {problem}", "change its settings, or set 'checks: unlearned: mark' in config.yaml"
            )
        print(f"warning: {checkpoint}: {problem}", flush=True)


class Train(Protocol):
    """The training function of a script: trains the model in place and returns facts for the manifest."""

    def __call__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        renderer: Renderer,
        *,
        states: TrainingStates,
        watchers: Iterable[TrainerCallback],
    ) -> dict[str, Any]: ...


def train_and_save(
    script: Path,
    args: argparse.Namespace,
    settings: StageSettings,
    data: list[Path],
    train: Train,
    at_a_time: bool = False,
) -> None:
    """Load the model, `train` it or its adapter in place, write the whole model, and its manifest last.

    Runs in each process that the launcher started; the first one writes. A stopped training resumes from its newest
    state, if `script`, `data` and settings are the same, and the number of processes too if the loss depends on the
    rows that all of them compute `at_a_time`.
    """
    if processes() > 1:
        die_with_launcher()
        done = leave_at_exit()
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank())  # else all processes would load the model onto the first GPU
        elif sharded():
            _without_shared_memory()
    begin("loading")
    names = [] if args.trackers == "none" else args.trackers.split(",")
    watchers = trackers(names, args.tensorboard, settings.training.epochs) if is_first_process() else []
    inputs = verified(*data, args.model, args.rubric) if is_first_process() else {}
    tokenizer = load_tokenizer(args.model)
    rendering = renderer(tokenizer, rubric=load_rubric(args.rubric), **settings.rendering)
    if tokenizer.pad_token is None:  # and no end token of its own, so the template's is used
        tokenizer.pad_token = rendering.template.end
    dtype, adapter, plain = settings.training.dtype, settings.adapter, settings.given()
    source = origin(script, plain, [*data, args.rubric], args.model, at_a_time)
    torch.manual_seed(settings.training.seed)  # for the weights of a new adapter
    with TrainingStates(args.output, source, args.save_minutes, args.save_steps) as states:
        # In bfloat16, small steps would be lost to rounding. So weights are trained in float32, and computations use
        # bfloat16 where it suffices. DeepSpeed keeps a float32 copy of the weights that it is given.
        held = dtype if sharded() else "float32"
        attention = settings.attn_implementation
        if adapter:
            model: Any = load_with_adapter(args.model, dtype, adapter, attention)
        else:
            model = load_model(args.model, held, attention=attention)
        begin("training")
        facts = train(model, tokenizer, rendering, states=states, watchers=watchers)
        expect_better(args.output, facts["history"], args.unlearned)
        begin("saving")
        weights = facts.pop("weights")
        if is_first_process():
            model = merged(model, args.model, dtype, adapter) if adapter else model.to(getattr(torch, dtype))
            states.refuse_if_ousted()
            with whole_directory(args.output) as folder:
                save_checkpoint(model, rendering, tokenizer, folder, weights)
            write_manifest(args.manifest, args.output, inputs, plain, processes=processes(), **facts)
            states.remove()
            print(
                f"{args.output}: {facts['rows']} rows, {facts['seconds']:.0f} s, final loss {facts['final_loss']:.4f}"
            )
        wait_for_all()
    if processes() > 1:
        done()
