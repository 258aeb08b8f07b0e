"""What SOURCE holds: pictures, videos, or the videos of a data set with their first masks."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.layout import video_layout
from data.names import natural
from data.sources import Dataset, open_dataset
from data.spec import DatasetSpec, Format
from pipeline.errors import ConfigError, DataError
from pipeline.pictures import PICTURE_SUFFIXES
from pipeline.video import VIDEO_SUFFIXES, frame_total, open_video
from stages.prediction.spec import Layout, PredictSpec

PICTURES = (*PICTURE_SUFFIXES, ".webp", ".bmp", ".tif", ".tiff")
FRAME_RATE = 24.0
"""Frames a second where nothing else is said, as DAVIS and SA-V have."""
EXPECTED = (
    "expected a picture, a video, a folder of pictures, or a data set in the layout of DAVIS, "
    "MOSE, LVOS, YouTube-VOS or SA-V"
)


@dataclass(frozen=True)
class Picture:
    """One picture, by itself."""

    name: str
    path: Path

    def trace(self) -> str:
        """Changes when the file does."""
        return _trace([self.path])

    def frame_total(self) -> int:
        """How many frames there are."""
        return 1


@dataclass(frozen=True)
class Film:
    """A video whose objects are said by prompts: a video file, or a folder of frames."""

    name: str
    path: Path

    def trace(self) -> str:
        """Changes when one of its files does."""
        return _trace(self.path.iterdir() if self.path.is_dir() else [self.path])

    def frame_total(self) -> int:
        """How many frames there are."""
        return len(pictures_in(self.path)) if self.path.is_dir() else frame_total(self.path)

    def frames_per_second(self) -> float:
        """How fast it plays; frames in a folder do not say."""
        if self.path.is_dir():
            return FRAME_RATE
        with open_video(self.path) as (_, stream):
            return float(stream.average_rate or FRAME_RATE)


@dataclass(frozen=True)
class AnnotatedFilm:
    """A video of a data set, whose objects are shown by its annotations."""

    name: str
    dataset: Dataset
    index: int

    def trace(self) -> str:
        """Changes when frames get or lose their annotation."""
        settings = replace(self.dataset.spec, split=None, names=())
        return f"{settings} {list(self.dataset.frame_numbers(self.index))}"

    def frame_total(self) -> None:
        """Data sets tell only which frames are annotated."""

    def frames_per_second(self) -> float:
        """How fast it plays."""
        return FRAME_RATE


Item = Picture | Film | AnnotatedFilm


@dataclass(frozen=True)
class Source:
    """Everything to predict, in order."""

    items: tuple[Item, ...]
    format: Format | None = None
    """Of a data set."""

    @property
    def dataset(self) -> Dataset:
        """The data set its videos are of."""
        first = self.items[0]
        assert isinstance(first, AnnotatedFilm)
        return first.dataset

    @property
    def layout(self) -> Layout:
        """How masks of such a source are usually written."""
        return "objects" if self.format in ("sav", "sav_val") else "palette"

    @property
    def late_objects(self) -> bool:
        """Is it the data set's custom to show objects when they first appear, however late?"""
        return self.format in ("sav", "sav_val")


def find_items(spec: PredictSpec) -> Source:
    """List what is to be predicted of `spec.source`, the shard that is asked for.

    A folder of pictures is a video, unless `images` or `everything` is asked for. Raises DataError
    where there is nothing, ConfigError where options and source do not go together.
    """
    path = Path(spec.source)
    if not path.exists():
        raise DataError(f"{path} does not exist; {EXPECTED}")
    known = video_layout(path) if path.is_dir() else None
    if known is not None:
        source = _dataset(spec, known)
    elif spec.split or spec.names or spec.late_objects is not None:
        raise ConfigError(
            f"{path} is no data set; --split, --video and --late-objects choose from its videos "
            "and objects"
        )
    elif path.is_dir():
        source = _folder(spec, path)
    else:
        source = _file(spec, path)
    part, parts = spec.shard
    return Source(source.items[part - 1 :: parts], source.format)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order: 2.jpg before 10.jpg."""
    return sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in PICTURES and not path.name.startswith(".")
        ),
        key=lambda path: natural(path.name),
    )


def _dataset(spec: PredictSpec, known: Format) -> Source:
    if spec.prompts or spec.everything or spec.images or spec.backwards:
        raise ConfigError(
            f"{spec.source} is a data set ({known} layout): its annotations say what to track; "
            "give one of its videos as SOURCE to use prompts"
        )
    manual = next(Path(spec.source).rglob("*_manual.json"), None) if known == "sav" else True
    split = str(Path(spec.split).absolute()) if spec.split and Path(spec.split).is_file() else None
    dataset = open_dataset(
        DatasetSpec(
            format=known,
            root=spec.source,
            split=split or spec.split,
            names=spec.names,
            annotations="manual" if manual else "auto",
        )
    )
    films = (AnnotatedFilm(name, dataset, index) for index, name in enumerate(dataset.names))
    return Source(tuple(films), known)


def _folder(spec: PredictSpec, folder: Path) -> Source:
    pictures = pictures_in(folder)
    if not pictures:
        raise DataError(f"{folder} holds no pictures; {EXPECTED}")
    if not (spec.images or spec.everything):
        return Source((Film(folder.resolve().name, folder),))
    if spec.backwards:
        raise ConfigError("--backwards is about videos; leave --images out")
    names = _names(pictures)
    return Source(tuple(Picture(name, path) for name, path in zip(names, pictures, strict=True)))


def _file(spec: PredictSpec, path: Path) -> Source:
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        if spec.backwards:
            raise ConfigError(f"--backwards is about videos; {path} is a picture")
        return Source((Picture(path.stem, path),))
    if spec.everything or spec.images:
        raise ConfigError(
            f"{path} is a video; --everything and --images are about pictures (extract its frames "
            "with `sam2-pipeline extract-frames`)"
        )
    return Source((Film(path.stem, path),))


def _names(pictures: Sequence[Path]) -> list[str]:
    """What results are called: the name without its ending, where that tells pictures apart."""
    stems = Counter(path.stem for path in pictures)
    return [path.stem if stems[path.stem] == 1 else path.name for path in pictures]


def _trace(paths: Iterable[Path]) -> str:
    lines = sorted(f"{p.resolve()} {(s := p.stat()).st_size} {s.st_mtime_ns}" for p in paths)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
