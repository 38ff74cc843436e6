"""The bodies of callbacks: built from the plan and the files, rendered for the receiver when sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from shared.errors import JobError
from shared.plan import Adjustment, Plan

AssetReference = Literal["path", "public", "signed"]


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What every callback says of the worker that sends it."""

    worker_id: str
    gpu_name: str
    model_variant: str
    applied: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds a job spent in each stage; `queue_wait` is None where the payload has no `created_at`."""

    queue_wait: float | None
    prepare: float
    generate: float = 0.0
    encode: float = 0.0
    upload: float = 0.0

    def as_json(self) -> dict[str, float | None]:
        return {
            name: None if seconds is None else round(seconds, 4) for name, seconds in asdict(self).items()
        }


@dataclass(frozen=True, slots=True)
class Produced:
    """One uploaded file as it was read back. Paths within the bucket; pixels, frames a second, seconds."""

    key: str
    thumbnail_key: str | None
    width: int
    height: int
    num_frames: int
    fps: float | None
    duration: float | None


def processing_body(plan: Plan, facts: WorkerFacts, attempt: int) -> bytes:
    metadata = _about(plan.job_type, plan.bucket, facts, attempt)
    return _body(plan.job_id, "processing", [], None, metadata)


def failed_body(
    job_id: str,
    job_type: str | None,
    bucket: str | None,
    facts: WorkerFacts,
    attempt: int,
    error: JobError,
) -> bytes:
    metadata = {
        **_about(job_type, bucket, facts, attempt),
        "error_code": error.code,
        "retryable": error.retryable,
    }
    return _body(job_id, "failed", [], str(error), metadata)


def completed_body(
    plan: Plan,
    produced: Sequence[Produced],
    adjustments: Sequence[Adjustment],
    timings: Timings,
    facts: WorkerFacts,
    attempt: int,
    jobs_in_pass: int = 1,
) -> bytes:
    """What was executed. Sizes, frames and rates are those of the files, everything else is the plan's.

    `jobs_in_pass` is told where other jobs shared the job's time on the device.
    """
    first = produced[0]
    metadata: dict[str, Any] = {
        **_about(plan.job_type, plan.bucket, facts, attempt),
        "seed": plan.seeds[0],
        "seeds": list(plan.seeds),
        "num_images": plan.num_images,
        "generation_time": round(timings.generate, 4),
        "timings": timings.as_json(),
        "width": first.width,
        "height": first.height,
        "num_inference_steps": plan.num_inference_steps,
        "guidance_scale": plan.guidance_scale,
        "scheduler": plan.scheduler,
        "negative_prompt": plan.negative_prompt,
        "original_prompt": plan.original_prompt,
        "final_prompt": plan.prompt,
        "thumbnails": [item.thumbnail_key for item in produced],
        "adjustments": [item.as_json() for item in adjustments],
        "reference_mode": "none",
        "applied": facts.applied,
    }
    if jobs_in_pass > 1:
        metadata["jobs_in_pass"] = jobs_in_pass
    if plan.medium == "video":
        metadata |= {"frame_num": first.num_frames, "fps": first.fps, "duration": first.duration}
    if plan.family.name == "wan":
        metadata["sample_shift"] = plan.shift
    enhanced_prompt = None
    if plan.enhancement is not None:
        metadata["enhancement_strategy"] = plan.enhancement.strategy
        metadata["expansion_percentage"] = plan.enhancement.expansion_percentage
        if plan.enhancement.note:
            metadata["enhancement_note"] = plan.enhancement.note
        if plan.enhancement.strategy != "none":
            enhanced_prompt = plan.enhancement.prompt
    return _body(plan.job_id, "completed", [item.key for item in produced], None, metadata, enhanced_prompt)


def render(
    body: bytes,
    *,
    callback_format: Literal["seed", "objects"],
    reference: AssetReference,
    link: Callable[[str, str, Literal["public", "signed"]], str],
) -> bytes:
    """The stored body as this sender's receiver reads it.

    `link(bucket, path, kind)` makes an address; it is called now because signed addresses expire.
    """
    if callback_format == "seed" and reference == "path":
        return body
    document = json.loads(body)
    metadata = document["metadata"]
    bucket = metadata.get("bucket")

    def referred(path: str | None) -> str | None:
        return path if path is None or reference == "path" else link(bucket, path, reference)

    assets: list[Any] = [referred(path) for path in document["assets"]]
    thumbnails = [referred(path) for path in metadata.get("thumbnails", [])]
    if callback_format == "objects":
        kind = "video" if "frame_num" in metadata else "image"
        seeds = metadata.get("seeds", [])
        assets = [
            {
                "type": kind,
                "url": url,
                "thumbnail_url": thumbnail,
                "metadata": {"seed": seed, "width": metadata["width"], "height": metadata["height"]},
            }
            for url, thumbnail, seed in zip(assets, thumbnails, seeds, strict=True)
        ]
    document["assets"] = assets
    if thumbnails:
        metadata["thumbnails"] = thumbnails
    return _dump(document)


def _about(job_type: str | None, bucket: str | None, facts: WorkerFacts, attempt: int) -> dict[str, Any]:
    return {
        "job_type": job_type,
        "model_variant": facts.model_variant,
        "worker_id": facts.worker_id,
        "bucket": bucket,
        "attempt": attempt,
        "gpu_name": facts.gpu_name,
    }


def _body(
    job_id: str,
    status: str,
    assets: list[str],
    error_message: str | None,
    metadata: dict[str, Any],
    enhanced_prompt: str | None = None,
) -> bytes:
    document: dict[str, Any] = {
        "job_id": job_id,
        "status": status,
        "assets": assets,
        "error_message": error_message,
        "metadata": metadata,
    }
    if enhanced_prompt is not None:
        document["enhancedPrompt"] = enhanced_prompt
    return _dump(document)


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
