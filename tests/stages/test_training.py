"""A stage trains, hands its weights on by reference, and stopping it loses nothing."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.attention import Attention
from model.config import preset
from model.memory import MemoryAttention, MemoryAttentionLayer
from model.sam2 import build_sam2
from model.weights import load_checkpoint
from pipeline.errors import CheckpointError, ConfigError, StageError
from pipeline.stop import StopRequested, request_stop, reset_stop
from stages import training
from stages.clip_task import ClipTask
from stages.contract import StageResult, read_result, read_spec
from stages.job import run_stage
from tests.stages.conftest import Workshop


def weights(result_or_folder: StageResult | Path) -> dict[str, torch.Tensor]:
    folder = result_or_folder if isinstance(result_or_folder, Path) else None
    file = folder / "model.pt" if folder else Path(result_or_folder.files["weights"])
    return torch.load(file, weights_only=True)["model"]


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def mlflow_run(workshop: Workshop, run_id: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=workshop.uri).get_run(run_id)


def test_a_stage_leaves_weights_metrics_and_a_record(workshop: Workshop, pretrained: StageResult):
    folder = workshop.folder / "image_pretrain"
    reference = pretrained.checkpoint
    assert reference is not None
    assert reference.uri == f"runs:/{pretrained.run_id}/checkpoints/model.pt"
    assert reference.sha256 == pretrained.digest and reference.step == pretrained.step == 4
    assert pretrained.metrics == {"steps": 4, "skipped": 0} and pretrained.seconds > 0
    for made in ("progress.json", "metrics.jsonl", "tensorboard", "checkpoints/manifest.json"):
        assert (folder / made).exists(), made
    record = mlflow_run(workshop, pretrained.run_id)
    assert record.info.status == "FINISHED"
    assert record.data.params["stage.optim.lr"] == "0.001"
    metrics = record.data.metrics
    assert metrics["loss"] > 0 and {"loss/focal", "loss/weighted/focal"} <= set(metrics)
    assert any(name.startswith("loss/prompt/") for name in metrics)
    assert any(name.startswith("loss/area/") for name in metrics)
    assert not any(name.startswith("loss/answers/") for name in metrics)


def test_published_weights_have_the_official_names(pretrained: StageResult):
    expected = build_sam2(preset("micro")).state_dict()
    found = weights(pretrained)
    assert list(found) == list(expected), "names and their order"
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in expected.items()
    }
    load_checkpoint(pretrained.files["weights"], build_sam2(preset("micro")))


def test_pictures_leave_the_memory_alone_and_clips_train_it(
    workshop: Workshop, pretrained: StageResult, tracked: StageResult
):
    start = training.build_model(workshop.spec("image_pretrain")).state_dict()
    after_pictures, after_clips = weights(pretrained), weights(tracked)
    memory = [name for name in start if name.startswith(("memory_attention.", "memory_encoder."))]
    assert memory
    for name in memory:
        assert torch.equal(after_pictures[name], start[name]), name
    assert any(not torch.equal(after_clips[name], start[name]) for name in memory)
    trunk = "image_encoder.trunk.patch_embed.proj.weight"
    assert not torch.equal(after_pictures[trunk], start[trunk])


def test_the_next_stage_starts_from_the_published_weights(
    workshop: Workshop, pretrained: StageResult, tracked: StageResult
):
    spec = read_spec(workshop.folder / "video_train" / "spec.json")
    assert spec.input == pretrained.checkpoint
    assert equal(training.build_model(spec).state_dict(), weights(pretrained))
    assert tracked.digest != pretrained.digest


def test_weights_that_changed_after_publication_are_refused(
    workshop: Workshop, pretrained: StageResult, tmp_path: Path
):
    assert pretrained.checkpoint is not None
    copy = tmp_path / "model.pt"
    content = bytearray(Path(pretrained.files["weights"]).read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    tampered = replace(pretrained.checkpoint, uri=str(copy))
    spec = workshop.spec("video_train", tampered, place="tampered")
    with pytest.raises(CheckpointError, match="sha256") as caught:
        workshop.run(spec)
    found = training.checkpoint.sha256(copy)
    assert found in str(caught.value) and tampered.sha256 in str(caught.value)
    assert read_result(spec.folder) is None


@pytest.mark.parametrize("name", ["image_pretrain", "video_train"])
def test_a_stopped_stage_continues_bit_for_bit(
    workshop: Workshop,
    pretrained: StageResult,
    tracked: StageResult,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
):
    given = pretrained.checkpoint if name == "video_train" else None
    spec = workshop.spec(name, given, place=f"{name}-stopped", experiment="others")
    losses = ClipTask.losses

    def stop_in_step_two(self: ClipTask, batch: Any, step: int, whole: float) -> Any:
        if step == 1:
            request_stop("a test asked for it")
        return losses(self, batch, step, whole)

    with monkeypatch.context() as patch:
        patch.setattr(ClipTask, "losses", stop_in_step_two)
        with pytest.raises(StopRequested, match="saved at step 2"):
            workshop.run(spec)
    assert read_result(spec.folder) is None
    reset_stop()

    steps: list[int] = []

    def noted(self: ClipTask, batch: Any, step: int, whole: float) -> Any:
        steps.append(step)
        return losses(self, batch, step, whole)

    with monkeypatch.context() as patch:
        patch.setattr(ClipTask, "losses", noted)
        again = workshop.run(spec)
    assert steps == [2, 3], "nothing is trained twice"
    straight = pretrained if name == "image_pretrain" else tracked
    assert equal(weights(again), weights(straight))
    assert again.digest == straight.digest and again.run_id != straight.run_id


def test_weights_that_are_not_finite_do_not_leave_the_stage(
    workshop: Workshop, pretrained: StageResult, monkeypatch: pytest.MonkeyPatch
):
    """Whatever happened to them; and started again, the stage hands over what it had saved."""

    def spoilt(model: torch.nn.Module) -> torch.nn.Module:
        copy = deepcopy(model)
        next(copy.parameters()).data.view(-1)[0] = float("nan")
        return copy

    spec = workshop.spec("image_pretrain", place="spoilt", experiment="others")
    with monkeypatch.context() as patch:
        patch.setattr(training, "merged", spoilt)
        with pytest.raises(CheckpointError, match=r"1 of .* numbers that are NaN or infinite"):
            workshop.run(spec)
    assert read_result(spec.folder) is None and not Path(spec.folder, "model.pt").exists()
    assert workshop.run(spec).digest == pretrained.digest


def test_mlflow_tells_stopped_from_failed(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    from pipeline.tracking import find_run

    def end_with(error: Exception, place: str) -> str:
        def losses(self: ClipTask, batch: Any, step: int, whole: float) -> Any:
            raise error

        monkeypatch.setattr(ClipTask, "losses", losses)
        spec = workshop.spec("image_pretrain", place=place, experiment="others", seed=len(place))
        with pytest.raises(type(error)):
            workshop.run(spec)
        run_id = find_run(workshop.uri, "others", spec.key, spec.folder)
        assert run_id is not None
        return str(mlflow_run(workshop, run_id).info.status)

    assert end_with(StopRequested("a signal"), "halted") == "KILLED"
    assert end_with(StageError("not finite"), "failing") == "FAILED"


def test_a_finished_stage_is_left_alone(workshop: Workshop, pretrained: StageResult):
    file = Path(pretrained.files["weights"])
    before = file.stat().st_mtime_ns
    run_stage(str(workshop.folder / "image_pretrain" / "spec.json"))
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("name", "data", "needed"),
    [
        ("image_pretrain", "video_train", "image_pretrain needs image data"),
        ("video_train", "image_pretrain", "video_train needs video data"),
        ("joint_train", "image_pretrain", "needs image and video data"),
    ],
)
def test_data_of_the_wrong_kind_is_named(workshop: Workshop, name: str, data: str, needed: str):
    wrong = workshop.planned[data].settings["data"]
    spec = workshop.spec(name, place=f"{name}-wrong", data=wrong)
    with pytest.raises(ConfigError, match=needed) as caught:
        workshop.run(spec)
    assert f"stages.{name}.datasets" in str(caught.value) and next(iter(wrong)) in str(caught.value)


def test_low_rank_training_leaves_an_ordinary_network(
    workshop: Workshop, pretrained: StageResult, capfd: pytest.CaptureFixture[str]
):
    settings = deepcopy(dict(workshop.planned["video_train"].settings["stage"]))
    settings |= {"freeze": ["*"], "lora": {"rank": 2}}
    spec = workshop.spec("video_train", pretrained.checkpoint, place="lora", stage=settings)
    result = workshop.run(spec)
    start, end = weights(pretrained), weights(result)
    assert list(end) == list(start)
    changed = {name for name in end if not torch.equal(start[name], end[name])}
    assert changed and all(name.endswith(("proj.weight", "qkv.weight")) for name in changed)
    assert "image_encoder.trunk" in capfd.readouterr().out


def test_joint_training_takes_turns(
    workshop: Workshop, tracked: StageResult, monkeypatch: pytest.MonkeyPatch
):
    kinds: list[str] = []
    losses = ClipTask.losses

    def noted(self: ClipTask, batch: Any, step: int, whole: float) -> Any:
        kinds.append(batch.kind)
        return losses(self, batch, step, whole)

    monkeypatch.setattr(ClipTask, "losses", noted)
    result = workshop.run(workshop.spec("joint_train", tracked.checkpoint))
    assert kinds == ["image", "video"] * 2 and result.step == 4


def test_dropout_is_what_the_recipe_says(workshop: Workshop):
    spec = workshop.spec("video_train")

    def rates(dropout: float | None) -> set[float]:
        model = training.build_model(spec, dropout=dropout)
        attention = next(m for m in model.modules() if isinstance(m, MemoryAttention))
        layers = (Attention, MemoryAttentionLayer)
        return {m.dropout for m in attention.modules() if isinstance(m, layers)}

    assert rates(None) == {preset("micro").dropout} and rates(0.25) == {0.25}


def test_layers_are_counted_from_the_top_of_the_trunk():
    model = build_sam2(preset("micro"))
    above = training.layers_above(model)
    blocks = sum(model.config.trunk.depths)
    trunk = "image_encoder.trunk."
    assert above(f"{trunk}patch_embed.proj.weight") == blocks + 1
    assert above(f"{trunk}blocks.0.norm1.weight") == blocks
    assert above(f"{trunk}blocks.{blocks - 1}.mlp.layers.0.weight") == 1
    for other in (f"{trunk}pos_embed", "image_encoder.neck.convs.0.conv.weight", "no_mem_embed"):
        assert above(other) == 0
