"""`POST /functions/v1/job-callback`."""

from __future__ import annotations

import logging
from typing import Final

from fastapi import APIRouter, Depends, Request
from fastapi.security import APIKeyHeader

from gateway.callbacks.authentication import authenticate
from gateway.callbacks.decide import decide
from gateway.callbacks.models import Callback, CallbackAnswer, CallbackDebug
from gateway.callbacks.store import job_record, store
from gateway.errors import ApiError, responses
from gateway.parts import BEARER, GivenParts
from gateway.tables import COMPLETED
from shared.log import current_job

log = logging.getLogger(__name__)

router = APIRouter(tags=["callbacks"])

PROCESSED = "Job callback processed successfully with standardized parameters"
DROPPED = "The job is in that state or has ended; nothing was changed"


_WORKERS_KEY: Final = APIKeyHeader(name="apikey", auto_error=False)


async def _authenticated(request: Request, parts: GivenParts) -> None:
    """Over the bytes that came in: a signature covers nothing else."""
    authenticate(parts.settings, request.headers, await request.body(), parts.clock().timestamp())


@router.post(
    "/functions/v1/job-callback",
    dependencies=[Depends(_authenticated), Depends(_WORKERS_KEY), Depends(BEARER)],
    responses=responses(400, 401, 404, 413, 422, 503),
)
def job_callback(callback: Callback, parts: GivenParts) -> CallbackAnswer:
    """Take in what a worker reports of a job.

    A job's first terminal status is final: whatever repeats, comes late or out of order changes nothing and
    is answered 200, so that its sender stops. 404 and 422 say `"retry": false`.
    """
    current_job.set(callback.job_id)
    now = parts.clock()
    with parts.database.write() as connection:
        job = job_record(connection, callback.job_id, hold=True)
        if job is None:
            raise ApiError(404, "not_found", "There is no such job.", retry=False)
        change = decide(job, callback, now)
        stored = store(connection, job, change, now)
    status = change.status if stored else job.status
    if stored and change.refused is not None:
        log.error("a result was refused and its job ended as failed: %s", change.refused)
        raise ApiError(422, "wrong_assets", f"The result was refused: {change.refused}.", retry=False)
    log.info("callback %s: the job is %s", "stored" if stored else "dropped", status)
    preset = job.preset
    return CallbackAnswer(
        message=PROCESSED if stored else DROPPED,
        debug=CallbackDebug(
            job_id=job.job_id,
            jobStatus=status,
            jobType=job.job_type,
            format=preset.medium,
            quality=preset.quality,
            isSDXL=preset.family.name == "sdxl",
            isEnhanced=preset.enhanced,
            assetsProcessed=len(callback.assets) if stored and status == COMPLETED else 0,
            processingTimestamp=now.isoformat(),
        ),
    )
