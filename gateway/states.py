"""Where jobs stand: their rows, and what their workers publish of the steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
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
    running = defaultdict[str, list[str]](list)
    for row in rows:
        if row.status not in TERMINAL:
            running[row.queue].append(row.id)
    progress: dict[str, StepProgress] = {}
    for queue, waited_for in running.items():
        progress |= read_progress(client, queue, waited_for)
    return {
        row.id: JobState(row.status, progress.get(row.id), row.error_code, row.error_message) for row in rows
    }
