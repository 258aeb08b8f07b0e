"""The last files of a world: lists of clips, the COCO table, tar shards, and world.json."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

from data.world.shapes import FAMILIES
from data.world.spec import LAYOUT, WORLD_VERSION, WorldSpec
from data.world.textures import PHOTOGRAPHS
from data.world.writers import write, write_json

SHARD = 500  # pictures in a tar shard


def finish(spec: WorldSpec, part: Path, rows: list[dict[str, Any]]) -> None:
    """Write the files that speak of all scenes, world.json as the last."""
    where = {name: part / folder for name, folder in LAYOUT.items()}
    for folder in where.values():
        folder.mkdir(parents=True, exist_ok=True)
    sav_val = [row["sav"] for row in rows if row["kind"] == "val_clip"]
    write(where["sav_val"] / "sav_val.txt", _lines(sav_val))
    for split, kind in (("train", "davis_clip"), ("val", "val_clip")):
        names = [row["davis"] for row in rows if row["kind"] == kind]
        write(where["davis"] / "ImageSets" / "2017" / f"{split}.txt", _lines(names))
    pictures = [row for row in rows if row["kind"] == "val_picture"]
    write_json(where["coco"] / "annotations" / "instances_val.json", _coco_table(pictures))
    for first in range(0, spec.train_images, SHARD):
        numbers = range(first + 1, min(first + SHARD, spec.train_images) + 1)
        _write_shard(where["sa1b"], where["sa1b_tar"] / f"sa_{first // SHARD:06d}.tar", numbers)
    summary = {
        "version": WORLD_VERSION,
        "spec": spec.to_dict(),
        "digest": spec.digest,
        "content": _content_digest(part),
        "counts": {**_counts(rows), "files": sum(1 for p in part.rglob("*") if p.is_file())},
        "layout": LAYOUT,
        "photographs": {split: [name for name, _ in found] for split, found in PHOTOGRAPHS.items()},
        "families": {split: list(found) for split, found in FAMILIES.items()},
    }
    write(part / "world.json", (json.dumps(summary, indent=2) + "\n").encode())


def _lines(names: list[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def _counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    kinds = [row["kind"] for row in rows]
    return {
        "train_images": kinds.count("picture"),
        "val_images": kinds.count("val_picture"),
        "train_videos": kinds.count("clip"),
        "val_videos": kinds.count("val_clip"),
        "davis_train_videos": kinds.count("davis_clip"),
    }


def _coco_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The instances file; the families of validation objects are its categories."""
    numbers = {family: number for number, family in enumerate(FAMILIES["val"], start=1)}
    annotations = [dict(annotation) for row in rows for annotation in row["annotations"]]
    for annotation in annotations:
        annotation["category_id"] = numbers[annotation.pop("family")]
    return {
        "info": {"description": "a synthetic world", "version": str(WORLD_VERSION)},
        "licenses": [],
        "images": [row["image"] for row in rows],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": family, "supercategory": "object"}
            for family, number in numbers.items()
        ],
    }


def _write_shard(folder: Path, target: Path, numbers: range) -> None:
    """Pack pictures and their json as the release does; no dates or owners, for equal bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as shard:
        for number in numbers:
            for suffix in ("jpg", "json"):
                path = folder / f"sa_{number}.{suffix}"
                info = tarfile.TarInfo(path.name)
                info.size = path.stat().st_size
                with path.open("rb") as file:
                    shard.addfile(info, file)


def _content_digest(root: Path) -> str:
    """sha256 over the names and contents of all files but world.json."""
    total = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.name != "world.json"):
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
