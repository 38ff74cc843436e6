"""What comes out of an engine's pass, job by job."""

from __future__ import annotations

from collections.abc import Iterable

from workers.engines.base import Drawn, Sample


def samples_of(drawn: Iterable[Drawn]) -> list[list[Sample]]:
    """The samples of each job of a pass; raises what one of them failed with."""
    jobs: dict[int, list[Sample]] = {}
    for one in drawn:
        if not isinstance(one.result, Sample):
            raise one.result
        jobs.setdefault(one.job, []).append(one.result)
    return [jobs[number] for number in sorted(jobs)]
