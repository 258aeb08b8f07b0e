"""The measurement of speed: what it says, not how fast this machine is."""

import json

import pytest

from flows.cli import main
from pipeline.errors import ConfigError
from stages.speed import SpeedCase, measure_speed


@pytest.mark.parametrize("work", ["image", "click", "video"])
def test_a_measurement_says_what_it_is_of(work):
    case = SpeedCase(work=work, objects=2, preset="micro", size=(64, 48), count=6, threads=1)
    found = measure_speed(case)
    assert found.measurements == 6 and found.network == "micro 2.1 at 96"
    assert 0 < found.percentiles[0] <= found.percentiles[1] <= found.percentiles[2]
    slowest, fastest = 1000 / found.percentiles[2], 1000 / min(found.percentiles)
    assert 0.5 * slowest < found.per_second < 6 * fastest
    assert found.peak_bytes > 1 << 20 and found.first > 0


def test_time_that_is_up_ends_it_after_a_few():
    case = SpeedCase(
        work="image", objects=1, preset="micro", size=(64, 48), seconds=1e-6, threads=1
    )
    assert measure_speed(case).measurements == 5


def test_half_precision_and_frames_ahead():
    case = SpeedCase(
        work="video", objects=1, preset="micro", size=(64, 48), count=5, threads=1,
        precision="bf16", frames_at_once=4,
    )  # fmt: skip
    assert measure_speed(case).measurements == 5


@pytest.mark.parametrize(
    "change", [{"objects": 0}, {"count": 1}, {"frames_at_once": 0}, {"checkpoint": "x.pt"}]
)
def test_what_cannot_be_measured_is_refused(change):
    with pytest.raises(ConfigError, match="expected"):
        SpeedCase(**({"work": "image", "objects": 1, "preset": "micro"} | change))


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    out = tmp_path / "speed.json"
    words = ["speed", "--preset", "micro", "--work", "click", "--objects", "1", "--size", "64x48"]
    words += ["--count", "5", "--device", "cpu", "--threads", "1", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "micro 2.1 at 96" in said and "16 calls of warm-up" in said
    found = json.loads(out.read_text())
    assert found["percentiles"] == [50, 90, 99] and len(found["lines"]) == 1
    assert main([*words[:-2], "--size", "64"]) == 2
    assert "expected WIDTHxHEIGHT" in capsys.readouterr().err
