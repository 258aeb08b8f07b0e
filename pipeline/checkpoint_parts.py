"""A checkpoint of a state that no rank holds whole: every rank writes its part, and any number of
ranks reads it again.

torch.distributed.checkpoint plans: who writes what several ranks hold, and which pieces a reader
needs. The files are our own, since its file format opens with `pickle.load`: a folder of
`part-00000.pt`, tensors only, one a rank; `plain.pt`, what is not a tensor; and `index.json`, where
each piece of each tensor lies. The ranks talk in a process group of their own, so that all of it
can happen in the background.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from pipeline import checkpoint_list
from pipeline.checkpoint_list import Entry, Keep
from pipeline.errors import CheckpointError, StorageError
from pipeline.plain_files import read_plain, write_plain
from pipeline.storage import FileRecord, sha256, sync_folder, write_json

INDEX, PLAIN = "index.json", "plain.pt"
FORMAT = 1
Path_ = tuple[Any, ...]
"""Where a tensor is in nested dictionaries: its keys."""


@dataclass(frozen=True)
class Rows:
    """Which rows of a tensor a rank holds."""

    start: int
    count: int
    shape: tuple[int, ...]
    """Of the whole tensor."""

    @property
    def chunk(self) -> ChunkStorageMetadata:
        """The same for the planner."""
        rest = self.shape[1:]
        return ChunkStorageMetadata(
            torch.Size([self.start, *(0 for _ in rest)]), torch.Size([self.count, *rest])
        )


RowsOf = Callable[[Path_, int], Rows | None]
"""Which rows a rank holds of the tensor at a path with so many dimensions; None for all."""


def write_parts(
    values: Mapping[str, Any],
    rows_of: RowsOf,
    folder: str | Path,
    keep: Keep,
    *,
    rank: int,
    group: Any,
    score: float | None = None,
    world: int,
) -> Entry | None:
    """Write `values`, of whose tensors this rank holds what `rows_of` says, and list them; every
    rank of `group` calls it, rank 0 has the entry.

    Raises StorageError on all ranks where one cannot write; the older checkpoints are then
    untouched.
    """
    folder, step = Path(folder), int(values["step"])
    target = folder / f"step-{step:08d}"
    temporary = folder / f".{target.name}.part"  # of one name on all ranks
    own = dict(_tensors(values))
    planner = _Planner(own, rows_of)
    order = [_key(path) for path in own]
    writer = _Writer(folder, temporary, rank, _without_tensors(values), order)
    try:
        dcp.save(dict(own), storage_writer=writer, planner=planner, process_group=group)
        if rank != 0:
            return None
        sync_folder(temporary)
        target = folder / checkpoint_list.free_name(folder, step)
        os.replace(temporary, target)
        sync_folder(folder)
        files = {f"{target.name}/{name}": record for name, record in writer.records.items()}
        entry = Entry(target.name, step, files, score=score, world=world)
        checkpoint_list.add(folder, entry, keep)
    except CheckpointException as error:  # no Exception of Python's, and over many lines
        told = "; ".join(f"rank {rank}: {cause}" for rank, (cause, _) in error.failures.items())
        raise StorageError(f"checkpoint {target} cannot be written ({told})") from None
    except OSError as error:
        raise StorageError(f"checkpoint {target} cannot be written ({error})") from error
    return entry


def read_parts(folder: str | Path, rows_of: RowsOf | None = None) -> dict[str, Any]:
    """The values in the checkpoint `folder`, on the CPU: of each tensor what `rows_of` asks for,
    without it the whole.

    Executes nothing. Raises CheckpointError for what is missing or not as written.
    """
    folder = Path(folder)
    values = read_plain(folder / PLAIN)
    index = _read_index(folder / INDEX)
    opened: dict[str, dict[str, Any]] = {}
    try:
        for path, (stored, files) in index.items():
            rows = _checked(path, stored.size, rows_of)
            chunk = rows.chunk if rows else _whole(stored.size)
            tensor = torch.empty(chunk.sizes, dtype=stored.properties.dtype)
            for item in create_read_items_for_chunk_list("", stored, [chunk]):
                file = files[tuple(item.storage_index.offset or ())]
                if file not in opened:
                    opened[file] = read_plain(folder / file, mmap=True)
                piece = opened[file][_key(path)]
                place = zip(item.storage_offsets, item.lengths, strict=True)
                goal = zip(item.dest_offsets, item.lengths, strict=True)
                tensor[_slices(goal)] = piece[_slices(place)]
            _put(values, path, tensor)
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder} does not hold what its {INDEX} says ({' '.join(str(error).split())})"
        ) from error
    return values


def cut(values: Mapping[Any, Any], rows_of: RowsOf, path: Path_ = ()) -> dict[Any, Any]:
    """Whole values with the rows of this rank in place of tensors it holds only a part of. Raises
    ValueError for one of another shape."""
    found: dict[Any, Any] = {}
    for key, item in values.items():
        here = (*path, key)
        if isinstance(item, Mapping):
            found[key] = cut(item, rows_of, here)
        elif isinstance(item, Tensor) and (rows := _checked(here, item.shape, rows_of)):
            found[key] = item[rows.start : rows.start + rows.count].clone()
        else:
            found[key] = item
    return found


def _checked(path: Path_, shape: torch.Size, rows_of: RowsOf | None) -> Rows | None:
    rows = rows_of(path, len(shape)) if rows_of else None
    if rows and rows.shape != tuple(shape):
        raise ValueError(f"{path[-1]} is {list(shape)}, expected {list(rows.shape)}")
    return rows


class _Planner(dcp.DefaultSavePlanner):
    """Tells torch.distributed.checkpoint which pieces this rank holds."""

    def __init__(self, tensors: Mapping[Path_, Tensor], rows_of: RowsOf) -> None:
        super().__init__(flatten_state_dict=False)
        self.own = {_key(path): item for path, item in tensors.items()}
        self.rows_of = rows_of

    def create_local_plan(self) -> SavePlan:
        items = [self._item(key, tensor) for key, tensor in self.own.items()]
        self.plan = SavePlan([item for item in items if item is not None])
        return self.plan

    def _item(self, key: str, tensor: Tensor) -> WriteItem | None:
        rows = self.rows_of(_path(key), tensor.ndim)
        chunk = rows.chunk if rows else _whole(tensor.shape)
        if chunk.sizes != tensor.shape:
            raise ValueError(f"{key} is {list(tensor.shape)}, expected {list(chunk.sizes)}")
        if rows and not rows.count:
            return None
        properties = TensorProperties.create_from_tensor(tensor)
        size = torch.Size(rows.shape) if rows else tensor.shape
        kind = WriteItemType.SHARD if rows else WriteItemType.TENSOR
        return WriteItem(
            MetadataIndex(key, chunk.offsets), kind,
            tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=size),
        )  # fmt: skip

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self.own[index.fqn]


class _Writer(StorageWriter):
    """Puts what the plan gives this rank into one file, and on rank 0 the index beside them."""

    def __init__(
        self, folder: Path, temporary: Path, rank: int, plain: Any, order: Sequence[str]
    ) -> None:
        """plain: what is not a tensor. order: that of the tensors in the state."""
        self.folder, self.temporary, self.rank, self.plain = folder, temporary, rank, plain
        self.order = order
        self.records: dict[str, FileRecord] = {}
        """Of all files, on rank 0 once all is written."""

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing is kept from one use to the next."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """On rank 0 an empty folder; the others write only after the plan of rank 0."""
        if is_coordinator:
            checkpoint_list.begin(self.folder)
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary.mkdir()

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        name = f"part-{self.rank:05d}.pt"
        own = {item.index.fqn: planner.resolve_data(item) for item in plan.items}
        record = write_plain(own, self.temporary / name) if own else None
        written: Future[list[WriteResult]] = Future()
        written.set_result([WriteResult(item.index, 0, (name, record)) for item in plan.items])
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        files: dict[str, dict[tuple[int, ...], str]] = {}
        for result in (result for part in results for result in part):
            name, self.records[name] = result.storage_data
            files.setdefault(result.index.fqn, {})[tuple(result.index.offset or ())] = name
        write_json(self.temporary / INDEX, _as_index(metadata, files, self.order))
        index = self.temporary / INDEX
        self.records[INDEX] = FileRecord(sha256(index), index.stat().st_size)
        self.records[PLAIN] = write_plain(self.plain, self.temporary / PLAIN)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


def _as_index(
    metadata: Metadata, files: Mapping[str, Mapping[tuple[int, ...], str]], order: Sequence[str]
) -> dict[str, Any]:
    tensors = {}
    for key in order:
        stored = metadata.state_dict_metadata[key]
        assert isinstance(stored, TensorStorageMetadata)
        pieces = [
            {
                "offset": list(chunk.offsets),
                "size": list(chunk.sizes),
                "file": files[key][tuple(chunk.offsets)],
            }
            for chunk in stored.chunks
        ]
        dtype = str(stored.properties.dtype).removeprefix("torch.")
        tensors[key] = {"dtype": dtype, "shape": list(stored.size), "pieces": pieces}
    return {"format": FORMAT, "tensors": tensors}


def _read_index(
    path: Path,
) -> dict[Path_, tuple[TensorStorageMetadata, dict[tuple[int, ...], str]]]:
    """For each tensor what the planner wants to know, and the file of the piece at each offset."""
    try:
        values = json.loads(path.read_bytes())
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']!r}, expected {FORMAT}")
        found = {}
        for key, row in values["tensors"].items():
            dtype = getattr(torch, row["dtype"])
            if not isinstance(dtype, torch.dtype):
                raise TypeError(f"{key}: {row['dtype']!r} is no type of numbers")
            chunks = [
                ChunkStorageMetadata(torch.Size(piece["offset"]), torch.Size(piece["size"]))
                for piece in row["pieces"]
            ]
            files = {tuple(piece["offset"]): Path(piece["file"]).name for piece in row["pieces"]}
            stored = TensorStorageMetadata(
                TensorProperties(dtype=dtype), torch.Size(row["shape"]), chunks
            )
            found[_path(key)] = (stored, files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} cannot be read as the index of a checkpoint ({error})"
        ) from error
    return found


def _whole(shape: torch.Size) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size([0] * len(shape)), shape)


def _slices(bounds: Any) -> tuple[slice, ...]:
    return tuple(slice(start, start + length) for start, length in bounds)


def _tensors(values: Mapping[Any, Any], path: Path_ = ()) -> Iterator[tuple[Path_, Tensor]]:
    for key, item in values.items():
        if isinstance(item, Tensor):
            yield (*path, key), item
        elif isinstance(item, Mapping):
            yield from _tensors(item, (*path, key))


def _without_tensors(values: Mapping[Any, Any]) -> dict[Any, Any]:
    return {
        key: _without_tensors(item) if isinstance(item, Mapping) else item
        for key, item in values.items()
        if not isinstance(item, Tensor)
    }


def _put(values: dict[Any, Any], path: Path_, tensor: Tensor) -> None:
    *above, last = path
    for key in above:
        values = values.setdefault(key, {})
    values[last] = tensor


def _key(path: Path_) -> str:
    """A path as a text; places in the optimiser are integers."""
    return json.dumps(path)


def _path(key: str) -> Path_:
    return tuple(json.loads(key))
