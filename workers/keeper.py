"""The heartbeat: renews the lease, sweeps dead workers, tells the progress, notices cancellations and hangs.

A thread and never a process: a process would go on renewing for a parent that is stopped or dead.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from shared.errors import ServiceError
from shared.progress import StepProgress
from shared.queue import WorkQueue
from shared.webhook import service_pause_s
from workers.callbacks import Callbacks
from workers.held import Hands
from workers.progress import Progress

log = logging.getLogger(__name__)

STOPPED_S = 10.0
"""A thread that only slept a second and wakes this much later was stopped, and the process with it."""
LOOK_EVERY_S = 1.0
"""Seconds between two looks for cancellations, which also tell the progress, while a job is in hand; none are
made while idle."""


class Keeper:
    def __init__(
        self,
        queue: WorkQueue,
        hands: Hands,
        progress: Progress,
        callbacks: Callbacks,
        *,
        heartbeat_s: float,
        on_hang: Callable[[], None],
        on_broken: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._hands = hands
        self._progress = progress
        self._callbacks = callbacks
        self._heartbeat_s = heartbeat_s
        self._on_hang = on_hang
        self._on_broken = on_broken
        self._clock = clock
        self._closed = threading.Event()
        self._failures = 0
        self.callbacks_waiting = 0
        self.redis_reachable = True
        self.turned_at = clock()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()

    def _keep(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001
            # Nothing is expected here, and a worker without a heartbeat is none.
            self._on_broken(error)

    def _run(self) -> None:
        next_beat = asleep_at = self._clock()
        while not self._closed.is_set():
            self.turned_at = self._clock()
            if self.turned_at - asleep_at > STOPPED_S:
                # The whole process was stopped: the silence of the device says nothing.
                self._progress.moved()
            try:
                if self.turned_at >= next_beat:
                    self._beat()
                    next_beat = self._clock() + self._heartbeat_s
                self._look()
                self._failures, self.redis_reachable = 0, True
            except ServiceError as error:
                self.redis_reachable = False
                log.error("%s; the lease is renewed as soon as it answers", error)
                self._failures += 1
                next_beat = self._clock() + min(self._heartbeat_s, service_pause_s(self._failures))
            if self._progress.hung():
                self._on_hang()
            asleep_at = self._clock()
            self._closed.wait(min(LOOK_EVERY_S, self._heartbeat_s))

    def _beat(self) -> None:
        beat = self._queue.beat()
        if beat.alive:
            self.callbacks_waiting = beat.callbacks_waiting
            if beat.callback_due_s is not None:
                self._callbacks.due_in(beat.callback_due_s)

    def _look(self) -> None:
        """How far the running job is goes out, cancellations come in: one round trip for all in hand."""
        attempts = {held.job_id: held.attempt for held in self._hands.all() if held.job_id is not None}
        if not attempts:
            return
        running = self._progress.snapshot()
        progress = {
            job_id: StepProgress(running.step, running.steps, attempts[job_id]).encode()
            for job_id in (running.job_ids if running is not None else ())
            if running is not None and job_id in attempts
        }
        self._hands.abort_cancelled(self._queue.look(attempts, progress))
