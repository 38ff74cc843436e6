"""Sending callbacks behind the device's back: `processing` from memory, terminal ones from the outbox."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from shared.callback import WorkerFacts, processing_body
from shared.errors import ServiceError
from shared.outbox import Outbox
from shared.plan import Plan
from shared.queue import WorkQueue
from shared.webhook import Delivery, backoff_seconds, webhook_id
from workers.held import Held

log = logging.getLogger(__name__)

ANNOUNCEMENT_LIMIT_S = 25.0
"""Longer than a sender's own time limit, and with it still shorter than a claim in the outbox."""
SERVICE_PAUSE_S = 5.0
"""The pause after Redis did not answer."""


class Sender(Protocol):
    def send(self, body: bytes, webhook_id: str) -> Delivery: ...


@dataclass(slots=True)
class _Announcement:
    held: Held
    body: bytes
    due: float
    attempts: int = 1


class Callbacks:
    """`threads` senders. A `processing` that was not sent when its job is committed is dropped.

    `processing` is not durable: when its worker dies the next one sends its own.
    """

    def __init__(
        self,
        outbox: Outbox,
        queue: WorkQueue,
        sender: Sender,
        facts: Callable[[], WorkerFacts],
        *,
        threads: int = 6,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox = outbox
        self._queue = queue
        self._sender = sender
        self._facts = facts
        self._clock = clock
        self._announcements: list[_Announcement] = []
        self._announcing: set[str] = set()
        self._begun: SimpleQueue[tuple[Held, Plan] | None] = SimpleQueue()
        lock = threading.Lock()
        # Idle senders wait here; one of them is woken for each thing to do.
        self._work = threading.Condition(lock)
        # Whoever waits for what the senders do.
        self._changed = threading.Condition(lock)
        self._outbox_due: float | None = 0.0
        self._sending = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._relay, name="announcer", daemon=True),
            *(
                threading.Thread(target=self._run, name=f"sender-{index}", daemon=True)
                for index in range(threads)
            ),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def processing(self, held: Held, plan: Plan) -> None:
        """The job begins. Returns at once: the thread that drives the device waits for no sender's lock."""
        self._begun.put((held, plan))

    def committed(self) -> None:
        """A terminal callback was put into the outbox."""
        self.due_in(0.0)

    def due_in(self, seconds: float) -> None:
        """The outbox has a callback that is due in so many seconds."""
        with self._changed:
            due = self._clock() + seconds
            if self._outbox_due is None or due < self._outbox_due:
                self._outbox_due = due
                self._work.notify()

    def flush(self, timeout_s: float) -> None:
        """Wait until everything that becomes due within `timeout_s` seconds was sent, or they are over."""
        deadline = self._clock() + timeout_s
        with self._changed:
            sent = self._changed.wait_for(lambda: self._nothing_due(deadline), timeout_s)
        if not sent:
            log.warning("callbacks are left in the outbox; the next worker that runs delivers them")

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._work.notify_all()
            self._changed.notify_all()
        self._begun.put(None)

    # --- the threads

    def _relay(self) -> None:
        while (begun := self._begun.get()) is not None:
            held, plan = begun
            self._announce_in(0.0, held, processing_body(plan, self._facts(), held.attempt))

    def _nothing_due(self, deadline: float) -> bool:
        due = self._outbox_due is not None and self._outbox_due <= deadline
        # What announces a job that has ended is dropped, by the next sender that comes round.
        announcing = any(item.due <= deadline and not item.held.ended for item in self._announcements)
        return self._closed or not (due or self._sending or announcing)

    def _run(self) -> None:
        while True:
            work = self._next_work()
            if work is None:
                return
            try:
                if isinstance(work, _Announcement):
                    self._announce(work)
                else:
                    self._deliver()
            except ServiceError as error:
                log.warning("%s; callbacks wait", error)
                if isinstance(work, _Announcement):
                    self._announce_in(SERVICE_PAUSE_S, work.held, work.body, work.attempts + 1)
                else:
                    self.due_in(SERVICE_PAUSE_S)
            except Exception:  # A sender thread has to outlive whatever one callback does to it.
                # The entry stays claimed and is due again when the claim ends.
                log.exception("unexpected error while sending a callback")
                self.due_in(60.0)
            finally:
                with self._changed:
                    self._sending -= 1
                    self._changed.notify_all()

    def _next_work(self) -> _Announcement | str | None:
        """The next thing that is due; terminal callbacks first: what they end needs no announcement."""
        with self._changed:
            while not self._closed:
                now = self._clock()
                self._announcements = [item for item in self._announcements if not item.held.ended]
                if self._outbox_due is not None and self._outbox_due <= now:
                    # The sender that comes back from the outbox knows when the next one is due.
                    self._outbox_due = None
                    return self._taken("outbox")
                for item in self._announcements:
                    if item.due <= now:
                        self._announcements.remove(item)
                        return self._taken(item)
                dues = [item.due for item in self._announcements]
                if self._outbox_due is not None:
                    dues.append(self._outbox_due)
                self._work.wait(min(dues) - now if dues else None)
            return None

    def _taken(self, work: _Announcement | str) -> _Announcement | str:
        self._sending += 1
        if self._announcements or self._outbox_due is not None:
            self._work.notify()  # The one that goes may have been the one that watched the clock for these.
        return work

    def _announce(self, item: _Announcement) -> None:
        job_id = item.held.job_id
        assert job_id is not None
        with self._changed:
            self._announcing.add(job_id)
        try:
            # Asked as late as possible: whoever owns the job says that it is running.
            if item.held.ended or not self._queue.owns(item.held.lease, job_id):
                return
            delivery = self._sender.send(item.body, webhook_id(job_id, "processing", item.held.attempt))
        finally:
            with self._changed:
                self._announcing.discard(job_id)
                self._changed.notify_all()
        if delivery.outcome == "accepted":
            return
        log.warning("the processing callback was not accepted (%s)", delivery.detail)
        if delivery.outcome == "retry":
            pause = max(backoff_seconds(item.attempts, random.random), delivery.retry_after or 0.0)
            self._announce_in(pause, item.held, item.body, item.attempts + 1)

    def _announce_in(self, seconds: float, held: Held, body: bytes, attempts: int = 1) -> None:
        with self._changed:
            self._announcements.append(_Announcement(held, body, self._clock() + seconds, attempts))
            self._work.notify()

    def _deliver(self) -> None:
        rest = self._outbox.deliver_next(before=self._wait_announced)
        if rest is not None:
            self.due_in(rest)

    def _wait_announced(self, job_id: str) -> None:
        """A terminal callback does not overtake the `processing` that another thread is sending."""
        # While this one is on its way another thread looks for the next: a slow receiver holds up one.
        self.due_in(0.0)
        with self._changed:
            self._changed.wait_for(lambda: job_id not in self._announcing, ANNOUNCEMENT_LIMIT_S)
