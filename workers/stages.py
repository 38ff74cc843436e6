"""What one stage hands to the next."""

from __future__ import annotations

from dataclasses import dataclass

from shared.callback import Timings
from shared.plan import Plan
from workers.encode import EncodedSample
from workers.engines.base import Pass, Sample
from workers.held import Held


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that is ready for the device. `timings` holds what is known so far."""

    held: Held
    plan: Plan
    timings: Timings


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that run in one pass: one of them, unless merging is on."""

    jobs: tuple[Prepared, ...]

    @property
    def run(self) -> Pass:
        return Pass(tuple(job.plan for job in self.jobs))

    @property
    def unwanted(self) -> bool:
        """Whether every job is to be stopped."""
        return all(job.held.stopped for job in self.jobs)


@dataclass(frozen=True, slots=True)
class Generated:
    """What became of a job on the device: all its samples, or the `failure` that it has to end with.

    `generate_s` are the seconds of its pass up to its last sample, `jobs_in_pass` how many shared them.
    """

    prepared: Prepared
    samples: tuple[Sample, ...]
    generate_s: float
    jobs_in_pass: int = 1
    failure: Exception | None = None

    @property
    def size(self) -> int:
        """Bytes in main memory."""
        return sum(sample.frames.nbytes for sample in self.samples)


@dataclass(frozen=True, slots=True)
class Encoded:
    generated: Generated
    files: tuple[EncodedSample, ...]
    encode_s: float

    @property
    def prepared(self) -> Prepared:
        return self.generated.prepared

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(item.file.size + item.thumbnail.size for item in self.files)
