"""How long the device waits: the worker, the bare loop and the common style on an engine that only sleeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks._engines import named_for
from benchmarks._race import Jobs, Laps, race
from benchmarks._report import Cell, Figure, Section, at_least, at_most, milliseconds
from benchmarks._world import payload, world

NETWORK_S = 0.03
STYLES = ("bare", "worker", "common", "common-quick")
BUSY, BUSY_AT_A_TENTH = 0.99, 0.97


@dataclass(frozen=True, slots=True)
class Case:
    """How many jobs each style does in each of `rounds`. Side by side where the engine is slow."""

    picture_s: float
    num_images: int
    jobs: Mapping[str, int]
    rounds: int = 2
    side_by_side: bool = False

    @property
    def name(self) -> str:
        return f"{self.picture_s:g} s, {self.num_images} a job"

    @property
    def job_s(self) -> float:
        return self.picture_s * self.num_images


FULL = (
    Case(0.1, 1, {"bare": 40, "worker": 300, "common": 8}, rounds=1),
    Case(0.1, 6, {"bare": 8, "worker": 24, "common": 2}, rounds=1),
    Case(0.5, 1, {"bare": 8, "worker": 16, "common": 4, "common-quick": 4}),
    Case(0.5, 6, {"bare": 3, "worker": 5, "common": 2, "common-quick": 2}, rounds=1),
    Case(4.0, 1, {"bare": 8, "worker": 8, "common": 6}, rounds=1, side_by_side=True),
    Case(4.0, 6, {"bare": 3, "worker": 3, "common": 2}, rounds=1, side_by_side=True),
)
QUICK = (
    Case(0.1, 1, {"bare": 20, "worker": 30, "common": 3}, rounds=1),
    Case(0.1, 6, {"bare": 3, "worker": 4, "common": 2}, rounds=1),
    Case(0.5, 1, {"bare": 4, "worker": 6, "common": 3, "common-quick": 3}, rounds=1),
)


def run(quick: bool) -> Section:
    """All cases; the styles take turns, in processes that live through all of it."""
    cases = QUICK if quick else FULL
    results = [(case, {style: Laps() for style in case.jobs}) for case in cases]
    with world(NETWORK_S) as surroundings:
        contestants = {
            style: surroundings.contestant(style)
            for style in dict.fromkeys(style for case in cases for style in case.jobs)
        }
        for style in contestants:  # The first job of a process pays for its imports.
            race(surroundings, contestants, _jobs(Case(0.1, 1, {style: 2}), [style], "warm-up"))
        for case, by_style in results:
            together = [list(case.jobs)] if case.side_by_side else [[style] for style in case.jobs]
            for turn in range(case.rounds):
                for styles in together:
                    jobs = _jobs(case, styles, str(turn))
                    for style, spans in race(surroundings, contestants, jobs).items():
                        by_style[style].add(spans)
    return _section(results)


def _jobs(case: Case, styles: Iterable[str], turn: str) -> dict[str, Jobs]:
    jobs: dict[str, Jobs] = {}
    for style in styles:
        rest = f"{style}-{case.num_images}-{turn}"
        names = [named_for(case.picture_s, f"{rest}-{number}") for number in range(case.jobs[style])]
        jobs[style] = {name: payload(name, case.num_images) for name in names}
    return jobs


def _section(results: Sequence[tuple[Case, Mapping[str, Laps]]]) -> Section:
    rows: list[tuple[Cell, ...]] = []
    figures: list[Figure] = []
    shares: dict[str, dict[str, float]] = {}
    for case, by_style in results:
        cycle = {style: laps.cycle_s for style, laps in by_style.items()}
        busy = {style: case.job_s / seconds for style, seconds in cycle.items()}
        rows.append((case.name, *_cells(busy, cycle)))
        figures += _figures(case, busy, cycle)
        shares[case.name] = busy
    gaps = {
        style: [gap for _, by_style in results if style in by_style for gap in by_style[style].gaps]
        for style in ("worker", "common")
    }
    told = milliseconds(gaps["worker"])
    figures += [
        Figure("gap between two jobs, p50, ms", told["p50_ms"], at_most(2.0)),
        Figure("gap between two jobs, p99, ms", told["p99_ms"], at_most(10.0)),
    ]
    return Section(
        title="The worker, the bare loop and the common style, on an engine that sleeps",
        columns=("s a picture", "busy: bare", "worker", "common", "common*", "worker/bare", "common/worker"),
        rows=tuple(rows),
        figures=tuple(figures),
        notes=(
            "Busy: engine time over the time from the first job's start to the last one's; one always waits.",
            f"1024x1024, {1000 * NETWORK_S:.0f} ms before every answer of storage and callback.",
            "common*: PNG at Pillow's default in place of `optimize`.",
            f"The longest of {len(gaps['worker'])} gaps of the worker is {told['max_ms']:.1f} ms; the common"
            f" style's p50 {milliseconds(gaps['common'])['p50_ms']:.0f} ms.",
        ),
        data={"busy": shares, "gaps_s": gaps},
    )


def _cells(busy: Mapping[str, float], cycle: Mapping[str, float]) -> list[Cell]:
    shown = [f"{busy[style]:.1%}" if style in busy else "" for style in STYLES]
    return [*shown, f"{cycle['worker'] / cycle['bare']:.4f}", f"{cycle['common'] / cycle['worker']:.2f}x"]


def _figures(case: Case, busy: Mapping[str, float], cycle: Mapping[str, float]) -> list[Figure]:
    least = BUSY_AT_A_TENTH if case.picture_s < 0.5 else BUSY
    figures = [Figure(f"busy, {case.name}", busy["worker"], at_least(least), "{:.2%}")]
    if case.picture_s >= 0.5:
        against_bare = cycle["worker"] / cycle["bare"]
        figures.append(Figure(f"wall / bare loop, {case.name}", against_bare, at_most(1.01), "{:.4f}"))
    if case.picture_s == 0.5:
        figures += [
            Figure(
                f"wall of the {style} style / ours, {case.name}",
                cycle[style] / cycle["worker"],
                at_least(1.6),
            )
            for style in ("common", "common-quick")
        ]
    return figures
