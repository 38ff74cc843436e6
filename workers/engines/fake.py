"""An engine without a model, for tests and benchmarks of everything around one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from shared.plan import Plan
from workers.engines.base import EngineInfo, Sample, StepCallback


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
    `before_step` may raise or kill, as the tests want.
    """

    step_s: float = 0.0
    decode_s: float = 0.0
    wait: Callable[[float], None] = time.sleep
    before_step: Callable[[Plan, int], None] = lambda _plan, _step: None
    window: WordWindow = field(default_factory=WordWindow)
    plans: list[Plan] = field(default_factory=list)

    def load(self) -> EngineInfo:
        return EngineInfo(gpu_name="none", device="cpu", dtype="uint8", applied={"engine": "fake"})

    def prompt_window(self) -> WordWindow:
        return self.window

    def generate(self, plan: Plan, on_step: StepCallback) -> Iterator[Sample]:
        self.plans.append(plan)
        for step in range(1, plan.num_inference_steps + 1):
            self.before_step(plan, step)
            if self.step_s:
                self.wait(self.step_s)
            on_step(step, plan.num_inference_steps)
        for index, seed in enumerate(plan.seeds):
            if self.decode_s:
                self.wait(self.decode_s)
            yield Sample(index, _frames(plan, seed))


def _frames(plan: Plan, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    decisive = (seed, plan.prompt, plan.negative_prompt, plan.guidance_scale, plan.num_inference_steps)
    described = "|".join(map(str, decisive))
    colour = np.frombuffer(hashlib.sha256(described.encode()).digest()[:3], dtype=np.uint8)
    frames = np.empty((plan.num_frames, plan.height, plan.width, 3), dtype=np.uint8)
    for frame in range(plan.num_frames):
        frames[frame] = colour ^ np.uint8(frame)
    return frames
