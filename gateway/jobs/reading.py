"""A user's jobs as they stand, newest first."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from gateway.jobs.cursor import Cursor
from gateway.jobs.views import JobView, job_view
from gateway.parts import Parts
from gateway.states import steps_of
from gateway.tables import TERMINAL, images, jobs, videos
from shared.errors import ServiceError
from shared.progress import StepProgress

log = logging.getLogger(__name__)


def one_job(parts: Parts, user_id: str, job_id: str) -> JobView | None:
    """None where there is no such job, or it is not this user's."""
    found = _views(parts, sa.select(jobs).where(jobs.c.id == job_id, jobs.c.user_id == user_id))
    return found[0] if found else None


def page_of_jobs(parts: Parts, user_id: str, limit: int, before: Cursor | None) -> list[JobView]:
    wanted = sa.select(jobs).where(jobs.c.user_id == user_id)
    if before is not None:
        older = sa.or_(
            jobs.c.created_at < before.created_at,
            sa.and_(jobs.c.created_at == before.created_at, jobs.c.id < before.job_id),
        )
        wanted = wanted.where(older)
    newest_first = wanted.order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
    return _views(parts, newest_first.limit(limit))


def _views(parts: Parts, wanted: sa.Select[Any]) -> list[JobView]:
    now = parts.clock()
    with parts.database.read() as connection:
        found = connection.execute(wanted).mappings().all()
        ids = [job["id"] for job in found]
        pictures = _rows_of(connection, sa.select(images).order_by(images.c.image_index), ids)
        films = _rows_of(connection, sa.select(videos), ids)
    progress = _progress(parts, found)
    return [
        job_view(
            job,
            pictures[job["id"]],
            next(iter(films[job["id"]]), None),
            progress.get(job["id"]),
            lambda bucket, key: parts.file_links.link(bucket, key, now),
        )
        for job in found
    ]


def _rows_of(
    connection: Connection, rows: sa.Select[Any], job_ids: Sequence[str]
) -> defaultdict[str, list[RowMapping]]:
    """Rows by their job, in one query."""
    found: defaultdict[str, list[RowMapping]] = defaultdict(list)
    if job_ids:
        for row in connection.execute(rows.where(sa.column("job_id").in_(job_ids))).mappings():
            found[row["job_id"]].append(row)
    return found


def _progress(parts: Parts, found: Sequence[RowMapping]) -> dict[str, StepProgress]:
    """Steps of the jobs that run. A job is shown without them while Redis is away."""
    unfinished = {job["id"]: job["queue"] for job in found if job["status"] not in TERMINAL}
    try:
        return steps_of(parts.redis, unfinished)
    except ServiceError as error:
        log.warning("jobs are shown without their progress: %s", error)
        return {}
