"""Jobs that run in one pass (MAX_BATCH_IMAGES) against one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks._engines import Span, named_for
from benchmarks._race import Jobs, race
from benchmarks._report import Cell, Figure, Section
from benchmarks._world import World, payload, world

TOGETHER = 6
SIDE = 128


@dataclass(frozen=True, slots=True)
class Case:
    """One-picture jobs. `picture_s` and the variables describe the stand-in; None for a checkpoint."""

    name: str
    engine: str
    jobs: int
    variables: Mapping[str, str]
    config: Mapping[str, Any]
    picture_s: float | None = None


_SMALL = {"width": SIDE, "height": SIDE, "num_inference_steps": 10, "sample_steps": 10}
CASES = (
    Case("model: 0.4 s + 0.1 s a picture", "stand-in", 12, {"BENCHMARK_PASS_S": "0.4"}, {}, 0.1),
    Case("model: 0 s + 0.5 s a picture", "stand-in", 6, {"BENCHMARK_PASS_S": "0"}, {}, 0.5),
    Case(
        f"SDXL demo checkpoint, {SIDE}x{SIDE}",
        "sdxl",
        6,
        {"WARMUP_SIZES": f"{SIDE}x{SIDE}", "WARMUP_S": "120"},
        _SMALL,
    ),
)


def run(quick: bool) -> Section:
    rounds = 1 if quick else 2
    rows: list[tuple[Cell, ...]] = []
    figures: list[Figure] = []
    data: dict[str, Any] = {}
    with world() as surroundings:
        for case in CASES:
            seconds, passes = _measure(surroundings, case, rounds)
            ratio = seconds["separate"] / seconds["merged"]
            rows.append(
                (
                    case.name,
                    *(f"{seconds[way]:.3f}" for way in ("separate", "merged")),
                    f"{passes:.1f}",
                    f"{ratio:.2f}x",
                )
            )
            figures.append(Figure(f"pictures a second, merged / separate, {case.name}", ratio))
            data[case.name] = seconds | {"jobs_a_pass": passes}
    return Section(
        title="Jobs in one pass against one after the other",
        columns=("seconds a picture", "separate", "merged", "jobs a pass", "gain"),
        rows=tuple(rows),
        figures=tuple(figures),
        notes=(
            f"One picture a job, up to {TOGETHER} in a pass. A model is the stand-in with a time of a pass"
            " and of a picture: it shows what the worker makes of such a device, not what a device does.",
        ),
        data=data,
    )


def _measure(surroundings: World, case: Case, rounds: int) -> tuple[dict[str, float], float]:
    """Seconds a picture by way, from the first start to the last end, and the jobs in a merged pass."""
    contestants = {
        way: surroundings.contestant(
            "worker", case.engine, f"-{way}-{len(case.name)}", **case.variables, MAX_BATCH_IMAGES=str(images)
        )
        for way, images in (("separate", 1), ("merged", TOGETHER))
    }
    spans: dict[str, list[list[Span]]] = {way: [] for way in contestants}
    for way in contestants:  # The first job of a process pays for its imports.
        race(surroundings, contestants, {way: _jobs(case, f"{len(case.name)}-{way}-warm-up", 1)})
    for turn in range(rounds):
        for way in contestants:
            jobs = {way: _jobs(case, f"{len(case.name)}-{way}-{turn}", case.jobs)}
            spans[way].append(race(surroundings, contestants, jobs)[way])
    for contestant in contestants.values():
        contestant.stop()
    seconds = {
        way: sum(run[-1].end - run[0].start for run in runs) / (rounds * case.jobs)
        for way, runs in spans.items()
    }
    passes = sum(len({span.start for span in run}) for run in spans["merged"])
    return seconds, rounds * case.jobs / passes


def _jobs(case: Case, rest: str, count: int) -> Jobs:
    def name(number: int) -> str:
        told = f"merged-{rest}-{number}"
        return told if case.picture_s is None else named_for(case.picture_s, told)

    return {name(number): payload(name(number), **case.config) for number in range(count)}
