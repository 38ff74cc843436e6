"""The daemon: three stages on their threads, and the ways it ends.

The main thread generates and does nothing else. Exit codes: 0 after a drain (or when `once` found the queue
empty), 70 (EX_SOFTWARE) after a fault of the node, for which a new process is needed.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from shared.errors import JobReturned, NodeFault, OwnershipLost, ServiceError
from shared.log import current_job
from shared.queue import WorkQueue
from shared.webhook import service_pause_s
from workers.callbacks import Callbacks
from workers.exits import EXIT_NODE_FAULT
from workers.held import Hands, Held
from workers.keeper import Keeper
from workers.pipeline import Pipeline
from workers.progress import Progress
from workers.stages import Batch, Encoded, Generated

log = logging.getLogger(__name__)

MAX_NODE_FAULTS = 3
LOOK_AGAIN_S = 0.5
LEAVE_LIMIT_S = 3.0
FLUSH_S = 30.0
"""How long `once` waits for callbacks that are due."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Seconds and bytes. `once`: handle what waits, then end."""

    block_s: float = 30.0
    drain_s: float = 5.0
    spool_bytes: int = 2 << 30
    max_callbacks_waiting: int = 100_000
    publish_threads: int = 2
    once: bool = False


class Worker:
    """One process's life: `run` on the main thread, `stop` from anywhere."""

    def __init__(
        self,
        *,
        queue: WorkQueue,
        pipeline: Pipeline,
        callbacks: Callbacks,
        hands: Hands,
        progress: Progress,
        settings: LoopSettings,
        heartbeat_s: float,
        exit_now: Callable[[int], None] = os._exit,
        on_node_fault: Callable[[], None] = lambda: None,
        on_success: Callable[[], None] = lambda: None,
    ) -> None:
        self._queue = queue
        self._pipeline = pipeline
        self._callbacks = callbacks
        self._hands = hands
        self._progress = progress
        self._settings = settings
        self._exit_now = exit_now
        self._on_node_fault = on_node_fault
        self._on_success = on_success
        self.keeper = Keeper(
            queue,
            hands,
            progress,
            callbacks,
            heartbeat_s=heartbeat_s,
            on_hang=self._hung,
            on_broken=lambda error: self._broken("keeper", error),
        )
        self.stopping = threading.Event()
        self._finished = threading.Event()
        self._leaving = threading.Lock()
        # What the intake waits for: the device is idle or about to be (`_near`), the one place before it is
        # free, and there is room behind it. So the plain queues below stay bounded. The main thread takes no
        # lock for it, because one that holds a lock may be waiting for the processor: it writes these two,
        # and puts into `_news` what the intake has to look at again.
        self._near = True
        self._slot_taken = False
        self._news: SimpleQueue[int] = SimpleQueue()  # changes of the bytes that wait for the storage
        self._spooled = 0  # their sum, the intake's own
        self._handing_over = threading.Lock()
        progress.on_near = self._set_near
        queue.on_lost = lambda worker: hands.abort_of(worker, _taken_for_dead)
        self._to_generate: SimpleQueue[Batch | None] = SimpleQueue()
        self._to_encode: SimpleQueue[Generated | None] = SimpleQueue()
        self._to_publish: SimpleQueue[Encoded | None] = SimpleQueue()

    def run(self) -> int:
        """Serve until told to stop. Returns the exit code."""
        if not self._registered():
            self._finished.set()
            return 0
        self.keeper.start()
        self._callbacks.start()
        self._start("intake", self._intake)
        self._start("encode", self._encode)
        for index in range(self._settings.publish_threads):
            self._start(f"publish-{index}", self._publish)
        log.info("ready", extra={"worker_id": self._queue.worker})
        code = self._generate()
        self._finish_up(code)
        return code

    def _start(self, name: str, target: Callable[[], None]) -> None:
        """A thread without which the worker is none: if it breaks, the process ends and a new one begins."""

        def run() -> None:
            try:
                target()
            except Exception as error:  # noqa: BLE001
                # Nothing is expected here. A worker that lives on with a stage missing would hold its jobs
                # for ever, because its heartbeat goes on.
                self._broken(name, error)

        threading.Thread(target=run, name=name, daemon=True).start()

    def _broken(self, name: str, error: Exception) -> None:
        log.critical("the %s thread broke", name, exc_info=error)
        self._on_node_fault()
        self._leave_and_exit(EXIT_NODE_FAULT)

    def stop(self) -> None:
        """Take nothing new; finish or return the running job. The second call returns everything at once."""
        if self.stopping.is_set():
            log.warning("second signal: everything is returned to the queue now")
            self._leave_and_exit(0)
            return
        log.info("stopping", extra={"drain_s": self._settings.drain_s})
        self._take_nothing_new(0)
        rest = self._progress.rest_s()
        if rest is None or rest > self._settings.drain_s:
            for held in self._running():
                held.abort(JobReturned("the worker is stopping"))
        self._to_generate.put(None)

    def _running(self) -> list[Held]:
        """The jobs that are on the device."""
        running = self._progress.snapshot()
        return [held for held in self._hands.all() if running is not None and held.job_id in running.job_ids]

    def _registered(self) -> bool:
        """Take the first lease as soon as Redis answers; False where the worker is stopped before."""
        failures = 0
        while not self.stopping.is_set():
            try:
                self._queue.register()
            except ServiceError as error:
                log.error("%s; the worker begins as soon as it answers", error)
                failures += 1
                self.stopping.wait(service_pause_s(failures))
            else:
                return True
        return False

    # --- the stages' threads

    def _intake(self) -> None:
        failures = 0
        while not self.stopping.is_set():
            self._wait_until_wanted()
            if self.stopping.is_set():
                break
            try:
                lease = self._queue.take(0 if self._settings.once else self._settings.block_s)
            except ServiceError as error:
                if not self.stopping.is_set():
                    log.error("%s; taking jobs again as soon as it answers", error)
                    failures += 1
                    self.stopping.wait(service_pause_s(failures))
                continue
            failures = 0
            if lease is None:
                if self._settings.once and self._hands.wait_empty(LOOK_AGAIN_S):
                    break
                continue
            batch = self._pipeline.intake(lease)
            current_job.set(None)
            if batch is None:
                continue
            if not self._handed_over(batch):
                self._return(batch)
            elif batch.jobs[0].held.marked:
                self._hands.wait_ended(batch.jobs[0].held)
        self._to_generate.put(None)

    def _wait_until_wanted(self) -> None:
        """Until the device is about to be idle and there is room behind it."""

        while True:
            while not self._news.empty():
                self._spooled += self._news.get()
            # In this order, because the main thread writes them in the other one.
            free = not self._slot_taken
            near = self._near or self._progress.near()
            if self.stopping.is_set() or (free and near and self._room()):
                return
            # Time passes, services are mended and callbacks delivered without any news.
            with suppress(Empty):
                self._spooled += self._news.get(timeout=LOOK_AGAIN_S)

    def _handed_over(self, batch: Batch) -> bool:
        """Give it to the main thread, unless the worker is stopping."""
        with self._handing_over:
            if self.stopping.is_set():
                return False
            self._slot_taken = True  # first: the main thread takes it back as soon as it has the batch
            self._to_generate.put(batch)
            return True

    def _set_near(self) -> None:
        self._near = True
        self._news.put(0)

    def _room(self) -> bool:
        return not (
            self._pipeline.standing.misconfigured
            or self._spooled > self._settings.spool_bytes
            or self.keeper.callbacks_waiting > self._settings.max_callbacks_waiting
        )

    def _generate(self) -> int:
        while True:
            batch = self._to_generate.get()
            if batch is None or self.stopping.is_set():
                self._return(batch)
                return 0
            self._near = False
            self._slot_taken = False
            try:
                for generated in self._pipeline.generate(batch):
                    self._news.put(generated.size)
                    self._to_encode.put(generated)
            except NodeFault as error:
                log.critical("fault of this node: %s", error, exc_info=error)
                return self._node_fault()
            finally:
                current_job.set(None)
                self._set_near()
            if self._pipeline.standing.node_faults >= MAX_NODE_FAULTS:
                log.critical("%d failures in a row: this node takes no more jobs", MAX_NODE_FAULTS)
                return self._node_fault()

    def _encode(self) -> None:
        while (generated := self._to_encode.get()) is not None:
            encoded = self._pipeline.encode(generated)
            current_job.set(None)
            self._news.put((encoded.size if encoded else 0) - generated.size)
            if encoded is not None:
                self._to_publish.put(encoded)
        self._to_publish.put(None)

    def _publish(self) -> None:
        while (encoded := self._to_publish.get()) is not None:
            self._pipeline.publish(encoded)
            current_job.set(None)
            self._news.put(-encoded.size)
            if self._pipeline.standing.node_faults == 0:
                self._on_success()
        self._to_publish.put(None)  # for the next of the publish threads

    # --- the ends

    def _take_nothing_new(self, code: int) -> None:
        with self._handing_over:
            self.stopping.set()
        self._news.put(0)
        # The deadline first: it holds whatever the services do.
        threading.Thread(target=self._enforce_deadline, args=(code,), name="drain", daemon=True).start()
        self._hands.close()
        threading.Thread(target=self._queue.unblock, name="unblock", daemon=True).start()

    def _node_fault(self) -> int:
        self._on_node_fault()
        self._take_nothing_new(EXIT_NODE_FAULT)
        return EXIT_NODE_FAULT

    def _hung(self) -> None:
        """The main thread waits for the device and cannot be woken: give the job back and end from here."""
        running = self._running()
        log.critical("the device hangs: no step for far longer than one takes")
        self._on_node_fault()
        for held in running:
            try:
                self._queue.give_back(held.lease, blamed=True)
            except ServiceError as error:
                log.error("%s; the sweep of another worker will return the job", error)
        self._leave_and_exit(EXIT_NODE_FAULT)

    def _finish_up(self, code: int) -> None:
        """Let what was generated be published, send what is due, release the lease."""
        while not self._to_generate.empty():
            self._return(self._to_generate.get())
        # Without a signal there is no hurry; with one, `_enforce_deadline` ends what takes too long.
        self._hands.wait_empty()
        self._callbacks.flush(self._settings.drain_s if self.stopping.is_set() else FLUSH_S)
        self._to_encode.put(None)
        self._leave(code)

    def _return(self, batch: Batch | None) -> None:
        """Jobs that were prepared but did not begin go back, in their order."""
        for job in reversed(batch.jobs if batch is not None else ()):
            with self._pipeline.ends.ended(job.held):
                raise JobReturned("the worker is stopping")

    def _enforce_deadline(self, code: int) -> None:
        if not self._finished.wait(self._settings.drain_s):
            log.warning("the time to drain is over: everything unfinished is returned to the queue")
            self._leave_and_exit(code)

    def _leave_and_exit(self, code: int) -> None:
        self._leave(code)
        logging.shutdown()
        self._exit_now(code)

    def _leave(self, code: int) -> None:
        """Give everything back, release the lease, once. A Redis that hangs does not hold up the end."""
        with self._leaving:
            if self._finished.is_set():
                return
            self.keeper.close()
            self._callbacks.close()
            leaving = threading.Thread(target=self._leave_queue, args=(code,), name="leave", daemon=True)
            leaving.start()
            leaving.join(LEAVE_LIMIT_S)
            if leaving.is_alive():
                log.error("Redis does not answer; the lease runs out by itself and the jobs are swept")
            self._finished.set()

    def _leave_queue(self, code: int) -> None:
        try:
            returned = self._queue.leave()
            log.info("left", extra={"returned": returned, "exit_code": code})
        except ServiceError as error:
            log.error("%s; the lease runs out by itself and the jobs are swept", error)


def _taken_for_dead() -> OwnershipLost:
    return OwnershipLost("this worker was taken for dead")
