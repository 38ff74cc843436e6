"""The stages of a job, top to bottom.

    lease → begin → parse → screen → plan → GENERATE → encode → upload → commit

`intake` runs on the intake thread, `generate` on the main thread, `encode` and `publish` behind the device's
back. Each stage takes the frozen result of the one before. A stage ends a job by raising inside `Ends.ended`,
which decides by the error's class what becomes of the job.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from shared.callback import Produced, Timings, WorkerFacts, completed_body
from shared.enhance import Enhancer
from shared.errors import GenerationFailed, JobError, NodeFault, ServiceRefused
from shared.log import current_job
from shared.plan import Adjustment, Plan
from shared.queue import Lease, WorkQueue
from shared.screen import Screen
from shared.storage import Storage
from workers.content import ContentRules, ModerationSink
from workers.encode import EncodedSample, Marking, MediaFile, encode_sample
from workers.ends import Ends, Standing
from workers.engines.base import Drawn, Engine, Pass, Sample
from workers.held import Hands, Held
from workers.image_screen import ImageScreen
from workers.intake import Intake, Rules
from workers.merging import Merging
from workers.progress import Progress
from workers.stages import Batch, Encoded, Generated

log = logging.getLogger(__name__)

CLAIM_PAUSE_S = 1.0


class Announcer(Protocol):
    def processing(self, held: Held, plan: Plan) -> None: ...

    def committed(self) -> None: ...


class _Unwanted(Exception):
    """Every job of the pass is to be stopped, each for a reason of its own."""


class Pipeline:
    def __init__(
        self,
        *,
        queue: WorkQueue,
        engine: Engine,
        storage: Storage,
        screen: Screen,
        image_screen: ImageScreen | None,
        moderation: ModerationSink,
        enhancer: Enhancer,
        announcer: Announcer,
        rules: Rules,
        marking: Marking,
        scratch: Path,
        hands: Hands,
        progress: Progress,
        uploads: Executor,
        facts: Callable[[], WorkerFacts],
        merging: Merging,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._engine = engine
        self._storage = storage
        self._announcer = announcer
        self._marking = marking
        self._scratch = scratch
        self._hands = hands
        self._progress = progress
        self._uploads = uploads
        self._facts = facts
        self._wall_clock = wall_clock
        self._clock = clock
        self.standing = Standing()
        self.ends = Ends(queue, hands, announcer, facts, self.standing)
        self._content = ContentRules(screen, image_screen, moderation)
        self._intake = Intake(
            queue=queue,
            engine=engine,
            content=self._content,
            enhancer=enhancer,
            rules=rules,
            merging=merging,
            hands=hands,
            ends=self.ends,
            wall_clock=wall_clock,
            clock=clock,
        )

    # --- stage 1: intake

    def intake(self, lease: Lease) -> Batch | None:
        """Everything up to the plan; None when the job ended here."""
        return self._intake.batch(lease)

    # --- stage 2: generate (main thread)

    def generate(self, batch: Batch) -> Iterator[Generated]:
        """Run a batch and yield each job once its last sample is there, whatever became of it.

        The next stage ends those that failed or were stopped, so that no Redis holds up the device. Raises
        `NodeFault` once the jobs that were not yielded are given back with the blame.
        """
        run, started = batch.run, self._clock()
        waiting = dict(enumerate(batch.jobs))
        results: list[list[Sample | JobError]] = [[] for _ in batch.jobs]
        failure: Exception | None = None
        current_job.set(" ".join(job.plan.job_id for job in batch.jobs))

        def ended(number: int, samples: Sequence[Sample] = (), failure: Exception | None = None) -> Generated:
            seconds = self._clock() - started
            return Generated(waiting.pop(number), tuple(samples), seconds, len(batch.jobs), failure)

        try:
            for drawn in self._drawn(batch):
                of_job = results[drawn.job]
                of_job.append(drawn.result)
                if len(of_job) == run.plans[drawn.job].num_images:
                    spoiled = [result for result in of_job if isinstance(result, JobError)]
                    if spoiled:
                        self.standing.failed(spoiled[0], run.size)
                        yield ended(drawn.job, failure=spoiled[0])
                    else:
                        yield ended(drawn.job, [result for result in of_job if isinstance(result, Sample)])
            self.standing.fitted(run.size)
        except NodeFault:
            for job in waiting.values():
                with suppress(NodeFault), self.ends.ended(job.held):
                    raise
            raise
        except _Unwanted:
            pass
        # Whatever else ended the pass ends its jobs, which is not for this thread to do.
        except Exception as error:  # noqa: BLE001
            self.standing.failed(error, run.size)
            failure = error
        for number in tuple(waiting):
            yield ended(number, failure=failure)

    def _drawn(self, batch: Batch) -> Iterator[Drawn]:
        """The pass itself. Raises `_Unwanted` as soon as nobody wants any of its jobs."""

        def stop_if_unwanted() -> None:
            if batch.unwanted:
                raise _Unwanted

        def on_step(step: int, steps: int) -> None:
            self._progress.on_step(step, steps)
            stop_if_unwanted()

        stop_if_unwanted()
        for job in batch.jobs:
            if not job.held.stopped:
                self._announcer.processing(job.held, job.plan)
        self._progress.begin(batch.run)
        try:
            for drawn in self._engine.generate(batch.run, on_step):
                self._progress.moved()
                yield drawn
                stop_if_unwanted()
        finally:
            self._progress.end()

    # --- stage 3: encode and publish

    def encode(self, generated: Generated) -> Encoded | None:
        """Files of what was generated; None when the job ended here, or had ended on the device."""
        prepared, plan = generated.prepared, generated.prepared.plan
        current_job.set(plan.job_id)
        with self.ends.ended(prepared.held):
            prepared.held.check()
            if generated.failure is not None:
                raise generated.failure
            # Here and not on the main thread: writing to a log may wait, and the device with it.
            told = {"seconds": round(generated.generate_s, 3), "jobs": generated.jobs_in_pass}
            log.info("generated", extra=told)
            started = self._clock()
            self._content.check_samples(plan, generated.samples)
            return Encoded(generated, self._files(generated), self._clock() - started)
        return None

    def _files(self, generated: Generated) -> tuple[EncodedSample, ...]:
        files: list[EncodedSample] = []
        try:
            for sample in generated.samples:
                files.append(encode_sample(generated.prepared.plan, sample, self._scratch, self._marking))
        except BaseException as error:
            _remove(files)
            if isinstance(error, JobError):
                self.standing.failed(error, Pass.of(generated.prepared.plan).size)
            raise
        return tuple(files)

    def publish(self, encoded: Encoded) -> None:
        """Upload the files and commit the job; the files are removed whatever happens."""
        prepared, plan = encoded.prepared, encoded.prepared.plan
        current_job.set(plan.job_id)
        with self.ends.ended(prepared.held), _removed_afterwards(encoded.files):
            started = self._clock()
            if not self._may_publish(prepared.held):
                self.ends.acknowledge_repeat(prepared.held)
                return
            produced = self._upload(encoded)
            timings = Timings(
                prepared.timings.queue_wait,
                prepared.timings.prepare,
                encoded.generated.generate_s,
                encoded.encode_s,
                self._clock() - started,
            )
            adjustments = [*plan.adjustments, *_distinct(encoded.generated.samples)]
            body = completed_body(
                plan,
                produced,
                adjustments,
                timings,
                self._facts(),
                prepared.held.attempt,
                encoded.generated.jobs_in_pass,
            )
            self.ends.finish(prepared.held, body)
            self.standing.node_faults = 0
            self.standing.last_success = self._wall_clock()
            log.info("completed", extra={"upload_s": round(timings.upload, 3)})

    def _may_publish(self, held: Held) -> bool:
        """Whether the job's paths are ours to write; False once another element of the same job is done.

        While another live worker writes them this waits, because a callback describes the files of its own
        run.
        """
        job_id = held.job_id
        assert job_id is not None
        while True:
            answer = self.ends.persistently(
                held, lambda: self._queue.claim_publish(held.lease, job_id, held.claim)
            )
            if answer != "wait":
                return answer == "go"
            held.pause(CLAIM_PAUSE_S)

    def _upload(self, encoded: Encoded) -> list[Produced]:
        held, bucket = encoded.prepared.held, encoded.prepared.plan.bucket
        submit = self._uploads.submit
        mains = [submit(self._upload_file, held, bucket, item.file) for item in encoded.files]
        thumbnails = [submit(self._upload_thumbnail, held, bucket, item.thumbnail) for item in encoded.files]
        # All have to have ended, also where one failed: their files are removed next.
        wait(mains), wait(thumbnails)
        return [
            Produced(
                key=main.result(),
                thumbnail_key=thumbnail.result(),
                width=item.width,
                height=item.height,
                num_frames=item.num_frames,
                fps=item.fps,
                duration=item.duration,
            )
            for item, main, thumbnail in zip(encoded.files, mains, thumbnails, strict=True)
        ]

    def _upload_file(self, held: Held, bucket: str, file: MediaFile) -> str:
        try:
            self.ends.persistently(
                held, lambda: self._storage.upload(bucket, file.key, file.path, file.content_type)
            )
        except ServiceRefused as error:
            log.error("the storage refuses a finished file: %s", error)
            raise GenerationFailed("The finished file was refused by the storage.") from error
        return file.key

    def _upload_thumbnail(self, held: Held, bucket: str, file: MediaFile) -> str | None:
        """A thumbnail never fails a job: a bucket that refuses it leaves it out."""
        try:
            self.ends.persistently(
                held, lambda: self._storage.upload(bucket, file.key, file.path, file.content_type)
            )
        except ServiceRefused as error:
            log.warning("the bucket refuses thumbnails: %s", error)
            return None
        return file.key


@contextmanager
def _removed_afterwards(files: tuple[EncodedSample, ...]) -> Iterator[None]:
    try:
        yield
    finally:
        _remove(files)


def _remove(files: Sequence[EncodedSample]) -> None:
    for item in files:
        item.file.path.unlink(missing_ok=True)
        item.thumbnail.path.unlink(missing_ok=True)


def _distinct(samples: tuple[Sample, ...]) -> list[Adjustment]:
    found: list[Adjustment] = []
    for sample in samples:
        found.extend(item for item in sample.adjustments if item not in found)
    return found
