"""The stages of a job, top to bottom.

    lease → begin → parse → screen → plan → GENERATE → encode → upload → commit

`intake` runs on the intake thread, `generate` on the main thread, `encode` and `publish` behind the device's
back. Each stage takes the frozen result of the one before. A stage ends the job by raising: `ended` decides
by the error's class what becomes of the job, in one place.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

from shared.callback import Produced, Timings, WorkerFacts, completed_body, failed_body
from shared.enhance import Enhancer, enhance_or_original
from shared.errors import (
    Abandoned,
    Cancelled,
    ContentRefused,
    Expired,
    GenerationFailed,
    JobError,
    JobReturned,
    MalformedElement,
    NodeFault,
    OutOfMemory,
    OwnershipLost,
    ServiceError,
    ServiceMisconfigured,
    ServiceRefused,
    ServiceUnavailable,
)
from shared.job import Envelope, Job
from shared.log import current_job
from shared.moderation import Refusal
from shared.plan import (
    Adjustment,
    Enhancement,
    Plan,
    PlanDefaults,
    PromptWindow,
    derived_seed,
    make_plan,
    wants_enhancement,
)
from shared.presets import Family
from shared.queue import Begun, Lease, WorkQueue
from shared.screen import Screen, ScreenInput
from shared.storage import Storage
from shared.webhook import service_pause_s
from workers.encode import EncodedSample, Marking, MediaFile, encode_sample
from workers.engines.base import Engine, Sample
from workers.held import Hands, Held
from workers.image_screen import ImageScreen, Purpose
from workers.progress import REMEMBERED_SHAPES, Progress

log = logging.getLogger(__name__)

MISCONFIGURED_PAUSE_S = 30.0
CLAIM_PAUSE_S = 1.0
SCREENED_FRAMES = 8
"""Frames of a video that a configured image screen sees, spread evenly from the first to the last."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that is ready for the device. `timings` holds what is known so far."""

    held: Held
    plan: Plan
    timings: Timings


@dataclass(frozen=True, slots=True)
class Generated:
    prepared: Prepared
    samples: tuple[Sample, ...]
    generate_s: float


@dataclass(frozen=True, slots=True)
class Encoded:
    prepared: Prepared
    files: tuple[EncodedSample, ...]
    generated: Generated
    encode_s: float

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(item.file.size + item.thumbnail.size for item in self.files)


class ModerationSink(Protocol):
    def refused(self, refusal: Refusal) -> None:
        """Note a refusal. Must not raise for a fault of its own store."""


class Announcer(Protocol):
    def processing(self, held: Held, plan: Plan) -> None: ...

    def committed(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator decided about jobs. Seconds."""

    family: Family
    output_buckets: tuple[str, ...] = ()
    defaults: PlanDefaults = field(default_factory=PlanDefaults)
    max_deliveries: int = 3
    max_queue_age_s: float | None = None


@dataclass(slots=True)
class Standing:
    """What the stages have met lately, for the loop and for the health endpoint.

    `node_faults` counts those without a success between them. While a call waits for somebody to mend a
    service no job is taken.
    """

    node_faults: int = 0
    last_success: float | None = None
    waiting_for_mending: set[object] = field(default_factory=set)

    @property
    def misconfigured(self) -> bool:
        return bool(self.waiting_for_mending)


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
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._engine = engine
        self._storage = storage
        self._screen = screen
        self._image_screen = image_screen
        self._moderation = moderation
        self._enhancer = enhancer
        self._announcer = announcer
        self._rules = rules
        self._marking = marking
        self._scratch = scratch
        self._hands = hands
        self._progress = progress
        self._uploads = uploads
        self._facts = facts
        self._wall_clock = wall_clock
        self._clock = clock
        self.standing = Standing()
        self._fitted: set[tuple[int, int, int, int]] = set()

    # --- stage 1: intake

    def intake(self, lease: Lease) -> Prepared | None:
        """Everything up to the plan; None when the job ended here."""
        started = self._clock()
        held = Held(lease)
        self._hands.add(held)
        with self.ended(held):
            envelope = Envelope.decode(lease.raw)
            held.job_id, held.job_type = envelope.job_id, envelope.job_type
            current_job.set(held.job_id)
            begun = self._persistently(held, lambda: self._queue.begin(lease, envelope.job_id))
            held.attempt, held.marked = begun.attempt, begun.marked
            if begun.done:
                self._acknowledge_repeat(held)
                return None
            self._refuse_hopeless(begun)
            job = Job.parse(envelope, self._rules.family, self._rules.output_buckets)
            held.bucket = job.bucket
            queue_wait = self._queue_wait(job)
            window = self._engine.prompt_window()
            self._screen_job(job)
            enhancement = self._enhance(job, window)
            plan = make_plan(job, window, self._rules.defaults, enhancement)
            return Prepared(held, plan, Timings(queue_wait, self._clock() - started))
        return None

    def _refuse_hopeless(self, begun: Begun) -> None:
        if begun.deaths >= self._rules.max_deliveries:
            raise Abandoned(
                f"The job was given up: its worker stopped {begun.deaths} times while it ran nothing else."
            )
        if begun.cancelled:
            raise Cancelled("The job was cancelled.")

    def _queue_wait(self, job: Job) -> float | None:
        """Seconds since the job was created. Raises `Expired` when that is too long."""
        if job.created_at is None:
            return None
        now = datetime.fromtimestamp(self._wall_clock(), UTC)
        waited = max(0.0, (now - job.created_at).total_seconds())
        limit = self._rules.max_queue_age_s
        if limit is not None and waited > limit:
            raise Expired(f"The job waited {waited:.0f} seconds; jobs are dropped after {limit:.0f} seconds.")
        return waited

    def _screen_job(self, job: Job, enhanced_prompt: str | None = None) -> None:
        verdict = self._screen.check(
            ScreenInput(
                prompt=job.prompt,
                negative_prompt=job.negative_prompt,
                compel_weights=job.compel_weights,
                enhanced_prompt=enhanced_prompt,
            )
        )
        if not verdict.allowed:
            texts = {
                "prompt": job.prompt,
                "negative_prompt": job.negative_prompt,
                "compel_weights": job.compel_weights,
                "enhanced_prompt": enhanced_prompt,
            }
            self._refuse(Refusal(job.id, job.user_id, verdict.rule_id or "", texts))

    def _refuse(self, refusal: Refusal) -> NoReturn:
        """One neutral sentence: neither the rule nor the text is told to the sender."""
        self._moderation.refused(refusal)
        raise ContentRefused("The request was refused by the content rules of this service.")

    def _enhance(self, job: Job, window: PromptWindow) -> Enhancement | None:
        if self._rules.family.name != "wan" or not wants_enhancement(job):
            return None
        seed = derived_seed(job.id) if job.seed is None else job.seed
        preset = job.preset
        enhancement = enhance_or_original(
            self._enhancer, job.prompt, preset.medium, preset.quality, window, seed
        )
        self._screen_job(job, enhancement.prompt)
        return enhancement

    # --- stage 2: generate (main thread)

    def generate(self, prepared: Prepared) -> Generated | None:
        held, plan = prepared.held, prepared.plan
        current_job.set(plan.job_id)
        with self.ended(held), self._node_faults_counted(plan):
            held.check()
            self._announcer.processing(held, plan)
            started = self._clock()
            self._progress.begin(plan)

            def on_step(step: int, steps: int) -> None:
                self._progress.on_step(step, steps)
                held.check()

            samples = []
            try:
                for sample in self._engine.generate(plan, on_step):
                    samples.append(sample)
                    self._progress.moved()
                    held.check()
            finally:
                self._progress.end()
            log.info("generated", extra={"seconds": round(self._clock() - started, 3)})
            return Generated(prepared, tuple(samples), self._clock() - started)
        return None

    # --- stage 3: encode and publish

    def encode(self, generated: Generated) -> Encoded | None:
        prepared, plan = generated.prepared, generated.prepared.plan
        current_job.set(plan.job_id)
        with self.ended(prepared.held), self._node_faults_counted(plan):
            prepared.held.check()
            started = self._clock()
            self._screen_samples(generated)
            files: list[EncodedSample] = []
            try:
                for sample in generated.samples:
                    files.append(encode_sample(plan, sample, self._scratch, self._marking))
            except BaseException:
                _remove(files)
                raise
            return Encoded(prepared, tuple(files), generated, self._clock() - started)
        return None

    def _screen_samples(self, generated: Generated) -> None:
        """Pictures, or frames spread over a video; what is refused is neither encoded nor uploaded."""
        if self._image_screen is None:
            return
        plan = generated.prepared.plan
        purpose: Purpose = "frame" if plan.medium == "video" else "generated"
        for sample in generated.samples:
            last = len(sample.frames) - 1
            chosen = sorted({round(last * part / (SCREENED_FRAMES - 1)) for part in range(SCREENED_FRAMES)})
            verdict = self._image_screen.check([sample.frames[frame] for frame in chosen], purpose)
            if not verdict.allowed:
                texts = {"prompt": plan.prompt, "negative_prompt": plan.negative_prompt}
                self._refuse(Refusal(plan.job_id, plan.user_id, verdict.reason_id or "", texts))

    def publish(self, encoded: Encoded) -> None:
        """Upload the files and commit the job; the files are removed whatever happens."""
        prepared, plan = encoded.prepared, encoded.prepared.plan
        current_job.set(plan.job_id)
        with self.ended(prepared.held), _removed_afterwards(encoded.files):
            started = self._clock()
            if not self._may_publish(prepared.held):
                self._acknowledge_repeat(prepared.held)
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
            body = completed_body(plan, produced, adjustments, timings, self._facts(), prepared.held.attempt)
            self._finish(prepared.held, body)
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
            answer = self._persistently(
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
            self._persistently(
                held, lambda: self._storage.upload(bucket, file.key, file.path, file.content_type)
            )
        except ServiceRefused as error:
            log.error("the storage refuses a finished file: %s", error)
            raise GenerationFailed("The finished file was refused by the storage.") from error
        return file.key

    def _upload_thumbnail(self, held: Held, bucket: str, file: MediaFile) -> str | None:
        """A thumbnail never fails a job: a bucket that refuses it leaves it out."""
        try:
            self._persistently(
                held, lambda: self._storage.upload(bucket, file.key, file.path, file.content_type)
            )
        except ServiceRefused as error:
            log.warning("the bucket refuses thumbnails: %s", error)
            return None
        return file.key

    # --- ends

    @contextmanager
    def _node_faults_counted(self, plan: Plan) -> Iterator[None]:
        """Count what may be this node's fault, and nothing that a user can bring about.

        A shape that never fitted into this node's memory is the job's size; one that did is the node.
        """
        shape = (plan.width, plan.height, plan.num_frames, plan.num_images)
        try:
            yield
        except OutOfMemory:
            self.standing.node_faults += shape in self._fitted
            raise
        except JobError as error:
            self.standing.node_faults += error.node_fault
            raise
        if len(self._fitted) < REMEMBERED_SHAPES:
            self._fitted.add(shape)

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

    def _finish(self, held: Held, body: bytes) -> None:
        job_id = held.job_id
        assert job_id is not None
        # A cancellation that comes from here on loses: commit wins.
        outcome = self._persistently(held, lambda: self._queue.finish(held.lease, job_id, body))
        if outcome == "duplicate":
            log.info("the job was done before; its callback goes out again")
        # In this order: a worker that ends goes once its hands are empty and nothing is due.
        self._announcer.committed()
        self._hands.remove(held)

    def _acknowledge_repeat(self, held: Held) -> None:
        log.info("a repeated job is acknowledged without generating")
        self._finish(held, b"")

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

    def _persistently(self, held: Held, call: Callable[[], T]) -> T:
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
                    self.standing.waiting_for_mending.add(me)
                    pause = MISCONFIGURED_PAUSE_S
                    log.error("%s; no job is taken until this is mended; finished files are kept", error)
                attempt += 1
                held.pause(pause)
        finally:
            self.standing.waiting_for_mending.discard(me)


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
