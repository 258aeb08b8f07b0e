"""What tests of the loader ask of ranks that are processes of their own; importable by name, as
submitit needs it."""

from data.settings import Mixture
from tests.data.training import batches, clips, opened

MIXED = Mixture(mode="alternate", image_batch=4, video_batch=2)
STEPS = (3, 7)


def bytes_of_ranks(
    world_folder: str,
) -> list[list[tuple[tuple[int, ...], list[bytes], list[bytes]]]]:
    """For each rank and step: its slots, and the bytes of each clip and of each object's masks."""
    from pipeline import distributed

    world = distributed.init("cpu", timeout_seconds=60)
    own = bytes_of(world_folder, world.rank, world.size)
    found = world.gather(own)
    distributed.shutdown()
    return found


def bytes_of(
    world_folder: str, rank: int = 0, size: int = 1
) -> list[tuple[tuple[int, ...], list[bytes], list[bytes]]]:
    """The same of one rank."""
    pictures = opened("sa1b", f"{world_folder}/sa1b/train")
    videos = opened("sav", f"{world_folder}/sav/train")
    return [
        (
            batch.slots,
            [frames.numpy().tobytes() for frames in batch.frames],
            [masks.numpy().tobytes() for masks in batch.masks],
        )
        for batch in batches(clips(pictures, videos, mixture=MIXED), *STEPS, rank=rank, world=size)
    ]


def meet_broken_pictures(folder: str) -> None:
    """Rank 1 has too many broken pictures in its slots and stops; rank 0 has none, and waits for it
    in a collective, as in the training loop."""
    from pipeline import distributed

    world = distributed.init("cpu", timeout_seconds=600)
    root = f"{folder}/rank{world.rank}"
    source = clips(opened("sa1b", root), mixture=Mixture(image_batch=4, max_broken=0.1))
    batches(source, 0, 6, rank=world.rank, world=world.size)
    world.any(False)  # wait for the others
