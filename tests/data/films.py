"""Videos with what phones and cameras put into them: turns, uneven times, cut beginnings, sound."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.data import lookalikes as like

ONE, UNIT = 1 << 16, 1 << 30
TURNS = {
    "none": (ONE, 0, 0, ONE),
    "quarter clockwise": (0, ONE, -ONE, 0),
    "half": (-ONE, 0, 0, -ONE),
    "quarter counter-clockwise": (0, -ONE, ONE, 0),
    "mirrored": (-ONE, 0, 0, ONE),
    "upside down mirrored": (ONE, 0, 0, -ONE),
    "quarter and mirrored": (0, ONE, ONE, 0),
}
"""a, b, c, d of the display matrix."""


def corners() -> np.ndarray:
    """Red, green / blue, black."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return picture


def turned(path: Path, turn: str, frames: int = 3) -> Path:
    """A video of `corners` that asks to be shown turned."""
    like.save_video(path, [corners()] * frames)
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd") + 4
    a, b, c, d = TURNS[turn]
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, UNIT)
    content[header + 40 : header + 76] = matrix
    path.write_bytes(bytes(content))
    return path


def uneven(path: Path, times: list[float]) -> Path:
    """A video whose frame n, of brightness 8 n, is shown at times[n] seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "8", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            grey = np.full((48, 64, 3), 8 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut_at_the_front(path: Path, source: Path, frames: int) -> Path:
    """The same packets behind an edit list that hides the first frames, as a phone trims."""
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        video = old.streams.video[0]
        stream = new.add_stream_from_template(video)
        shift = round(frames / video.average_rate / video.time_base)
        for packet in old.demux(video):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = (
                    packet.pts - shift,
                    packet.dts - shift,
                    stream,
                )
                new.mux(packet)
    return path


def sound_only(path: Path) -> Path:
    """An mp4 without a picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        for number in range(8):
            silence = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, 1024 * number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
