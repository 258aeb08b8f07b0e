"""What a finished stage's mirror lacks is copied by the next run and by `sync`."""

from pathlib import Path

import pytest

from flows.cli import main
from flows.mirrors import complete_mirrors
from flows.run import Run
from flows.stage import perform
from pipeline import checkpoint_list, mirror
from pipeline.checkpoint_list import Entry, Keep, listed
from pipeline.errors import StorageError
from pipeline.storage import FileRecord, sha256
from tests.flows.test_lineage import DOWN, done


def save_without_mirror(stage: Path, url: Path) -> None:
    """One checkpoint in `stage`, made while a file lay where the mirror should be."""
    folder = stage / "checkpoints"
    checkpoint_list.begin(folder)
    file = folder / "step-00000004.pt"
    file.write_text("weights")
    entry = Entry(file.name, 4, {file.name: FileRecord(sha256(file), file.stat().st_size)})
    checkpoint_list.add(folder, entry, Keep())
    url.write_text("in the way")
    with pytest.raises(StorageError):
        mirror.upload(folder, str(url), Keep())
    assert not complete_mirrors(stage / "nowhere")[1]


def steps(url: Path) -> list[int]:
    return [entry.step for entry in listed(url)]


def test_the_next_run_copies_what_the_mirror_lacks(
    request_of, stand_in, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, url = Run.of(request_of()), tmp_path / "mirror"

    def go() -> None:
        for stage in run.wanted[:2]:
            run.results[stage.name] = perform(run, stage, ())

    go()
    save_without_mirror(run.folder(run.wanted[1].name), url)
    go()
    assert f"the mirror lacks checkpoints of {run.wanted[1].name}" in caplog.text
    url.unlink()
    go()
    assert steps(url) == [4]


def test_sync_copies_what_mirrors_lack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run, url = tmp_path / "run", tmp_path / "mirror"
    done(run, "image", DOWN)
    stage = run / "image"
    save_without_mirror(stage, url)
    assert main(["sync", str(run)]) == 1
    assert "1 mirrors lack checkpoints" in capsys.readouterr().out
    url.unlink()
    result = stage / "done.json"
    result.rename(stage / "later")
    main(["sync", str(run)])
    assert "mirror" not in capsys.readouterr().out.partition("wait")[2], "it still trains"
    (stage / "later").rename(result)
    main(["sync", str(run)])
    assert "1 mirrors completed" in capsys.readouterr().out and steps(url) == [4]
