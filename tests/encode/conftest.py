"""Plans and samples for the tests of the encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.plan import Plan
from shared.presets import PRESETS
from workers.encode import Marking

PlanMaker = Callable[..., Plan]


def _plan(
    job_type: str = "sdxl_image_fast",
    width: int = 64,
    height: int = 64,
    num_frames: int = 1,
    fps: float = 16.0,
    job_id: str = "job-1",
    user_id: str = "user-1",
    seeds: Sequence[int] = (7, 8, 9),
    prompt: str = "a boat on a lake",
) -> Plan:
    preset = PRESETS[job_type]
    return Plan(
        job_id=job_id,
        user_id=user_id,
        job_type=job_type,
        family=preset.family,
        medium=preset.medium,
        bucket=preset.bucket,
        prompt=prompt,
        original_prompt="a boat",
        negative_prompt="blurry",
        width=width,
        height=height,
        num_inference_steps=25,
        guidance_scale=6.5,
        shift=5.0,
        num_frames=num_frames,
        fps=fps,
        seeds=tuple(seeds),
    )


def _moving_gradient(num_frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """Frames (F, H, W, 3) of a colour gradient that moves one pixel a frame."""
    y, x = np.mgrid[:height, :width]
    frames = [np.stack([x + index, y + index, (x + y) // 2 + index], axis=-1) for index in range(num_frames)]
    video: NDArray[np.uint8] = np.abs(np.stack(frames) % 510 - 255).astype(np.uint8)
    return video


@pytest.fixture(scope="session")
def make_plan() -> PlanMaker:
    return _plan


@pytest.fixture(scope="session")
def moving_gradient() -> Callable[[int, int, int], NDArray[np.uint8]]:
    return _moving_gradient


@pytest.fixture(scope="session")
def marking() -> Marking:
    return Marking("gpu-generation-workers", "1.2.3")
