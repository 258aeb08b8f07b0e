"""Is this a file of weights? Told from its first bytes, before torch is loaded."""

from __future__ import annotations

import codecs

HEAD = 512
"""How many bytes to look at."""
ZIP, PICKLE = b"PK\x03\x04", b"\x80\x02"
"""What torch.save writes, and what it wrote before torch 1.6."""


def is_pickled(head: bytes) -> bool:
    """Whether a file that begins with `head` may come from torch.save."""
    return head.startswith((ZIP, PICKLE))


def is_safetensors(head: bytes) -> bool:
    """Whether it may be safetensors: a JSON object behind eight bytes of length."""
    return head[8:9] == b"{"


def refused(name: str, head: bytes) -> str:
    """Why a file that begins with `head` holds no weights, as an error message about `name`; empty where it may."""
    if is_pickled(head) or is_safetensors(head):
        return ""
    return (
        f"{name} is {_kind(head)}, not a checkpoint; expected torch.save({{'model': state "
        "dict}) or safetensors. Download or copy it again"
    )


def _kind(head: bytes) -> str:
    """What a file that is no checkpoint seems to be."""
    start = head.lstrip()[:60].lower()
    if not head:
        return "empty (0 bytes)"
    if start.startswith((b"<!doctype", b"<html")):
        return "a web page, perhaps an error or log-in page saved under this name"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS (`git lfs pull` fetches the file itself)"
    return "text" if _is_text(head) else "something else"


def _is_text(head: bytes) -> bool:
    """Whether it is UTF-8 without control characters; the last letter may be cut."""
    try:
        letters = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(letter in "\t\n\r" or letter.isprintable() for letter in letters)
