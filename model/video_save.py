"""A session on disk: what was prompted and what is remembered, so that going on later is the same
to the bit as not having stopped.

The file is a zip archive of one JSON and one safetensors file per object and frame: nothing in it
is ever executed, each part has a checksum, and neither writing nor reading holds more than one
answer in memory. Weights and video are not in it; they are recognised.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load, save

from model.frames import Frames
from model.memory_choice import MemoryWindow
from model.sam2 import SAM2
from model.video_masklet import Masklet, Prompt
from model.video_settings import VideoSettings
from model.video_store import Answer, AnswerStore, Shelf
from pipeline.errors import CheckpointError, DataError
from pipeline.storage import atomic_file

FORMAT = "sam2-pipeline video session 1"
INDEX = "session.json"
LOCAL = ("offload", "memory_budget", "spill_folder", "feature_budget")
"""Settings of the machine rather than of the session."""


class SavedSession(NamedTuple):
    """What a session goes on with."""

    settings: VideoSettings
    masklets: dict[int, Masklet]


def save_session(
    path: str | Path,
    model: SAM2,
    frames: Frames,
    settings: VideoSettings,
    masklets: Mapping[int, Masklet],
) -> None:
    """Write a session, in place of what was there only once it is whole. OSError as by `open`."""
    index = {
        "format": FORMAT,
        "weights": fingerprint(model),
        "video": _describe(frames),
        "settings": {k: v for k, v in asdict(settings).items() if k not in LOCAL},
        "objects": {str(n): _list(masklet) for n, masklet in sorted(masklets.items())},
    }
    # Numbers like these do not compress.
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(INDEX, json.dumps(index))
        for number, masklet in masklets.items():
            for frame, prompt in masklet.prompts.items():
                given = {k: v.cpu() for k, v in prompt._asdict().items() if v is not None}
                archive.writestr(_place(number, "prompts", frame), save(given))
            for name, shelf in _shelves(masklet).items():
                for frame in sorted(shelf):
                    archive.writestr(_place(number, name, frame), shelf[frame].to_bytes())


def load_session(
    path: str | Path, model: SAM2, frames: Frames, local: VideoSettings, store: AnswerStore
) -> SavedSession:
    """Read what `save_session` wrote, its answers into `store`.

    local: where settings of the machine come from. Raises CheckpointError for a file that is no
    session, is damaged or was made with other weights, DataError for another video.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            index = json.loads(archive.read(INDEX))
            if index["format"] != FORMAT:
                raise CheckpointError(
                    f"{path} is a {index['format']!r}, expected a {FORMAT!r}; "
                    "resume it with the release that wrote it"
                )
            _check_weights(path, index["weights"], model)
            _check_video(path, index["video"], frames)
            settings = _settings(index["settings"], local)
            masklets = {
                int(number): _masklet(archive, int(number), parts, model.device, store)
                for number, parts in index["objects"].items()
            }
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; expected a saved session") from error
    except (CheckpointError, DataError):
        raise
    except Exception as error:  # whatever a damaged archive, index or tensor file may raise
        raise CheckpointError(
            f"{path} is not a whole saved session ({type(error).__name__}: {error}); copy it again"
        ) from error
    return SavedSession(settings, masklets)


def fingerprint(model: SAM2) -> str:
    """SHA-256 of the weights: names, shapes and values."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _describe(frames: Frames) -> dict[str, Any]:
    height, width = frames.size
    first = hashlib.sha256(frames[0].tobytes()).hexdigest()
    return {"frames": len(frames), "height": height, "width": width, "first_frame": first}


def _check_weights(path: str | Path, expected: str, model: SAM2) -> None:
    found = fingerprint(model)
    if found != expected:
        raise CheckpointError(
            f"{path} was saved with weights {expected[:12]}, and these are {found[:12]} (SHA-256); "
            "resume it with the checkpoint it was made with"
        )


def _check_video(path: str | Path, expected: dict[str, Any], frames: Frames) -> None:
    found = _describe(frames)
    other = [key for key in found if found[key] != expected.get(key)]
    if other:
        said = ", ".join(f"{key} {str(expected.get(key))[:12]}" for key in other)
        here = ", ".join(f"{key} {str(found[key])[:12]}" for key in other)
        raise DataError(
            f"{frames.name} is not the video of {path}: found {here}; expected {said}. "
            "Give the video that the session was made with"
        )


def _settings(stored: dict[str, Any], local: VideoSettings) -> VideoSettings:
    window = MemoryWindow(**stored.pop("window"))
    return replace(local, **stored, window=window)


def _shelves(masklet: Masklet) -> dict[str, Shelf]:
    return {
        "pending": masklet.pending,
        "conditioning": masklet.conditioning,
        "tracked": masklet.tracked,
    }


def _list(masklet: Masklet) -> dict[str, Any]:
    """The frames of each part of a masklet, for the index."""
    frames: dict[str, Any] = {name: sorted(shelf) for name, shelf in _shelves(masklet).items()}
    return frames | {"prompts": sorted(masklet.prompts), "passed": sorted(masklet.passed.items())}


def _masklet(
    archive: zipfile.ZipFile,
    number: int,
    parts: dict[str, Any],
    device: torch.device,
    store: AnswerStore,
) -> Masklet:
    masklet = Masklet(store)
    masklet.passed = {int(frame): bool(backwards) for frame, backwards in parts["passed"]}
    for frame in parts["prompts"]:
        given = load(archive.read(_place(number, "prompts", frame)))
        masklet.prompts[frame] = Prompt(**{name: value.to(device) for name, value in given.items()})
    for name, shelf in _shelves(masklet).items():
        for frame in parts[name]:
            content = archive.read(_place(number, name, frame))
            shelf[frame] = Answer.from_bytes(content, store.device)
    return masklet


def _place(number: int, part: str, frame: int) -> str:
    return f"objects/{number}/{part}/{frame:06d}.safetensors"
