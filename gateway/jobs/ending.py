"""Cancelling a job, and deleting what is left of one that has ended."""

from __future__ import annotations

import json
import logging

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gateway.callbacks.decide import decide, without_result
from gateway.callbacks.models import Callback
from gateway.callbacks.store import job_record, store
from gateway.callbacks.types import Ended, JobRecord, Started
from gateway.errors import ApiError, not_found
from gateway.parts import Parts
from gateway.tables import PENDING, TERMINAL, jobs, usage_logs
from shared.assets import asset_key, thumbnail_key
from shared.errors import Cancelled, ServiceError
from shared.queue import Keys, request_cancellation, stored_callback

log = logging.getLogger(__name__)


def cancel(parts: Parts, user_id: str, job_id: str) -> str:
    """Ask for a job's end, and return the status that it is in then.

    A job that is not in its queue yet ends at once. Any other ends by its worker's callback: a result that
    is committed before the worker sees the wish wins. Raises `ApiError` 404, and `ServiceError` where nobody
    could be asked.
    """
    with parts.database.read() as connection:
        job = job_record(connection, job_id, of_user=user_id)
    if job is None:
        raise not_found("job")
    if job.status in TERMINAL:
        return job.status
    result: Callback | None = None
    unasked: ServiceError | None = None
    try:
        # First, because the push of a pending job may be under way: its worker then finds it cancelled.
        if not request_cancellation(parts.redis, Keys(job.queue), job_id):
            result = _result(parts, job)
    except ServiceError as error:
        unasked = error
    now = parts.clock()
    with parts.database.write() as connection:
        job = job_record(connection, job_id, of_user=user_id, hold=True)
        if job is None:
            raise not_found("job")
        if result is None:
            change: Started | Ended = without_result(job, Cancelled.code, "The job was cancelled.", now)
            stored = store(connection, job, change, now, only_from=(PENDING,))
        else:
            change = decide(job, result, now)
            stored = store(connection, job, change, now)
    status = change.status if stored else job.status
    if unasked is not None and status not in TERMINAL:
        raise unasked
    log.info("cancellation asked for: the job is %s", status, extra={"job_id": job_id})
    return status


def _result(parts: Parts, job: JobRecord) -> Callback | None:
    """What the workers keep of a job that has ended for them.

    It may never arrive: its delivery is given up after a day.
    """
    body = stored_callback(parts.redis, Keys(job.queue), job.job_id)
    return None if body is None else Callback.model_validate(json.loads(body))


def delete(parts: Parts, user_id: str, job_id: str) -> None:
    """Delete the files and the rows of a job that has ended; what it cost stays in the usage log.

    The files go first: where the storage fails the rows still know of them, and the call may be repeated. So
    may one that did its work. Raises `ApiError` 404 or 409, and `ServiceError`.
    """
    with parts.database.read() as connection:
        job = job_record(connection, job_id, of_user=user_id)
        if job is None and not _was_theirs(connection, user_id, job_id):
            raise not_found("job")
    if job is None:
        return
    if job.status not in TERMINAL:
        raise ApiError(
            409, "job_not_finished", f"The job is {job.status}: cancel it, and delete it when it has ended."
        )
    keys = [
        key for index in range(job.promised) for key in (asset_key(job, index), thumbnail_key(job, index))
    ]
    parts.storage.remove(job.bucket, keys)
    with parts.database.write() as connection:
        connection.execute(sa.delete(jobs).where(jobs.c.id == job_id))
    log.info("files and rows deleted", extra={"job_id": job_id})


def _was_theirs(connection: Connection, user_id: str, job_id: str) -> bool:
    known = sa.select(usage_logs.c.id).where(usage_logs.c.job_id == job_id, usage_logs.c.user_id == user_id)
    return connection.execute(known.limit(1)).first() is not None
