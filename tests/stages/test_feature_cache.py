"""Features of a frozen image encoder are worked out once, and change nothing."""

from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from model.config import preset
from model.lora import add_lora
from model.policy import LoRAConfig, LossConfig, PromptPolicy
from model.sam2 import SAM2, build_sam2
from model.tracker import encode_clip
from pipeline.config import parse
from pipeline.diskcache import DiskCache
from pipeline.distributed import World
from pipeline.errors import ConfigError, StorageError
from pipeline.optim import freeze
from stages.clip_task import ClipTask
from stages.contract import StageResult
from stages.feature_cache import LEVELS, FeatureCache, feature_files
from stages.settings import ENCODER, TrainStage
from tests.stages.conftest import Workshop
from tests.stages.test_clip_task import OBJECTS, SIDE, batch_of, gradient
from tests.stages.test_training import equal, weights

ROOM = 1 << 30


def frozen(seed: int = 0, trained: tuple[str, ...] = ()) -> SAM2:
    torch.manual_seed(seed)
    model = build_sam2(preset("micro")).train()
    freeze(model, [glob for glob in ENCODER if glob not in trained])
    return model


class Counter:
    """Counts the frames that go through a trunk."""

    def __init__(self, model: SAM2) -> None:
        self.frames = 0
        model.image_encoder.trunk.register_forward_pre_hook(self._count)

    def _count(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.frames += len(inputs[0])


def pictures(clips: int = 2, frames: int = 3, seed: int = 1) -> torch.Tensor:
    """As from the loader: channels last in memory."""
    chance = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (clips, frames, SIDE, SIDE, 3), generator=chance)
    return pixels.to(torch.uint8).permute(0, 1, 4, 2, 3)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_kept_features_are_those_of_the_encoder(tmp_path: Path, half: bool):
    model, frames = frozen(), pictures()
    seen = Counter(model)
    cache = FeatureCache(model, DiskCache(tmp_path, ROOM), "bf16" if half else "fp32")
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        expected = encode_clip(model, model.normalise(frames))
        assert seen.frames == 6
        for found in (cache.see(frames), cache.see(frames)):
            for plain, kept in zip(expected, found, strict=True):
                for name in (*LEVELS, "position", "grid"):
                    wanted, value = getattr(plain, name), getattr(kept, name)
                    torch.testing.assert_close(value, wanted, rtol=0, atol=0, msg=name)
                    assert value.is_contiguous() == wanted.is_contiguous(), name
    assert seen.frames == 12, "each frame once more, the second time none"


def test_a_frame_is_found_again_in_another_clip_but_not_by_another_encoder(tmp_path: Path):
    model, frames = frozen(), pictures()
    files = DiskCache(tmp_path, ROOM)
    FeatureCache(model, files).see(frames)
    again = Counter(model)
    FeatureCache(model, files).see(frames.flip(1)[:1])
    assert again.frames == 0
    FeatureCache(model, files, "bf16").see(frames[:1])
    assert again.frames == 3, "another precision"
    other = frozen(seed=1)
    count = Counter(other)
    FeatureCache(other, files).see(frames[:1])
    assert count.frames == 3, "other weights"
    with torch.no_grad():
        model.sam_mask_decoder.conv_s1.bias.add_(1)
    FeatureCache(model, files).see(frames[:1])
    assert again.frames == 6, "another projection of the fine level"


def test_a_broken_file_is_made_again(tmp_path: Path):
    model, frames = frozen(), pictures(1, 1)
    cache = FeatureCache(model, DiskCache(tmp_path, ROOM))
    expected = cache.see(frames)[0].s16
    (file,) = (path for path in tmp_path.glob("??/*") if path.is_file())
    file.write_bytes(file.read_bytes()[:-100])
    assert torch.equal(cache.see(frames)[0].s16, expected)
    seen = Counter(model)
    cache.see(frames)
    assert seen.frames == 0


def test_the_files_stay_within_their_limit(tmp_path: Path):
    model = frozen()
    cache = FeatureCache(model, DiskCache(tmp_path, 200_000))
    for seed in range(12):
        cache.see(pictures(1, 1, seed))
    kept = sum(path.stat().st_size for path in tmp_path.glob("??/*"))
    assert 0 < kept <= 200_000 * 17 / 16


def test_a_full_disk_is_told_with_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from pipeline import diskcache

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(diskcache, "atomic_file", full)
    monkeypatch.setenv("SAM2_FEATURE_CACHE", str(tmp_path))
    cache = FeatureCache(frozen(), feature_files())
    with pytest.raises(StorageError, match=r"No space left.*SAM2_FEATURE_CACHE"):
        cache.see(pictures(1, 1))


@pytest.mark.parametrize("frames", [1, 3], ids=["pictures", "clips"])
def test_losses_and_gradients_are_equal_to_the_bit(tmp_path: Path, frames: int):
    model, batch = frozen(), batch_of(frames)

    def task(features: FeatureCache | None) -> ClipTask:
        return ClipTask(
            model, PromptPolicy(), LossConfig(), seed=3, world=World(), features=features
        )

    plain, kept = task(None), task(FeatureCache(model, DiskCache(tmp_path, ROOM)))
    for step in (0, 1, 1, 2):
        wanted = plain.losses(batch, step, sum(OBJECTS)).total
        found = kept.losses(batch, step, sum(OBJECTS)).total
        assert torch.equal(found, wanted)
        assert torch.equal(gradient(model, found), gradient(model, wanted))


@pytest.mark.parametrize("trained", ENCODER)
def test_a_trained_encoder_is_refused(tmp_path: Path, trained: str):
    with pytest.raises(ConfigError, match=trained.removesuffix("*") + ".*freeze them"):
        FeatureCache(frozen(trained=(trained,)), DiskCache(tmp_path, ROOM))


def test_low_rank_changes_beside_the_encoder_go_with_it(tmp_path: Path):
    model, frames = frozen(), pictures(1, 1)
    expected = encode_clip(model, model.normalise(frames))
    freeze(model, ["*"])
    add_lora(model, LoRAConfig(layers=("memory_attention.*", "sam_mask_decoder.*")))
    found = FeatureCache(model, DiskCache(tmp_path, ROOM)).see(frames)
    assert torch.equal(found[0].s16, expected[0].s16)


STAGE = {
    "kind": "finetune",
    "datasets": ["clips"],
    "steps": 10,
    "optim": {"lr": 1e-4},
    "cache_features": True,
    "freeze": list(ENCODER),
    "augment": {"flip": 0.0},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"freeze": []}, "add image_encoder"),
        ({"freeze": ["image_encoder.*"]}, r"add sam_mask_decoder.conv_s0.\*, sam_mask"),
        ({"augment": {}}, "augment.flip is 0.5; .* expected 0.0"),
        ({"augment": {"flip": 0.0, "scale": [0.8, 1.2]}}, "augment.scale is"),
        ({"augment": {"flip": 0.0, "jitter": {"hue": 0.1}}}, "augment.jitter is"),
    ],
)
def test_settings_that_change_features_are_refused(change: dict, message: str):
    parse(TrainStage, STAGE | {"freeze": ["*"], "lora": {"layers": ["memory_attention.*"]}}, "s")
    with pytest.raises(ConfigError, match=f"cache_features: .*{message}"):
        parse(TrainStage, STAGE | change, where="stages.s")


def test_a_stage_trains_to_the_same_weights_with_the_encoder_run_once_a_frame(
    workshop: Workshop,
    pretrained: StageResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("SAM2_FEATURE_CACHE", str(tmp_path))
    encode, seen = SAM2.encode, []

    def noted(self: SAM2, images: torch.Tensor) -> object:
        seen.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(SAM2, "encode", noted)
    plain = deepcopy(dict(workshop.planned["video_train"].settings["stage"]))
    plain |= {"freeze": list(ENCODER), "augment": {"flip": 0.0}, "steps": 8}
    results, counts = [], []
    for name, kept in (("plain", False), ("kept", True), ("kept-again", True)):
        seen.clear()
        stage = plain | {"cache_features": kept, "workers": int(name == "kept-again")}
        parse(TrainStage, stage, where="stage")
        spec = workshop.spec("video_train", pretrained.checkpoint, place=name, stage=stage)
        results.append(weights(workshop.run(spec)))
        counts.append(sum(seen))
    assert equal(results[1], results[0]) and equal(results[2], results[0])
    assert not equal(results[0], weights(pretrained))
    frames = 3 * 4  # of the world's videos: every fourth of 16 is annotated
    assert counts[0] > 8 * 2 * 3 and counts[1] <= frames and counts[2] == 0


def test_low_rank_changes_of_the_encoder_are_refused(workshop: Workshop, pretrained: StageResult):
    stage = deepcopy(dict(workshop.planned["video_train"].settings["stage"]))
    stage |= {"freeze": ["*"], "lora": {"rank": 2}, "cache_features": True}
    stage |= {"augment": asdict(parse(TrainStage, STAGE, where="s").augment)}
    spec = workshop.spec("video_train", pretrained.checkpoint, place="lora-kept", stage=stage)
    with pytest.raises(ConfigError, match=r"stages.video_train.cache_features: .*lora.layers"):
        workshop.run(spec)
