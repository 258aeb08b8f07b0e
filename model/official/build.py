"""The original's builders: the names of its released configurations, to networks of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import torch

from model.compile import compile_blocks
from model.config import SAM2Config, Version, preset
from model.sam2 import SAM2
from model.weights import load_checkpoint
from pipeline.device import usable_device
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from model.official.video import SAM2VideoPredictor

SIZES = {"t": "tiny", "s": "small", "b+": "base_plus", "l": "large"}
FAMILIES: dict[str, Version] = {"sam2.1": "2.1", "sam2": "2.0"}
RELEASED: dict[str, tuple[str, Version]] = {
    f"configs/{family}/{family}_hiera_{letter}.yaml": (size, version)
    for family, version in FAMILIES.items()
    for letter, size in SIZES.items()
}
"""Preset and version behind the name of each released configuration."""

HOLE_AREA = 8
"""Holes that `apply_postprocessing` fills in videos, in pixels of the low-resolution masks."""

_FALLBACK = "sam_mask_decoder_extra_args.dynamic_multimask_via_stability"
_FIXED = {
    "sam_mask_decoder_extra_args.dynamic_multimask_stability_delta": 0.05,
    "sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh": 0.98,
}
"""Overrides that may be given, but only as the original's builder sets them."""
_IMAGE_OVERRIDES: dict[str, type] = {"image_size": int, _FALLBACK: bool}
_VIDEO_OVERRIDES: dict[str, type] = {
    **_IMAGE_OVERRIDES,
    "fill_hole_area": int,
    "non_overlap_masks": bool,
    "clear_non_cond_mem_around_input": bool,
    "add_all_frames_to_correct_as_cond": bool,
    "binarize_mask_from_pts_for_mem_enc": bool,
}


class BuiltSAM2(SAM2):
    """A network that notes how its builder was told to post-process single masks."""

    def __init__(self, config: SAM2Config, stability_fallback: bool) -> None:
        super().__init__(config)
        self.stability_fallback = stability_fallback
        """See `SAM2.decode`."""


def has_stability_fallback(model: SAM2) -> bool:
    """Does the predictor of a network fall back to a more stable mask? As its builder noted; a
    network that came from elsewhere does not, as the original's own class by itself."""
    return bool(getattr(model, "stability_fallback", False))


def build_sam2(
    config_file: str,
    ckpt_path: str | Path | None = None,
    device: str | torch.device = "cuda",
    mode: Literal["eval", "train"] = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
) -> BuiltSAM2:
    """The network of a released configuration, such as "configs/sam2.1/sam2.1_hiera_b+.yaml".

    ckpt_path: whatever `load_checkpoint` reads; None leaves the weights random.
    hydra_overrides_extra: "++model.image_size=512" and whether single masks fall back to a more
    stable one; anything else is an error. apply_postprocessing: that fallback.
    Raises ConfigError for a name, an override or a device that is unknown here, CheckpointError
    where the weights are of another network.
    """
    overrides = {_FALLBACK: apply_postprocessing}
    overrides |= _overrides(hydra_overrides_extra, _IMAGE_OVERRIDES)
    return _network(config_file, ckpt_path, device, mode, overrides)


def build_sam2_video_predictor(
    config_file: str,
    ckpt_path: str | Path | None = None,
    device: str | torch.device = "cuda",
    mode: Literal["eval", "train"] = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
    vos_optimized: bool = False,
) -> SAM2VideoPredictor:
    """The video predictor of a released configuration; see `build_sam2`.

    apply_postprocessing: also fill small holes, and remember the masks that a user settled by
    points as black and white. hydra_overrides_extra: also the options of `SAM2VideoPredictor`.
    vos_optimized: compile the network (`compile_blocks`); the first frames are slow.
    """
    from model.official.video import SAM2VideoPredictor

    overrides: dict[str, Any] = {_FALLBACK: apply_postprocessing}
    if apply_postprocessing:
        overrides |= {"fill_hole_area": HOLE_AREA, "binarize_mask_from_pts_for_mem_enc": True}
    overrides |= _overrides(hydra_overrides_extra, _VIDEO_OVERRIDES)
    model = _network(config_file, ckpt_path, device, mode, overrides)
    if vos_optimized:
        compile_blocks(model)
    options = {name: value for name, value in overrides.items() if name not in _IMAGE_OVERRIDES}
    return SAM2VideoPredictor(model, **options)


def build_sam2_hf(model_id: str, **kwargs: Any) -> NoReturn:
    """Nothing is downloaded here: raises ConfigError that says what to do."""
    refuse_download(model_id)


build_sam2_video_predictor_hf: Callable[..., NoReturn] = build_sam2_hf


def refuse_download(model_id: str) -> NoReturn:
    """The error for everything that would fetch weights by the name of a model."""
    raise ConfigError(
        f"{model_id}: nothing is downloaded here; get the checkpoint file and call "
        f"build_sam2(config_file, ckpt_path) with one of {', '.join(RELEASED)}"
    )


def _network(
    config_file: str,
    ckpt_path: str | Path | None,
    device: str | torch.device,
    mode: str,
    overrides: Mapping[str, Any],
) -> BuiltSAM2:
    size, version = _released(config_file)
    if mode not in ("eval", "train"):
        raise ConfigError(f"mode is {mode!r}; expected 'eval' or 'train'")
    place = usable_device(device)
    config = preset(size, overrides.get("image_size"), version=version)
    model = BuiltSAM2(config, overrides[_FALLBACK])
    if ckpt_path is not None:
        load_checkpoint(ckpt_path, model)
    return model.to(place).train(mode == "train")


def _released(config_file: str) -> tuple[str, Version]:
    """Preset and version of a configuration's name, with or without folders and `.yaml`."""
    wanted = "/" + config_file.lstrip("/").removesuffix(".yaml") + ".yaml"
    for name, found in RELEASED.items():
        if f"/{name}".endswith(wanted):
            return found
    raise ConfigError(
        f"config_file {config_file!r} is none of the released configurations "
        f"({', '.join(RELEASED)}), and no file is read; build other networks with model.build_sam2"
    )


def _overrides(given: Sequence[str], known: Mapping[str, type]) -> dict[str, Any]:
    """Hydra's `++model.name=value` as name and value; ConfigError for one that would do nothing."""
    found = {}
    for line in given:
        key, _, text = line.lstrip("+").partition("=")
        name = key.removeprefix("model.")
        try:
            value = json.loads(text.lower())
        except ValueError:
            value = text
        if name in _FIXED and value == _FIXED[name]:
            continue
        if name not in known or not key.startswith("model.") or type(value) is not known[name]:
            allowed = [f"++model.{each}=<{kind.__name__}>" for each, kind in known.items()]
            allowed += [f"++model.{each}={value}" for each, value in _FIXED.items()]
            raise ConfigError(
                f"hydra_overrides_extra: {line!r} has no counterpart here; "
                f"expected {', '.join(allowed)}"
            )
        found[name] = value
    return found
