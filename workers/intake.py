"""The first stage: from a queue element to a batch that is ready for the device."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shared.callback import Timings
from shared.enhance import Enhancer, enhance_or_original
from shared.errors import (
    Abandoned,
    Cancelled,
    Expired,
    JobError,
    JobReturned,
    MalformedElement,
    ServiceError,
)
from shared.job import Envelope, Job
from shared.log import current_job
from shared.plan import Enhancement, PlanDefaults, PromptWindow, derived_seed, make_plan, wants_enhancement
from shared.presets import Family
from shared.queue import Begun, Lease, WorkQueue
from workers.content import ContentRules
from workers.ends import Ends
from workers.engines.base import Engine
from workers.held import Hands, Held
from workers.merging import Candidate, Merging
from workers.stages import Batch, Prepared

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator decided about jobs. Seconds."""

    family: Family
    output_buckets: tuple[str, ...] = ()
    defaults: PlanDefaults = field(default_factory=PlanDefaults)
    max_deliveries: int = 3
    max_queue_age_s: float | None = None


class Intake:
    def __init__(
        self,
        *,
        queue: WorkQueue,
        engine: Engine,
        content: ContentRules,
        enhancer: Enhancer,
        rules: Rules,
        merging: Merging,
        hands: Hands,
        ends: Ends,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._engine = engine
        self._content = content
        self._enhancer = enhancer
        self._rules = rules
        self._merging = merging
        self._hands = hands
        self._ends = ends
        self._wall_clock = wall_clock
        self._clock = clock

    def batch(self, lease: Lease) -> Batch | None:
        """The job of the lease, and those next in the queue that run in one pass with it.

        None when the job ended here.
        """
        first = self._prepare(lease)
        if first is None:
            return None
        mates = self._mates(first)
        # Of those that were leased some may have ended; what is left has to be a batch that was run before.
        number = self._merging.together(first.plan, [Candidate.planned(mate.plan) for mate in mates])
        for mate in reversed(mates[number:]):
            with self._ends.ended(mate.held):
                raise JobReturned("it does not fit to the job that it was taken for")
        return Batch((first, *mates[:number]))

    def _mates(self, first: Prepared) -> list[Prepared]:
        """Jobs that wait now; nobody waits for more. They are looked at before they are leased."""
        room = 0 if first.held.marked else self._merging.room(first.plan)
        if not room:
            return []
        try:
            waiting = self._queue.peek(room)
            number = self._merging.together(first.plan, [self._candidate(raw) for raw in waiting])
            leases = self._queue.take_expected(waiting[:number]) if number else []
        except ServiceError as error:
            log.warning("%s; the job runs without others", error)
            return []
        prepared = [self._prepare(lease, mate=True) for lease in leases]
        return [mate for mate in prepared if mate is not None]

    def _candidate(self, raw: bytes) -> Candidate | None:
        """None for what does not become a plan: it is told so when its own turn comes."""
        try:
            return Candidate.of(self._parse(Envelope.decode(raw)))
        except (MalformedElement, JobError):
            return None

    def _parse(self, envelope: Envelope) -> Job:
        return Job.parse(envelope, self._rules.family, self._rules.output_buckets)

    def _prepare(self, lease: Lease, *, mate: bool = False) -> Prepared | None:
        """Everything up to the plan; None when the job ended here. `mate`: it is to run beside another."""
        started = self._clock()
        held = Held(lease)
        self._hands.add(held)
        with self._ends.ended(held):
            envelope = Envelope.decode(lease.raw)
            held.job_id, held.job_type = envelope.job_id, envelope.job_type
            current_job.set(held.job_id)
            begun = self._ends.persistently(held, lambda: self._queue.begin(lease, envelope.job_id))
            held.attempt, held.marked = begun.attempt, begun.marked
            if begun.done:
                self._ends.acknowledge_repeat(held)
                return None
            self._refuse_hopeless(begun)
            if held.marked:
                if mate:
                    raise JobReturned("it runs alone")
                # A worker died holding it. From here on nothing is beside it, so that a further death tells.
                self._hands.wait_alone(held)
            job = self._parse(envelope)
            held.bucket = job.bucket
            queue_wait = self._queue_wait(job)
            window = self._engine.prompt_window()
            self._content.check_job(job)
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

    def _enhance(self, job: Job, window: PromptWindow) -> Enhancement | None:
        if self._rules.family.name != "wan" or not wants_enhancement(job):
            return None
        seed = derived_seed(job.id) if job.seed is None else job.seed
        preset = job.preset
        enhancement = enhance_or_original(
            self._enhancer, job.prompt, preset.medium, preset.quality, window, seed
        )
        self._content.check_job(job, enhancement.prompt)
        return enhancement
