"""The worker against the bare loop with models that calculate: the demo checkpoints, torch on one thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks._race import Jobs, Laps, race
from benchmarks._report import Cell, Figure, Section
from benchmarks._world import payload, world

NETWORK_S = 0.03
SIDE = 128


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
        ("bare", "worker", "common"),
    ),
    Case(
        "SDXL, 6 pictures",
        "sdxl",
        "sdxl_image_fast",
        {"width": SIDE, "height": SIDE, **_STEPS},
        6,
        3,
        ("bare", "worker", "common"),
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
    rounds = 1 if quick else 2
    rows: list[tuple[Cell, ...]] = []
    figures: list[Figure] = []
    data: dict[str, dict[str, float]] = {}
    with world(NETWORK_S) as surroundings:
        contestants = {
            engine: {
                style: surroundings.contestant(style, engine)
                for style in next(case.styles for case in CASES if case.engine == engine)
            }
            for engine in ("sdxl", "wan")
        }
        for case in CASES:
            laps = {style: Laps() for style in case.styles}
            for style in case.styles:  # The first job of a process pays for its imports.
                race(surroundings, contestants[case.engine], {style: _jobs(case, f"{style}-warm-up", 1)})
            for turn in range(rounds):
                for style in case.styles:
                    jobs = {style: _jobs(case, f"{style}-{turn}", case.jobs)}
                    laps[style].add(race(surroundings, contestants[case.engine], jobs)[style])
            cycles = {style: lap.cycle_s for style, lap in laps.items()}
            rows.append(
                (
                    case.name,
                    *(f"{cycles[style]:.2f}" if style in cycles else "" for style in CASES[0].styles),
                    f"{cycles['worker'] / cycles['bare']:.3f}",
                    f"{cycles['common'] / cycles['worker']:.2f}x" if "common" in cycles else "",
                )
            )
            figures.append(
                Figure(f"worker / bare loop, {case.name}", cycles["worker"] / cycles["bare"], None, "{:.3f}")
            )
            data[case.name] = cycles
    return Section(
        title="The worker and the bare loop with the demo checkpoints",
        columns=("seconds a job", "bare", "worker", "common", "worker/bare", "common/worker"),
        rows=tuple(rows),
        figures=tuple(figures),
        notes=(
            f"{SIDE}x{SIDE}, {_STEPS['sample_steps']} steps, torch on one thread,"
            f" {1000 * NETWORK_S:.0f} ms before every answer; the styles take turns.",
        ),
        data={"cycle_s": data},
    )


def _jobs(case: Case, rest: str, count: int) -> Jobs:
    names = [f"{case.engine}-{case.num_images}-{rest}-{number}" for number in range(count)]
    return {name: payload(name, case.num_images, case.payload, **case.config) for name in names}
