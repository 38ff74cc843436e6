"""What the pipeline asks of a model, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.plan import Adjustment, Plan, PromptWindow

StepCallback = Callable[[int, int], None]
"""Called once after each denoising step as `(step, num_inference_steps)`, step counted from 1.

After a batch was split for want of memory the count begins again for each part.

It may raise: the exception leaves the engine as it is, at once, and nothing is decoded. It must not touch
the device.
"""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine runs on, for logs and for the callback's metadata.

    `applied` names what was chosen (dtype, device, memory format, compile options, offloading).
    """

    gpu_name: str
    device: str
    dtype: str
    applied: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture or one video as it left the model.

    `frames` has the shape (F, H, W, 3), dtype uint8, RGB; a picture has F = 1. `index` counts from 0 and
    belongs to `plan.seeds[index]`. `adjustments` are those that arose while it was generated.
    """

    index: int
    frames: NDArray[np.uint8]
    adjustments: tuple[Adjustment, ...] = ()


class Engine(Protocol):
    """A loaded model.

    Errors of the libraries below are translated here and nowhere else: `OutOfMemory`, `NodeFault`,
    `GenerationFailed`.
    """

    def load(self) -> EngineInfo:
        """Load the checkpoint onto the device. Called once, before anything else.

        Raises `SettingsError` where the checkpoint cannot be used as it stands.
        """

    def prompt_window(self) -> PromptWindow:
        """The text encoders' window, counted with the checkpoint's own tokenizers. Thread-safe."""

    def generate(self, plan: Plan, on_step: StepCallback) -> Iterator[Sample]:
        """Run the plan and yield each sample as soon as it is decoded, in the order of its index."""
