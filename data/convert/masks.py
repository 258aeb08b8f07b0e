"""Folders of binary masks, one file for every object.

Pictures: images/NAME.jpg with masks/NAME.png for one object, or masks/NAME/OBJECT.png for several.
Videos: images/VIDEO/00000.jpg with masks/VIDEO/OBJECT/00000.png; a mask that is missing is an
object that is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from data.convert.items import Found, Frame, Item, Shape
from data.names import natural
from pipeline.errors import DataError
from pipeline.pictures import PICTURE_SUFFIXES

EXPECTED = "images/NAME.jpg with masks/NAME.png or masks/NAME/OBJECT.png, or a folder of each video"


def read_masks(root: Path) -> Found:
    """Pictures and videos with at least one mask file."""
    images, masks = root / "images", root / "masks"
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"{folder}: found no such folder, expected {EXPECTED}; check the path")
    pictures = _by_stem(images)
    videos = {path.name: path for path in images.iterdir() if path.is_dir()}
    labelled = {path.stem if path.is_file() else path.name for path in masks.iterdir()}
    for name in sorted(labelled, key=natural):
        try:
            if name in videos:
                yield _video(videos[name], masks / name)
            elif name in pictures:
                shapes = tuple(_shapes(masks, name))
                if shapes:
                    yield Item(name, (Frame(0, pictures[name], shapes),), str(pictures[name]))
            else:
                raise DataError(
                    f"{masks / name}: found a mask without a picture, expected {images / name}.jpg or "
                    "a folder of that name; fetch it, or remove the mask"
                )
        except DataError as error:
            yield error


def _shapes(masks: Path, name: str) -> Iterator[Shape]:
    """The objects of a picture, numbered by the names of their files."""
    files = [masks / f"{name}.png"] if (masks / f"{name}.png").is_file() else []
    files += sorted((masks / name).glob("*.png"), key=lambda path: natural(path.name))
    for number, file in enumerate(files, 1):
        yield Shape(number, file.stem, str(file), file=file)


def _video(frames: Path, masks: Path) -> Item:
    pictures = _numbered(_by_stem(frames).values())
    objects = sorted(
        (path for path in masks.iterdir() if path.is_dir()), key=lambda p: natural(p.name)
    )
    if not objects:
        raise DataError(
            f"{masks}: found no folder, expected one for every object as {masks}/1/00000.png; "
            "sort the masks of a video into folders"
        )
    files = {folder: _numbered(folder.glob("*.png")) for folder in objects}
    annotated = sorted({number for found in files.values() for number in found})
    missing = [number for number in annotated if number not in pictures]
    if missing:
        raise DataError(
            f"{masks}, frame {missing[0]}: found a mask without a picture, expected "
            f"{frames}/{missing[0]:05d}.jpg; fetch it, or remove the mask"
        )
    return Item(
        frames.name,
        tuple(Frame(n, pictures[n], _on_frame(n, objects, files)) for n in annotated),
        str(frames),
    )


def _on_frame(
    frame: int, objects: Sequence[Path], files: Mapping[Path, Mapping[int, Path]]
) -> tuple[Shape, ...]:
    return tuple(
        Shape(number, folder.name, str(files[folder][frame]), file=files[folder][frame])
        for number, folder in enumerate(objects, 1)
        if frame in files[folder]
    )


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES:
            if path.stem in found:
                raise DataError(
                    f"{path}: found a second picture called {path.stem} (the first: "
                    f"{found[path.stem].name}), expected one; remove one"
                )
            found[path.stem] = path
    return found


def _numbered(paths: Iterable[Path]) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in sorted(paths):
        if not path.stem.isdecimal():
            raise DataError(
                f"{path}: found a frame without a number, expected a name like 00000{path.suffix}; "
                "rename the frames and their masks"
            )
        if int(path.stem) in found:
            raise DataError(
                f"{path}: found frame {int(path.stem)} a second time (as {found[int(path.stem)].name}), "
                "expected it once; remove one"
            )
        found[int(path.stem)] = path
    return found
