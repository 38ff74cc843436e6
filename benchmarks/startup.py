"""From a process's start until it takes jobs, by stage: `python -m benchmarks.startup`.

A worker that does side by side what can be is compared with one that does everything in turn; both are fresh
processes with a demo checkpoint, whose files are dropped from the page cache before.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime
from statistics import median

from benchmarks._measure import evict
from benchmarks._report import Cell, Figure, Section
from benchmarks._world import ROOT, World, world

NETWORK_S = 0.03
STYLES = ("worker", "worker-in-turn")
MODELS = {"sdxl": ROOT / "demo_models" / "sdxl-shapes", "wan": ROOT / "demo_models" / "wan-tiny"}
Stages = dict[str, list[float]]


def run(quick: bool) -> Section:
    rounds = 1 if quick else 3
    ready: dict[tuple[str, str], list[float]] = {(name, style): [] for name in MODELS for style in STYLES}
    stages: dict[str, Stages] = {}
    with world(NETWORK_S) as surroundings:
        for turn in range(rounds):
            for name, style in ready:
                seconds, stages_now = _start(surroundings, name, style, turn)
                ready[name, style].append(seconds)
                if style == "worker" and seconds <= min(ready[name, style]):
                    stages[name] = stages_now
    return _section(ready, stages, rounds)


def _start(surroundings: World, name: str, style: str, turn: int) -> tuple[float, Stages]:
    for file in MODELS[name].glob("*/*.safetensors"):
        evict(file)
    began = time.time()
    worker = surroundings.contestant(style, name, suffix=f"-{turn}")
    ready = datetime.fromisoformat(worker.logged("ready")["time"]).timestamp() - began
    stages: Stages = worker.logged("started")["stages"]
    worker.stop()
    return ready, stages


def _section(ready: dict[tuple[str, str], list[float]], stages: dict[str, Stages], rounds: int) -> Section:
    rows: list[tuple[Cell, ...]] = []
    figures: list[Figure] = []
    for name in MODELS:
        rows += [
            (f"{name}: {stage}", f"{begin:.2f}", f"{end:.2f}", f"{end - begin:.2f}")
            for stage, (begin, end) in stages[name].items()
        ]
        together, in_turn = (median(ready[name, style]) for style in STYLES)
        rows.append((f"{name}: ready", "", f"{together:.2f}", ""))
        figures += [
            Figure(f"{name}: seconds until ready", together),
            Figure(f"{name}: side by side / in turn", together / in_turn),
        ]
    return Section(
        title="Start of a worker",
        columns=("stage", "from, s", "to, s", "seconds"),
        rows=tuple(rows),
        figures=tuple(figures),
        notes=(
            f"Demo checkpoints from the disk, {1000 * NETWORK_S:.0f} ms before every answer of the storage;"
            f" stages of the quickest of {rounds} starts, medians of the whole.",
        ),
        data={
            "stages": [
                (f"{name}: {stage}", begin, end)
                for name, found in stages.items()
                for stage, (begin, end) in found.items()
            ],
            "ready_s": {f"{name}, {style}": seconds for (name, style), seconds in ready.items()},
        },
    )


if __name__ == "__main__":
    print(run(quick="--quick" in sys.argv[1:]))
