"""A request → everything that is stored and queued for it. Pure.

The payload is written with the tables that the workers read it by, and read back with their own parser:
what they would refuse is refused here, with the same sentence and before anything is stored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from gateway.errors import ApiError
from gateway.submit.models import JobMetadata, QueueJobRequest
from shared.errors import InvalidJob
from shared.job import Envelope, Job
from shared.plan import SOLVER
from shared.presets import PRESETS, SAMPLE_SHIFT, SDXL, Preset

INTERFACE_VERSION: Final = "2.1.0"
"""Of the metadata's fields, as the workers' other producer counts it."""

_EXTENSIONS: Final = {"image": "png", "video": "mp4"}


@dataclass(frozen=True, slots=True)
class Identity:
    """What the server knows of a job before it reads the request. `image_ids` are in the pictures' order."""

    job_id: str
    user_id: str
    queue: str
    image_ids: tuple[str, ...]
    video_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator decides. In the demo sizes are pixels, and both are reduced where none is asked."""

    output_buckets: tuple[str, ...] = ()
    demo_size: int | None = None
    demo_frames: int | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A job as it is stored and queued. `element` is the queue's, byte for byte."""

    identity: Identity
    preset: Preset
    job: Job
    metadata: dict[str, Any]
    element: str
    filled_in: tuple[str, ...]

    @property
    def model_type(self) -> str:
        if self.preset.family is SDXL:
            return "sdxl"
        return "enhanced-7b" if self.preset.enhanced else "wan"


def make_order(
    request: QueueJobRequest,
    identity: Identity,
    *,
    negative_prompt: str | None,
    credits: int,
    limits: Limits = Limits(),
) -> Order:
    """Raises `ApiError` 400 with a sentence that names the field, its value and what is allowed."""
    preset, asked = PRESETS[request.job_type], request.metadata
    refuse_other_terms(preset, asked, identity.queue, credits)
    metadata = _metadata(request, preset, identity, negative_prompt, credits)
    payload = {
        "id": identity.job_id,
        "type": preset.job_type,
        "prompt": asked.prompt,
        "config": _config(asked, preset, limits),
        "user_id": identity.user_id,
        "created_at": metadata["generation_timestamp"],
        **({"negative_prompt": negative_prompt} if negative_prompt is not None else {}),
        "video_id": identity.video_id,
        "image_id": identity.image_ids[0] if identity.image_ids else None,
        "character_id": request.character_id,
        "model_variant": preset.family.model_variant,
        "bucket": asked.further.get("bucket") or preset.bucket,
        "metadata": metadata,
    }
    element = json.dumps(payload, separators=(",", ":"))
    try:
        job = Job.parse(Envelope.decode(element.encode()), preset.family, limits.output_buckets)
    except InvalidJob as error:
        raise ApiError(400, "invalid_request", str(error), retry=False) from None
    return Order(identity, preset, job, metadata, element, _filled_in(asked, preset))


def refuse_other_terms(preset: Preset, asked: JobMetadata, queue: str, credits: int) -> None:
    """A client that states what the server decides has to state the same: nothing is silently replaced."""
    decided: dict[str, Any] = {
        "sample_steps": preset.num_inference_steps,
        "num_inference_steps": preset.num_inference_steps,
        "steps": preset.num_inference_steps,
        "sample_guide_scale": preset.guidance_scale,
        "guidance_scale": preset.guidance_scale,
        "sample_solver": SOLVER,
        "scheduler": SOLVER,
        "sample_shift": SAMPLE_SHIFT,
        "model_variant": preset.family.model_variant,
        "queue": queue,
    }
    stated = asked.further | {"credits": asked.credits}
    for name, value in (decided | {"credits": credits}).items():
        if stated.get(name) is not None and stated[name] != value:
            raise ApiError(
                400,
                "invalid_request",
                f"metadata.{name} is not what this job has: for this {preset.job_type} it is {value}."
                " State that, or leave it out.",
                retry=False,
            )


def _config(asked: JobMetadata, preset: Preset, limits: Limits) -> dict[str, Any]:
    frames = limits.demo_frames if limits.demo_frames and preset.medium == "video" else preset.num_frames
    return {
        **_size(asked, preset, limits),
        "sample_steps": preset.num_inference_steps,
        "sample_guide_scale": preset.guidance_scale,
        "sample_solver": SOLVER,
        "sample_shift": SAMPLE_SHIFT,
        "frame_num": frames if asked.frame_num is None else asked.frame_num,
        "enhance_prompt": preset.enhanced if asked.enhance_prompt is None else asked.enhance_prompt,
        **({"seed": asked.seed} if asked.seed is not None else {}),
        "expected_time": preset.expected_seconds,
        "content_type": preset.medium,
        "file_extension": _EXTENSIONS[preset.medium],
        "num_images": asked.num_images or 1,
    }


def _size(asked: JobMetadata, preset: Preset, limits: Limits) -> dict[str, Any]:
    if asked.size is not None:
        return {"size": asked.size}
    if asked.width is not None or asked.height is not None:
        return {"width": asked.width, "height": asked.height}
    family, side = preset.family, limits.demo_size
    if side is not None:
        return {"size": f"{side}*{side}"}
    return {"size": f"{family.default_width}*{family.default_height}"}


def _metadata(
    request: QueueJobRequest,
    preset: Preset,
    identity: Identity,
    negative_prompt: str | None,
    credits: int,
) -> dict[str, Any]:
    asked, is_sdxl = request.metadata, preset.family is SDXL
    return {
        **asked.model_dump(exclude_none=True),
        "credits": credits,
        "model_variant": preset.family.model_variant,
        "queue": identity.queue,
        "dual_worker_routing": True,
        "negative_prompt_supported": is_sdxl,
        **({"negative_prompt": negative_prompt} if negative_prompt is not None else {}),
        **({"negative_prompt_generation_error": None} if is_sdxl else {}),
        "requested_negative_prompt": asked.negative_prompt,
        "prompt_length": len(asked.prompt),
        "prompt_word_count": words_of(asked.prompt),
        "generation_timestamp": timestamp(identity.created_at),
        "edge_function_version": INTERFACE_VERSION,
        "expected_generation_time": preset.expected_seconds,
        "sample_steps": preset.num_inference_steps,
        "sample_guide_scale": preset.guidance_scale,
        "sample_solver": SOLVER,
        "sample_shift": SAMPLE_SHIFT,
        "num_images": asked.num_images or 1,
        "batch_count": asked.batch_count or 1,
        "content_type": preset.medium,
        "file_extension": _EXTENSIONS[preset.medium],
        "user_id": identity.user_id,
        "project_id": request.project_id,
        "video_id": identity.video_id,
        "image_id": identity.image_ids[0] if identity.image_ids else None,
        "character_id": request.character_id,
    }


def _filled_in(asked: JobMetadata, preset: Preset) -> tuple[str, ...]:
    absent = {
        "size": asked.size is None and asked.width is None,
        "num_images": asked.num_images is None,
        "seed": asked.seed is None,
        "frame_num": preset.medium == "video" and asked.frame_num is None,
        "negative_prompt": preset.family is SDXL,
    }
    return tuple(name for name, is_absent in absent.items() if is_absent)


def words_of(text: str) -> int:
    """Words as the other producer counts them: what stands between single spaces."""
    return len(text.split(" "))


def timestamp(moment: datetime) -> str:
    """ISO 8601 with milliseconds and a Z, as JavaScript writes it."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
