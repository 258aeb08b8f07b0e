"""Where a stage's weights come from, and in what the stages differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stages.contract import StageSpec


class Source(NamedTuple):
    """A data set a stage was trained or measured on."""

    name: str
    kind: str
    """Its format."""
    place: str


class DiffRow(NamedTuple):
    """A setting on which stages disagree."""

    key: str
    values: tuple[str, ...]
    """One for each stage; a dash where the stage has no such setting."""


def sources(spec: StageSpec) -> tuple[Source, ...]:
    """The data sets in the settings of a stage: of training, or of an evaluation."""
    given: Mapping[str, Any] = spec.settings.get("data") or {
        key: spec.settings[key] for key in ("images", "videos") if spec.settings.get(key)
    }
    return tuple(
        Source(name, str(data.get("format", "")), str(data.get("root", "")))
        for name, data in given.items()
    )


def config_diff(settings: Sequence[Mapping[str, Any]]) -> list[DiffRow]:
    """The settings that are not the same in all stages, flattened to `optim.lr`."""
    flat = [_flattened(values) for values in settings]
    keys = dict.fromkeys(key for values in flat for key in values)
    rows = [DiffRow(key, tuple(values.get(key, "–") for values in flat)) for key in keys]
    return [row for row in rows if len({"–" if v == "none" else v for v in row.values}) > 1]


def _flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= _flattened(value, f"{name}.")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            for place, item in enumerate(value):
                found |= _flattened(item, f"{name}.{item.get('pattern', place)}.")
        else:
            found[name] = _text(value)
    return found


def _text(value: Any) -> str:
    if value is None or value in ({}, []):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return str(value)
