"""The jobs in this worker's hands, and what other threads want of them."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from shared.errors import Cancelled, WorkerError
from shared.queue import Lease


@dataclass(eq=False, slots=True)
class Held:
    """One leased job. `attempt` and what follows is known once it has begun.

    Other threads stop it by `abort`; the thread that works on it asks with `check` between two steps.
    """

    lease: Lease
    job_id: str | None = None
    job_type: str | None = None
    bucket: str | None = None
    attempt: int = 1
    marked: bool = False
    ended: bool = False
    claim: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Tells this run of the job from every other one."""
    _reason: WorkerError | None = None
    _aborted: threading.Event = field(default_factory=threading.Event)

    def abort(self, reason: WorkerError) -> None:
        """The first reason stands."""
        if self._reason is None:
            self._reason = reason
            self._aborted.set()

    @property
    def stopped(self) -> bool:
        """Whether somebody wants it stopped."""
        return self._reason is not None

    def check(self) -> None:
        """Raise the reason to stop, if there is one."""
        if self._reason is not None:
            raise self._reason

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than until somebody wants the job stopped; then raise the reason."""
        self._aborted.wait(seconds)
        self.check()


class Hands:
    """All held jobs; the intake waits here for hands to be empty when a job has to run alone."""

    def __init__(self) -> None:
        self._held: list[Held] = []
        self._changed = threading.Condition()
        self._closed = False

    def add(self, held: Held) -> None:
        with self._changed:
            self._held.append(held)
            self._changed.notify_all()

    def remove(self, held: Held) -> None:
        with self._changed:
            held.ended = True
            if held in self._held:
                self._held.remove(held)
            self._changed.notify_all()

    def close(self) -> None:
        """Wake everybody who waits: the worker is going."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def all(self) -> list[Held]:
        with self._changed:
            return list(self._held)

    def abort_of(self, worker: str, reason: Callable[[], WorkerError]) -> None:
        """Stop what is held under a worker id that was swept."""
        for held in self.all():
            if held.lease.worker == worker:
                held.abort(reason())

    def abort_cancelled(self, cancelled: set[str]) -> None:
        for held in self.all():
            if held.job_id in cancelled:
                held.abort(Cancelled("The job was cancelled."))

    def wait_alone(self, held: Held) -> None:
        """Until nothing but `held` is in hand, or the worker is going."""
        self._wait(lambda: self._held == [held])

    def wait_ended(self, held: Held) -> None:
        self._wait(lambda: held.ended)

    def wait_empty(self, timeout_s: float | None = None) -> bool:
        """Whether the hands became empty in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._held, timeout_s)

    def _wait(self, reached: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or reached())
