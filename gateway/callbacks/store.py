"""A job's state in the database: reading it, and storing what changes it.

One conditional update decides whether a change counts; whatever depends on it is stored in its transaction.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gateway.callbacks.types import Ended, JobRecord, Started
from gateway.tables import (
    GENERATE,
    PENDING,
    PROCESSING,
    QUEUED,
    REFUND,
    UtcDateTime,
    images,
    jobs,
    usage_logs,
    videos,
)
from shared.presets import PRESETS

BEFORE_START: Final = (PENDING, QUEUED)
UNFINISHED: Final = (PENDING, QUEUED, PROCESSING)


def job_record(
    connection: Connection, job_id: str, *, of_user: str | None = None, hold: bool = False
) -> JobRecord | None:
    """None where there is no such job, or it is not this user's.

    `hold`: what is read stays true until the transaction ends. On SQLite that is so in every transaction
    that writes; on PostgreSQL others that hold the row wait.
    """
    wanted = sa.select(jobs).where(jobs.c.id == job_id)
    if of_user is not None:
        wanted = wanted.where(jobs.c.user_id == of_user)
    if hold:
        wanted = wanted.with_for_update()
    job = connection.execute(wanted).one_or_none()
    if job is None:
        return None
    buckets = connection.scalars(
        sa.union_all(
            sa.select(images.c.bucket).where(images.c.job_id == job_id),
            sa.select(videos.c.bucket).where(videos.c.job_id == job_id),
        )
    ).all()
    return JobRecord(
        job_id=job.id,
        user_id=job.user_id,
        job_type=job.job_type,
        status=job.status,
        queue=job.queue,
        metadata=job.metadata,
        bucket=buckets[0] if buckets else PRESETS[job.job_type].bucket,
        promised=len(buckets),
    )


def store(
    connection: Connection,
    job: JobRecord,
    change: Started | Ended,
    now: datetime,
    *,
    only_from: Sequence[str] = UNFINISHED,
) -> bool:
    """Store a change of a job that stands in one of `only_from`. False where it does not: nothing changed."""
    if isinstance(change, Started):
        values = {"status": PROCESSING, "started_at": now}
        return _move(connection, job.job_id, BEFORE_START, values)
    values = {
        "status": change.status,
        "completed_at": now,
        "error_code": change.error_code,
        "error_message": change.error_message,
        "metadata": change.metadata,
    }
    if not _move(connection, job.job_id, only_from, values):
        return False
    if change.video is not None:
        connection.execute(sa.update(videos).where(videos.c.job_id == job.job_id).values(**change.video))
    for index, row in enumerate(change.images):
        connection.execute(
            sa.update(images)
            .where(images.c.job_id == job.job_id, images.c.image_index == index)
            .values(**row)
        )
    if change.returns_credits:
        _return_credits(connection, job.job_id, now)
    return True


def _move(connection: Connection, job_id: str, only_from: Sequence[str], values: dict[str, Any]) -> bool:
    moved = connection.execute(
        sa.update(jobs).where(jobs.c.id == job_id, jobs.c.status.in_(only_from)).values(**values)
    )
    return moved.rowcount == 1


def _return_credits(connection: Connection, job_id: str, now: datetime) -> None:
    """Give back what the job was charged. Once at most: a refund that is there already stays the only one."""
    spent, refund = usage_logs, usage_logs.alias()
    same = ("user_id", "job_id", "format", "quality", "metadata")
    values = sa.select(
        sa.literal(str(uuid.uuid4())),
        sa.literal(REFUND),
        -spent.c.credits_consumed,
        sa.literal(now, UtcDateTime),
        *(spent.c[name] for name in same),
    ).where(
        spent.c.job_id == job_id,
        spent.c.action == GENERATE,
        ~sa.exists().where(refund.c.job_id == job_id, refund.c.action == REFUND),
    )
    columns = ["id", "action", "credits_consumed", "created_at", *same]
    connection.execute(sa.insert(usage_logs).from_select(columns, values))
