"""Where jobs stand: their rows, and what their workers publish of the steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import redis
import sqlalchemy as sa

from gateway.database import Database
from gateway.tables import TERMINAL, jobs
from shared.progress import StepProgress, read_progress


@dataclass(frozen=True, slots=True)
class JobState:
    """`progress` is None where no worker generates the job now."""

    status: str
    progress: StepProgress | None
    error_code: str | None
    error_message: str | None

    @property
    def ended(self) -> bool:
        """Whether nothing about the job will change."""
        return self.status in TERMINAL


def job_states(database: Database, client: redis.Redis, job_ids: Iterable[str]) -> dict[str, JobState]:
    """The states of those of the jobs that exist: one query, and one round trip a queue to Redis.

    Raises `ServiceUnavailable` or `ServiceMisconfigured`.
    """
    chosen = sa.select(jobs.c.id, jobs.c.queue, jobs.c.status, jobs.c.error_code, jobs.c.error_message)
    with database.read() as connection:
        rows = connection.execute(chosen.where(jobs.c.id.in_(list(job_ids)))).all()
    progress = steps_of(client, {row.id: row.queue for row in rows if row.status not in TERMINAL})
    return {
        row.id: JobState(row.status, progress.get(row.id), row.error_code, row.error_message) for row in rows
    }


def steps_of(client: redis.Redis, queues: Mapping[str, str]) -> dict[str, StepProgress]:
    """The progress of those of the jobs that generate now, one round trip a queue; `queues` by job.

    Raises `ServiceUnavailable` or `ServiceMisconfigured`.
    """
    by_queue = defaultdict[str, list[str]](list)
    for job_id, queue in queues.items():
        by_queue[queue].append(job_id)
    progress: dict[str, StepProgress] = {}
    for queue, job_ids in by_queue.items():
        progress |= read_progress(client, queue, job_ids)
    return progress
