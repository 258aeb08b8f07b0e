"""Where the time and the memory of a training step go: by part of the network and by operator.

`python -m benchmarks.profile [masks|clicks]`, tiny at 256 px on one thread. Times are torch's profiler's, by the clock:
run it on a quiet machine. A node of the backward pass counts for the part whose forward pass made it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import megabytes, threads
from benchmarks.steps import CASES, random_batch, stage_of_smoke, stepper
from model import lean
from model.config import preset
from model.sam2 import SAM2, build_sam2
from pipeline.distributed import World
from stages.clip_task import ClipTask

PARTS = (
    "image_encoder.trunk",
    "memory_attention",
    "memory_encoder",
    "sam_prompt_encoder",
    "sam_mask_decoder",
)
REST = "neck, loss, optimiser"
BACKWARD = "autograd::engine::evaluate_function"
MOST = 12
"""Operators that are shown."""
Costs = Counter[tuple[str, str]]
"""Microseconds by what, and `forward` or `backward`."""


def main(prompts: str) -> None:
    """Print a table of the parts and one of the operators."""
    case = next(c for c in CASES if (c.network, c.frames) == ("tiny", 4) and prompts in str(c))
    torch.manual_seed(0)
    model = build_sam2(preset(case.network, case.side)).train()
    batch = random_batch("video", case.clips, case.frames, case.objects, case.side)
    stage = stage_of_smoke("image_pretrain")
    task = ClipTask(model, case.prompts, stage.loss, seed=0, world=World())
    with threads(1):
        step = stepper(model, task, stage, batch)
        step(1)
        with scopes(model) as inside:
            kept = kept_bytes(model, inside, lambda: task.losses(batch, 0, 1.0).total)
            with patch.object(lean, "_plain", return_value=True):
                plain = kept_bytes(model, inside, lambda: task.losses(batch, 0, 1.0).total)
            with profile(activities=[ProfilerActivity.CPU]) as found:
                step(1)
    by_part, by_operator = costs(found.events())
    whole = sum(by_operator.values())
    sizes = f"{megabytes(kept.total())} kept, by torch's own operations {megabytes(plain.total())}"
    print(f"{case}, one thread: {whole / 1e6:.1f} s, {sizes}\n")
    for title, table in (("part", by_part), ("operator", by_operator)):
        print(f"{title:42}  forward  backward{'  kept' if table is by_part else ''}")
        names = Counter(
            {name: sum(table[name, way] for way in ("forward", "backward")) for name, _ in table}
        )
        for name, _ in names.most_common(MOST):
            shares = (100 * table[name, way] / whole for way in ("forward", "backward"))
            line = f"{name:42}" + "".join(f"{share:7.1f} %" for share in shares)
            print(line + (f"  {megabytes(kept[name])}" if table is by_part else ""))
        print()


@contextmanager
def scopes(model: SAM2) -> Iterator[list[str]]:
    """Inside, the profiler sees which of PARTS runs, and so does the reader of the last entry."""
    inside, open_scopes, hooks = [REST], [], []

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            inside.append(name)
            open_scopes.append(record_function(name))
            open_scopes[-1].__enter__()

        return hook

    def leave(*_: object) -> None:
        open_scopes.pop().__exit__(None, None, None)
        inside.pop()

    for name in PARTS:
        part: nn.Module = model.get_submodule(name)
        hooks += [part.register_forward_pre_hook(enter(name)), part.register_forward_hook(leave)]
    try:
        yield inside
    finally:
        for hook in hooks:
            hook.remove()


def kept_bytes(model: SAM2, inside: list[str], forward: Callable[[], Tensor]) -> Counter[str]:
    """Bytes that autograd keeps after `forward`, weights aside, by part."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    alive: dict[int, tuple[str, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            alive.setdefault(place, (inside[-1], tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    kept: Counter[str] = Counter()
    for part, tensor in alive.values():
        kept[part] += tensor.untyped_storage().nbytes()
    del loss
    return kept


def costs(events: list[FunctionEvent]) -> tuple[Costs, Costs]:
    """By part, and by operator: the time of each by itself."""
    by_part: Costs = Counter()
    by_operator: Costs = Counter()
    made_by = {
        event.sequence_nr: part_of(event)
        for event in events
        if event.sequence_nr >= 0 and not backward_of(event)
    }
    for event in events:
        node = backward_of(event)
        way = "forward" if node is None else "backward"
        part = part_of(event) if node is None else made_by.get(node.sequence_nr, REST)
        if event.name in PARTS:
            continue
        by_part[part, way] += event.self_cpu_time_total
        by_operator[event.name.removeprefix("aten::").split(": ")[-1][:42], way] += (
            event.self_cpu_time_total
        )
    return by_part, by_operator


def part_of(event: FunctionEvent | None) -> str:
    """The innermost of PARTS that the event lies in."""
    while event is not None and event.name not in PARTS:
        event = event.cpu_parent
    return REST if event is None else event.name


def backward_of(event: FunctionEvent | None) -> FunctionEvent | None:
    """The node of the backward pass that the event lies in, if any."""
    while event is not None and not event.name.startswith(BACKWARD):
        event = event.cpu_parent
    return event


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["masks"]))
