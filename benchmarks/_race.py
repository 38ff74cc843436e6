"""Contestants that work off the same kind of jobs in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

from benchmarks._engines import Span
from benchmarks._world import Contestant, World

Jobs = Mapping[str, bytes]
"""Elements by job id."""


@dataclass(slots=True)
class Laps:
    """What one contestant did, in seconds. A cycle runs from one job's start to the next one's.

    The last job of a run only marks the end: until it begins there is always one that waits.
    """

    cycles: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def add(self, spans: Sequence[Span]) -> None:
        for span, following in pairwise(spans):
            self.cycles.append(following.start - span.start)
            self.gaps.append(following.start - span.end)

    @property
    def cycle_s(self) -> float:
        return fmean(self.cycles)


def race(
    surroundings: World, contestants: Mapping[str, Contestant], jobs: Mapping[str, Jobs]
) -> dict[str, list[Span]]:
    """Let the contestants named in `jobs` run at the same time, until the last file and callback is out."""
    for style, elements in jobs.items():
        contestants[style].push(*elements.values())
    spans = {style: contestants[style].spans(len(elements)) for style, elements in jobs.items()}
    for style, elements in jobs.items():
        if style != "bare":
            surroundings.wait_completed(list(elements))
    return spans
