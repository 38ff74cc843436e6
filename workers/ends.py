"""How jobs end: what an error's class makes of them, told to Redis for as long as that takes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from shared.callback import WorkerFacts, failed_body
from shared.errors import (
    Abandoned,
    GenerationFailed,
    JobError,
    JobReturned,
    MalformedElement,
    NodeFault,
    OutOfMemory,
    OwnershipLost,
    ServiceError,
    ServiceMisconfigured,
    ServiceUnavailable,
)
from shared.queue import WorkQueue
from shared.webhook import service_pause_s
from workers.engines.base import BatchSize
from workers.held import Hands, Held
from workers.progress import REMEMBERED_SIZES

log = logging.getLogger(__name__)

MISCONFIGURED_PAUSE_S = 30.0

T = TypeVar("T")


@dataclass(slots=True)
class Standing:
    """What the stages have met lately, for the loop and for the health endpoint.

    `node_faults` counts those without a success between them. While a call waits for somebody to mend a
    service no job is taken.
    """

    node_faults: int = 0
    last_success: float | None = None
    waiting_for_mending: set[object] = field(default_factory=set)
    _fitted: set[BatchSize] = field(default_factory=set)

    @property
    def misconfigured(self) -> bool:
        return bool(self.waiting_for_mending)

    def fitted(self, size: BatchSize) -> None:
        if len(self._fitted) < REMEMBERED_SIZES:
            self._fitted.add(size)

    def failed(self, error: Exception, size: BatchSize) -> None:
        """Count what may be this node's fault, and nothing that a user can bring about.

        A size that never fitted into this node's memory is the job's; one that did is the node.
        """
        if isinstance(error, OutOfMemory):
            self.node_faults += size in self._fitted
        elif isinstance(error, JobError):
            self.node_faults += error.node_fault


class Commits(Protocol):
    def committed(self) -> None:
        """A terminal callback was put into the outbox."""


class Ends:
    """The one place where jobs end."""

    def __init__(
        self,
        queue: WorkQueue,
        hands: Hands,
        announcer: Commits,
        facts: Callable[[], WorkerFacts],
        standing: Standing,
    ) -> None:
        self._queue = queue
        self._hands = hands
        self._announcer = announcer
        self._facts = facts
        self._standing = standing

    @contextmanager
    def ended(self, held: Held) -> Iterator[None]:
        """Decides what becomes of the job that a stage stopped working on."""
        try:
            yield
        except MalformedElement as malformed:
            reason = str(malformed)
            log.warning("malformed element moved to the dead letters: %s", reason)
            self._quietly(held, lambda: self._queue.finish(held.lease, None, None, reason))
        except JobError as error:
            self._fail(held, error)
        except JobReturned:
            log.info("job returned to the queue")
            self._quietly(held, lambda: self._queue.give_back(held.lease))
        except OwnershipLost as error:
            log.info("job dropped: %s", error)
            # Its element lies in a swept list at most; from there it goes back without anybody waiting.
            self._quietly(held, lambda: self._queue.give_back(held.lease))
        except NodeFault:
            self._quietly(held, lambda: self._queue.give_back(held.lease, blamed=True))
            raise
        except Exception as error:
            # A fault of ours that nobody foresaw: the customer gets an answer and the operator a traceback,
            # and the worker goes on with the next job.
            log.exception("unexpected error")
            failure = GenerationFailed("The job failed because of an internal error.")
            failure.__cause__ = error
            self._fail(held, failure)

    def _fail(self, held: Held, error: JobError) -> None:
        log.warning("job failed (%s)", error.code, exc_info=error if error.node_fault else None)
        job_id = held.job_id
        if job_id is None:  # The decoder itself failed: there is nobody to call back.
            self._quietly(held, lambda: self._queue.finish(held.lease, None, None, error.code))
            return
        body = failed_body(job_id, held.job_type, held.bucket, self._facts(), held.attempt, error)
        dead_reason = error.code if isinstance(error, Abandoned) else None

        def finish() -> None:
            self._queue.finish(held.lease, job_id, body, dead_reason)
            self._announcer.committed()

        self._quietly(held, finish)

    def finish(self, held: Held, body: bytes) -> None:
        job_id = held.job_id
        assert job_id is not None
        # A cancellation that comes from here on loses: commit wins.
        outcome = self.persistently(held, lambda: self._queue.finish(held.lease, job_id, body))
        if outcome == "duplicate":
            log.info("the job was done before; its callback goes out again")
        # In this order: a worker that ends goes once its hands are empty and nothing is due.
        self._announcer.committed()
        self._hands.remove(held)

    def acknowledge_repeat(self, held: Held) -> None:
        log.info("a repeated job is acknowledged without generating")
        self.finish(held, b"")

    def _quietly(self, held: Held, end: Callable[[], object]) -> None:
        """End the job in Redis, for as long as Redis takes, and let go of it."""
        attempt = 0
        while True:
            try:
                end()
            except OwnershipLost:
                pass  # Somebody else ends it.
            except ServiceError as error:
                log.error("%s; the job is ended as soon as it answers", error)
                attempt += 1
                time.sleep(service_pause_s(attempt))
                continue
            break
        self._hands.remove(held)

    def persistently(self, held: Held, call: Callable[[], T]) -> T:
        """Repeat a call to a service until it works or somebody wants the job stopped."""
        attempt, me = 1, object()
        try:
            while True:
                try:
                    return call()
                except ServiceUnavailable as error:
                    pause = max(service_pause_s(attempt), error.retry_after or 0.0)
                    log.warning("%s; the job is kept, next try in %.1f s", error, pause)
                except ServiceMisconfigured as error:
                    self._standing.waiting_for_mending.add(me)
                    pause = MISCONFIGURED_PAUSE_S
                    log.error("%s; no job is taken until this is mended; finished files are kept", error)
                attempt += 1
                held.pause(pause)
        finally:
            self._standing.waiting_for_mending.discard(me)
