"""From the row into the queue: every job that was committed is pushed, once, whatever happens meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from gateway.database import Database
from gateway.tables import PENDING, QUEUED, jobs
from shared.errors import ServiceError
from shared.producer import Producer, Pushed

log = logging.getLogger(__name__)

BATCH: Final = 500

# A worker may have begun, and even ended, before a push is noted: only what is pending becomes queued.
_NOTE: Final = (
    sa.update(jobs)
    .where(jobs.c.id == sa.bindparam("job_id"), jobs.c.status == PENDING)
    .values(status=QUEUED, queued_at=sa.bindparam("noted_at"))
)


class Relay:
    """Pushes a job right after its row was committed, and again in `round` where that did not succeed.

    A job is pending in the database until it is known to be in its queue. The push leaves a mark there, so
    that repeating one whose answer got lost, or whose process died before it noted it, changes nothing. Any
    number of gateways may relay at the same time.
    """

    def __init__(
        self,
        database: Database,
        producer: Producer,
        clock: Callable[[], datetime],
        every_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database, self._producer, self._clock = database, producer, clock
        self._every_s, self._monotonic = every_s, monotonic
        self._older_than_s = 0.0
        self._resting_until = float("-inf")

    def push(self, job_id: str, queue: str, element: str) -> Pushed | None:
        """Push one job and note it; None where the queue does not answer, and `run_once` has to do it.

        Then the next jobs are left to `round` for a while, so that no request waits for a dead server.
        """
        if self._monotonic() < self._resting_until:
            return None
        try:
            pushed = self._producer.push(queue, job_id, element.encode())
        except ServiceError as error:
            log.warning("a job stays pending: %s", error, extra={"job_id": job_id})
            self._resting_until = self._monotonic() + self._every_s
            return None
        try:
            self._note([job_id])
        except ServiceError as error:
            # It is in the queue: saying anything else would be wrong. `round` notes it later.
            log.warning("a queued job is not noted yet: %s", error, extra={"job_id": job_id})
        return pushed

    def run_once(self, older_than_s: float = 0.0) -> int:
        """Push the jobs that have been pending for longer, the oldest first. Returns how many were.

        Raises `ServiceError` where the database or the queue does not answer.
        """
        before = self._clock() - timedelta(seconds=older_than_s)
        oldest = (
            sa.select(jobs.c.id, jobs.c.queue, jobs.c.payload)
            .where(jobs.c.status == PENDING, jobs.c.created_at <= before)
            .order_by(jobs.c.created_at)
            .limit(BATCH)
        )
        total = 0
        while True:
            with self._database.read() as connection:
                rows = connection.execute(oldest).all()
            done: list[str] = []
            try:
                for job_id, queue, element in rows:
                    self._producer.push(queue, job_id, element.encode())
                    done.append(job_id)
            finally:
                self._note(done)
            total += len(done)
            if len(rows) < BATCH:
                return total

    def round(self) -> None:
        """What is done every `every_s` seconds. Raises as `run_once`.

        At first everything is pushed that a process left behind that died; later a request gets the time to
        push its own job.
        """
        if number := self.run_once(self._older_than_s):
            log.info("pushed %d pending jobs", number)
        self._older_than_s = self._every_s

    def _note(self, job_ids: list[str]) -> None:
        if not job_ids:
            return
        noted_at = self._clock()
        with self._database.write() as connection:
            connection.execute(_NOTE, [{"job_id": job_id, "noted_at": noted_at} for job_id in job_ids])
