"""How soon an idle worker notices a job: from just before the push to the return of BLMOVE in the worker."""

from __future__ import annotations

import time

from benchmarks._engines import named_for
from benchmarks._report import Figure, Section, at_most, milliseconds
from benchmarks._world import TAKES, payload, world

SETTLE_S = 0.02
"""Between a job's last callback and the next push, so that the worker waits in BLMOVE again."""


def run(quick: bool) -> Section:
    """One job after the other through a whole worker, each pushed while the worker waits."""
    count = 30 if quick else 200
    lateness: list[float] = []
    with world() as surroundings:
        worker = surroundings.contestant("worker", **TAKES)
        for number in range(-5, count):
            name = named_for(0.0, f"notice-{number + 5}")
            element = payload(name, width=64, height=64)
            pushed = time.monotonic()
            worker.push(element)
            (take,) = worker.takes(1)
            surroundings.wait_completed([name])
            time.sleep(SETTLE_S)
            if number >= 0:  # the first ones warm it up
                lateness.append(take.taken - pushed)
    told = milliseconds(lateness)
    return Section(
        title="An idle worker notices a job",
        figures=(
            Figure("push to the take's return, p50, ms", told["p50_ms"], at_most(1.0), "{:.3f}"),
            Figure("push to the take's return, p99, ms", told["p99_ms"], at_most(5.0), "{:.3f}"),
        ),
        notes=(f"{count} jobs over loopback, the longest {told['max_ms']:.2f} ms.",),
        data={"notice_s": lateness},
    )
