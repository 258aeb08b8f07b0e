"""A stage is other work when its data is other data, and its MLflow run says what it read."""

import json
from dataclasses import asdict

import pytest
from mlflow import MlflowClient

from data.sources import open_listing
from data.spec import DatasetSpec
from flows.run import Request, Run
from pipeline.errors import DataError
from pipeline.tracking import open_run, prepare_store
from stages.data_identity import data_digests, record_data, stage_datasets
from tests.data import lookalikes as like


def settings_of(root, **fields):
    return {"data": {"clips": asdict(DatasetSpec(format="davis", root=str(root), **fields))}}


def test_the_key_of_a_stage_follows_its_data(tmp_path):
    root = like.davis(tmp_path / "davis")
    words = ("recipe=finetune", f"datasets.train.root={root}", f"runs={tmp_path / 'runs'}")
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"x")

    def keys():
        run = Run.of(Request(overrides=(*words, f"checkpoint={weights}")))
        (stage,) = [stage for stage in run.planned if stage.kind == "finetune"]
        return run.spec(stage).key

    before = keys()
    assert keys() == before
    like.save(root / "JPEGImages/480p/bear/00006.jpg", like.picture(6))
    assert keys() == before  # no mask, so no frame to train on
    (root / "Annotations/480p/bear/00005.png").unlink()
    assert keys() != before


def test_what_the_run_makes_itself_has_the_digest_of_its_stage(tmp_path):
    root = like.sav(tmp_path / "sav")
    listing = open_listing(DatasetSpec(format="sav", root=str(root)))
    settings = {"data": {"clips": asdict(DatasetSpec(format="sav", root=str(root)))}}
    assert data_digests(settings, [tmp_path]) == {}
    settings["data"]["clips"]["frames"] = str(tmp_path / "run/frames")  # not there yet
    assert data_digests(settings, [tmp_path / "run"]) == {"data:clips": listing.digest}
    with pytest.raises(DataError, match="`frames`"):
        data_digests(settings, [])
    extraction = {"dataset": "clips", "data": settings["data"]["clips"]}
    assert data_digests(extraction, []) == {"data:clips": listing.digest}


def test_every_kind_of_stage_names_its_data():
    spec = asdict(DatasetSpec(format="davis", root="/x"))
    assert list(stage_datasets({"data": {"a": spec, "b": spec}})) == ["a", "b"]
    assert list(stage_datasets({"images": None, "videos": spec})) == ["videos"]
    assert list(stage_datasets({"videos": spec, "more": {"user": spec}})) == ["videos", "more.user"]
    assert list(stage_datasets({"dataset": "c", "data": spec, "every": 4})) == ["c"]
    assert stage_datasets({"world": {}, "folder": "x"}) == {}


def test_mlflow_says_what_was_read(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    prepare_store(uri, "sam2", tmp_path / "artifacts")
    run = open_run(uri, "sam2", "video_train", "key", tmp_path / "run")
    settings = settings_of(like.davis(tmp_path / "davis"))
    for _ in range(2):  # a stage that is continued says it again
        record_data(run, settings)
    run.close()
    digest = open_listing(DatasetSpec(**settings["data"]["clips"])).digest
    found = MlflowClient(uri).get_run(run.run_id)
    assert found.data.tags["data.clips.sha256"] == digest
    (given,) = found.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("clips", digest[:36])
    assert json.loads(given.dataset.source) == {"uri": str(tmp_path / "davis"), "sha256": digest}
    assert json.loads(given.dataset.profile) == {"format": "davis", "items": 1}
