"""Ask about pictures: clicks, boxes and earlier masks in, masks at the picture's size out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.image_pixels import Picture, rgb_pixels, squeeze
from model.image_prompts import Numbers, read_prompts
from model.mask_cleanup import clean
from model.sam2 import SAM2
from model.types import ImageFeatures, Prompts
from pipeline.errors import DataError

LOGIT_LIMIT = 32.0
"""Low-resolution logits are handed out clamped to this, as the reference does; they may be given
back as they are."""


class MaskAnswer(NamedTuple):
    """Masks of N objects, M candidates each."""

    masks: Tensor
    """Bool [N, M, H, W] at the picture's size (logits above the threshold)."""
    ious: Tensor
    """[N, M], the network's own estimates."""
    low: Tensor
    """Logits [N, M, S/4, S/4] clamped to ±32, to be given back as `mask_input` ([N, 1, S/4,
    S/4])."""

    def best(self) -> MaskAnswer:
        """The candidate of each object with the highest estimated IoU (M becomes 1)."""
        row = torch.arange(len(self.ious), device=self.ious.device)
        pick = self.ious.argmax(1)
        return MaskAnswer(*(part[row, pick][:, None] for part in self))


class SeenPicture(NamedTuple):
    """What the predictor keeps of one picture."""

    size: tuple[int, int]
    """Height and width in pixels."""
    features: ImageFeatures
    """Of one image."""
    embedding: Tensor
    """[1, C, S/16, S/16], the features of a picture that remembers nothing, as decoded."""


class ImagePredictor:
    """Holds one or more pictures; every question is about one, for N objects at once.

    Puts the model into eval mode. A picture is squeezed to the model's square input, as in
    training, whatever its size.

    stability_fallback: see `SAM2.decode`. mask_threshold: the logit above which a pixel belongs to
    the object. max_hole_area, max_sprinkle_area: holes and islands up to this many pixels, counted
    in the low-resolution answer (a pixel there is 4 x 4 of the model's input), are filled and
    removed; see `mask_cleanup.clean`.
    """

    def __init__(
        self,
        model: SAM2,
        *,
        stability_fallback: bool = True,
        mask_threshold: float = 0.0,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> None:
        self.model = model.eval()
        self.stability_fallback = stability_fallback
        self.mask_threshold = mask_threshold
        self.max_hole_area = max_hole_area
        self.max_sprinkle_area = max_sprinkle_area
        self._seen: list[SeenPicture] = []

    def set_image(self, image: Picture) -> None:
        """Encode a picture and forget the ones before; `image_pixels.rgb_pixels` says what may be
        given."""
        self.set_images([image])

    @torch.inference_mode()
    def set_images(self, images: Sequence[Picture]) -> None:
        """Encode pictures, of any sizes, in one call of the image encoder; forget the ones
        before."""
        if len(images) == 0:
            raise DataError("set_images: found no pictures; expected at least one")
        pixels = [rgb_pixels(image, f"picture {i}") for i, image in enumerate(images)]
        side, device = self.model.config.image_size, self.model.device
        squares = torch.cat([squeeze(each, side, device) for each in pixels])
        features = self.model.encode(self.model.normalise(squares))
        rows = torch.arange(len(pixels), device=device)
        each_features = [features.rows(row) for row in rows.split(1)]
        self._seen = [
            SeenPicture((each.shape[0], each.shape[1]), seen, self.model.unconditioned(seen))
            for each, seen in zip(pixels, each_features, strict=True)
        ]

    def reset(self) -> None:
        """Forget the pictures, and free what is kept of them."""
        self._seen = []

    def seen(self, image: int = 0) -> SeenPicture:
        """What is kept of a picture. Raises DataError where there is none of that number."""
        if not self._seen:
            raise DataError("no picture yet: call set_image before asking for masks")
        if not 0 <= image < len(self._seen):
            raise DataError(
                f"picture {image} was asked for; expected 0 to {len(self._seen) - 1}, "
                "the pictures of the last set_images"
            )
        return self._seen[image]

    def __len__(self) -> int:
        """How many pictures are held."""
        return len(self._seen)

    @torch.inference_mode()
    def decode(
        self, prompts: Prompts, *, multimask: bool = True, image: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Answer prompts in pixels of the model's input at the network's resolution: mask logits
        [N, M, S/4, S/4], unclamped, and IoU estimates [N, M]."""
        _, features, embedding = self.seen(image)
        answer = self.model.decode(
            embedding,
            features,
            prompts,
            multimask=multimask,
            stability_fallback=self.stability_fallback,
        )
        return answer.candidates.float(), answer.ious.float()

    @torch.inference_mode()
    def enlarge(self, low: Tensor, image: int = 0) -> Tensor:
        """Logits [N, M, S/4, S/4] of `decode`, cleaned up, at the picture's size
        [N, M, H, W]."""
        cleaned = clean(
            low,
            max_hole_area=self.max_hole_area,
            max_sprinkle_area=self.max_sprinkle_area,
            threshold=self.mask_threshold,
        )
        return F.interpolate(
            cleaned, size=self.seen(image).size, mode="bilinear", align_corners=False
        )

    def logits(
        self,
        points: Numbers | None = None,
        labels: Numbers | None = None,
        boxes: Numbers | None = None,
        mask_input: Numbers | None = None,
        *,
        multimask: bool = True,
        image: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Answer prompts for N objects: mask logits [N, M, H, W] at the picture's size, IoU
        estimates [N, M], low [N, M, S/4, S/4] clamped to ±32.

        points: [N, P, 2], x and y in pixels of the picture; labels: [N, P], 1 inside, 0 outside, -1
        padding (which the network notices: leave it out where all objects have as many points).
        boxes: [N, 4] as x0, y0, x1, y1. mask_input: [N, 1, S/4, S/4] from an earlier answer.
        multimask: three candidates instead of one. image: which of the pictures that were set.
        Raises DataError for prompts that make no sense; see `image_prompts.read_prompts`.
        """
        prompts = read_prompts(
            points,
            labels,
            boxes,
            mask_input,
            picture=self.seen(image).size,
            side=self.model.config.image_size,
            device=self.model.device,
        )
        low, ious = self.decode(prompts, multimask=multimask, image=image)
        return self.enlarge(low, image), ious, low.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)

    def predict(
        self,
        points: Numbers | None = None,
        labels: Numbers | None = None,
        boxes: Numbers | None = None,
        mask_input: Numbers | None = None,
        *,
        multimask: bool = True,
        image: int = 0,
    ) -> MaskAnswer:
        """As `logits`, but with bool masks."""
        full, ious, low = self.logits(
            points, labels, boxes, mask_input, multimask=multimask, image=image
        )
        return MaskAnswer(full > self.mask_threshold, ious, low)
