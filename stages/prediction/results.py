"""The folder of results: what is finished, and how something becomes so.

Files of a picture or video are made below `.predict/making/NAME` and moved to their places when all
are there; last comes `.predict/NAME.json`, which says that they are and with which settings. What
has no such note is not finished, and is made again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.storage import read_json, require_space, require_writable, write_json

PLACES = ("masks", "rle", "overlays")
NOTES = ".predict"


def places_in(folder: Path) -> tuple[str, ...]:
    """The folders of `folder` that hold results."""
    return tuple(str(folder / place) for place in PLACES if (folder / place).is_dir())


class ResultFolder:
    """The results of one or more calls of `predict`."""

    def __init__(self, folder: Path) -> None:
        """Raises StorageError where the folder cannot be written, ConfigError where it holds
        somebody's own masks."""
        self.folder = require_writable(folder, "output folder")
        self._notes = self.folder / NOTES
        own = [place for place in PLACES if (self.folder / place).exists()]
        if own and not self._notes.is_dir():
            raise ConfigError(
                f"--out {self.folder} has a folder {own[0]!r} that predict did not make; "
                "give another folder, so that nothing of yours is replaced"
            )
        self._notes.mkdir(exist_ok=True)

    def is_finished(self, name: str, key: str) -> bool:
        """Was `name` finished with the settings of `key`, and are its files still there?"""
        note = read_json(self._note(name))
        return (
            note is not None
            and note.get("key") == key
            and all((self.folder / place).exists() for place in note["files"])
        )

    @contextmanager
    def making(self, name: str, key: str, needed: int) -> Iterator[Path]:
        """A folder to make the files of `name` in; they take their places when the block ends well.

        needed: bytes they may take. Raises StorageError when the disk has no room for them.
        """
        require_space(self.folder, needed, f"the result of {name}")
        making = self._notes / "making" / name
        shutil.rmtree(making, ignore_errors=True)  # of a process that was killed
        making.mkdir(parents=True)
        try:
            yield making
            self._publish(name, key, making)
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def clear(self, names: Iterable[str]) -> None:
        """Remove what processes that were killed have left of these."""
        for name in names:
            shutil.rmtree(self._notes / "making" / name, ignore_errors=True)

    def _publish(self, name: str, key: str, making: Path) -> None:
        note = self._note(name)
        before = read_json(note)
        note.unlink(missing_ok=True)
        for old in before["files"] if before else ():
            _remove(self.folder / old)
        made = [path.relative_to(making) for place in PLACES for path in (making / place).glob("*")]
        for path in made:
            target = self.folder / path
            _remove(target)  # of a process that was killed while it put things in their places
            target.parent.mkdir(exist_ok=True)
            (making / path).rename(target)
        write_json(note, {"key": key, "files": [str(path) for path in made]})

    def _note(self, name: str) -> Path:
        return self._notes / f"{name}.json"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
