"""What a run's page is told, also by way of a server that comes and goes."""

import logging
import os
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from PIL import Image

from flows import page as pages
from flows.page import Page, image_url
from flows.pictures import draw_curves
from flows.run import Run
from flows.watch_job import JobView
from pipeline.heartbeat import Beat, write_beat
from pipeline.journal import append
from pipeline.progress import Progress
from pipeline.storage import write_json
from stages.contract import StageSpec


class Server:
    """A Prefect server that can be away, or answer with errors."""

    def __init__(self) -> None:
        self.there, self.angry = True, False
        self.made: list[str] = []
        self.contents: dict[object, object] = {}

    def create_artifact(self, new):
        return self._take(uuid4(), new, self.made)

    def update_artifact(self, name, new):
        self._take(name, new, [])

    def _take(self, name, new, log):
        if self.angry:
            raise RuntimeError("503")
        log.append(getattr(new, "key", ""))
        self.contents[name] = new.data
        return SimpleNamespace(id=name)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(pages, "server_answers", lambda: server.there)
    monkeypatch.setattr(pages, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(
        "prefect.client.orchestration.get_client", lambda sync_client: nullcontext(server)
    )
    return server


def test_an_artifact_is_made_once_and_kept_current(server):
    page = Page(logging.getLogger("test"))
    page.bar("a", 10, "begun")
    page.bar("a", 120, "done")
    page.markdown("b", "text", "")
    assert server.made == ["a", "b"]
    assert list(server.contents.values()) == [100.0, "text"]


def test_what_a_server_that_is_away_missed_is_told_later(server):
    page = Page(logging.getLogger("test"))
    page.bar("a", 10, "")
    server.there = False
    page.bar("a", 50, "")
    page.markdown("b", "meanwhile", "")
    page.bar("a", 90, "")
    assert not page.flush(), "no waiting where none is asked for"
    assert list(server.contents.values()) == [10.0]
    server.there = True
    assert page.flush(patience=5)
    assert list(server.contents.values()) == [90.0, "meanwhile"]


def test_a_server_that_answers_with_errors_ends_nothing(server, caplog):
    page = Page(logging.getLogger("test"))
    server.angry = True
    page.table("t", [{"x": 1}], "")
    assert "Prefect did not take t now (503)" in caplog.text
    server.angry = False
    assert page.flush() and server.made == ["t"]


def test_pictures_travel_whole_unless_they_are_too_large(tmp_path):
    small, large = tmp_path / "small.png", tmp_path / "large.jpg"
    Image.new("RGB", (8, 8)).save(small)
    large.write_bytes(os.urandom(pages.LARGEST_IMAGE + 1))
    assert image_url(small).startswith("data:image/png;base64,iVBOR")
    assert image_url(large) == ""


def test_the_page_of_a_job_shows_how_it_is(request_of, tmp_path):
    run = Run.of(request_of())
    spec = StageSpec("video_train", "video_train", {}, str(tmp_path / "stage"))
    view = JobView(run, spec)
    assert "being started" in view.page(None)
    logs = tmp_path / "stage/logs/x"
    logs.mkdir(parents=True)
    handle = dict(launcher="local", job_id="7", folder=spec.folder, logs=str(logs), key="k")
    write_json(Path(spec.folder) / "handle.json", {**handle, "tasks": 1, "host": os.uname()[1]})
    ahead = time.time() + 60  # the clock of another machine
    write_beat(spec.folder, Beat(step=120, phase="backward", time=ahead))
    metrics = {"data_wait": 0.25, "memory_bytes": 3 << 30, "skipped": 2}
    text = view.page(Progress(120, 900, rate=4.9, eta=159, loss=0.4131, metrics=metrics))
    for shown in (
        "| job | local 7 |",
        "| state | ENDED",
        "| step | 120 of 900 (13 %) |",
        "| loss | 0.4131 |",
        "| speed | 4.9 step/s |",
        "| time left | 2:39 |",
        "| memory | 3.2 GB |",
        "| waits for data | 25% of the time |",
        "| steps left out | 2 |",
        "| last heartbeat | 0:00 ago, in backward |",
        "7_0_log.err",
        "tensorboard --logdir",
    ):
        assert shown in text, text


def test_curves_are_drawn_from_what_the_training_wrote(tmp_path):
    metrics, out = tmp_path / "metrics.jsonl", tmp_path / "curves.png"
    assert draw_curves(metrics, out) is None
    rows = [{"step": n, "time": 0, "values": {"loss": 1 / n, "lr": 0.1}} for n in range(1, 50)]
    append(metrics, rows)
    with metrics.open("a") as file:
        file.write('{"step": 51, "val')
    assert draw_curves(metrics, out) == out
    assert Image.open(out).size == (900, 260)
