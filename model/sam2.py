"""SAM 2 as a few verbs: encode an image, recall memory, decode masks, remember.

No verb keeps state and none asks which frame it is: the order of frames, the choice of memories and
the prompts belong to the caller (`tracker`, the predictors). Names and order of the parameters are
those of the published checkpoints. Features have one row per object, or one row that all share.

Letters: B images, N objects, M candidate masks, P points, C hidden width, Cm memory width,
S input side; h = w = S / 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import MEMORY_SLOTS, SAM2Config, preset
from model.layers import MLP
from model.mask_decoder import DecodedMasks, MaskDecoder
from model.memory import MemoryAttention, MemoryEncoder
from model.neck import ImageEncoder
from model.position import sine_map, sine_times
from model.prompt_encoder import PromptEncoder
from model.types import FramePrediction, ImageFeatures, Memory, Prompts

ABSENT_LOGIT = -1024.0
"""The mask logit everywhere on an object that is predicted absent."""
MEMORY_SCALE, MEMORY_SHIFT = 20.0, -10.0
"""Mask probabilities enter the memory encoder stretched from 0..1 to -10..10."""
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class SAM2(nn.Module):
    """The network. Float parameters in the dtype of construction; works under autocast."""

    def __init__(self, config: SAM2Config) -> None:
        super().__init__()
        self.config = config
        hidden, memory_dim = config.hidden, config.memory_dim
        self.maskmem_tpos_enc = _small_random(MEMORY_SLOTS, 1, 1, memory_dim)
        self.no_mem_embed = _small_random(1, 1, hidden)
        # Never read: it is here because every published checkpoint has it.
        self.no_mem_pos_enc = _small_random(1, 1, hidden)
        self.no_obj_ptr = _small_random(1, hidden)
        if config.version == "2.1":
            self.no_obj_embed_spatial = _small_random(1, memory_dim)
        self.image_encoder = ImageEncoder(config)
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.memory_attention = MemoryAttention(config)
        self.memory_encoder = MemoryEncoder(config)
        self.sam_prompt_encoder = PromptEncoder(config)
        self.sam_mask_decoder = MaskDecoder(config)
        self.obj_ptr_proj = MLP(hidden, hidden, hidden, layers=3)
        if config.version == "2.1":
            self.obj_ptr_tpos_proj = nn.Linear(hidden, memory_dim)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.no_mem_embed.device

    @staticmethod
    def normalise(frames: Tensor) -> Tensor:
        """Pixels uint8 [..., 3, H, W] to float32 with ImageNet's mean at 0 and deviation 1."""
        scale, shift = _pixel_affine(frames.device)
        return frames.float() * scale + shift

    def encode(self, images: Tensor) -> ImageFeatures:
        """See B images: normalised float [B, 3, S, S] to features, once per image.

        Raises ValueError for another size than the configuration's, on which points depend.
        """
        side = self.config.image_size
        if images.shape[1:] != (3, side, side):
            raise ValueError(
                f"images are {list(images.shape)}, expected [B, 3, {side}, {side}]: resize them, or "
                f"build the network with image_size={images.shape[-1]}"
            )
        decoder = self.sam_mask_decoder
        stages = self.image_encoder.trunk(images)
        neck = self.image_encoder.neck
        return self.features(
            s4=neck.fine(stages, 0, decoder.conv_s0),
            s8=neck.fine(stages, 1, decoder.conv_s1),
            s16=neck.coarse(stages),
        )

    def features(self, s4: Tensor, s8: Tensor, s16: Tensor) -> ImageFeatures:
        """The three levels of B images together with what is the same for every image."""
        height, width = s16.shape[-2:]
        return ImageFeatures(
            s4=s4,
            s8=s8,
            s16=s16,
            position=sine_map(height, width, self.config.hidden, s16.device).to(s16.dtype),
            grid=self.sam_prompt_encoder.grid(height, width),
        )

    def unconditioned(self, features: ImageFeatures) -> Tensor:
        """The features of a frame that remembers nothing: [B, C, h, w] for `decode`."""
        return features.s16 + self.no_mem_embed.view(1, -1, 1, 1)

    def recall(
        self,
        features: ImageFeatures,
        memories: Sequence[tuple[Memory, int]],
        pointers: Sequence[tuple[Tensor, float | Sequence[float]]],
        max_pointer_distance: float,
    ) -> Tensor:
        """Look at N objects' frames in the light of what was remembered of each object.

        features: one row per object (`ImageFeatures.rows`). memories: at least one; each with its
        row of the temporal encoding, 0 for the frame before this one up to MEMORY_SLOTS - 2, and
        MEMORY_SLOTS - 1 for prompted frames. pointers: [N, C] each, with its distance in frames
        (prompted frames signed, others positive), one number or one per object.
        max_pointer_distance: the distance that counts as 1.

        Returns [N, C, h, w] for `decode`.
        """
        tokens = [memory.features.flatten(2).transpose(1, 2) for memory, _ in memories]
        where = [
            memory.position.flatten(2).transpose(1, 2) + self.maskmem_tpos_enc[slot]
            for memory, slot in memories
        ]
        if pointers:
            tokens.append(self._pointer_tokens([pointer for pointer, _ in pointers]))
            distances = [distance for _, distance in pointers]
            where.append(self._pointer_positions(distances, max_pointer_distance))
            where = [w.expand(len(where[-1]), -1, -1) for w in where]
        return self.memory_attention(
            features.s16,
            features.position,
            memory=torch.cat(tokens, dim=1),
            memory_position=torch.cat([w.to(features.s16.dtype) for w in where], dim=1),
            maps=len(memories),
        )

    def decode(
        self,
        conditioned: Tensor,
        features: ImageFeatures,
        prompts: Prompts,
        multimask: bool,
        stability_fallback: bool = False,
    ) -> FramePrediction:
        """Answer the prompts for N objects.

        conditioned: [N or 1, C, h, w] from `unconditioned` or `recall`. features: one row per
        object; only s4, s8 and grid are read. multimask: three candidates of which the best is chosen by
        predicted IoU, for ambiguous prompts (no or one point, tracking); otherwise one.
        stability_fallback: where the one mask would change much if the threshold moved by 0.05,
        take the best of the three instead (predictors; never in training).
        """
        sparse, dense = self.sam_prompt_encoder(prompts, conditioned.shape[-2:])
        decoded = self.sam_mask_decoder(
            conditioned, features.grid, sparse, dense, features.s4, features.s8
        )
        if multimask:
            masks, ious, tokens = decoded.several()
        elif stability_fallback:
            masks, ious, tokens = decoded.stable()
        else:
            masks, ious, tokens = decoded.single()
        return self._predict(DecodedMasks(masks, ious, tokens, decoded.object_score))

    def adopt_mask(self, features: ImageFeatures, masks: Tensor) -> FramePrediction:
        """Take given masks (bool or 0/1 [N, 1, S, S]) as the answer, and make their object
        pointers.

        features: one row per object. An empty mask is an absent object (score -10, else 10). For
        `remember`, use `mask_logits(masks)`: the low-resolution answer has lost detail.
        """
        masks = masks.float()
        low = F.interpolate(
            mask_logits(masks),
            scale_factor=0.25,
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        prompts = Prompts.none(len(masks), masks.device)
        prompts = prompts._replace(mask_logits=self.mask_downsample(masks))
        seen = self.decode(features.s16, features, prompts, multimask=False)
        present = masks.flatten(1).any(dim=1, keepdim=True)
        return FramePrediction(
            candidates=low,
            ious=low.new_ones(len(masks), 1),
            low=low,
            pointer=torch.where(present, seen.pointer, self.no_obj_ptr),
            object_score=torch.where(present, -MEMORY_SHIFT, MEMORY_SHIFT).to(low.dtype),
        )

    def remember(
        self,
        features: ImageFeatures,
        mask_logits_full: Tensor,
        object_score: Tensor,
        *,
        from_prompt: bool,
    ) -> Memory:
        """Make of a frame and its N answers what later frames attend to.

        features: one row per object; only s16 is read. mask_logits_full: [N, 1, S, S].
        object_score: [N, 1]; where it is not positive, the memory says so (2.1). from_prompt: a
        user settled these masks, so remember them as black and white instead of as probabilities
        (predictors; False in training).
        """
        full = mask_logits_full
        shape = (full > 0).to(full.dtype) if from_prompt else full.sigmoid()
        memory = self.memory_encoder(features.s16, shape * MEMORY_SCALE + MEMORY_SHIFT)
        if self.config.version == "2.1":
            absent = (object_score <= 0).to(memory.dtype)[:, :, None, None]
            memory = memory + absent * self.no_obj_embed_spatial[:, :, None, None].to(memory.dtype)
        position = sine_map(*memory.shape[-2:], self.config.memory_dim, memory.device)
        return Memory(memory, position.to(memory.dtype))

    def _predict(self, masks: DecodedMasks) -> FramePrediction:
        """Silence absent objects, choose the best of the M candidates, make the pointer."""
        present = masks.object_score > 0
        candidates = torch.where(present[:, :, None, None], masks.logits, ABSENT_LOGIT)
        low, token = candidates, masks.tokens[:, 0]
        if candidates.shape[1] > 1:
            row = torch.arange(len(candidates), device=candidates.device)
            best = masks.ious.argmax(dim=1)
            low, token = candidates[row, best][:, None], masks.tokens[row, best]
        pointer = torch.where(present, self.obj_ptr_proj(token), self.no_obj_ptr)
        return FramePrediction(candidates, masks.ious, low, pointer, masks.object_score)

    def _pointer_tokens(self, pointers: Sequence[Tensor]) -> Tensor:
        """Cut each pointer [N, C] into C / Cm memory tokens, in order: [N, tokens, Cm]."""
        stacked = torch.stack(list(pointers), dim=1)
        return stacked.view(len(stacked), -1, self.config.memory_dim)

    def _pointer_positions(
        self, distances: Sequence[float | Sequence[float]], unit: float
    ) -> Tensor:
        """Where in time the pointer tokens are, [1 or N, tokens, Cm]; all zero in 2.0."""
        pieces, width = self.config.pointer_tokens, self.config.memory_dim
        if self.config.version == "2.0":
            return self.no_mem_embed.new_zeros(1, len(distances) * pieces, width)
        objects = max((len(d) for d in distances if isinstance(d, Sequence)), default=1)
        columns = [d if isinstance(d, Sequence) else [d] * objects for d in distances]
        times = [distance / unit for row in zip(*columns, strict=True) for distance in row]
        encoded = self.obj_ptr_tpos_proj(sine_times(times, self.config.hidden, self.device))
        return encoded.unflatten(0, (objects, -1)).repeat_interleave(pieces, dim=1)


def build_sam2(config: SAM2Config | str) -> SAM2:
    """A network with fresh weights, drawn from torch's global generator.

    config: a SAM2Config or the name of a preset. Raises ConfigError for an unknown name.
    """
    return SAM2(preset(config) if isinstance(config, str) else config)


def mask_logits(masks: Tensor) -> Tensor:
    """Given masks as logits of certainty: float 0/1 or bool of any shape to -10/+10."""
    masks = masks if masks.is_floating_point() else masks.float()
    return masks * MEMORY_SCALE + MEMORY_SHIFT


def _small_random(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


@lru_cache(maxsize=8)
def _pixel_affine(device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and shift [3, 1, 1] that take 0..255 to mean 0 and deviation 1."""
    with torch.inference_mode(False):
        mean = torch.tensor(MEAN, dtype=torch.float64)
        std = torch.tensor(STD, dtype=torch.float64)
        scale, shift = 1 / (255 * std), -mean / std
        return (
            scale.float()[:, None, None].to(device),
            shift.float()[:, None, None].to(device),
        )
