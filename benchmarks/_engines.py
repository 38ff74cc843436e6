"""Engines for measurements: one that only lets time pass, and a wrapper that notes when a job ran."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from shared.plan import PromptWindow
from workers.engines.base import BatchSize, Drawn, Engine, EngineInfo, Pass, Sample, StepCallback
from workers.engines.fake import WordWindow

DECODE_SHARE = 0.1
"""Of a picture's time; the rest is spread evenly over the steps."""


def named_for(seconds: float, rest: str) -> str:
    """A job id by which the stand-in knows how many seconds each picture of the job takes."""
    return f"{seconds:g}s-{rest}"


@dataclass(frozen=True, slots=True)
class Span:
    """When the device worked on a job, in seconds of the monotonic clock, which all processes share."""

    job_id: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Take:
    """When a worker's take returned an element, and how many commands it has sent to Redis until then."""

    taken: float
    commands: int


class StandIn:
    """Takes the time that a device would, and no CPU: it sleeps and yields a picture made beforehand.

    A pass takes `pass_s` seconds and what each of its pictures takes (`named_for`). Its steps end at fixed
    times from its start, as on a device whose work is queued ahead: what the callback does in a step is
    hidden behind the step unless it takes longer. It claims to have run up to `warmed` pictures at once.
    """

    def __init__(self, picture: NDArray[np.uint8], pass_s: float = 0.0, warmed: int = 0) -> None:
        self._picture = picture
        self._pass_s = pass_s
        height, width, _ = picture.shape
        self._warmed = frozenset(
            BatchSize(width, height, 1, number, guided=True) for number in range(1, warmed + 1)
        )
        self._cut: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def load(self) -> EngineInfo:
        return EngineInfo("stand-in", "none", "uint8", applied={})

    def warm_up(self, passes: Sequence[Pass], seconds: float) -> frozenset[BatchSize]:  # noqa: ARG002
        return self._warmed

    def prompt_window(self) -> WordWindow:
        return WordWindow()

    def generate(self, run: Pass, on_step: StepCallback) -> Iterator[Drawn]:
        start = time.monotonic()
        picture_s = float(run.plans[0].job_id.partition("s-")[0])
        steps = run.shape.num_inference_steps
        stepping_s = self._pass_s + (1 - DECODE_SHARE) * picture_s * run.size.num_images
        for step in range(1, steps + 1):
            _sleep_until(start + stepping_s * step / steps)
            on_step(step, steps)
        for number, row in enumerate(run.rows, 1):
            _sleep_until(start + stepping_s + DECODE_SHARE * picture_s * number)
            yield Drawn(row.job, Sample(row.index, self._frames(run.shape.height, run.shape.width)))

    def _frames(self, height: int, width: int) -> NDArray[np.uint8]:
        if (height, width) not in self._cut:
            self._cut[height, width] = np.ascontiguousarray(self._picture[None, :height, :width])
        return self._cut[height, width]


def _sleep_until(moment: float) -> None:
    left = moment - time.monotonic()
    if left > 0:
        time.sleep(left)


class Timed:
    """Any engine, with a report of when each job's pass began and when its last sample was there."""

    def __init__(self, engine: Engine, report: Callable[[Span], None]) -> None:
        self._engine = engine
        self._report = report

    def load(self) -> EngineInfo:
        return self._engine.load()

    def warm_up(self, passes: Sequence[Pass], seconds: float) -> frozenset[BatchSize]:
        return self._engine.warm_up(passes, seconds)

    def prompt_window(self) -> PromptWindow:
        return self._engine.prompt_window()

    def generate(self, run: Pass, on_step: StepCallback) -> Iterator[Drawn]:
        start, left = time.monotonic(), run.size.num_images
        for drawn in self._engine.generate(run, on_step):
            left -= 1
            if not left:
                end = time.monotonic()
                for plan in run.plans:
                    self._report(Span(plan.job_id, start, end))
            yield drawn


def report_to(descriptor: int) -> Callable[[Span | Take], None]:
    """Write each as a JSON line; a few microseconds."""

    def report(noted: Span | Take) -> None:
        os.write(descriptor, json.dumps(asdict(noted)).encode() + b"\n")

    return report
