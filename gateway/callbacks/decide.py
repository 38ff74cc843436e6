"""What a callback changes: (the job as it stands, the callback) → changes. Pure.

Which callback counts is decided where the changes are stored, by the one that finds the job unfinished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Literal

from gateway.callbacks.delivered import Delivered, WrongAssets, delivered
from gateway.callbacks.models import Callback
from gateway.callbacks.types import Ended, JobRecord, Row, Started
from gateway.tables import CANCELLED, COMPLETED, FAILED
from shared.errors import Cancelled, GenerationFailed

TITLE_CHARACTERS: Final = 60
SIGNED_URL_LIFE: Final = timedelta(hours=24)
VIDEO_PLACEHOLDER: Final = "system_assets/video-placeholder-thumbnail.png"
"""The thumbnail of a video that has none of its own."""


def decide(job: JobRecord, callback: Callback, now: datetime) -> Started | Ended:
    """A result that is not the job's ends it as failed: its customer is neither kept waiting nor charged."""
    if callback.status == "processing":
        return Started()
    executed = callback.executed
    if callback.status == "failed":
        code = executed.error_code or GenerationFailed.code
        message = callback.error_message or "The job failed."
        return without_result(job, code, message, now, executed.as_metadata())
    try:
        files = delivered(job, callback)
    except WrongAssets as error:
        message = "The result that came back does not belong to this job; submit it again."
        # What it says of the run may be another job's.
        ended = without_result(job, GenerationFailed.code, message, now)
        return replace(ended, refused=str(error))
    return _completed(job, callback, files, now)


def _completed(job: JobRecord, callback: Callback, files: Sequence[Delivered], now: datetime) -> Ended:
    keys = [item.key for item in files]
    metadata = {
        **job.metadata,
        **callback.executed.as_metadata(),
        "thumbnails": [item.thumbnail_key for item in files],
        "primary_asset": keys[0],
        "all_assets": keys,
        **_processed(job, keys, now),
    }
    if callback.enhanced_prompt is not None:
        metadata["enhanced_prompt"] = callback.enhanced_prompt
    title = _title(job)
    common = {"status": COMPLETED, "completed_at": now}
    if job.medium == "video":
        file = files[0]
        video = {
            **common,
            "title": title,
            "video_url": file.key,
            "thumbnail_url": file.thumbnail_key or VIDEO_PLACEHOLDER,
            # As the path, which is what readers of the table sign; links that work are made when asked for.
            "signed_url": file.key,
            "signed_url_expires_at": now + SIGNED_URL_LIFE,
            "duration": metadata.get("duration"),
            "metadata": {
                **metadata,
                **_about(job),
                "prompt": _prompt(job),
                "stored_path": file.key,
                "thumbnail_placeholder": file.thumbnail_key is None,
                "bucket": job.bucket,
                "path_consistency_fixed": True,
            },
        }
        return Ended(COMPLETED, None, None, metadata, video=video)
    seeds = _seeds(callback, len(files))
    images = [
        {
            **common,
            "title": f"{title} ({index + 1})" if len(files) > 1 else title,
            "image_url": file.key,
            "thumbnail_url": file.thumbnail_key or file.key,
            "seed": seeds[index],
            "metadata": {**metadata, **_about_image(job, index), "seed": seeds[index]},
        }
        for index, file in enumerate(files)
    ]
    return Ended(COMPLETED, None, None, metadata, images)


def without_result(
    job: JobRecord, code: str, message: str, now: datetime, executed: Row = MappingProxyType({})
) -> Ended:
    """The end of a job that failed, was refused or cancelled; its rows say why."""
    status: Literal["failed", "cancelled"] = CANCELLED if code == Cancelled.code else FAILED
    metadata = {**job.metadata, **executed, **_processed(job, [], now)}
    row = {"status": status, "completed_at": now}
    told = {"error_code": code, "error_message": message}
    if job.medium == "video":
        video = {**row, "metadata": {**metadata, **_about(job), **told}}
        return Ended(status, code, message, metadata, video=video)
    images = [
        {**row, "metadata": {**metadata, **_about_image(job, index), **told}} for index in range(job.promised)
    ]
    return Ended(status, code, message, metadata, images)


def _processed(job: JobRecord, keys: list[str], now: datetime) -> dict[str, Any]:
    moment = now.isoformat()
    return {
        "callback_processed_at": moment,
        "callback_debug": {
            "received_assets": keys,
            "primary_asset": keys[0] if keys else None,
            "job_type": job.job_type,
            "processing_timestamp": moment,
        },
    }


def _about(job: JobRecord) -> dict[str, Any]:
    return {
        "model_type": job.preset.family.name,
        "is_sdxl": job.preset.family.name == "sdxl",
        "is_enhanced": job.preset.enhanced,
        "original_job_id": job.job_id,
        "job_type": job.job_type,
    }


def _about_image(job: JobRecord, index: int) -> dict[str, Any]:
    return {**_about(job), "image_index": index, "total_images": job.promised}


def _seeds(callback: Callback, number: int) -> list[int | None]:
    """Every picture's own seed. A worker that tells only the first one counts up from it."""
    seeds, first = callback.executed.seeds, callback.executed.seed
    if seeds is not None and len(seeds) == number:
        return list(seeds)
    return [None if first is None else first + index for index in range(number)]


def _title(job: JobRecord) -> str:
    prompt = _prompt(job)
    return prompt if len(prompt) <= TITLE_CHARACTERS else f"{prompt[:TITLE_CHARACTERS]}..."


def _prompt(job: JobRecord) -> str:
    """What the customer wrote."""
    stated = job.metadata.get("prompt") or job.metadata.get("original_prompt")
    return str(stated or f"Untitled {job.medium.capitalize()}")
