"""The evaluation stage with a further protocol, on one rank and on two."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from data.spec import DatasetSpec
from pipeline.errors import ConfigError
from pipeline.launch import launch
from pipeline.settings import LaunchConfig
from pipeline.storage import read_json, sha256
from pipeline.tracking import prepare_store
from stages.contract import CheckpointRef, StageSpec, read_result, write_spec
from stages.evaluation_settings import VosMeasurement
from stages.job import run_stage
from stages.recipe import load_recipe, plan
from stages.settings import Evaluation
from tests.stages.evaluation.test_vos import data_set
from tests.stages.prediction.conftest import weights as weights

MORE = "+evaluation.more.mose={kind: vos, dataset: val, zip: mose}"


def test_a_recipe_names_further_protocols_and_their_data():
    recipe = load_recipe(["recipe=mose_finetune", MORE])
    assert recipe.evaluation.more["mose"].zip == "mose"
    evaluation = next(stage for stage in plan(recipe) if stage.kind == "evaluate")
    assert evaluation.settings["more"]["mose"]["format"] == "davis"
    for words, told in (
        (MORE.replace("val,", "vall,"), "evaluation.more.mose names the data set 'vall'"),
        (MORE.replace("vos", "voss"), "vos"),
        (MORE.replace("zip: mose", "zop: mose"), "zop"),
    ):
        with pytest.raises(ConfigError, match=told):
            load_recipe(["recipe=mose_finetune", words])


@pytest.mark.slow
def test_the_stage_shares_it_out_over_ranks(tmp_path: Path, weights: str):
    data = asdict(DatasetSpec(format="davis", root=str(data_set(tmp_path / "d"))))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    prepare_store(uri, "e", tmp_path / "artifacts")
    one = StageSpec(
        name="evaluate",
        kind="evaluate",
        settings={
            "model": None,
            "weights": {"expect": None, "image_size": None},
            "seed": 0,
            "evaluation": asdict(
                Evaluation(device="cpu", more={"d": VosMeasurement(kind="vos", dataset="d")})
            ),
            "images": None,
            "videos": data,
            "more": {"d": data},
        },
        folder=str(tmp_path / "one"),
        tracking={"uri": uri, "experiment": "e"},
        input=CheckpointRef(weights, sha256(weights), "", 0, ""),
    )
    results = []
    for spec, config in (
        (one, LaunchConfig()),
        (
            replace(one, folder=str(tmp_path / "two")),
            LaunchConfig(launcher="local", tasks_per_node=2),
        ),
    ):
        launch(run_stage, str(write_spec(spec)), spec.folder, config, name="e", key=spec.key)
        results.append(read_result(spec.folder, spec.key))
    alone, shared = results
    assert alone.metrics == shared.metrics and alone.metrics["d/jf"] > 0
    more = read_json(tmp_path / "two" / "more.json")["d"]
    assert more["metrics"]["jf"] == shared.metrics["d/jf"] and more["split"] and more["resolution"]
    assert Path(shared.files["d/scores"]).is_file()
