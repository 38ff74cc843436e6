"""An engine without a model, for tests and benchmarks of everything around one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from shared.errors import JobError
from shared.plan import Plan
from workers.engines.base import BatchSize, Drawn, EngineInfo, Pass, Sample, StepCallback


@dataclass(frozen=True, slots=True)
class WordWindow:
    """Counts words and commas in the place of tokens."""

    limit: int = 75

    def count(self, text: str) -> int:
        return len(text.replace(",", " , ").split())


@dataclass(slots=True)
class FakeEngine:
    """Draws flat pictures whose colour depends on seed, prompt, negative prompt and guidance alone.

    `step_s` and `decode_s` are seconds a step and a sample take, spent in `wait` and not on the CPU.
    `before_step` may raise or kill, as the tests want; `spoiled` tells what fails a plan's pictures by
    themselves. `warmed` is what the engine claims to have run.
    """

    step_s: float = 0.0
    decode_s: float = 0.0
    wait: Callable[[float], None] = time.sleep
    before_step: Callable[[Plan, int], None] = lambda _plan, _step: None
    window: WordWindow = field(default_factory=WordWindow)
    spoiled: Callable[[Plan], JobError | None] = lambda _plan: None
    warmed: frozenset[BatchSize] = frozenset()
    passes: list[Pass] = field(default_factory=list)

    @property
    def plans(self) -> list[Plan]:
        return [plan for run in self.passes for plan in run.plans]

    def load(self) -> EngineInfo:
        return EngineInfo("none", "cpu", "uint8", applied={"engine": "fake"})

    def warm_up(self, passes: Sequence[Pass], seconds: float) -> frozenset[BatchSize]:  # noqa: ARG002
        """There is nothing to warm up."""
        return self.warmed

    def prompt_window(self) -> WordWindow:
        return self.window

    def generate(self, run: Pass, on_step: StepCallback) -> Iterator[Drawn]:
        self.passes.append(run)
        steps = run.shape.num_inference_steps
        for step in range(1, steps + 1):
            for plan in run.plans:
                self.before_step(plan, step)
            if self.step_s:
                self.wait(self.step_s)
            on_step(step, steps)
        for row in run.rows:
            if self.decode_s:
                self.wait(self.decode_s)
            yield Drawn(row.job, self.spoiled(row.plan) or Sample(row.index, _frames(row.plan, row.seed)))


def _frames(plan: Plan, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    decisive = (seed, plan.prompt, plan.negative_prompt, plan.guidance_scale, plan.num_inference_steps)
    described = "|".join(map(str, decisive))
    colour = np.frombuffer(hashlib.sha256(described.encode()).digest()[:3], dtype=np.uint8)
    frames = np.empty((plan.num_frames, plan.height, plan.width, 3), dtype=np.uint8)
    for frame in range(plan.num_frames):
        frames[frame] = colour ^ np.uint8(frame)
    return frames
