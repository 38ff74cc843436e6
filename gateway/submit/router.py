"""`POST /functions/v1/queue-job`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response
from starlette.concurrency import run_in_threadpool

from gateway.errors import responses
from gateway.parts import CurrentUser, GivenParts, Parts
from gateway.submit.models import Debug, QueuedJob, QueueJobRequest, QueueJobResponse
from gateway.submit.payload import timestamp, words_of
from gateway.submit.service import Submitted, submit
from gateway.users import User
from shared.presets import PRESETS, SDXL

router = APIRouter()

IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[\x21-\x7e]+$",
        max_length=255,
        description="a request that is sent again with the same key is queued once",
    ),
]


@router.post("/functions/v1/queue-job", responses=responses(400, 401, 402, 403, 409, 413, 422, 429, 503))
async def queue_job(
    request: QueueJobRequest,
    parts: GivenParts,
    user: CurrentUser,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> QueueJobResponse:
    """Store a job and put it into its worker's queue."""
    # In one change of threads; a plain function would have a second one for the check of what it returns.
    submitted = await run_in_threadpool(_submit, parts, user, request, idempotency_key)
    if submitted.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return _response(submitted)


def _submit(parts: Parts, user: User, request: QueueJobRequest, idempotency_key: str | None) -> Submitted:
    parts.pace.take(user.id)
    return submit(parts, user.id, request, idempotency_key)


def _response(submitted: Submitted) -> QueueJobResponse:
    job, metadata = submitted.job, submitted.job["metadata"]
    family = PRESETS[job["job_type"]].family
    prompt, negative = metadata["prompt"], metadata.get("negative_prompt") or ""
    return QueueJobResponse(
        job=QueuedJob(**{name: job[name] for name in QueuedJob.model_fields}),
        queue_length=submitted.queue_length,
        model_variant=family.model_variant,
        job_type=job["job_type"],
        queue=job["queue"],
        is_sdxl=family is SDXL,
        negative_prompt_supported=metadata["negative_prompt_supported"],
        fixes_applied=list(submitted.filled_in),
        debug=Debug(
            user_id=job["user_id"],
            has_prompt=True,
            prompt_length=len(prompt),
            prompt_word_count=words_of(prompt),
            has_negative_prompt=bool(negative),
            negative_prompt_length=len(negative),
            negative_prompt_word_count=words_of(negative) if negative else 0,
            metadata_fields=len(metadata),
            timestamp=timestamp(job["created_at"]),
        ),
    )
