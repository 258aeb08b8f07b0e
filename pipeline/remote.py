"""Object stores and other remote files: one file system per process, patience with passing faults, no secrets in
messages.

fsspec makes a file system on first use in each process and forgets it in a forked child, so nothing here holds one:
a parent may have read from a store before its workers start. Credentials and endpoints come from where fsspec and
botocore look for them (`AWS_*`, `~/.aws`, `AWS_ENDPOINT_URL`, fsspec's own configuration).
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import StorageError
from pipeline.redaction import redact

T = TypeVar("T")

PAUSES = (0.2, 0.4, 0.8, 1.6, 3.2)
"""Seconds before each further attempt, each drawn between half and one and a half of it; botocore's own attempts come
on top."""
PASSING_BOTOCORE = ("HTTPClientError", "IncompleteReadError", "ResponseParserError")
NEVER = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)


def is_remote(path: str | Path) -> bool:
    """Whether `path` is a URL rather than a folder or file of this machine."""
    return "://" in str(path) and not str(path).startswith("file://")


def filesystem(path: str | Path) -> tuple[Any, str]:
    """This process's file system for `path`, and the path inside it. Raises StorageError."""
    import fsspec

    try:
        found, inner = fsspec.core.url_to_fs(str(path))
    except (ValueError, ImportError) as error:
        raise StorageError(f"{shown(path)}: no storage of this kind ({reason(error)})") from error
    return found, str(inner)


def ask(path: str | Path, call: Callable[[], T]) -> T:
    """What `call` says about `path`; it is made again, after growing pauses, while it fails for a passing reason.

    Raises FileNotFoundError where there is nothing, StorageError for all else.
    """
    pauses = iter(PAUSES)
    while True:
        try:
            return call()
        except FileNotFoundError:
            raise
        except Exception as error:
            if not isinstance(error, OSError) and _origin(error) not in ("botocore", "aiohttp"):
                raise
            pause = next(pauses, None) if is_passing(error) else None
            if pause is None:
                raise StorageError(
                    f"{shown(path)} cannot be read ({reason(error)}); check the address, the "
                    "credentials (AWS_* or ~/.aws) and the endpoint (AWS_ENDPOINT_URL)"
                ) from None  # the cause may show credentials
        time.sleep(pause * (0.5 + random.random()))


def is_passing(error: BaseException) -> bool:
    """Whether trying again may help: time-outs, broken connections, answers of 5xx and 429; not 403 or 404."""
    if isinstance(error, NEVER):
        return False
    status = _status(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    return _origin(error) == "aiohttp" or any(
        kind.__name__ in PASSING_BOTOCORE for kind in type(error).__mro__
    )


def shown(path: str | Path) -> str:
    """`path` for a message: without a password or a signature."""
    text = re.sub(r"://[^/@]*@", "://***@", str(path))
    return text.partition("?")[0] if is_remote(text) else text


def reason(error: BaseException) -> str:
    """What `error` says, in one line and without secrets."""
    text = redact(getattr(error, "strerror", None) or str(error) or type(error).__name__)
    return " ".join(re.sub(r"(://[^\s?'\"]*)\?[^\s'\")]*", r"\1", text).split())  # signed URLs


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error of s3fs, botocore or aiohttp."""
    for found in (error, error.__cause__):
        response = getattr(found, "response", None)
        if isinstance(response, dict):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(getattr(found, "status", None), int):
            return int(found.status)  # type: ignore[union-attr]
    return None


def _origin(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]
