"""The heartbeat: renews the lease, sweeps dead workers, notices cancellations and hangs.

A thread and never a process: a process would go on renewing for a parent that is stopped or dead.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from shared.errors import OwnershipLost, ServiceError
from shared.queue import WorkQueue
from shared.webhook import backoff_seconds
from workers.callbacks import Callbacks
from workers.held import Hands
from workers.progress import Progress

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
"""Seconds between two looks for cancellations while a job is in hand; none are made while idle."""


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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._hands = hands
        self._progress = progress
        self._callbacks = callbacks
        self._heartbeat_s = heartbeat_s
        self._on_hang = on_hang
        self._clock = clock
        self._closed = threading.Event()
        self._failures = 0
        self.callbacks_waiting = 0
        self.redis_reachable = True
        self.turned_at = clock()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        next_beat = self._clock()
        while not self._closed.is_set():
            self.turned_at = self._clock()
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
                pause = backoff_seconds(self._failures, random.random)
                next_beat = self._clock() + min(self._heartbeat_s, pause)
            if self._progress.hung():
                self._on_hang()
            self._closed.wait(min(LOOK_EVERY_S, self._heartbeat_s))

    def _beat(self) -> None:
        beat = self._queue.beat()
        if not beat.alive:
            if self._closed.is_set():
                return
            log.error("this worker was taken for dead; it drops its work and goes on under a new id")
            self._hands.abort_all(lambda: OwnershipLost("this worker was taken for dead"))
            self._queue.register()
            return
        self.callbacks_waiting = beat.callbacks_waiting
        if beat.callback_due_s is not None:
            self._callbacks.due_in(beat.callback_due_s)

    def _look(self) -> None:
        """Cancellations of the jobs in hand: one round trip, whatever their number."""
        job_ids = [held.job_id for held in self._hands.all() if held.job_id is not None]
        if job_ids:
            self._hands.abort_cancelled(self._queue.cancelled(job_ids))
