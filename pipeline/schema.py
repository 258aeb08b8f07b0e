"""Check plain values against a dataclass, and build it.

Every key must be a field and every value must fit its type; each mistake is named by its dotted
key, with what was found and what was expected.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from pipeline.errors import ConfigError

T = TypeVar("T")
NO_VALUE = "has no value"


def parse(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls`, and those nested in it, from plain `values`; `where` begins the
    key in messages.

    Unions of dataclasses are told apart by their `kind`. Raises ConfigError with one line for every
    mistake: the dotted key, what was found, what was expected, and for an unknown key the near
    ones.
    """
    mistakes: list[str] = []
    built = _build(cls, values, "", mistakes)
    if mistakes:
        raise ConfigError("\n".join(f"{where}: {mistake}" for mistake in mistakes))
    return typing.cast(T, built)


def _at(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


_BAD = object()
"""Stands for a value that could not be built; its mistake has been noted."""


def _build(kind: Any, value: Any, where: str, mistakes: list[str]) -> Any:
    """The value of type `kind` that plain `value` describes, or _BAD with a note in `mistakes`."""
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(typing.cast(Any, kind), value, where, mistakes)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType) and any(
        dataclasses.is_dataclass(option) for option in arguments
    ):
        return _build_union(arguments, value, where, mistakes)
    if not _holds_dataclass(kind):
        return _leaf(kind, value, where, mistakes)
    if (
        origin is tuple
        or origin is list
        or origin is Sequence
        or getattr(origin, "__name__", "") == "Sequence"
    ):
        if not isinstance(value, list | tuple):
            mistakes.append(f"{where}: found {_show(value)}, expected a list")
            return _BAD
        items = [
            _build(arguments[0], item, f"{where}[{index}]", mistakes)
            for index, item in enumerate(value)
        ]
        return (
            _BAD
            if any(item is _BAD for item in items)
            else (items if origin is list else tuple(items))
        )
    return _build_mapping(arguments[1], value, where, mistakes)


def _build_mapping(kind: Any, value: Any, where: str, mistakes: list[str]) -> Any:
    """Named settings; where some are missing, the name may be a slip for another one."""
    if not isinstance(value, Mapping):
        mistakes.append(f"{where}: found {_show(value)}, expected a mapping of names")
        return _BAD
    entries = {}
    for key, item in value.items():
        before = len(mistakes)
        entries[str(key)] = _build(kind, item, _at(where, key), mistakes)
        others = [str(other) for other in value if other != key]
        incomplete = any(NO_VALUE in mistake for mistake in mistakes[before:])
        if incomplete and (near := _near(str(key), others)):
            mistakes[before] += f" (did you mean {near[0]!r} instead of {str(key)!r}?)"
    return _BAD if any(item is _BAD for item in entries.values()) else entries


def _build_dataclass(cls: Any, value: Any, where: str, mistakes: list[str]) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        mistakes.append(
            f"{where}: found {_show(value)}, expected the settings {', '.join(_fields(cls))}"
        )
        return _BAD
    fields, before = _fields(cls), len(mistakes)
    mistakes.extend(
        f"{_at(where, key)}: there is no such key{did_you_mean(str(key), fields)}"
        for key in value
        if key not in fields
    )
    arguments = {}
    for name, (kind, required) in fields.items():
        if name in value:
            arguments[name] = _build(kind, value[name], _at(where, name), mistakes)
        elif required:
            mistakes.append(f"{_at(where, name)}: {NO_VALUE}, expected {_describe(kind)}")
    if len(mistakes) > before:
        return _BAD
    try:
        return cls(**arguments)
    except (ConfigError, ValueError) as error:  # what the dataclass itself checks
        mistakes.append(
            _at(where, error) if isinstance(error, ConfigError) else f"{where}: {error}"
        )
        return _BAD


def _build_union(options: tuple[Any, ...], value: Any, where: str, mistakes: list[str]) -> Any:
    """One of several dataclasses, chosen by `kind`, or None where that is an option."""
    if value is None and type(None) in options:
        return None
    classes: list[Any] = [option for option in options if dataclasses.is_dataclass(option)]
    if len(classes) == 1:
        return _build(classes[0], value, where, mistakes)
    kinds = {
        word: option for option in classes for word in typing.get_args(_fields(option)["kind"][0])
    }
    if not isinstance(value, Mapping) or "kind" not in value:
        mistakes.append(f"{_at(where, 'kind')}: {NO_VALUE}, expected one of: {', '.join(kinds)}")
        return _BAD
    name = str(value["kind"])
    chosen = kinds.get(name)
    if chosen is None:
        mistakes.append(f"{_at(where, 'kind')}: found {name!r}{did_you_mean(name, kinds)}")
        return _BAD
    return _build(chosen, value, where, mistakes)


def _leaf(kind: Any, value: Any, where: str, mistakes: list[str]) -> Any:
    """A value without dataclasses inside, checked by pydantic."""
    from pydantic import ValidationError

    if isinstance(value, bool) and kind in (
        int,
        float,
    ):  # Python takes True for 1; in a recipe it is a slip
        mistakes.append(f"{where}: found {_show(value)}, expected {_describe(kind)}")
        return _BAD
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        choices = (
            [str(item) for item in typing.get_args(kind)]
            if typing.get_origin(kind) is Literal
            else []
        )
        if choices:
            mistakes.append(f"{where}: found {_show(value)}{did_you_mean(str(value), choices)}")
        else:
            inner = "".join(
                f"[{part}]" for part in error.errors()[0]["loc"] if isinstance(part, int)
            )
            mistakes.append(f"{where}{inner}: found {_show(value)}, expected {_describe(kind)}")
        return _BAD


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(kind, config=ConfigDict(coerce_numbers_to_str=True, allow_inf_nan=False))


@cache
def _fields(cls: Any) -> dict[str, tuple[Any, bool]]:
    """Name -> (type, whether a value is required) of what the dataclass is built from."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        item.name: (
            hints[item.name],
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING,
        )
        for item in dataclasses.fields(cls)
        if item.init
    }


@cache
def _holds_dataclass(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or any(
        _holds_dataclass(part) for part in typing.get_args(kind) if _is_type(part)
    )


def _is_type(part: Any) -> bool:
    return isinstance(part, type) or typing.get_origin(part) is not None


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _describe(kind: Any) -> str:
    """A type in words."""
    words = {
        int: "a whole number",
        float: "a finite number",
        str: "text",
        bool: "true or false",
        Path: "a path",
        type(None): "null",
    }
    if kind in words:
        return words[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " or ".join(repr(item) for item in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(item) for item in arguments)
    if origin is tuple and arguments[-1:] != (...,):
        return f"a list of {len(arguments)}: {', '.join(_describe(item) for item in arguments)}"
    if origin in (tuple, list):
        return f"a list, each {_describe(arguments[0])}"
    if dataclasses.is_dataclass(kind):
        return f"the settings {', '.join(_fields(typing.cast(Any, kind)))}"
    return "a mapping of names" if origin is not None else getattr(kind, "__name__", str(kind))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the nearest of `known` names, or the list of them when none is
    near."""
    names = sorted(str(item) for item in known)
    near = _near(name, names)
    if near:
        return f"; did you mean {' or '.join(repr(item) for item in near)}?"
    if not names:
        return ""
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"; expected one of: {shown}"


def _near(name: str, names: list[str]) -> list[str]:
    """Up to three names that resemble `name`, or that it begins."""
    alike = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return alike or [item for item in names if name and item.startswith(name)][:3]
