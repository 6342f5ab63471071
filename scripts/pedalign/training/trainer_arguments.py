"""Arguments of TRL's trainers that a config passes through: which there are, and which the workflow owns.

TRL and transformers take seconds to import, and a config is checked at each call. So the fields of their config classes
are read from their source files, without running these.
"""

import ast
import functools
import importlib.util
import types
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, Union

from pydantic import TypeAdapter, ValidationError

from pedalign.core.errors import UserError, nearest
from pedalign.core.section import Number, explained, shown
from pedalign.training.algorithms import ALGORITHMS

_SHARED = ("transformers/training_args.py:TrainingArguments", "trl/trainer/base_config.py:_BaseConfig")
# Trainer → where its config class is, below the installed packages.
_CONFIGS = {
    "SFT": "trl/trainer/sft_config.py:SFTConfig",
    "DPO": "trl/trainer/dpo_config.py:DPOConfig",
    "KTO": "trl/trainer/kto_config.py:KTOConfig",
    "CPO": "trl/experimental/cpo/cpo_config.py:CPOConfig",
    "ORPO": "trl/experimental/orpo/orpo_config.py:ORPOConfig",
}
ALIGNING = ("DPO", "KTO", "CPO", "ORPO")
# Files with the enumerations that types of fields name.
_ENUMERATIONS = ("transformers/training_args.py", "transformers/trainer_utils.py")

# What to do instead → patterns of the names that the workflow sets itself.
_OWNED = {
    "set 'epochs'": "num_train_epochs max_steps",
    "set 'learning_rate'": "learning_rate",
    "set 'scheduler'; its own arguments are 'lr_scheduler_kwargs'": "lr_scheduler_type",
    "set 'warmup'": "warmup_steps warmup_ratio",
    "set 'weight_decay'": "weight_decay",
    "set 'device_batch_size'": "per_device_train_batch_size auto_find_batch_size",
    "set 'global_batch_size'; accumulation follows from it": "gradient_accumulation_steps",
    "set 'gradient_checkpointing' beside 'trainer'": "gradient_checkpointing activation_checkpointing",
    "set 'dtype' in the model's entry": "bf16 fp16 tf32 *_full_eval",
    "set 'max_length' in the model's entry": "max_length max_completion_length truncation_mode",
    "set 'attn_implementation' in the model's entry; the model is loaded before its trainer": "model_init_kwargs",
    "leave it out; code of checkpoints is never run": "trust_remote_code",
    "set 'template' in the model's entry": "chat_template_path eos_token pad_token padding_value is_encoder_decoder",
    "set 'seed' in the config, or in a run": "seed data_seed",
    "set 'training_state' in the config": "output_dir save_* resume_from_checkpoint restore_* enable_jit_checkpoint",
    "set 'trackers' in the config": "report_to logging_* log_* run_name project trackio_* disable_tqdm include_num_*",
    "set 'resources' in the model's entry; the launcher spreads a training": (
        "use_cpu ddp_backend fsdp* deepspeed parallelism_config local_rank dataloader_pin_memory"
    ),
    "leave it out; the order of the rows is fixed, so that a resumed training gets the same": (
        "train_sampling_strategy shuffle_dataset *packing* padding_free length_column_name dataloader_drop_last"
        " ignore_data_skip accelerator_config"
    ),
    "leave it out; the rows are made by the workflow, from the rubric and the template": (
        "dataset_* remove_unused_columns label_names completion_only_loss assistant_only_loss"
    ),
    "leave it out; tutors are measured after their training": (
        "eval_* do_* per_device_eval_batch_size prediction_loss_only generate_during_eval load_best_model_at_end"
        " metric_for_best_model greater_is_better include_for_metrics batch_eval_metrics"
    ),
    "leave it out; to publish a tutor see docs/how-to/talking.md": "push_to_hub hub_*",
}
_OWNED_ALIGNING = {
    "set 'algorithm' in a run (docs/explanation/algorithms.md)": "loss_type loss_weights",
    "set 'beta' in a run": "beta",
    "set 'sft_weight'": "cpo_alpha",
    "set 'algorithm' to dpo_sft in a run, and 'sft_weight'": "rpo_alpha",
    "leave it out; the reference is the fine-tuned tutor, whose log-probabilities are in reference.json": (
        "precompute_ref_* sync_ref_model ref_model_* ld_alpha"
    ),
    "leave it out; an alignment starts as the reference, without dropout": "disable_dropout",
    "leave it out; the weights of WPO are not computed here": "use_weighting",
    "leave it out; TRL's trainers of preferences ignore it": "label_smoothing_factor average_tokens_across_devices",
}
_SCHEDULES = {  # schedule → arguments of which it needs one
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}
# Texts whose choices only the documentation of TRL says; TRL would find a wrong one in the first step.
_CHOICES: dict[str, Any] = {
    "f_divergence_type": Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"],
}
# Argument → the value of another one without which TRL ignores it.
_ONLY_WITH = {"f_alpha_divergence_coef": ("f_divergence_type", "alpha_divergence")}
_PLAIN: dict[str, Any] = {"int": int, "float": Number, "str": str, "bool": bool, "dict": dict, "list": list}


def check_trainer(trainer: str, given: Mapping[str, Any], place: str, algorithm: str | None = None) -> None:
    """Check arguments of a trainer ("SFT", or one of ALIGNING), of an `algorithm` where it is known.

    Raises UserError, after `place`, for a name that the trainer does not have, that the workflow owns or that the
    algorithm's loss ignores, and for a value of another type. Types are not checked where TRL is not installed; there,
    the training checks all, before its first step.
    """
    for name, value in given.items():
        at = f"{place}.{name}"
        if remedy := owned(name, trainer):
            raise UserError(f"{at}: the workflow sets this itself", remedy)
        if algorithm is not None and name in _ignored(algorithm):
            readers = [one for one, known in ALGORITHMS.items() if name in known.reads]
            raise UserError(f"{at}: the loss of {algorithm} does not read it", f"algorithms that do: {_list(readers)}")
        fields = config_fields(trainer)
        if fields is None:
            continue
        if name not in fields:
            raise UserError(
                f"{at}: {trainer}Config of TRL has no such argument", nearest(name, _passed(fields, trainer))
            )
        try:
            TypeAdapter(fields[name]).validate_python(value, strict=True)
        except ValidationError as error:
            kinds = [explained(one)[1] for one in error.errors(include_url=False)]
            raise UserError(f"{at}: is {shown(value)}", "; or ".join(dict.fromkeys(filter(None, kinds)))) from None
    for name, (other, wanted) in _ONLY_WITH.items():
        if algorithm is not None and name in given and given.get(other) != wanted:
            problem = f"{place}.{name}: TRL reads it only with {other} {wanted}"
            raise UserError(problem, f"set {other} to {wanted}, or leave it out")
    if given.get("use_liger_kernel") and config_fields(trainer) and importlib.util.find_spec("liger_kernel") is None:
        problem = f"{place}.use_liger_kernel: the package liger-kernel is not installed"
        raise UserError(problem, "pip install liger-kernel (it needs a GPU), or leave it out")


def check_aligning(given: Mapping[str, Any], place: str) -> None:
    """As `check_trainer`, where it is not known which trainer aligns: an argument of one of them is enough."""
    for name, value in given.items():
        kinds = [kind for kind in ALIGNING if name in (config_fields(kind) or ())]
        check_trainer(kinds[0] if kinds else "DPO", {name: value}, place)


def check_schedule(scheduler: str, given: Mapping[str, Any], place: str) -> None:
    """Raises UserError where a schedule lacks an argument that it needs."""
    needed = _SCHEDULES.get(scheduler, ())
    arguments = given.get("lr_scheduler_kwargs") or {}
    if needed and isinstance(arguments, dict) and not arguments.keys() & set(needed):
        example = 100 if needed == ("num_decay_steps",) else 0.1
        raise UserError(
            f"{place}.scheduler: {scheduler} needs {' or '.join(needed)}",
            f"add 'trainer: {{lr_scheduler_kwargs: {{{needed[-1]}: {example}}}}}'",
        )


def owned(name: str, trainer: str) -> str | None:
    """What to do instead of setting an argument that the workflow sets itself; None for other arguments."""
    groups = _OWNED if trainer == "SFT" else {**_OWNED, **_OWNED_ALIGNING}
    for remedy, patterns in groups.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns.split()):
            return remedy
    return None


def _passed(fields: Iterable[str], trainer: str) -> list[str]:
    return [name for name in fields if owned(name, trainer) is None]


def _ignored(algorithm: str) -> set[str]:
    """Arguments that some algorithm's loss reads and this one's does not."""
    return {name for one in ALGORITHMS.values() for name in one.reads} - set(ALGORITHMS[algorithm].reads)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


@functools.cache
def config_fields(trainer: str) -> dict[str, Any] | None:
    """The fields of a trainer's config, and their types; Any where a type is not known. None if TRL is not here."""
    found: dict[str, Any] = {}
    for place in (*_SHARED, _CONFIGS[trainer]):
        file, _, name = place.partition(":")
        source = _parsed(file)
        if source is None:
            return None
        for node in source.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                fields = [
                    one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
                ]
                found |= {one.target.id: _type(one.annotation) for one in fields if isinstance(one.target, ast.Name)}
    return {name: _CHOICES.get(name, kind) for name, kind in found.items() if not name.startswith("_")}


@functools.cache
def _parsed(file: str) -> ast.Module | None:
    """The source of an installed module, unless it is not there."""
    package, _, inside = file.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None or not (path := Path(spec.origin).parent / inside).is_file():
        return None
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _enumerations() -> dict[str, Any]:
    """Name of an enumeration → the type of its values' texts."""
    found: dict[str, Any] = {}
    for source in filter(None, map(_parsed, _ENUMERATIONS)):
        for node in source.body:
            if isinstance(node, ast.ClassDef) and "Enum" in "".join(map(ast.unparse, node.bases)):
                values = [one.value.value for one in node.body if isinstance(one, ast.Assign) and _is_text(one.value)]  # type: ignore[attr-defined]
                if values:
                    found[node.name] = Literal[tuple(values)]
    return found


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _type(annotation: ast.expr) -> Any:
    """The type that an annotation means; of `Enumeration | str`, the enumeration's texts."""
    parts = _parts(annotation)
    kinds = [_enumerations().get(part, None) for part in parts]
    if any(kinds):
        parts = [part for part in parts if part != "str"]
    return Union[tuple(_kind(part) for part in parts)]  # noqa: UP007 (as many as there are)


def _parts(annotation: ast.expr) -> list[str]:
    if isinstance(annotation, ast.BinOp):
        return [*_parts(annotation.left), *_parts(annotation.right)]
    return [ast.unparse(annotation)]


def _kind(text: str) -> Any:
    name, _, of = text.removesuffix("]").partition("[")
    if text == "None":
        return None
    if name == "list" and of in _PLAIN:
        return types.GenericAlias(list, (_PLAIN[of],))
    return _enumerations().get(text) or _PLAIN.get(name, Any)
