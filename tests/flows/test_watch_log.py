"""The log of a job is shown line by line, each once, whatever happens to file and reader."""

import os
from pathlib import Path

import pytest

from flows import watch_log
from flows.watch_log import JobLog
from pipeline.storage import write_json


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    attempt(tmp_path, "first")
    return tmp_path


def attempt(stage: Path, name: str) -> Path:
    """A job was submitted; its output file."""
    logs = stage / "logs" / name
    logs.mkdir(parents=True)
    handle = dict(launcher="local", job_id="7", folder=str(stage), logs=str(logs), key="k")
    write_json(stage / "handle.json", {**handle, "tasks": 1, "host": "here"})
    return logs / "7_0_log.out"


def out(stage: Path, name: str = "first") -> Path:
    return stage / "logs" / name / "7_0_log.out"


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def shown(log: JobLog, **named: bool) -> list[str]:
    lines: list[str] = []
    log.show(lines.append, **named)
    return lines


def test_both_outputs_are_followed_and_half_a_line_waits(stage):
    log = JobLog(stage)
    assert shown(log) == [], "nothing is there yet"
    append(out(stage), b"one\ntw")
    append(out(stage).with_suffix(".err"), b"loud\n")
    assert shown(log) == ["one", "loud"]
    append(out(stage), b"o\nthree")
    assert shown(log) == ["two"]
    assert shown(log) == []
    assert shown(log, last=True) == ["three"], "at the end half a line is one"
    assert shown(log, last=True) == []


def test_a_character_cut_in_the_middle_comes_whole(stage):
    log, text = JobLog(stage), "größer → besser\n".encode()
    said = []
    for byte in text * 3:
        append(out(stage), bytes([byte]))
        said += shown(log)
    assert said == ["größer → besser"] * 3


def test_bytes_that_are_no_text_and_bars_that_redraw_themselves(stage):
    append(out(stage), b"\xff\xfe!\n  1%\r 50%\r100% done\n\n")
    assert shown(JobLog(stage)) == ["\ufffd\ufffd!", "100% done"]


def test_a_flow_that_starts_again_does_not_repeat_lines(stage):
    append(out(stage), b"one\ntwo\n")
    assert shown(JobLog(stage)) == ["one", "two"]
    append(out(stage), b"three\n")
    assert shown(JobLog(stage)) == ["three"]


def test_the_end_of_an_earlier_attempt_is_not_lost(stage):
    append(out(stage), b"one\n")
    shown(JobLog(stage))
    append(out(stage), b"last words\n")
    append(attempt(stage, "second"), b"again\n")
    assert shown(JobLog(stage)) == ["last words", "again"]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_rotated_file_is_read_to_its_end_and_then_the_new_one(stage, restarted):
    log, path = JobLog(stage), out(stage)
    append(path, b"one\n")
    assert shown(log) == ["one"]
    append(path, b"two\nhalf")
    path.rename(path.with_name(f"{path.name}.1"))
    append(path, b"three\n")
    assert shown(JobLog(stage) if restarted else log) == ["two", "half", "three"]
    append(path, b"four\n")
    assert shown(JobLog(stage)) == ["four"]


def test_a_file_cut_off_or_written_anew_is_read_from_its_start(stage):
    log, path = JobLog(stage), out(stage)
    append(path, b"a long first life\n")
    shown(log)
    os.truncate(path, 0)
    append(path, b"short\n")
    assert shown(log) == ["short"]
    os.truncate(path, 0)
    append(path, b"longer than it was before\n")
    assert shown(log) == ["longer than it was before"]


def test_a_flood_is_limited_and_what_is_left_out_is_counted(stage):
    clock = Clock()
    log, total = JobLog(stage, clock), 100_000
    append(out(stage), b"".join(b"line %d of many\n" % i for i in range(total)))
    said = shown(log)
    assert "lines are not shown here" in said[0] and str(out(stage)) in said[0]
    assert len(said) <= watch_log.BURST + 1
    assert shown(log) == [], "the limit is used up"
    while True:
        clock.now += 5
        more = shown(log)
        if not more:
            break
        said += more
    left_out = int(said[0].split()[1].replace(",", ""))
    numbers = [int(line.split()[1]) for line in said[1:]]
    assert numbers == list(range(left_out, total)), "each once, in order, up to the end"


def test_the_last_look_leaves_out_rather_than_wait(stage):
    append(out(stage), b"".join(b"line %d\n" % i for i in range(5000)))
    said = shown(JobLog(stage), last=True)
    assert len(said) == watch_log.BURST + 1 and "4,600 lines" in said[-1]
    assert shown(JobLog(stage), last=True) == []


def test_a_line_without_end_is_shown_in_pieces(stage):
    append(out(stage), b"x" * (watch_log.CHUNK_BYTES + 10))
    said = shown(JobLog(stage))
    assert len(said) == 1 and len(said[0]) < 3000
