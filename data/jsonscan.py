"""A json file element by element, with the bytes each one takes: gigabytes are walked through
without building them, and one element can be read again later from its place."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Generator, Iterator
from typing import Any, NamedTuple

_SPACE = re.compile(r"[ \t\n\r]*")
_MARK = codecs.BOM_UTF8.decode("latin-1")
"""Editors on Windows begin files with it."""
_decode = json.JSONDecoder().raw_decode


class Element(NamedTuple):
    """A field of the outer object (number -1), or element `number` of the list it holds; `value`
    takes the bytes from `start` to before `end`."""

    field: str
    number: int
    start: int
    end: int
    value: Any


def elements(content: bytes, lists: Collection[str]) -> Iterator[Element]:
    """The fields of a json object; those named in `lists` one element at a time.

    Texts outside ASCII come out garbled: parse `content[start:end]` where they matter.
    Raises ValueError where the content is not a json object, or a list of `lists` is none.
    """
    text = content.decode("latin-1")  # one character a byte, so that places are places in the file
    position = _expect(text, len(_MARK) if text.startswith(_MARK) else 0, "{")
    while not text.startswith("}", position):
        key, position = _decode(text, position)
        position = _expect(text, position, ":")
        if key in lists:
            position = yield from _list(text, position, key)
        else:
            value, end = _decode(text, position)
            yield Element(key, -1, position, end, value)
            position = end
        position = _comma(text, position, "}")
    if _skip(text, position + 1) != len(text):
        raise ValueError(f"more text after the object, at byte {position + 1}")


def _list(text: str, position: int, key: str) -> Generator[Element, None, int]:
    """The elements of the list at `position`; returns where it ends."""
    position = _expect(text, position, "[")
    number = 0
    while not text.startswith("]", position):
        value, end = _decode(text, position)
        yield Element(key, number, position, end, value)
        position = _comma(text, end, "]")
        number += 1
    return position + 1


def _comma(text: str, position: int, last: str) -> int:
    """Past the comma, or at the bracket `last`."""
    position = _skip(text, position)
    if text.startswith(last, position):
        return position
    return _expect(text, position, ",")


def _expect(text: str, position: int, character: str) -> int:
    position = _skip(text, position)
    if not text.startswith(character, position):
        found = repr(text[position]) if position < len(text) else "the end"
        raise ValueError(f"found {found} at byte {position}, expected {character!r}")
    return _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
