"""What a user sees of a job: rows → view. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from gateway.callbacks.decide import VIDEO_PLACEHOLDER
from gateway.tables import STATUSES
from shared.progress import StepProgress

Row = Mapping[Any, Any]
Link = Callable[[str, str], str]
"""(bucket, path within it) → an address that works for a while."""

Status = Literal["pending", "queued", "processing", "completed", "failed", "cancelled"]
assert set(STATUSES) == set(get_args(Status))


def _readable(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


T = TypeVar("T")
Told = Annotated[T | None, WrapValidator(_readable)]
"""A field of a job's metadata. A client may have written anything; another type is not read."""


class Progress(BaseModel):
    """Denoising steps done, of how many, in which attempt (from 1)."""

    step: int
    steps: int
    attempt: int


class AdjustmentView(BaseModel):
    """A stated value that was replaced by its nearest meaning, and why."""

    field: str
    requested: Any
    used: Any
    reason: str


class ImageView(BaseModel):
    """`image_index` counts from 0. `url` and `thumbnail_url` are null until there is a file."""

    id: str
    image_index: int
    status: Status
    title: str | None
    seed: int | None
    url: str | None
    thumbnail_url: str | None


class VideoView(BaseModel):
    """`duration` in seconds. `thumbnail_url` is null also for a video that has none."""

    id: str
    status: Status
    title: str | None
    url: str | None
    thumbnail_url: str | None
    duration: float | None


class JobView(BaseModel):
    """A job with what was executed; settings are null until it is completed. Sizes in pixels.

    `generation_time` and `duration` in seconds. `progress` is null unless the job generates at this moment.
    """

    id: str
    job_type: str
    format: str
    quality: str
    model_type: str
    status: Status
    prompt: Told[str]
    negative_prompt: Told[str]
    requested_negative_prompt: Told[str]
    enhanced_prompt: Told[str]
    num_images: int
    credits: int
    created_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    error_code: str | None
    error_message: str | None
    retryable: Told[bool]
    progress: Progress | None
    seed: Told[int]
    seeds: Told[list[int]]
    width: Told[int]
    height: Told[int]
    num_inference_steps: Told[int]
    guidance_scale: Told[float]
    scheduler: Told[str]
    frame_num: Told[int]
    fps: Told[float]
    duration: Told[float]
    generation_time: Told[float]
    adjustments: Told[list[AdjustmentView]]
    images: list[ImageView]
    video: VideoView | None


_FROM_METADATA = (
    *("negative_prompt", "requested_negative_prompt", "enhanced_prompt", "retryable", "seed", "width"),
    *("height", "num_inference_steps", "guidance_scale", "scheduler", "frame_num", "fps", "duration"),
    *("generation_time", "prompt", "seeds", "adjustments"),
)
_FROM_ROW = (
    *("id", "job_type", "format", "quality", "model_type", "status", "credits", "created_at", "queued_at"),
    *("started_at", "completed_at", "error_code", "error_message"),
)


def job_view(
    job: Row, images: Sequence[Row], video: Row | None, progress: StepProgress | None, link: Link
) -> JobView:
    """`images` in the order of their index."""
    told = job["metadata"]
    return JobView(
        **{name: job[name] for name in _FROM_ROW},
        **{name: told.get(name) for name in _FROM_METADATA},
        num_images=len(images) or 1,
        progress=None if progress is None else Progress(**asdict(progress)),
        images=[_image(row, link) for row in images],
        video=None if video is None else _video(video, link),
    )


def _image(row: Row, link: Link) -> ImageView:
    return ImageView(
        **{name: row[name] for name in ("id", "image_index", "status", "title", "seed")},
        url=_linked(row, "image_url", link),
        thumbnail_url=_linked(row, "thumbnail_url", link),
    )


def _video(row: Row, link: Link) -> VideoView:
    has_thumbnail = row["thumbnail_url"] != VIDEO_PLACEHOLDER
    return VideoView(
        **{name: row[name] for name in ("id", "status", "title", "duration")},
        url=_linked(row, "video_url", link),
        thumbnail_url=_linked(row, "thumbnail_url", link) if has_thumbnail else None,
    )


def _linked(row: Row, column: str, link: Link) -> str | None:
    return None if row[column] is None else link(row["bucket"], row[column])
