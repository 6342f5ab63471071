"""Makes checkpoints that transformers 4 reads as transformers 5 does; many servers and converters still use it.

Transformers 5 writes how a model's rotary position embeddings are computed as `rope_parameters`. Transformers 4 reads
`rope_theta`, `rope_scaling` and other names instead. Without these, it silently uses its defaults.
"""

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedalign.core.artifacts import read_json, write_text

if TYPE_CHECKING:  # the card is written where transformers is not installed
    from transformers import PreTrainedConfig

_ROPE = "rope_parameters"
# Transformers 4 scales these differently, or not at all.
_SCALED_OTHERWISE = ("dbrx", "nemotron", "phimoe", "recurrent_gemma")


def add_names_of_4(folder: Path, config: "PreTrainedConfig") -> None:
    """Add to the checkpoint in `folder`, of a model with this `config`, the names that transformers 4 reads.

    If these names can't express the same, the tokenizer stays one that transformers 4 refuses to load.
    """
    both = _with_names_of_4(config, read_json(folder / "config.json"))
    if both is None:
        return
    _write(folder / "config.json", both)
    path = folder / "tokenizer_config.json"
    tokenizer = read_json(path)
    if (folder / "tokenizer.json").is_file():  # it has all that a tokenizer class would add
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
        tokenizer["model_input_names"] = ["input_ids", "attention_mask"]
    if isinstance(tokenizer.get("extra_special_tokens"), list):
        tokenizer["additional_special_tokens"] = tokenizer.pop("extra_special_tokens")
    _write(path, tokenizer)


def which_transformers(config: dict[str, Any]) -> str:
    """The versions of transformers that compute a checkpoint as it was trained, in words; `config` is its config.json.

    Of transformers 4, versions 4.50 and 4.57 were tried. 4.50 does not read the original length for YaRN and LongRoPE,
    nor which layers have a sliding window.
    """
    least, eager = "4.50", False
    for part in _parts(config):
        scaling = part.get("rope_scaling") or {}
        stretched = scaling.get("rope_type", scaling.get("type")) in ("yarn", "longrope")
        if _ROPE in part and not {"rope_theta", "rotary_emb_base"} & part.keys():
            return "transformers 5"
        if stretched or "sliding_attention" in (part.get("layer_types") or ()):
            least = "4.57"
        eager |= bool(part.get("attn_logit_softcapping") or part.get("scale_attn_by_inverse_layer_idx"))
    loaded = """; 4 computes right with `attn_implementation="eager"` alone""" if eager else ""
    return f"transformers {least} or newer{loaded}"


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON as transformers does, so that nothing else in the file changes."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _with_names_of_4(config: "PreTrainedConfig", written: dict[str, Any]) -> dict[str, Any] | None:
    """`written`, the content of a config.json, with the names of transformers 4 added.

    None if transformers 5, which still reads them, finds other values in them than in its own names.
    """
    wanted = _found(config.to_dict())
    for names in (_of_all_layers, _of_gpt_neox, _of_layer_types):
        both = copy.deepcopy(written)
        try:
            for part in _with_rope(both):
                part.update(names(part, part[_ROPE]))
            old = copy.deepcopy(both)
            for part in _with_rope(old):
                del part[_ROPE]
            alike = all(_found(type(config).from_dict(copy.deepcopy(one)).to_dict()) == wanted for one in (both, old))
        except Exception:  # a configuration can raise anything at unknown names
            continue
        if alike:
            for part in _parts(both):
                if "dtype" in part:
                    part["torch_dtype"] = part["dtype"]
                if "num_local_experts" in part:
                    part["num_experts"] = part["num_local_experts"]  # Qwen 3's name
            return both
    return None


def _parts(config: dict[str, Any]) -> list[dict[str, Any]]:
    """A configuration and those nested in it, such as the text model's in a multimodal one."""
    inner = [part for part in config.values() if isinstance(part, dict) and "model_type" in part]
    return [config, *(one for part in inner for one in _parts(part))]


def _with_rope(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in _parts(config) if part.get(_ROPE)]


def _found(config: dict[str, Any]) -> list[Any]:
    """The rotary embeddings of a configuration, for comparison; "type" is an older name of "rope_type"."""

    def plain(parameters: dict[str, Any]) -> dict[str, Any]:
        return {
            name: plain(value) if isinstance(value, dict) else value
            for name, value in parameters.items()
            if name != "type" and (name, value) != ("partial_rotary_factor", 1.0)
        }

    return [plain(part[_ROPE]) for part in _with_rope(config)]


def _of_all_layers(config: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    names = {"rope_theta": rope["rope_theta"], **_scaling(config, rope)}
    if "partial_rotary_factor" in rope:
        names["partial_rotary_factor"] = rope["partial_rotary_factor"]
    return names


def _of_gpt_neox(config: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    share = rope.get("partial_rotary_factor", 1.0)
    return {"rotary_emb_base": rope["rope_theta"], "rotary_pct": share, **_scaling(config, rope)}


def _of_layer_types(config: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    """Names as in Gemma 3 and Olmo 3: layers with a sliding window may have another theta, and have no scaling."""
    full, sliding = rope["full_attention"], rope["sliding_attention"]
    thetas = {"rope_theta": full["rope_theta"], "rope_local_base_freq": sliding["rope_theta"]}
    return {**thetas, **_scaling(config, full)}


def _scaling(config: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    if rope["rope_type"] == "default":
        return {"rope_scaling": None}
    if config["model_type"] in _SCALED_OTHERWISE:
        raise ValueError("another scaling")
    scaling = {name: rope[name] for name in rope if name not in ("rope_theta", "partial_rotary_factor")}
    if rope["rope_type"] != "longrope":
        return {"rope_scaling": scaling}
    # The original length is read next to rope_scaling, and the factor is computed from it.
    original, longest = rope["original_max_position_embeddings"], config["max_position_embeddings"]
    if (rope.get("factor") or longest / original) != longest / original:
        raise ValueError("another factor")
    if config["model_type"].startswith(("phi3", "phi4")):  # these take no other names
        scaling = {"type": "longrope", **{name: rope[name] for name in ("short_factor", "long_factor")}}
    return {"rope_scaling": scaling, "original_max_position_embeddings": original}
