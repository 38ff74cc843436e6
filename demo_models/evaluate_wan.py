"""Measure the demo WAN checkpoint by plain image analysis: what `evaluate.py wan` runs.

Every figure comes from fixed seeds through diffusers' own pipeline.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline

from demo_models import motion_judge, motions
from demo_models.bars import Bar
from demo_models.motion_captions import USUAL_NEGATIVES
from demo_models.motion_judge import Clip, ClipObservation
from demo_models.motions import MovingScene
from demo_models.sampling import outputs, save_sheet, spread, to_pixels

BATCH = 10
# Seed of the order in which scenes are measured.
ORDER = 2025
# About twice the step of the fastest drawn clip of 17 frames.
SMOOTH_BELOW = 0.05


@dataclass(frozen=True)
class Sampling:
    """Settings of a run."""

    frames: int = 17
    width: int = 64
    height: int = 64
    num_inference_steps: int = 25
    guidance_scale: float = 6.5
    negative: str = USUAL_NEGATIVES


@dataclass(frozen=True)
class Accuracy:
    """Shares of clips with the named attribute right; `smooth` is the share without a jump of the shape."""

    foreground: float
    background: float
    shape: float
    motion: float
    smooth: float
    count: int

    @property
    def colours(self) -> float:
        return min(self.foreground, self.background)

    def __str__(self) -> str:
        return (
            f"foreground {self.foreground:.1%}  background {self.background:.1%}  shape {self.shape:.1%}  "
            f"direction {self.motion:.1%}  smooth {self.smooth:.1%}  ({self.count} clips)"
        )


def load_wan(checkpoint: Path) -> Any:
    pipeline = WanPipeline.from_pretrained(checkpoint, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> list[Clip]:
    """One clip a prompt and seed."""
    return [
        clip
        for output in outputs(
            pipeline,
            prompts,
            seeds,
            sampling.negative,
            BATCH,
            num_frames=sampling.frames,
            width=sampling.width,
            height=sampling.height,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
        )
        for clip in to_pixels(output.frames)
    ]


def accuracy(scenes: Sequence[MovingScene], clips: Sequence[Clip]) -> Accuracy:
    pairs = list(zip(scenes, (motion_judge.observe(clip) for clip in clips), strict=True))

    def share(right: Callable[[MovingScene, ClipObservation], bool]) -> float:
        return statistics.mean(right(*pair) for pair in pairs)

    return Accuracy(
        foreground=share(lambda scene, seen: scene.colour == seen.colour),
        background=share(lambda scene, seen: scene.background == seen.background),
        shape=share(lambda scene, seen: scene.shape == seen.shape),
        motion=share(lambda scene, seen: scene.motion == seen.motion),
        smooth=share(lambda _, seen: seen.greatest_step < SMOOTH_BELOW),
        count=len(pairs),
    )


def seconds_per_clip(pipeline: Any, frames: int) -> float:
    """Seconds of one clip of 25 steps, alone in its batch, after one of one step for warming up."""
    caption = spread(motions.scenes(), 1, ORDER)[0].caption
    sample(pipeline, [caption], [0], Sampling(frames=frames, num_inference_steps=1))
    started = time.perf_counter()
    sample(pipeline, [caption], [0], Sampling(frames=frames))
    return time.perf_counter() - started


def evaluate_quick(pipeline: Any) -> list[Bar]:
    """What guards the shipped checkpoint against getting worse; what it should reach is in the full run."""
    scenes = spread(motions.scenes(), 20, ORDER)
    figures = _measured(pipeline, scenes, "17 frames", Sampling())
    return [
        Bar("foreground colour right", figures.foreground, least=0.9),
        Bar("background colour right", figures.background, least=0.9),
        Bar("direction right", figures.motion, least=0.85),
        Bar("shape right", figures.shape, least=0.85),
        Bar("seconds a clip of 17 frames", seconds_per_clip(pipeline, 17), most=10.0),
    ]


def evaluate_full(pipeline: Any, count: int, show: Path | None) -> list[Bar]:
    scenes = spread(motions.scenes(), count, ORDER)
    base = Sampling()
    clips = sample(pipeline, [scene.caption for scene in scenes], range(count), base)
    main = accuracy(scenes, clips)
    print(f"17 frames: {main}", flush=True)
    if show is not None:
        save_sheet([_strip(clip) for clip in clips[:24]], show, columns=4)
    pictures = _measured(pipeline, scenes, "single frames", replace(base, frames=1))
    few = scenes[:30]
    wide = _measured(pipeline, few, "17 frames of 96x64", replace(base, width=96))
    long = _measured(pipeline, few[:20], "81 frames", replace(base, frames=81))
    high = _measured(
        pipeline, few, "50 steps, guidance 7.5", replace(base, num_inference_steps=50, guidance_scale=7.5)
    )
    free = _measured(pipeline, few, "guidance 1", replace(base, guidance_scale=1.0))
    guided = accuracy(few, clips[: len(few)])
    return [
        Bar("captions measured", count, least=150),
        Bar("foreground colour right, 17 frames", main.foreground, least=0.95),
        Bar("background colour right, 17 frames", main.background, least=0.95),
        Bar("direction right, 17 frames", main.motion, least=0.9),
        Bar("shape right, 17 frames", main.shape, least=0.85),
        Bar("clips without a jump, 17 frames", main.smooth, least=0.95),
        Bar("foreground colour right, single frames", pictures.foreground, least=0.95),
        Bar("background colour right, single frames", pictures.background, least=0.95),
        Bar("colours right, 96x64", wide.colours, least=0.9),
        Bar("direction right, 96x64", wide.motion, least=0.85),
        Bar("colours right, 81 frames", long.colours, least=0.9),
        Bar("direction right, 81 frames", long.motion, least=0.85),
        Bar("clips without a jump, 81 frames", long.smooth, least=0.9),
        Bar("colours right, 50 steps, guidance 7.5", high.colours, least=0.9),
        Bar("accuracy at guidance 6.5 above guidance 1 by", _mean(guided) - _mean(free), least=0.001),
        Bar("seconds a clip of 17 frames", seconds_per_clip(pipeline, 17), most=10.0),
        Bar("seconds a clip of 81 frames", seconds_per_clip(pipeline, 81), most=60.0),
    ]


def _measured(pipeline: Any, scenes: Sequence[MovingScene], title: str, sampling: Sampling) -> Accuracy:
    prompts = [scene.caption for scene in scenes]
    figures = accuracy(scenes, sample(pipeline, prompts, range(len(scenes)), sampling))
    print(f"{title}: {figures}", flush=True)
    return figures


def _mean(figures: Accuracy) -> float:
    return statistics.mean((figures.foreground, figures.background, figures.shape, figures.motion))


def _strip(clip: Clip) -> Clip:
    """Its first, middle and last frame side by side."""
    return np.hstack([clip[0], clip[len(clip) // 2], clip[-1]])
