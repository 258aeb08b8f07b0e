"""Loading what fits: any of our formats, from anywhere, into a given network or one built for it."""

import json
import logging
import os
import subprocess
import sys
from collections import OrderedDict
from functools import cache
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import fsspec
import pytest
import torch
from torch import Tensor

from model import build_sam2, load_checkpoint, load_component, preset, save_checkpoint
from model.config import PRESETS
from model.sam2 import SAM2
from model.weights_identity import COMPONENTS, describe, identify, of_component
from pipeline import checkpoint
from pipeline.checkpoint import TrainState
from pipeline.errors import ConfigError
from pipeline.optim import build_optimizer
from pipeline.settings import OptimConfig
from tests.golden.reader import FOLDER, golden_model

SIZES = ("tiny", "small", "base_plus", "large")


@pytest.fixture
def model() -> SAM2:
    torch.manual_seed(0)
    return build_sam2("micro")


@pytest.fixture(scope="module")
def other() -> SAM2:
    torch.manual_seed(1)
    return build_sam2("micro")


def same(model: SAM2, weights: dict[str, Tensor]) -> bool:
    own = model.state_dict()
    return list(own) == list(weights) and all(torch.equal(own[name], weights[name]) for name in own)


def as_file(content: object, **options: object) -> bytes:
    buffer = BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@cache
def hollow(size: str, version: str = "2.1") -> bytes:
    """A file of a published network with the right names and shapes in a few kilobytes: each tensor
    is one zero, stretched."""
    with torch.device("meta"):
        names = SAM2(preset(size, version=version)).state_dict()
    return as_file({"model": {key: torch.zeros(1).expand(v.shape) for key, v in names.items()}})


def test_into_a_given_network(model: SAM2, other: SAM2, tmp_path: Path):
    save_checkpoint(other, tmp_path / "weights.pt")
    model.eval()
    assert load_checkpoint(tmp_path / "weights.pt", model) is model
    assert same(model, other.state_dict()) and not model.training


def test_into_a_network_of_lower_precision(model: SAM2, other: SAM2):
    load_checkpoint(as_file({"model": other.state_dict()}), model.bfloat16())
    assert same(model, {k: v.bfloat16() for k, v in other.state_dict().items()})


@pytest.mark.parametrize("version", ["2.0", "2.1"])
@pytest.mark.parametrize("size", SIZES)
def test_published_names_tell_size_and_version(size: str, version: str):
    published = json.loads((FOLDER / f"state_dict_{size}.json").read_text())
    lacks = set(published["sam2.1_only"]) if version == "2.0" else set()
    weights = {
        name: torch.empty(shape, device="meta")
        for name, shape, _ in published["entries"]
        if name not in lacks
    }
    assert identify(weights) == (size, version)


@pytest.mark.parametrize(("size", "version"), [("tiny", "2.0"), ("micro", "2.1"), ("micro", "2.0")])
def test_a_network_is_built_for_the_weights(size: str, version: str):
    built = load_checkpoint(hollow(size, version))
    assert built.config == preset(size, version=version)
    assert not any(value.any() for value in built.state_dict().values())


def test_a_built_network_is_on_its_own(other: SAM2, tmp_path: Path):
    """It trains, keeps its weights when the file changes, and leaves the random generator alone."""
    path = tmp_path / "weights.pt"
    save_checkpoint(other, path)
    before = torch.get_rng_state()
    built = load_checkpoint(path)
    assert torch.equal(torch.get_rng_state(), before)
    with open(path, "r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert same(built, other.state_dict())
    assert all(p.requires_grad and p.is_leaf and p.is_contiguous() for p in built.parameters())
    assert {p.device.type for p in [*built.parameters(), *built.buffers()]} == {"cpu"}
    images = torch.randn(1, 3, 96, 96)
    torch.testing.assert_close(built.encode(images).s16, other.encode(images).s16)


def test_loading_does_not_wait_for_the_compiler(other: SAM2, tmp_path: Path):
    """Torch imports it, and sympy, to draw random numbers that nobody needs here."""
    save_checkpoint(other, tmp_path / "weights.pt")
    code = (
        "import sys; from model import load_checkpoint; load_checkpoint(sys.argv[1]); "
        "print([name for name in ('sympy', 'torch._dynamo') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "weights.pt")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout.strip() == "[]", answer.stderr


def test_the_input_side(other: SAM2, tmp_path: Path):
    large = SAM2(preset("micro", image_size=160))
    save_checkpoint(large, tmp_path / "large.safetensors")
    save_checkpoint(large, tmp_path / "large.pt")
    assert load_checkpoint(tmp_path / "large.safetensors").config.image_size == 160
    assert load_checkpoint(tmp_path / "large.pt").config.image_size == 96
    for name in ("large.safetensors", "large.pt"):
        assert load_checkpoint(tmp_path / name, image_size=192).config.image_size == 192


@pytest.mark.parametrize("expect", ["micro", "micro 2.0"])
def test_what_was_expected(expect: str):
    assert describe(load_checkpoint(hollow("micro", "2.0"), expect=expect).config) == "micro 2.0"


def test_contradictions_in_the_call(model: SAM2):
    with pytest.raises(ConfigError, match="not both"):
        load_checkpoint(b"", model, expect="tiny")  # type: ignore[call-overload]
    for words in ("huge", "tiny 3.0", "tiny, 2.0", ""):
        with pytest.raises(ConfigError, match=r"tiny|large"):
            load_checkpoint(hollow("micro"), expect=words)
    with pytest.raises(ConfigError, match="multiple of 32"):
        load_checkpoint(hollow("micro"), image_size=100)
    with pytest.raises(ConfigError, match="multiple of 32"):
        load_checkpoint(hollow("micro"), image_size=0)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_wrapped_names(model: SAM2, other: SAM2, prefix: str):
    wrapped = {prefix + name: value for name, value in other.state_dict().items()}
    load_checkpoint(as_file({"model": wrapped}), model)
    assert same(model, other.state_dict())


def test_names_of_compiled_parts(model: SAM2, other: SAM2):
    def inside(name: str) -> str:
        return name.replace("image_encoder.", "image_encoder._orig_mod.", 1)

    wrapped = {inside(name): value for name, value in other.state_dict().items()}
    load_checkpoint(as_file({"model": wrapped}), model)
    assert same(model, other.state_dict())
    compiled = build_sam2("micro")
    compiled.image_encoder = torch.compile(compiled.image_encoder)
    load_checkpoint(as_file({"model": other.state_dict()}), compiled)
    assert all(torch.equal(v, wrapped[name]) for name, v in compiled.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_and_said(
    model: SAM2, other: SAM2, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
):
    stored = {name: value.to(dtype) for name, value in other.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        built = load_checkpoint(as_file({"model": stored}))
        load_checkpoint(as_file({"model": stored}), model)
    assert caplog.text.count(str(dtype).removeprefix("torch.")) == 2
    exact = {name: value.float() for name, value in stored.items()}
    assert same(built, exact) and same(model, exact)
    assert {value.dtype for value in built.state_dict().values()} == {torch.float32}


def test_training_checkpoint_of_the_reference(model: SAM2, other: SAM2):
    """What its trainer keeps beside the weights is passed over."""
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "model": other.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "loss": {"all": OrderedDict()},
        "steps": {"train": 300, "val": 0},
        "time_elapsed": 12.5,
        "best_meter_values": {},
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
    }
    load_checkpoint(as_file(content), model)
    assert same(model, other.state_dict())


def test_training_checkpoint_of_ours(other: SAM2, tmp_path: Path):
    state = TrainState(other, *build_optimizer(other, OptimConfig(lr=1e-4), total_steps=10), step=7)
    assert same(load_checkpoint(checkpoint.save(state, tmp_path)), other.state_dict())


def test_bare_and_old_files(other: SAM2):
    weights = other.state_dict()
    assert same(load_checkpoint(as_file(weights)), weights)
    old = as_file({"model": weights}, _use_new_zipfile_serialization=False)
    assert same(load_checkpoint(old), weights)


def test_compressed_file(other: SAM2, tmp_path: Path):
    """A file that was packed again cannot be mapped, but is read."""
    save_checkpoint(other, tmp_path / "a.pt")
    with ZipFile(tmp_path / "a.pt") as old, ZipFile(tmp_path / "b.pt", "w", ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert same(load_checkpoint(tmp_path / "b.pt"), other.state_dict())


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_wherever_it_lies(other: SAM2, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save_checkpoint(other, f"~/with space.{form}")
    assert os.listdir(tmp_path) == [f"with space.{form}"]
    save_checkpoint(other, f"file://{tmp_path}/second.{form}")
    save_checkpoint(other, f"memory://weights/third.{form}")
    places = (
        f"~/with space.{form}",
        f"file://{tmp_path}/with%20space.{form}",
        f"second.{form}",
        f"memory://weights/third.{form}",
        (tmp_path / f"second.{form}").read_bytes(),
    )
    for place in places:
        assert same(load_checkpoint(place), other.state_dict())


@pytest.mark.parametrize("form", ["pt", "safetensors"])
@pytest.mark.parametrize("folder", ["here", "memory://bucket/there"])
def test_shards(other: SAM2, folder: str, form: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = save_checkpoint(other, folder, form=form, shards=True)
    names = [f"{part}.{form}" for part in COMPONENTS] + [f"model.{form}.index.json"]
    assert [file.rsplit("/", 1)[1] for file in written] == names
    for place in (written[-1], f"{folder}/"):
        assert same(load_checkpoint(place), other.state_dict())
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize("size", PRESETS)
def test_components_share_the_network_out(size: str):
    for version in ("2.0", "2.1"):
        with torch.device("meta"):
            names = list(SAM2(preset(size, version=version)).state_dict())  # type: ignore[arg-type]
        parts = [name for part in COMPONENTS for name in of_component(part, names)]
        assert sorted(parts) == sorted(names)


def test_one_component_into_a_network(model: SAM2, other: SAM2, tmp_path: Path):
    written = save_checkpoint(other, tmp_path, form="safetensors", shards=True)
    save_checkpoint(other, tmp_path / "whole.pt")
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for part, source in (
        ("encoder", written[0]),
        ("memory", tmp_path),
        ("decoder", tmp_path / "whole.pt"),
    ):
        filled = load_component(source, model, part)  # type: ignore[arg-type]
        assert filled == of_component(part, expected) and filled  # type: ignore[arg-type]
        expected |= {name: other.state_dict()[name] for name in filled}
        assert same(model, expected)


def test_an_encoder_serves_both_versions(other: SAM2):
    old = SAM2(preset("micro", version="2.0"))
    weights = as_file({"model": other.state_dict()})
    load_component(weights, old, "encoder")
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(old.encode(images).s16, other.encode(images).s16)


def test_a_network_that_no_preset_knows():
    custom = golden_model()
    content = as_file({"model": custom.state_dict()})
    fresh = SAM2(custom.config)
    load_checkpoint(content, fresh)
    assert same(fresh, custom.state_dict())
