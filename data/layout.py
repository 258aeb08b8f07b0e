"""Which format a folder of annotated videos is in, told by what it holds."""

from __future__ import annotations

from pathlib import Path

from data.spec import Format

MASKLETS = ("*_manual.json", "*_auto.json", "*/*_manual.json", "*/*_auto.json")


def video_layout(folder: Path) -> Format | None:
    """The format of a data set of videos; None for any other folder."""
    if (folder / "JPEGImages_24fps").is_dir():
        return "sav_val"
    if (folder / "JPEGImages").is_dir():
        return "davis"
    return "sav" if any(next(folder.glob(each), None) for each in MASKLETS) else None
