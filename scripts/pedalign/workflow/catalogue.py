"""Fills in the entries of the catalogue of models: from `defaults`, from presets, and from other entries."""

from collections.abc import Iterator, Mapping
from typing import Any

from pedalign.core.errors import nearest
from pedalign.core.section import mistake, shown

_SOURCES = ("path", "init", "vocab_size", "architecture")  # an entry starts from its own, or from another entry's


def filled_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config, with whole entries of models.

    An entry has, each over the one before: `defaults`, its preset, the entry that it is `like`, its own values.
    Raises a pydantic error if there is no such preset or entry. Wrong types stay, for the check that follows.
    """
    models, presets, defaults = (values.get(name, {}) for name in ("models", "presets", "defaults"))
    if not all(isinstance(one, dict) for one in (models, presets, defaults)):
        return {**values}
    for name, preset in presets.items():
        if not isinstance(preset, dict):
            raise mistake(f"is {shown(preset)}", "give what an entry of 'models' holds", f"presets.{name}")
    for place, one in (("defaults", defaults), *((f"presets.{name}", preset) for name, preset in presets.items())):
        for key in ("preset", "like"):
            if key in one:
                raise mistake(f"has the key {key!r}", "only entries of 'models' name a preset or another entry", place)
    return {**values, "models": {name: _over(defaults, _entry(name, models, presets, ())) for name in models}}


def _entry(name: str, models: Mapping[str, Any], presets: Mapping[str, Any], waiting: tuple[str, ...]) -> Any:
    """An entry without `defaults`. `waiting`: the entries that are like this one, and so wait for it."""
    entry = models[name]
    if not isinstance(entry, dict):
        return entry
    whole: Any = {}
    for key, known in (("preset", presets), ("like", models)):
        if key in entry and entry[key] not in list(known):
            raise mistake(f"is {shown(entry[key])}", nearest(str(entry[key]), known), f"models.{name}.{key}")
    if "preset" in entry:
        whole = _over(whole, presets[entry["preset"]])
    if "like" in entry:
        if entry["like"] in (*waiting, name):
            round_trip = " → ".join(map(str, (*waiting, name, entry["like"])))
            raise mistake(f"is like itself: {round_trip}", "name another entry", f"models.{name}.like")
        other = _entry(entry["like"], models, presets, (*waiting, name))
        other = other if isinstance(other, dict) else {}
        dropped = {"preset", "like"}
        if any(key in entry for key in _SOURCES):  # the other's trained tutors are of the other model
            dropped |= {*_SOURCES, "aligned", *(["sft"] if isinstance(other.get("sft"), str) else [])}
        whole = _over(whole, {key: value for key, value in other.items() if key not in dropped})
    return _over(whole, entry)


def _over(under: Any, values: Any) -> Any:
    """`values` over `under`: mappings key by key; anything else replaces what is under it."""
    if not isinstance(under, dict) or not isinstance(values, dict):
        return values
    return {**under, **{key: _over(under.get(key), value) for key, value in values.items()}}


def given_at(values: Mapping[str, Any], path: list[Any]) -> list[Any]:
    """Where a value of a filled-in entry was given: in the entry, the entry that it is like, a preset, or `defaults`.

    `values`: those of the config before its entries are filled in. The path stays if the value is nowhere.
    """
    if path[:1] != ["models"] or len(path) < 3:
        return path
    for place in _places(values, path[1]):
        if _holds(values, found := [*place, *path[2:]]):
            return found
    return path


def _places(values: Mapping[str, Any], name: str) -> Iterator[list[str]]:
    """Where values of an entry may be, those that win first."""
    waiting, presets = [name], []
    for one in waiting:
        yield ["models", one]
        entry = values["models"].get(one)
        entry = entry if isinstance(entry, dict) else {}
        presets += [["presets", entry["preset"]]] if "preset" in entry else []
        waiting += [entry["like"]] if entry.get("like", one) not in waiting else []
    yield from (*reversed(presets), ["defaults"])


def _holds(values: Any, path: list[Any]) -> bool:
    for key in path:
        inside = range(len(values)) if isinstance(values, list) else values if isinstance(values, dict) else ()
        if key not in inside:
            return False
        values = values[key]
    return True
