"""From the row into the queue: every job that was committed is pushed, once, whatever happens meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """Pushes a job right after its row was committed, and again from a thread where that did not succeed.

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
        self._resting_until = float("-inf")

    def push(self, job_id: str, queue: str, element: str) -> Pushed | None:
        """Push one job and note it; None where the queue does not answer, and `run_once` has to do it.

        Then the next jobs are left to the thread for a while, so that no request waits for a dead server.
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
            # It is in the queue: saying anything else would be wrong. The thread notes it later.
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

    @contextmanager
    def running(self) -> Iterator[None]:
        """Relay from a thread until the end of the block."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=[stop], name="relay", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _run(self, stop: threading.Event) -> None:
        # What a process left behind that died is pushed at once; later a request gets time to push itself.
        older_than_s = 0.0
        while True:
            try:
                if number := self.run_once(older_than_s):
                    log.info("pushed %d pending jobs", number)
                self._database.flush()
                older_than_s = self._every_s
            except ServiceError as error:
                log.error("pending jobs cannot be pushed now: %s", error)
            except Exception as error:
                # The thread has to outlive a fault of one round: nobody else pushes what is pending.
                log.critical("a round of the relay failed", exc_info=error)
            if stop.wait(self._every_s):
                return

    def _note(self, job_ids: list[str]) -> None:
        if not job_ids:
            return
        noted_at = self._clock()
        with self._database.write() as connection:
            connection.execute(_NOTE, [{"job_id": job_id, "noted_at": noted_at} for job_id in job_ids])
