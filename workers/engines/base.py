"""What the pipeline asks of a model, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.errors import JobError
from shared.plan import Adjustment, Plan, PromptWindow, Shape

StepCallback = Callable[[int, int], None]
"""Called once after each denoising step as `(step, num_inference_steps)`, step counted from 1.

After a batch was split for want of memory the count begins again for each part.

It may raise: the exception leaves the engine as it is, at once, and nothing is decoded. It must not touch
the device.
"""


@dataclass(frozen=True, slots=True)
class BatchSize:
    """What decides which programs the device runs for a pass. Pixels; `guided`: with a second pass a step."""

    width: int
    height: int
    num_frames: int
    num_images: int
    guided: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One sample to draw: number `index` of the plan that stands at `job` in its pass."""

    job: int
    index: int
    plan: Plan

    @property
    def seed(self) -> int:
        return self.plan.seeds[self.index]


@dataclass(frozen=True, slots=True)
class Pass:
    """Plans of one shape that run as one batch, each with texts and seeds of its own.

    Raises `ValueError` where the plans do not agree; several run together only as pictures.
    """

    plans: tuple[Plan, ...]

    def __post_init__(self) -> None:
        if len({plan.shape for plan in self.plans}) != 1:
            raise ValueError("the plans of a pass have one shape")
        if len(self.plans) > 1 and self.shape.num_frames != 1:
            raise ValueError("videos run one by one")

    @classmethod
    def of(cls, *plans: Plan) -> Pass:
        return cls(plans)

    @property
    def shape(self) -> Shape:
        return self.plans[0].shape

    @property
    def size(self) -> BatchSize:
        shape = self.shape
        images = sum(plan.num_images for plan in self.plans)
        return BatchSize(shape.width, shape.height, shape.num_frames, images, shape.guidance_scale > 1)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All samples, job by job."""
        return tuple(
            Row(job, index, plan) for job, plan in enumerate(self.plans) for index in range(plan.num_images)
        )


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine runs on, for logs and for the callback's metadata.

    `applied` names what was chosen (dtype, device, memory format, compile options, offloading).
    `measures` tells what changes while the engine runs; it may be called from any thread.
    """

    gpu_name: str
    device: str
    dtype: str
    applied: dict[str, str] = field(default_factory=dict)
    measures: Callable[[], dict[str, float]] = dict


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture or one video as it left the model.

    `frames` has the shape (F, H, W, 3), dtype uint8, RGB; a picture has F = 1. `index` counts from 0 and
    belongs to `plan.seeds[index]`. `adjustments` are those that arose while it was generated.
    """

    index: int
    frames: NDArray[np.uint8]
    adjustments: tuple[Adjustment, ...] = ()


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sample of a pass, or why its job fails. `job` is the place of the sample's plan in the pass."""

    job: int
    result: Sample | JobError


class Engine(Protocol):
    """A loaded model.

    Errors of the libraries below are translated here and nowhere else: `OutOfMemory`, `NodeFault`,
    `GenerationFailed`.
    """

    def load(self) -> EngineInfo:
        """Load the checkpoint onto the device. Called once, before anything else.

        Raises `SettingsError` where the checkpoint cannot be used as it stands.
        """

    def warm_up(self, passes: Sequence[Pass], seconds: float) -> frozenset[BatchSize]:
        """Run passes before the first job, in their order; none begins after `seconds`.

        Returns the sizes that ran in one piece. Raises `SettingsError` where the model fails.
        """

    def prompt_window(self) -> PromptWindow:
        """The text encoders' window, counted with the checkpoint's own tokenizers. Thread-safe."""

    def generate(self, run: Pass, on_step: StepCallback) -> Iterator[Drawn]:
        """Run the plans and yield each sample as it is decoded, job by job in the order of its index.

        A sample that fails by itself is yielded as such; what is raised ends all that is not yielded yet.
        """
