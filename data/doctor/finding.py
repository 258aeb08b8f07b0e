"""One thing that is wrong with a data set, or worth a look."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from data.spec import DatasetSpec

Severity = Literal["error", "note"]
"""`error`: training would leave the item out, or evaluation stop. `note`: it works, but look."""

REST_OF_PATH = re.compile(r"[^\s,;]*?(?=[,:;]?(\s|$))")
FIELD = re.compile(r"^(?:, (?P<named>[^:;]{1,60}?):|: `(?P<quoted>[^`]+)`)")
EXPECTED = re.compile(r"[,;:(]? ?\bexpected (?P<expected>[^;]+)")

VERB = re.compile(r"(is|does|has|holds|cannot) ")


@dataclass(frozen=True)
class Finding:
    """check: what was looked at, a short name that groups findings. field: where in the file."""

    dataset: str
    item: str
    check: str
    severity: Severity
    file: str
    field: str
    found: str
    expected: str
    fix: str

    @property
    def line(self) -> str:
        """All of it as one line."""
        where = self.file + (f", {self.field}" if self.field else "")
        expected = f", expected {self.expected}" if self.expected else ""
        fix = f"; {self.fix}" if self.fix else ""
        said = f" {self.found}" if VERB.match(self.found) else f": found {self.found}"
        return f"{where}{said}{expected}{fix}"

    @property
    def row(self) -> dict[str, Any]:
        """For a line of json."""
        return asdict(self)


def from_error(dataset: str, spec: DatasetSpec, item: str, check: str, error: Exception) -> Finding:
    """A reader's own error. Its parts are told apart by how messages are written here: file, field:
    what was found, expected this; do that."""
    text = " ".join(str(error).split())
    file = _file(text, spec)
    rest = text[len(file) :]
    field = FIELD.match(rest)
    if field:
        rest = rest[field.end() :]
    head, *fixes = rest.split("; ")
    fix = fixes[-1] if fixes and "expected " not in fixes[-1] else ""
    expected = EXPECTED.search(rest)
    return Finding(
        dataset=dataset,
        item=item,
        check=check,
        severity="error",
        file=file or item or spec.root,
        field=(field["named"] or field["quoted"]) if field else "",
        found=EXPECTED.sub("", head).strip(" ,:;").removeprefix("found "),
        expected=expected["expected"].strip(" .") if expected else "",
        fix=fix,
    )


def _file(text: str, spec: DatasetSpec) -> str:
    """The path a message starts with, which may hold blanks where the root does."""
    roots = [root for root in (spec.frames, spec.root) if root and text.startswith(root)]
    start = len(roots[0]) if roots else 0
    rest = REST_OF_PATH.match(text, start)
    path = text[: rest.end()] if rest else ""
    return path if roots or "/" in path or "." in path else ""
