"""The worker against the bare loop with models that calculate: the demo checkpoints, torch on one thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks._race import Jobs, Laps, race
from benchmarks._report import Cell, Figure, Section
from benchmarks._world import World, payload, world

NETWORK_S = 0.03
SIDE = 128
STYLES = ("bare", "worker", "common")


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    engine: str
    payload: str
    config: Mapping[str, Any]
    num_images: int
    jobs: int
    styles: tuple[str, ...]


_STEPS = {"sample_steps": 10, "num_inference_steps": 10}
CASES = (
    Case(
        "SDXL, 1 picture",
        "sdxl",
        "sdxl_image_fast",
        {"width": SIDE, "height": SIDE, **_STEPS},
        1,
        6,
        STYLES,
    ),
    Case(
        "SDXL, 6 pictures",
        "sdxl",
        "sdxl_image_fast",
        {"width": SIDE, "height": SIDE, **_STEPS},
        6,
        3,
        STYLES,
    ),
    # The common style of this comparison writes no videos.
    Case(
        "WAN, a video of 17 frames",
        "wan",
        "video_fast",
        {"size": f"{SIDE}*{SIDE}", "frame_num": 17, **_STEPS},
        1,
        4,
        ("bare", "worker"),
    ),
)


def run(quick: bool) -> Section:
    cycles: dict[str, dict[str, float]] = {}
    with world(NETWORK_S) as surroundings:
        for engine in dict.fromkeys(case.engine for case in CASES):
            cycles |= _measure(surroundings, engine, rounds=1 if quick else 2)
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            *(f"{of_case[style]:.2f}" if style in of_case else "" for style in STYLES),
            f"{of_case['worker'] / of_case['bare']:.3f}",
            f"{of_case['common'] / of_case['worker']:.2f}x" if "common" in of_case else "",
        )
        for name, of_case in cycles.items()
    ]
    return Section(
        title="The worker and the bare loop with the demo checkpoints",
        columns=("seconds a job", *STYLES, "worker/bare", "common/worker"),
        rows=tuple(rows),
        figures=tuple(
            Figure(f"wall / bare loop, {name}", of_case["worker"] / of_case["bare"], None, "{:.3f}")
            for name, of_case in cycles.items()
        ),
        notes=(
            f"{SIDE}x{SIDE}, {_STEPS['sample_steps']} steps, torch on one thread,"
            f" {1000 * NETWORK_S:.0f} ms before every answer; the styles take turns.",
        ),
        data={"cycle_s": cycles},
    )


def _measure(surroundings: World, engine: str, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds from one job's start to the next one's, by case and style; all cases share the processes."""
    cases = [case for case in CASES if case.engine == engine]
    contestants = {style: surroundings.contestant(style, engine) for style in cases[0].styles}
    laps = {case.name: {style: Laps() for style in case.styles} for case in cases}
    for case in cases:
        for turn in range(-1, rounds):  # One job first, as the first of a process pays for its imports.
            for style in case.styles:
                count = 1 if turn < 0 else case.jobs
                jobs = {style: _jobs(case, f"{style}-{turn + 1}", count)}
                laps[case.name][style].add(race(surroundings, contestants, jobs)[style])
    for contestant in contestants.values():
        contestant.stop()
    return {
        name: {style: of_style.cycle_s for style, of_style in of_case.items()}
        for name, of_case in laps.items()
    }


def _jobs(case: Case, rest: str, count: int) -> Jobs:
    names = [f"{case.engine}-{case.num_images}-{rest}-{number}" for number in range(count)]
    return {name: payload(name, case.num_images, case.payload, **case.config) for name in names}
