"""What an export says of itself, and the index of one that is split into shards.

A sharded export is a folder: one file for each component (`encoder`, `decoder`, `memory`) and one
index, written last, which lists each weight's file and each file's SHA-256. The index has the
layout that Hugging Face's tools read, plus the digests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.errors import CheckpointError

INDEX_SUFFIX = ".index.json"
ABOUT = "sam2"
"""The one key in the metadata of a safetensors file: its library writes several in random order,
which would give equal weights unequal files."""


class About(NamedTuple):
    """The network that an export is of. The released format says nothing of the kind."""

    size: str | None = None
    """The preset; None for a network that is not one."""
    version: str | None = None
    image_size: int | None = None
    """Side in pixels of the input it was built for."""

    @classmethod
    def parse(cls, metadata: Mapping[str, Any], name: str) -> About:
        """From the metadata of an export, or of a file that says nothing."""
        try:
            values = json.loads(metadata.get(ABOUT, "{}"))
            about = cls(values.get("size"), values.get("version"), values.get("image_size"))
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{name}: its metadata {ABOUT!r} is broken ({error})") from error
        side = about.image_size
        if side is not None and (not isinstance(side, int) or side < 32 or side % 32):
            raise CheckpointError(
                f"{name}: its metadata say image_size {side!r}; expected a multiple of 32"
            )
        return about

    def metadata(self) -> dict[str, str]:
        """As the metadata of an export: text only, as safetensors wants it."""
        return {ABOUT: json.dumps(self._asdict())}


class Index(NamedTuple):
    """Which file holds which weight, and what each file must be."""

    about: About
    weight_map: dict[str, str]
    """File name by name of the weight, in the published order."""
    sha256: dict[str, str]
    """Hex digest by file name."""

    @classmethod
    def parse(cls, content: bytes, name: str) -> Index:
        """From the content of an index file. Raises CheckpointError."""
        try:
            values = json.loads(content)
            weight_map, digests = values["weight_map"], values["sha256"]
            about = About.parse(dict(values["metadata"]), name)
            sound = all(
                isinstance(item, str)
                for table in (weight_map, digests)
                for item in (*table, *table.values())
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{name} is no index of shards ({error}); expected JSON with 'metadata', "
                "'weight_map' and 'sha256', as an export writes it"
            ) from error
        if not sound or not weight_map or set(weight_map.values()) != set(digests):
            raise CheckpointError(f"{name}: 'weight_map' and 'sha256' do not list the same files")
        outside = [file for file in digests if not re.fullmatch(r"\w[\w.-]*", file)]
        if outside:
            raise CheckpointError(
                f"{name} lists {outside[0]!r}; expected names of files beside it, without folders"
            )
        return cls(about, weight_map, digests)

    def to_json(self, total_size: int) -> bytes:
        """total_size: bytes of all weights."""
        values = {
            "metadata": {"total_size": total_size, **self.about.metadata()},
            "weight_map": self.weight_map,
            "sha256": self.sha256,
        }
        return (json.dumps(values, indent=2) + "\n").encode()
