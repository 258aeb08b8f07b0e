"""What happens between two steps of training: read, log, go back, call, save, stop; the same on
every rank, in this order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.bad_steps import BadSteps
from pipeline.checkpoint import TrainState
from pipeline.distributed import World
from pipeline.heartbeat import pulse
from pipeline.saving import Saver
from pipeline.settings import LoopConfig
from pipeline.stop import Margin, StopRequested, stop_reason, stop_requeues
from pipeline.window import Taken, Window

HOOKS_DUE = "loop/hooks_due"
"""In the notes of a state saved before its step's hooks were done: the first that is missing."""


@dataclass(frozen=True)
class StepLog:
    """What the loop has to say every `log_every` steps; averages are over the steps since the last
    one."""

    step: int
    """Steps done."""
    total: int
    metrics: Mapping[str, float]
    """`loss`, its parts as `loss/NAME`, `grad_norm`, `lr`, `steps_per_second`, `data_wait` (share of
    the time), `memory_bytes`, `skipped` (since the start), with fp16 `loss_scale`."""


@dataclass(frozen=True)
class Hooks:
    """What is called from the loop, between two steps. Only rank 0 logs; `every` is called on all
    ranks."""

    log: Callable[[StepLog], None] | None = None
    every: Sequence[tuple[int, Callable[[TrainState], str | None]]] = field(default_factory=tuple)
    """(n, function): called after every n-th step, before a checkpoint of it is written. One that
    returns a text ends the training there, as if it were complete; one that raises StopRequested is
    called again when training continues. All ranks have to agree."""


class Boundary:
    """Comes after every step."""

    def __init__(
        self, hooks: Hooks, config: LoopConfig, saver: Saver, bad_steps: BadSteps, total: int
    ) -> None:
        self.hooks, self.config, self.saver, self.total = hooks, config, saver, total
        self.world: World = saver.world
        self.bad_steps, self.window, self.margin = bad_steps, Window(), Margin()
        self.ended_at = time.monotonic()

    def begin(self, state: TrainState) -> None:
        """Before the first step: what a stop kept from being done when the state was saved."""
        if HOOKS_DUE not in state.notes:
            return
        stop = self._call(state, int(state.notes.pop(HOOKS_DUE)))
        if stop or state.ended or self.saver.is_best(state):
            self._save(state, wait=bool(stop or state.ended))
        self._end(stop)

    def after(self, state: TrainState, taken: Taken, rate: float) -> None:
        """After a step with the learning rate `rate`; `state.step` counts it already.

        Raises StopRequested, once `state` is saved, when any rank was asked to stop.
        """
        self.window.steps.append(taken)
        self.margin.add("step", time.monotonic() - self.ended_at)
        self.margin.check()
        pulse.needs = self.margin.needed
        pulse.phase("agreement", state.step)
        stop, due, late = self._agree(state.step)
        last = state.step == self.total
        save = bool(stop) or due or late or last
        if save or state.step % self.config.log_every == 0 or self.bad_steps.decides(state.step):
            self._read(state, rate)
        save |= self.bad_steps.roll_back(state, self.saver)
        if stop and not last:
            self._put_off(state)
        else:
            stop = self._call(state) or (None if last else stop)
        if save or stop or state.ended or self.saver.is_best(state):
            if self.window.steps:
                self._read(state, rate)
            self._save(state, wait=bool(stop) or last or bool(state.ended), late=late)
        self._end(stop)
        self.ended_at = time.monotonic()

    def _agree(self, step: int) -> tuple[StopRequested | None, bool, bool]:
        """Whether to stop, to save, and whether that is the last attempt."""
        own = [bool(stop_reason()), stop_requeues(), self.saver.due(step), self.saver.late()]
        stop, requeue, due, late = self.world.any_of(own)
        return self._stop(requeue) if stop else None, due, late

    def _stop(self, requeue: bool) -> StopRequested:
        return StopRequested(stop_reason() or "another rank was asked to stop", requeue=requeue)

    def _read(self, state: TrainState, rate: float) -> None:
        pulse.phase("read")
        metrics, outcomes = self.window.read(self.world)
        self.bad_steps.see(state, outcomes)
        metrics |= {"skipped": float(state.skipped), "lr": rate}
        if state.scale:
            metrics["loss_scale"] = float(state.scale.factor)
        if self.hooks.log is not None and self.world.is_first:
            self.hooks.log(StepLog(state.step, self.total, metrics))
        self.window = Window()

    def _due(self, step: int) -> list[int]:
        return [n for n, (every, _) in enumerate(self.hooks.every) if step % every == 0]

    def _put_off(self, state: TrainState) -> None:
        if due := self._due(state.step):
            state.notes[HOOKS_DUE] = float(due[0])

    def _call(self, state: TrainState, start: int = 0) -> StopRequested | None:
        """Call the hooks of this step from number `start` on; the stop that interrupted one."""
        for number in self._due(state.step):
            if number < start:
                continue
            began = time.monotonic()
            pulse.phase("validation")
            try:
                end = self.hooks.every[number][1](state)
            except StopRequested as stop:
                state.notes[HOOKS_DUE] = float(number)
                return self._stop(self.world.any(stop.requeue))
            self.margin.add(f"hook {number}", time.monotonic() - began)
            state.ended = state.ended or end or ""
        return None

    def _save(self, state: TrainState, *, wait: bool, late: bool = False) -> None:
        pulse.phase("save")
        self.saver.save(state, wait=wait, late=late, needed=self.bad_steps.needed(state))
        if self.saver.save_seconds:
            self.margin.add("save", self.saver.save_seconds)

    def _end(self, stop: StopRequested | None) -> None:
        if stop is not None:
            raise StopRequested(
                f"{stop}; saved at step {self.saver.safe_step}", requeue=stop.requeue
            )
