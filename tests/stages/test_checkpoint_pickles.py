"""Code hidden in a file does not run, wherever a checkpoint can come from; digests do not help, for
whoever writes the file can write them too."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import preset
from model.sam2 import build_sam2
from model.weights import load_checkpoint
from pipeline import checkpoint, mirror
from pipeline.checkpoint_list import MANIFEST, Keep, listed
from pipeline.errors import CheckpointError
from pipeline.storage import sha256
from stages.contract import CheckpointRef
from stages.training import build_model
from tests.pipeline import toy
from tests.stages.conftest import Workshop


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is there once code has run."""
    monkeypatch.setenv("BOMB_MARK", str(tmp_path / "executed"))
    return tmp_path / "executed"


def test_the_bomb_works(mark: Path) -> None:
    pickle.loads(pickle.dumps(toy.Bomb()))
    assert mark.is_dir()


def zipped(path: Path, values: Any) -> None:
    with open(path, "wb") as file:
        torch.save(values, file)


def plain(path: Path, values: Any) -> None:
    path.write_bytes(pickle.dumps(values, protocol=2))


WRITERS = pytest.mark.parametrize("write", [zipped, plain])
Writer = Callable[[Path, Any], None]


@WRITERS
@pytest.mark.parametrize("part", ["model", "optimizer", "average", "scale", "notes"])
def test_in_a_training_checkpoint(tmp_path: Path, mark: Path, part: str, write: Writer) -> None:
    _, state = toy.fresh()
    path = checkpoint.save(state, tmp_path)
    write(path, {**checkpoint.read(path), part: toy.Bomb()})
    with pytest.raises(CheckpointError, match=r"was not loaded|cannot be read"):
        checkpoint.load(state, path)
    assert not mark.exists()


@WRITERS
def test_in_a_checkpoint_listed_with_its_digest(tmp_path: Path, mark: Path, write: Writer) -> None:
    """In the folder of a run, in its mirror, and in a list of the first format, whose values are
    looked at."""
    _, state = toy.fresh()
    path = checkpoint.save(state, tmp_path / "run")
    write(path, {"format": 1, "step": 0, "model": toy.Bomb()})
    row = {"file": path.name, "step": 0, "sha256": sha256(path), "bytes": path.stat().st_size}
    manifest = json.dumps({"format": 1, "checkpoints": [row]})
    (tmp_path / "run" / MANIFEST).write_text(manifest)
    with pytest.raises(CheckpointError):
        checkpoint.resume(state, tmp_path / "run")
    mirror.upload(tmp_path / "run", str(tmp_path / "mirror"), Keep())
    with pytest.raises(CheckpointError):
        checkpoint.resume(state, tmp_path / "elsewhere", mirror=str(tmp_path / "mirror"))
    assert listed(tmp_path / "elsewhere") and not mark.exists()


@WRITERS
@pytest.mark.parametrize("name", ["part-00000.pt", "plain.pt", "index.json", ".metadata"])
def test_in_a_folder_of_parts(tmp_path: Path, mark: Path, name: str, write: Writer) -> None:
    """`.metadata` is what torch.distributed.checkpoint would unpickle; ours has none and asks for
    none."""
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    piece = {"offset": [0], "size": [1], "file": "part-00000.pt"}
    tensors = {'["model", "w"]': {"dtype": "float32", "shape": [1], "pieces": [piece]}}
    (folder / "index.json").write_text(json.dumps({"format": 1, "tensors": tensors}))
    torch.save({'["model", "w"]': torch.ones(1)}, folder / "part-00000.pt")
    torch.save({"format": 1, "model": {}}, folder / "plain.pt")
    assert checkpoint.read(folder)["model"]["w"].item() == 1.0
    write(folder / name, {'["model", "w"]': toy.Bomb()})
    if name == ".metadata":
        checkpoint.read(folder)
    else:
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            checkpoint.read(folder)
    assert not mark.exists()


def test_an_index_names_no_code_and_no_other_folder(tmp_path: Path) -> None:
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    torch.save({"format": 1}, folder / "plain.pt")
    torch.save({'["w"]': torch.ones(1)}, tmp_path / "part-00000.pt")
    for dtype, file in (("load", "part-00000.pt"), ("float32", "../part-00000.pt")):
        piece = {"offset": [0], "size": [1], "file": file}
        tensors = {'["w"]': {"dtype": dtype, "shape": [1], "pieces": [piece]}}
        (folder / "index.json").write_text(json.dumps({"format": 1, "tensors": tensors}))
        with pytest.raises(CheckpointError):
            checkpoint.read(folder)


@WRITERS
@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "model.safetensors", "weights"])
def test_in_weights_from_outside(tmp_path: Path, mark: Path, name: str, write: Writer) -> None:
    """Whatever they call themselves: the content decides, and none of it is run."""
    path = tmp_path / name
    write(path, {"model": toy.Bomb()})
    with pytest.raises(CheckpointError):
        load_checkpoint(path, build_sam2(preset("micro")))
    assert not mark.exists()


@WRITERS
def test_in_what_a_stage_starts_from(
    workshop: Workshop, tmp_path: Path, mark: Path, write: Writer
) -> None:
    """An artifact of MLflow, with the digest of the very bomb."""
    from mlflow import MlflowClient

    path = tmp_path / "model.pt"
    write(path, {"model": toy.Bomb()})
    client = MlflowClient(tracking_uri=workshop.uri)
    experiment = client.get_experiment_by_name("others")
    number = experiment.experiment_id if experiment else client.create_experiment("others")
    run = client.create_run(number)
    client.log_artifact(run.info.run_id, str(path), "checkpoints")
    uri = f"runs:/{run.info.run_id}/checkpoints/model.pt"
    given = CheckpointRef(uri, sha256(path), "image_pretrain", 1, run.info.run_id)
    spec = workshop.spec("video_train", given, place=f"bomb-{write.__name__}")
    Path(spec.folder).mkdir(parents=True, exist_ok=True)
    with pytest.raises(CheckpointError):
        build_model(spec)
    shutil.rmtree(spec.folder)
    assert not mark.exists()
