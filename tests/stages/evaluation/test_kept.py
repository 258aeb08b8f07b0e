"""An evaluation that was killed goes on where it was, and ends with the same bytes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flows.measure import measure
from model.config import preset
from model.sam2 import build_sam2
from model.weights import save_checkpoint
from pipeline.distributed import World
from pipeline.errors import DataError, StorageError
from pipeline.progress import read_progress
from pipeline.settings import LaunchConfig
from stages.evaluation import video
from stages.evaluation.kept import Kept, done_before, forget
from stages.evaluation.results import open_scored
from stages.evaluation.sharing import share_out
from tests.stages.evaluation.test_vos import data_set

INLINE = LaunchConfig(launcher="inline")
KILLED = """
import os, signal, sys
from pathlib import Path
from stages.evaluation import video
from tests.stages.evaluation.test_kept import INLINE, measure

real = video.evaluate_video
def dies(tracker, dataset, index, *rest, **named):
    if index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(tracker, dataset, index, *rest, **named)
video.evaluate_video = dies
measure(sys.argv[1], Path(sys.argv[2]), images=None, videos=Path(sys.argv[3]), config=INLINE)
"""


def weights(path: Path, seed: int) -> str:
    torch.manual_seed(seed)
    save_checkpoint(build_sam2(preset("micro")), path)
    return str(path)


def results(folder: Path) -> dict[str, bytes]:
    names = [folder / f"{name}.json" for name in ("summary", "baseline", "details")]
    return {path.name: path.read_bytes() for path in (*names, *folder.glob("masks/*.npz"))}


@pytest.fixture
def scored(monkeypatch) -> Iterator[list[str]]:
    """The videos that are gone through, in order."""
    seen: list[str] = []
    real = video.evaluate_video

    def noted(tracker, dataset, index, *rest, **named):
        seen.append(dataset.names[index])
        return real(tracker, dataset, index, *rest, **named)

    monkeypatch.setattr(video, "evaluate_video", noted)
    return seen


@pytest.mark.slow
def test_killed_and_begun_again_it_ends_with_the_same_bytes(tmp_path, scored, capsys):
    root, first = data_set(tmp_path / "d"), weights(tmp_path / "a.pt", 0)
    out = tmp_path / "out"
    line = [sys.executable, "-c", KILLED, first, str(out), str(root)]
    killed = subprocess.run(line, env={**os.environ, "PYTHONPATH": os.getcwd()}, check=False)
    assert killed.returncode == -signal.SIGKILL
    again = measure(first, out, images=None, videos=root, config=INLINE)
    assert scored == ["two", "one", "two"], "the video, and both of the baseline"
    assert "videos: 1 of 2 videos done before" in capsys.readouterr().out
    assert not (out / ".kept").exists()
    scored.clear()
    whole = measure(first, tmp_path / "whole", images=None, videos=root, config=INLINE)
    assert len(scored) == 4 and whole.metrics == again.metrics
    assert results(out) == results(tmp_path / "whole")


def test_other_weights_and_other_data_are_measured_anew(tmp_path, scored, monkeypatch, capsys):
    root, out = data_set(tmp_path / "d"), tmp_path / "out"
    first, second = (weights(tmp_path / f"{n}.pt", n) for n in range(2))

    def interrupted(checkpoint: str) -> None:
        def stop(*_, **__):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("stages.evaluate.repeat_first_masks", stop)
            measure(checkpoint, out, images=None, videos=root, config=INLINE)

    interrupted(first)
    assert scored == ["one", "two", "one"]
    scored.clear()
    measure(second, out, images=None, videos=root, config=INLINE)
    assert scored == ["one", "two"] * 2
    assert "done before" not in capsys.readouterr().out
    assert open_scored(str(out)).figures
    (root / "Annotations" / "two" / "00002.png").unlink()
    interrupted(second)
    assert len(scored) == 4 + 3, "the data set has changed"
    with pytest.raises(DataError, match="was interrupted; evaluate again"):
        open_scored(str(out))  # its files are those of what was measured before


class Second(World):
    """The second of two ranks; the first has answered its items."""

    def gather(self, value):
        return [({0: 0.0, 2: 2.0, 4: 4.0}, *value[1:]), value]


def test_what_is_kept_is_told_and_not_asked_for_again(tmp_path):
    kept, asked = Kept(tmp_path, "a" * 64, "more.user"), []

    def score(index: int) -> float:
        asked.append(index)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return index / 3

    with pytest.raises(KeyboardInterrupt):
        share_out(7, score, unit="video", kept=kept)
    assert list(done_before(tmp_path, kept.key)) == ["user: 3 of 7 videos done before"]
    (kept.folder / "2.pkl").write_bytes(b"\0" * 9)  # as a power cut may leave it
    assert share_out(7, score, unit="video", kept=kept) == [index / 3 for index in range(7)]
    assert asked == [0, 1, 2, 3, 2, 3, 4, 5, 6]
    progress = read_progress(tmp_path)
    assert progress is not None and (progress.step, progress.total) == (7, 7)
    assert list(done_before(tmp_path, "b" * 64)) == []
    forget(tmp_path)
    assert list(done_before(tmp_path, kept.key)) == []


def test_ranks_go_on_with_what_others_have_left(tmp_path):
    kept, asked = Kept(tmp_path, "a" * 64, "videos"), []
    share_out(4, float, kept=kept)  # there was one rank then

    def score(index: int) -> float:
        asked.append(index)
        return float(index)

    assert share_out(6, score, Second(rank=1, size=2), kept=kept) == [0, 1, 2, 3, 4, 5]
    assert asked == [5]


def test_answers_that_others_may_have_written_are_refused(tmp_path):
    kept = Kept(tmp_path, "a" * 64, "videos")
    share_out(2, float, kept=kept)
    (kept.folder / "1.pkl").chmod(0o666)
    with pytest.raises(StorageError, match="can be written by others"):
        share_out(2, float, kept=kept)
