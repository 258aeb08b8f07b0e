"""Training clips of a tiny world: what tests of the order, the mixture and the loader share."""

import torch

from data.mixture import TrainingClips, loader
from data.settings import Augment, ClipSampling, Jitter, Mixture
from data.sources import open_dataset
from data.spec import DatasetSpec

AUGMENT = Augment(
    rotate=10,
    scale=(0.8, 1.2),
    jitter=Jitter(brightness=0.2),
    frame_jitter=Jitter(brightness=0.1, saturation=0.1),
    blur=0.3,
)


def clips(*datasets, mixture=None, seed=3, **sampling):
    named = {dataset.name: dataset for dataset in datasets}
    mixture = mixture or Mixture(image_batch=4, video_batch=2)
    return TrainingClips(named, mixture, ClipSampling(frames=3, **sampling), AUGMENT, 32, seed)


def opened(format, root, name=None, **fields):
    return open_dataset(DatasetSpec(format=format, root=str(root), **fields), name)


def same(a, b):
    assert (a.names, a.kind, a.slots) == (b.names, b.kind, b.slots)
    for field in ("frames", "masks", "clip_of_object"):
        torch.testing.assert_close(getattr(a, field), getattr(b, field), rtol=0, atol=0)


def batches(source, start, stop, **kwargs):
    return list(loader(source, start_step=start, stop_step=stop, **kwargs))
