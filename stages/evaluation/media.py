"""Pictures into files a browser plays: MP4 (h264), or GIF where the codec is missing, and data
URLs."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from PIL import Image

from pipeline.errors import DataError
from pipeline.storage import atomic_file

MIME = {".mp4": "video/mp4", ".gif": "image/gif", ".jpg": "image/jpeg", ".png": "image/png"}


def write_video(frames: Iterable[np.ndarray], path: str | Path, *, fps: float = 10) -> Path:
    """Write uint8 [H, W, 3] frames of one even size to `path` (.mp4) and return where they are.

    h264 with 4:2:0 colour, which every browser plays. Where this PyAV has no h264 encoder the film
    becomes a GIF of the same name. Raises DataError when there is no frame.
    """
    path = Path(path)
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise DataError(f"{path}: no frames to write")
    if not _has_h264():
        return _write_gif(chain([first], frames), path.with_suffix(".gif"), fps)
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise DataError(f"{path}: frames of {width}x{height} pixels; h264 wants even sides")
    with atomic_file(path) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "23", "preset": "veryfast", "tune": "animation"}
        for frame in chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def data_url(path: str | Path) -> str:
    """The content of a picture or film as a URL that needs no file."""
    path = Path(path)
    return _url(MIME[path.suffix.lower()], path.read_bytes())


def picture_url(picture: np.ndarray, *, quality: int = 88) -> str:
    """A uint8 [H, W, 3] picture as a JPEG data URL."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=0)
    return _url("image/jpeg", buffer.getvalue())


def _url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _has_h264() -> bool:
    try:
        av.codec.Codec("libx264", "w")
    except (ValueError, av.FFmpegError):
        return False
    return True


def _write_gif(frames: Iterable[np.ndarray], path: Path, fps: float) -> Path:
    first, *rest = (Image.fromarray(frame).quantize(128) for frame in frames)
    with atomic_file(path) as file:
        first.save(file, "GIF", save_all=True, append_images=rest, duration=1000 / fps, loop=0)
    return path
