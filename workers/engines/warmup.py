"""What is run before the first job: each size that will be served, so that no customer waits for it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from shared.errors import JobError, OutOfMemory, SettingsError
from shared.plan import VIDEO_FRAME_STEP, Plan
from shared.presets import FRAMES_PER_SECOND, PRESETS, SAFETY_NEGATIVES, SAMPLE_SHIFT, Family, Preset
from workers.engines.base import BatchSize, Drawn, Pass, Sample, StepCallback

log = logging.getLogger(__name__)

PICTURE_COUNTS: Final = (1, 3, 6)
"""What a job may ask for."""
STEPS: Final = 2
"""The second step shows whether a program made for the first serves the others."""

_SIZE: Final = re.compile(r"(\d{2,4})\s*[*xX]\s*(\d{2,4})")


def passes_to_warm_up(family: Family, sizes: Sequence[str], limit: int) -> list[Pass]:
    """The passes that will be served, the likeliest first: the job types' sizes and numbers of pictures.

    `sizes` ("W*H") replace the family's default; `limit` is the largest number of pictures that are merged.
    Raises `SettingsError` for a size that the family cannot draw.
    """
    shapes = [_parsed(size, family) for size in sizes] or [(family.default_width, family.default_height)]
    counts = dict.fromkeys((*PICTURE_COUNTS, *range(1, limit + 1)))
    presets = {preset.medium: preset for preset in PRESETS.values() if preset.family is family}
    first, *pictures = [
        _pass(presets["image"], width, height, count) for count in counts for width, height in shapes
    ]
    videos = [_pass(presets["video"], *shape, 1) for shape in shapes if "video" in presets]
    return [first, *videos, *pictures]


def warm_up(
    generate: Callable[[Pass, StepCallback], Iterator[Drawn]],
    passes: Sequence[Pass],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> frozenset[BatchSize]:
    """Run the passes; none begins after `seconds`. Returns the sizes that ran in one piece.

    A size that needs more memory than there is is left out. Raises `SettingsError` where the model fails.
    """
    started, warmed = clock(), set[BatchSize]()
    for run in passes:
        if clock() - started >= seconds:
            log.warning("the time to warm up is over; %d of %d sizes were run", len(warmed), len(passes))
            break
        if _fits(generate, run):
            warmed.add(run.size)
    return frozenset(warmed)


def _fits(generate: Callable[[Pass, StepCallback], Iterator[Drawn]], run: Pass) -> bool:
    size = run.size
    try:
        results = [drawn.result for drawn in generate(run, lambda _step, _steps: None)]
    except OutOfMemory:
        results = []
    except JobError as error:
        results = [error]
    failures = [result for result in results if isinstance(result, JobError)]
    if failures and not isinstance(failures[0], OutOfMemory):
        cause = failures[0].__cause__ or failures[0]
        raise SettingsError(
            [
                f"The model cannot draw {size.num_images} times {size.width}x{size.height}"
                f" ({type(cause).__name__}); if COMPILE is on, set it to off, else set another model."
            ]
        ) from failures[0]
    samples = [result for result in results if isinstance(result, Sample)]
    whole = bool(samples) and not any(sample.adjustments for sample in samples)
    if not whole:
        log.warning("a batch does not fit into memory: %s", size)
    return whole


def _parsed(size: str, family: Family) -> tuple[int, int]:
    found = _SIZE.fullmatch(size)
    width, height = (int(side) for side in found.groups()) if found else (0, 0)
    fits = width * height <= family.max_area and not (
        width % family.size_multiple or height % family.size_multiple
    )
    if not found or not fits:
        raise SettingsError(
            [
                f'WARMUP_SIZES holds "{size}"; write sizes as width*height, e.g. {family.default_width}*'
                f"{family.default_height}, in multiples of {family.size_multiple} and within"
                f" {family.max_area_text}."
            ]
        )
    return width, height


def _pass(preset: Preset, width: int, height: int, count: int) -> Pass:
    frames = preset.num_frames
    prompt = "a landscape"
    return Pass.of(
        Plan(
            job_id="warm-up",
            user_id="warm-up",
            job_type=preset.job_type,
            family=preset.family,
            medium=preset.medium,
            bucket=preset.bucket,
            prompt=prompt,
            original_prompt=prompt,
            negative_prompt=", ".join(("blurry", *SAFETY_NEGATIVES)),
            width=width,
            height=height,
            num_inference_steps=STEPS,
            guidance_scale=preset.guidance_scale,
            shift=SAMPLE_SHIFT,
            num_frames=frames - (frames - 1) % VIDEO_FRAME_STEP,
            fps=FRAMES_PER_SECOND,
            seeds=tuple(range(count)),
        )
    )
