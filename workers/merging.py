"""Which waiting jobs run in one pass with another. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shared.job import Job
from shared.plan import Plan, Shape, shape_of
from workers.engines.base import BatchSize, Pass


@dataclass(frozen=True, slots=True)
class Candidate:
    """What decides whether a job fits to others."""

    job_id: str
    shape: Shape
    num_images: int

    @classmethod
    def of(cls, job: Job) -> Candidate:
        """Raises `Unsupported` where the job has no plan."""
        return cls(job.id, shape_of(job), job.num_images or 1)

    @classmethod
    def planned(cls, plan: Plan) -> Candidate:
        return cls(plan.job_id, plan.shape, plan.num_images)


@dataclass(frozen=True, slots=True)
class Merging:
    """At most `limit` pictures in one pass, in numbers that the engine has run before."""

    limit: int = 1
    warmed: frozenset[BatchSize] = frozenset()

    def room(self, plan: Plan) -> int:
        """How many pictures of other jobs there is room for beside the plan's."""
        return max(0, self.limit - plan.num_images) if plan.num_frames == 1 else 0

    def together(self, plan: Plan, waiting: Sequence[Candidate | None]) -> int:
        """How many of the next waiting jobs run in one pass with the plan; None stands for what cannot.

        Jobs are never taken out of their order, so the first that does not fit ends the row.
        """
        alone = Pass.of(plan).size
        images, ids, best = plan.num_images, {plan.job_id}, 0
        for number, job in enumerate(waiting, start=1):
            if job is None or job.shape != plan.shape or job.job_id in ids:
                break
            images += job.num_images
            if images > self.limit:
                break
            ids.add(job.job_id)
            if replace(alone, num_images=images) in self.warmed:
                best = number
        return best
