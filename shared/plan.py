"""`Job` → `Plan`: the final value of everything that will be executed. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from shared.errors import Unsupported
from shared.job import Job
from shared.presets import FRAMES_PER_SECOND, SAFETY_NEGATIVES, SAMPLE_SHIFT, SDXL, Family, Medium

SOLVER = "euler"
VIDEO_FRAME_STEP = 4


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A stated value that was replaced by its obvious nearest meaning, and why."""

    field: str
    requested: Any
    used: Any
    reason: str

    def as_json(self) -> dict[str, Any]:
        return {
            "field": self.field,
            "requested": self.requested,
            "used": self.used,
            "reason": self.reason,
        }


class PromptWindow(Protocol):
    """How much text the checkpoint's encoders read."""

    @property
    def limit(self) -> int:
        """Tokens that fit, without the start and end marks (CLIP: 75)."""

    def count(self, text: str) -> int:
        """Tokens of `text`, without the start and end marks; the largest count of all encoders."""


@dataclass(frozen=True, slots=True)
class Enhancement:
    """What the enhancer did. `strategy` is "none" where it failed, with the reason in `note`."""

    strategy: str
    original_prompt: str
    prompt: str
    note: str | None = None

    @property
    def expansion_percentage(self) -> float:
        """Growth of the prompt in per cent of its original number of characters."""
        grown = len(self.prompt) - len(self.original_prompt)
        return round(100.0 * grown / len(self.original_prompt), 1)


@dataclass(frozen=True, slots=True)
class Shape:
    """What is asked of a model beside texts and seeds; plans of one shape may run in one batch. Pixels."""

    width: int
    height: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    shift: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be executed. Engines read nothing else, and the callback describes nothing else.

    `width` and `height` are pixels, `fps` frames a second, `num_frames` is 1 for pictures.
    """

    job_id: str
    user_id: str
    job_type: str
    family: Family
    medium: Medium
    bucket: str
    prompt: str
    original_prompt: str
    negative_prompt: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    shift: float
    num_frames: int
    fps: float
    seeds: tuple[int, ...]
    scheduler: str = SOLVER
    adjustments: tuple[Adjustment, ...] = ()
    enhancement: Enhancement | None = None

    @property
    def num_images(self) -> int:
        return len(self.seeds)

    @property
    def shape(self) -> Shape:
        return Shape(
            self.width,
            self.height,
            self.num_frames,
            self.num_inference_steps,
            self.guidance_scale,
            self.shift,
        )

    @property
    def duration(self) -> float:
        """Length of the video in seconds."""
        return self.num_frames / self.fps


def derived_seed(job_id: str) -> int:
    """A seed in 1…2^32-1 that depends on the job alone, so that a second run makes the same files."""
    digest = hashlib.sha256(job_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % (2**32 - 1) + 1


@dataclass(frozen=True, slots=True)
class PlanDefaults:
    """What the operator decides where the payload says nothing."""

    negative_prompt: str = ""


def shape_of(job: Job) -> Shape:
    """The shape that the job's plan will have, without reading its texts.

    Raises `Unsupported` for what this version cannot do.
    """
    _refuse_unsupported(job)
    stated, multiple = _stated_shape(job), job.preset.family.size_multiple
    return replace(
        stated,
        width=stated.width - stated.width % multiple,
        height=stated.height - stated.height % multiple,
        num_frames=stated.num_frames - (stated.num_frames - 1) % VIDEO_FRAME_STEP,
    )


def _stated_shape(job: Job) -> Shape:
    """As the payload states it, or by default where it states nothing."""
    preset = job.preset
    width, height = job.size or (preset.family.default_width, preset.family.default_height)
    return Shape(
        width=width,
        height=height,
        num_frames=job.num_frames or preset.num_frames,
        num_inference_steps=job.num_inference_steps or preset.num_inference_steps,
        guidance_scale=preset.guidance_scale if job.guidance_scale is None else job.guidance_scale,
        shift=SAMPLE_SHIFT if job.shift is None else job.shift,
    )


def make_plan(
    job: Job,
    window: PromptWindow,
    defaults: PlanDefaults = PlanDefaults(),
    enhancement: Enhancement | None = None,
) -> Plan:
    """Decide everything that will be executed.

    Raises `Unsupported` for what this version cannot do; such a wish is never ignored.
    """
    stated, shape = _stated_shape(job), shape_of(job)
    preset, family = job.preset, job.preset.family
    adjustments: list[Adjustment] = []

    def adjusted(field: str, requested: Any, used: Any, reason: str) -> Any:
        if requested != used:
            adjustments.append(Adjustment(field, requested, used, reason))
        return used

    reason = f"the model draws sides that are multiples of {family.size_multiple}"
    adjusted("width", stated.width, shape.width, reason)
    adjusted("height", stated.height, shape.height, reason)
    adjusted("frame_num", stated.num_frames, shape.num_frames, "the model makes 4k+1 frames")
    if job.scheduler is not None:
        adjusted("scheduler", job.scheduler, SOLVER, "the worker samples with euler")
    wanted = enhancement.prompt if enhancement else job.prompt
    cut = f"the text encoders read {window.limit} tokens"
    prompt = adjusted("prompt", wanted, fit_terms(wanted, window), cut)
    negative = job.negative_prompt if job.negative_prompt is not None else defaults.negative_prompt
    if family.safety_negatives:
        negative = adjusted(
            "negative_prompt",
            negative,
            _with_safety_negatives(negative),
            "the safety negatives stand in every negative prompt",
        )
    keep = SAFETY_NEGATIVES if family.safety_negatives else ()
    negative = adjusted("negative_prompt", negative, fit_terms(negative, window, keep), cut)
    seed = derived_seed(job.id) if job.seed is None else job.seed
    return Plan(
        job_id=job.id,
        user_id=job.user_id,
        job_type=preset.job_type,
        family=family,
        medium=preset.medium,
        bucket=job.bucket,
        prompt=prompt,
        original_prompt=job.prompt,
        negative_prompt=negative,
        width=shape.width,
        height=shape.height,
        num_inference_steps=shape.num_inference_steps,
        guidance_scale=shape.guidance_scale,
        shift=shape.shift,
        num_frames=shape.num_frames,
        fps=FRAMES_PER_SECOND if job.fps is None else job.fps,
        seeds=tuple(seed + index for index in range(job.num_images or 1)),
        adjustments=tuple(adjustments),
        enhancement=enhancement,
    )


def wants_enhancement(job: Job) -> bool:
    """`config.enhance_prompt` decides; where it is absent the job type does."""
    return job.preset.enhanced if job.enhance is None else job.enhance


def _refuse_unsupported(job: Job) -> None:
    if job.references:
        raise Unsupported("This worker cannot use reference images yet; submit the job without them.")
    if job.wants_compel:
        raise Unsupported("This worker cannot use prompt weights yet; submit the job without them.")
    if job.preset.family is SDXL and wants_enhancement(job):
        raise Unsupported("This worker does not enhance prompts; submit the job without enhance_prompt.")


def _with_safety_negatives(negative: str) -> str:
    terms = {term.strip().casefold() for term in negative.split(",")}
    missing = [term for term in SAFETY_NEGATIVES if term not in terms]
    return ", ".join([*([negative.strip().rstrip(",")] if negative.strip(" ,") else []), *missing])


def fit_terms(text: str, window: PromptWindow, keep: tuple[str, ...] = ()) -> str:
    """The longest beginning of `text` that fits the window, cut at a whole term.

    Terms are what stands between commas. Terms in `keep` (compared without case) are never cut, wherever
    they stand. Where not even the first term fits it is cut at a whole word, and a word at a character.
    """
    if window.count(text) <= window.limit:
        return text
    terms = [term for term in (term.strip() for term in text.split(",")) if term]
    cuttable = [term for term in terms if term.casefold() not in keep]

    def joined(number: int) -> str:
        """All kept terms and the first `number` of the others, in their order."""
        left = iter(range(len(cuttable)))
        return ", ".join(term for term in terms if term.casefold() in keep or next(left) < number)

    def fits(candidate: str) -> bool:
        return window.count(candidate) <= window.limit

    number = _largest(len(cuttable), lambda n: fits(joined(n)))
    if number or not cuttable:
        return joined(number)
    kept = [term for term in terms if term.casefold() in keep]
    words = cuttable[0].split()
    for parts, separator in ((words, " "), (list(words[0]), "")):
        number = _largest(len(parts), lambda n: fits(", ".join([separator.join(parts[:n]), *kept])))  # noqa: B023
        if number:
            return ", ".join([separator.join(parts[:number]), *kept])
    return ", ".join(kept)


def _largest(high: int, holds: Callable[[int], bool]) -> int:
    """The largest n in 0…high for which `holds`, by bisection: a text of n parts grows with n."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
