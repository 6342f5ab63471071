"""Fills in the entries of the catalogue of models: from `defaults`, a preset, and the entry that one is like."""

from collections.abc import Mapping
from typing import Any

from pedalign.core.errors import nearest
from pedalign.core.section import mistake

_SOURCES = ("path", "init", "vocab_size", "architecture")  # what a model starts from: an entry has its own or another's


def filled_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config with whole entries of models; all that is no mapping stays, for the check of types.

    An entry has, each over the one before it: `defaults`, its preset, the entry that it is `like`, its own values.
    Raises a pydantic error for a preset or an entry that is not there, or is like itself.
    """
    models, presets = values.get("models"), values.get("presets", {})
    if not isinstance(models, dict) or not isinstance(presets, dict):
        return {**values}
    defaults = values.get("defaults", {})
    filled: dict[str, Any] = {}

    def fill(name: str, waiting: tuple[str, ...]) -> Any:
        if name in filled:
            return filled[name]
        entry, place = models[name], f"models.{name}"
        if not isinstance(entry, dict):
            return entry
        whole = _over(defaults, {})
        preset, like = entry.get("preset"), entry.get("like")
        if isinstance(preset, str):
            if preset not in presets:
                raise mistake(f"is {preset!r}", nearest(preset, presets), f"{place}.preset")
            whole = _over(whole, presets[preset])
        if isinstance(like, str):
            if like not in models:
                raise mistake(f"is {like!r}", nearest(like, models), f"{place}.like")
            if like in (*waiting, name):
                raise mistake(f"is {like!r}, which is like {name!r} itself", "name another entry", f"{place}.like")
            other = fill(like, (*waiting, name))
            other = {key: value for key, value in other.items() if key not in ("preset", "like")} if other else other
            whole = _over(whole, _without_source(other) if _names_source(entry) else other)
        filled[name] = _over(whole, entry)
        return filled[name]

    return {**values, "models": {name: fill(name, ()) for name in models}}


def _names_source(entry: Mapping[str, Any]) -> bool:
    return any(name in entry for name in _SOURCES)


def _without_source(entry: Any) -> Any:
    return {key: value for key, value in entry.items() if key not in _SOURCES} if isinstance(entry, dict) else entry


def _over(under: Any, values: Any) -> Any:
    """`values` over `under`: mappings key by key, all else replaces what is under it."""
    if not isinstance(under, dict) or not isinstance(values, dict):
        return values
    return {key: _over(under.get(key), values[key]) if key in values else under[key] for key in {**under, **values}}
