"""Masks of a data set as the zip file that an evaluation server takes."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path

from PIL import Image

from pipeline.errors import DataError
from pipeline.storage import atomic_file
from stages.evaluation_settings import ZipStyle

PREFIX: dict[ZipStyle, str] = {"mose": "", "youtube-vos": "Annotations/"}
"""Where the folders of the videos lie: MOSE and DAVIS test-dev want them at the top."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Of every member, so that equal masks make equal files."""


def pack(masks: Path, videos: Collection[str], target: Path, style: ZipStyle) -> Path:
    """Write `target`, a zip of the palette pictures below `masks/<video>`; whole or not at all.

    Raises DataError for a video without masks, and for a picture that is no palette PNG.
    """
    with (
        atomic_file(target) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,  # PNG is compressed already
    ):
        for video in sorted(videos):
            pictures = sorted((masks / video).glob("*.png"))
            if not pictures:
                raise DataError(f"{masks / video}: no masks of this video; predict it first")
            for picture in pictures:
                with Image.open(picture) as opened:
                    if opened.mode != "P":
                        raise DataError(
                            f"{picture}: mode {opened.mode}; servers want palette PNG, "
                            "predict with --format palette"
                        )
                member = zipfile.ZipInfo(f"{PREFIX[style]}{video}/{picture.name}", EPOCH)
                member.external_attr = 0o644 << 16
                archive.writestr(member, picture.read_bytes())
    return target
