"""Pictures of SA-1B from a folder, from a tar, and from a tar in an object store; and how long a listing takes.

`python -m benchmarks.sources` prints these lines alone. The store is an S3 server on this machine: what a network adds
has to be thought in.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.clips import MASKS, PICTURE, draw_picture
from benchmarks.measure import Row, compare, threads
from data.sources import Dataset, open_dataset, open_listing
from data.spec import DatasetSpec
from pipeline.cache import SHARED
from pipeline.diskcache import cache_folder
from tests import s3

PICTURES = 8
OBJECTS = 3
LISTED = 5_000


def source_rows() -> list[Row]:
    """Draw one picture, pack it several times over, and read it back."""
    with tempfile.TemporaryDirectory() as temporary, threads(1), _own_cache(temporary):
        folder, tars = _pictures(Path(temporary))
        listed = _many(Path(temporary) / "many")
        with s3.moto_server() as address, s3.pointed_at(address):
            url = s3.upload(tars, f"s3://{s3.BUCKET}/sa1b")
            return [
                _row("a tar", _reader(tars), "a folder", _reader(folder)),
                _row("a tar", _reader(tars), "a tar in S3", _reader(url, forget=True)),
                _row("a tar in S3, again", _reader(url), "first time", _reader(url, forget=True)),
                _listing_row(listed),
            ]


def _row(this: str, read: Callable[[], None], against: str, plain: Callable[[], None]) -> Row:
    row = compare(
        f"{PICTURES} pictures of SA-1B, {OBJECTS} masks each",
        (this, read),
        (against, plain),
        pairs=5,
    )
    rates = [f"{1000 * PICTURES / ms:.0f}" for ms in (row.better_ms, row.plain_ms)]
    note = f"{rates[0]} against {rates[1]} images/s, {PICTURE[0]}x{PICTURE[1]}, {MASKS} masks in the file"
    return replace(row, note=note)


def _listing_row(root: Path) -> Row:
    spec = DatasetSpec(format="sa1b", root=str(root))
    path = open_listing(spec).path

    def anew() -> None:
        path.unlink()
        open_listing(spec)

    return compare(
        f"open a tar of {LISTED} pictures",
        ("listed before", lambda: open_listing(spec)),
        ("anew", anew),
        pairs=3,
    )


def _reader(root: Path | str, *, forget: bool = False) -> Callable[[], None]:
    """Reads every picture with some of its masks. forget: nothing of the store is on this disk."""
    dataset: Dataset = open_dataset(DatasetSpec(format="sa1b", root=str(root)))

    def read() -> None:
        SHARED.clear()
        if forget:
            shutil.rmtree(cache_folder() / "data", ignore_errors=True)
        for index in range(len(dataset)):
            dataset.load(index, [0], dataset.visible(index, 0)[:OBJECTS])

    return read


def _pictures(root: Path) -> tuple[Path, Path]:
    """The same pictures in a folder and in a tar."""
    drawn = draw_picture(root / "drawn", *PICTURE, MASKS)
    (picture,), (text,) = drawn.glob("*.jpg"), drawn.glob("*.json")
    folder, tars = root / "folder", root / "tars"
    folder.mkdir()
    tars.mkdir()
    with tarfile.open(tars / "sa_000000.tar", "w") as tar:
        for number in range(1, PICTURES + 1):
            for source in (picture, text):
                copy = shutil.copy(source, folder / f"sa_{number}{source.suffix}")
                tar.add(copy, arcname=f"./{Path(copy).name}")
    return folder, tars


def _many(root: Path) -> Path:
    """A tar of as many pictures, of no content."""
    root.mkdir()
    with tarfile.open(root / "sa_000000.tar", "w") as tar:
        for number in range(LISTED):
            for ending in ("jpg", "json"):
                tar.addfile(tarfile.TarInfo(f"./sa_{number}.{ending}"), io.BytesIO())
    return root


@contextmanager
def _own_cache(root: str) -> Iterator[None]:
    before = os.environ.get("SAM2_CACHE")
    os.environ["SAM2_CACHE"] = f"{root}/cache"
    try:
        yield
    finally:
        if before is None:
            del os.environ["SAM2_CACHE"]
        else:
            os.environ["SAM2_CACHE"] = before


if __name__ == "__main__":
    for line in source_rows():
        print(
            f"{line.what}: {line.better} {line.better_ms:.1f} ms, {line.plain} {line.plain_ms:.1f} ms, "
            f"ratio {line.ratio:.2f}; {line.note}"
        )
