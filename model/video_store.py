"""What is remembered of objects in a long video: the latest in RAM, the rest in a temporary file.

What comes back from the file is what went in, to the bit, so how much RAM there is changes no
result.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, MutableMapping
from itertools import count
from pathlib import Path
from typing import IO, NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor

from pipeline.errors import StorageError


class Answer(NamedTuple):
    """What is kept of one object on one frame."""

    low: Tensor
    """Mask logits [1, 1, S/4, S/4]."""
    pointer: Tensor
    """[1, C], what later frames attend to."""
    score: Tensor
    """[1, 1], logit: is the object in this frame?"""
    memory: Tensor | None
    """[1, Cm, S/16, S/16] in bfloat16, as the published predictor stores it; None while the user
    may still change the mask."""

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return sum(part.nbytes for part in self if part is not None)

    def to(self, device: torch.device) -> Answer:
        """The same on another device."""
        memory = None if self.memory is None else self.memory.to(device)
        return Answer(self.low.to(device), self.pointer.to(device), self.score.to(device), memory)

    def to_bytes(self) -> bytes:
        """In safetensors' format."""
        named = {name: part for name, part in self._asdict().items() if part is not None}
        return save({name: part.cpu().contiguous() for name, part in named.items()})

    @classmethod
    def from_bytes(cls, content: bytes, device: torch.device) -> Answer:
        """What `to_bytes` wrote."""
        parts = load(content)
        answer = cls(parts["low"], parts["pointer"], parts["score"], parts.get("memory"))
        return answer.to(device)


class AnswerStore:
    """Answers under numbers that it gives out itself.

    limit: bytes in RAM (on `device`); what was used least recently beyond that lies in an unnamed
    file in `folder` (by default that of temporary files), which goes with the store. None: all
    stay in RAM.
    """

    def __init__(
        self, device: torch.device, limit: int | None = None, folder: Path | None = None
    ) -> None:
        self.device = device
        self.limit = limit
        self.folder = folder
        self.used = 0
        """Bytes in RAM."""
        self._numbers = count()
        self._near: OrderedDict[int, Answer] = OrderedDict()
        self._far: dict[int, tuple[int, int]] = {}
        """Offset and length in the file; also of answers that are in RAM again."""
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        """Offsets of places in the file that are empty again, by length."""
        self._file: IO[bytes] | None = None
        self._end = 0

    def shelf(self) -> Shelf:
        """An empty mapping by frame."""
        return Shelf(self)

    def put(self, answer: Answer) -> int:
        """Keep an answer; the number to ask for it with."""
        number = next(self._numbers)
        self._hold(number, answer.to(self.device))
        return number

    def get(self, number: int) -> Answer:
        """The answer under `number`."""
        answer = self._near.get(number)
        if answer is None:
            answer = Answer.from_bytes(self._read(number), self.device)
            self._hold(number, answer)
        else:
            self._near.move_to_end(number)
        return answer

    def drop(self, number: int) -> None:
        """Forget the answer under `number`."""
        answer = self._near.pop(number, None)
        if answer is not None:
            self.used -= answer.nbytes
        place = self._far.pop(number, None)
        if place is not None:
            self._free[place[1]].append(place[0])

    def close(self) -> None:
        """Forget everything and give the file back."""
        self._near.clear()
        self._far.clear()
        self._free.clear()
        self.used = self._end = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _hold(self, number: int, answer: Answer) -> None:
        self._near[number] = answer
        self.used += answer.nbytes
        while self.limit is not None and self.used > self.limit and len(self._near) > 1:
            oldest, put_off = self._near.popitem(last=False)
            self.used -= put_off.nbytes
            if oldest not in self._far:
                self._far[oldest] = self._write(put_off.to_bytes())

    def _write(self, content: bytes) -> tuple[int, int]:
        length = len(content)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
            offset = self._free[length].pop() if self._free[length] else self._end
            self._file.seek(offset)
            self._file.write(content)
            self._file.flush()
        except OSError as error:
            where = self.folder or tempfile.gettempdir()
            raise StorageError(
                f"what is remembered of the video does not fit into {where} ({error.strerror}); "
                "free some space, or give `spill_folder` another place or `memory_budget` more RAM"
            ) from error
        self._end = max(self._end, offset + length)
        return offset, length

    def _read(self, number: int) -> bytes:
        offset, length = self._far[number]
        assert self._file is not None
        self._file.seek(offset)
        return self._file.read(length)


class Shelf(MutableMapping[int, Answer]):
    """Answers by frame."""

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self._numbers: dict[int, int] = {}

    def __getitem__(self, frame: int) -> Answer:
        return self._store.get(self._numbers[frame])

    def __setitem__(self, frame: int, answer: Answer) -> None:
        self.discard(frame)
        self._numbers[frame] = self._store.put(answer)

    def __delitem__(self, frame: int) -> None:
        self._store.drop(self._numbers.pop(frame))

    def discard(self, frame: int) -> None:
        """Drop the answer of `frame`, if there is one, without reading it."""
        if frame in self._numbers:
            del self[frame]

    def clear(self) -> None:
        """Drop all, without reading them."""
        for frame in list(self._numbers):
            del self[frame]

    def __contains__(self, frame: object) -> bool:
        return frame in self._numbers

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)
