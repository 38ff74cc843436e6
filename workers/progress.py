"""How far the running job is, how long it will take, and whether it still moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from workers.engines.base import BatchSize, Pass

HANG_FACTOR: Final = 30.0
"""A step that takes this many times the measured step time counts as hung."""
HANG_FLOOR_S: Final = 60.0
REMEMBERED_SIZES: Final = 1000
FIRST_STEP_LIMIT_S: Final = 900.0
"""Before the first step stand text encoding and, on CUDA, compilation."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The jobs of the running pass, and their common step."""

    job_ids: tuple[str, ...]
    step: int
    steps: int


class Progress:
    """Written by the generating thread once a step, read by the others. Seconds by a monotonic clock.

    A step's time is measured in the running pass; the time after the last step (decoding) is remembered from
    the last pass of the same size.
    """

    def __init__(self, lead_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lead_s = lead_s
        self._clock = clock
        self._lock = threading.Lock()
        self._run: Pass | None = None
        self._step = 0
        self._near = False
        self._started = self._moved = 0.0
        self._first_step_at = self._last_step_at = 0.0
        self._tails: dict[BatchSize, float] = {}
        self.on_near: Callable[[], None] = lambda: None
        """Called when the running pass is about to end."""

    def begin(self, run: Pass) -> None:
        with self._lock:
            self._run, self._step, self._near = run, 0, False
            self._started = self._moved = self._clock()

    def on_step(self, step: int, steps: int) -> None:
        with self._lock:
            now = self._clock()
            if step <= self._step:
                # The next part of a batch that was split for lack of memory.
                self._step, self._started = 0, self._moved
            if self._step == 0:
                self._first_step_at = now
            self._step = step
            self._moved = self._last_step_at = now
            near = not self._near and self._rest(now, steps) < self._lead_s
            self._near = self._near or near
        if near:
            self.on_near()

    def moved(self) -> None:
        """A sample was decoded."""
        with self._lock:
            self._moved = self._clock()

    def end(self) -> None:
        with self._lock:
            if self._run is not None and self._step == self._run.shape.num_inference_steps:
                if len(self._tails) >= REMEMBERED_SIZES:
                    self._tails.clear()
                self._tails[self._run.size] = self._clock() - self._last_step_at
            self._run = None

    def rest_s(self) -> float | None:
        """Estimated seconds until the running job is generated; 0.0 when none runs, None when unknown."""
        with self._lock:
            if self._run is None:
                return 0.0
            if self._step == 0:
                return None
            return max(0.0, self._rest(self._clock(), self._run.shape.num_inference_steps))

    def near(self) -> bool:
        """Whether the running job is about to end; also while its last samples are decoded."""
        with self._lock:
            if self._run is None or self._step == 0:
                return False
            return self._rest(self._clock(), self._run.shape.num_inference_steps) < self._lead_s

    def hung(self) -> bool:
        """No sign of life for many times the measured step time."""
        with self._lock:
            if self._run is None:
                return False
            silent = self._clock() - self._moved
            if self._step < 2:
                return silent > FIRST_STEP_LIMIT_S
            limit = HANG_FACTOR * self._step_time()
            if self._step == self._run.shape.num_inference_steps:
                limit += HANG_FACTOR * self._tails.get(self._run.size, FIRST_STEP_LIMIT_S / HANG_FACTOR)
            return silent > max(HANG_FLOOR_S, limit)

    def snapshot(self) -> Snapshot | None:
        with self._lock:
            if self._run is None:
                return None
            return Snapshot(
                tuple(plan.job_id for plan in self._run.plans),
                self._step,
                self._run.shape.num_inference_steps,
            )

    def _step_time(self) -> float:
        """Seconds a step, without the first one and what came before it."""
        return (self._last_step_at - self._first_step_at) / (self._step - 1) if self._step > 1 else 0.0

    def _rest(self, now: float, steps: int) -> float:
        assert self._run is not None
        per_step = self._step_time() if self._step > 1 else (now - self._started)
        tail = self._tails.get(self._run.size, 0.0)
        since = now - self._last_step_at if self._step else 0.0
        return (steps - self._step) * per_step + tail - since
