"""Functions that tests start as jobs."""

from typing import Any


def measure(given: dict[str, Any]) -> dict[str, float]:
    """Validate the weights `given["weights"]` on `given["data"]`, on as many ranks as the job has."""
    import torch

    from data.sources import open_dataset
    from data.spec import DatasetSpec
    from model.config import preset
    from model.sam2 import build_sam2
    from model.weights import load_checkpoint
    from pipeline import distributed
    from pipeline.config import parse
    from stages.settings import Validation
    from stages.validation import Measure

    torch.set_num_threads(1)
    world = distributed.init("cpu")
    data = {
        kind: open_dataset(parse(DatasetSpec, v, where=kind)) for kind, v in given["data"].items()
    }
    model = build_sam2(preset("micro"))
    load_checkpoint(given["weights"], model)
    config = Validation(every=1, images="i", videos="v", max_images=3, max_videos=2)
    found = Measure(config, data, world)(model)
    assert len({str(sorted(part)) for part in world.gather(list(found))}) == 1
    distributed.shutdown()
    return found
