"""Frames out of a video: streamed, against decoding all of it into a list first, as is common.

Each way runs in processes of its own, in turns, so that its CPU time and its peak memory are its alone.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import cv2
import numpy as np

from benchmarks.measure import Row, megabytes

FRAMES, SIZE, RATE = 288, (720, 1280), 24
"""Twelve seconds of 720p."""
EVERY = 4
TURNS = 4

STREAMED = """
from data.extract import ExtractOptions, extract_frames
def work(video, out):
    return extract_frames(video, out, ExtractOptions(every={every})).frames
"""
LISTED = """
import cv2
def work(video, out):
    out.mkdir()
    reader, frames = cv2.VideoCapture(str(video)), []
    while True:
        there, frame = reader.read()
        if not there:
            break
        frames.append(frame)
    kept = range(0, len(frames), {every})
    for number in kept:
        cv2.imwrite(str(out / f"{{number:05d}}.jpg"), frames[number])
    return len(kept)
"""
MEASURED = """
import json, re, sys, time
from pathlib import Path
def peak():  # of this program alone: ru_maxrss starts from the peak of the one that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
began = time.process_time()
kept = work(Path(sys.argv[1]), Path(sys.argv[2]))
cpu = time.process_time() - began
print(json.dumps([kept, cpu, before, peak()]))
"""


def extraction_rows() -> list[Row]:
    """CPU time of one clip each way, and the memory it takes beside the interpreter and its libraries."""
    with tempfile.TemporaryDirectory() as folder:
        video = _film(Path(folder) / "clip.mp4")
        runs: dict[str, list[list[float]]] = {STREAMED: [], LISTED: []}
        for turn in range(TURNS):
            for code in (STREAMED, LISTED) if turn % 2 == 0 else (LISTED, STREAMED):
                out = Path(folder) / f"out{sum(map(len, runs.values()))}"
                runs[code].append(_run(code.format(every=EVERY) + MEASURED, video, out))
    ours, theirs = runs[STREAMED], runs[LISTED]
    assert {run[0] for run in ours + theirs} == {float(len(range(0, FRAMES, EVERY)))}
    cpu = [statistics.median(run[1] for run in way) for way in (ours, theirs)]
    added, whole = (
        [statistics.median(run[3] - run[2] * less for run in way) * 1024 for way in (ours, theirs)]
        for less in (1, 0)
    )
    return [
        Row(
            what=f"frames of {FRAMES} at {SIZE[1]}x{SIZE[0]}, every {EVERY}th kept (CPU time)",
            better="streamed",
            plain="all into a list (OpenCV)",
            better_ms=1000 * cpu[0],
            plain_ms=1000 * cpu[1],
            ratio=statistics.median(b[1] / a[1] for a, b in zip(ours, theirs, strict=True)),
            note=f"{FRAMES / cpu[0]:.0f} and {FRAMES / cpu[1]:.0f} frames/s a core; memory "
            f"{megabytes(int(added[0]))} and {megabytes(int(added[1]))} beside the interpreter's, "
            f"1/{added[1] / added[0]:.0f} (whole process {megabytes(int(whole[0]))}, "
            f"{megabytes(int(whole[1]))})",
        )
    ]


def _run(code: str, video: Path, out: Path) -> list[float]:
    """Frames kept, CPU seconds, and the process's peak memory in KiB before and after."""
    words = [sys.executable, "-c", code, str(video), str(out)]
    answer = subprocess.run(words, capture_output=True, text=True, check=True)
    return [float(value) for value in json.loads(answer.stdout)]


def _film(path: Path) -> Path:
    """A moving picture with detail everywhere, coded as a camera would."""
    rng = np.random.default_rng(0)
    height, width = SIZE
    wide = cv2.resize(rng.integers(0, 255, (45, 120, 3), np.uint8), (2 * width, height))
    wide = cv2.add(wide, rng.integers(0, 24, wide.shape, np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(FRAMES):
            part = np.ascontiguousarray(wide[:, 4 * number : 4 * number + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(part, format="rgb24")))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    for row in extraction_rows():
        print(f"{row.what}: {row.ratio:.2f} x faster; {row.note}")
