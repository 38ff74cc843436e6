"""Whether a worker grows: its resident memory over 1,000 jobs."""

from __future__ import annotations

from benchmarks._engines import named_for
from benchmarks._report import Figure, Section, at_most
from benchmarks._world import payload, world

BLOCK = 50
JOB_S = 0.02
"""Less than encoding takes, so that the hand-overs are full."""


def run(quick: bool) -> Section:
    """Blocks of jobs of 1024x1024; it is looked at between two blocks, when everything is delivered."""
    total = 200 if quick else 1000
    done, resident = [0], [0]
    with world() as surroundings:
        worker = surroundings.contestant("worker", SPOOL_MB="100")
        for first in range(0, total, BLOCK):
            names = [named_for(JOB_S, f"memory-{number}") for number in range(first, first + BLOCK)]
            worker.push(*(payload(name) for name in names))
            worker.spans(BLOCK)
            surroundings.wait_completed(names)
            done.append(first + BLOCK)
            resident.append(worker.resident_bytes())
    resident_mb = [count / 2**20 for count in resident]
    early, late = resident_mb[done.index(100)], resident_mb[-1]
    return Section(
        title="Resident memory of a worker",
        figures=(
            Figure("after 100 jobs, MB", early, None, "{:.1f}"),
            Figure(f"after {total} jobs, MB", late, None, "{:.1f}"),
            Figure(f"after {total} / after 100", late / early, at_most(1.02), "{:.4f}"),
        ),
        notes=(f"1024x1024, looked at every {BLOCK} jobs; the most was {max(resident_mb):.1f} MB.",),
        data={"jobs": done[1:], "resident_mb": resident_mb[1:]},
    )
