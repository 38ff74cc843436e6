"""The CUDA path of both engines without a card: `make dry-run`.

Runs whole jobs at real shapes and in their real dtypes on fake tensors (no numbers, no memory, no driver) and
prints what a card would do: arithmetic and peak memory by stage, and the moments at which the host waits for
the card. A mismatch of devices or dtypes ends it with the traceback and exit code 1, and so does a count
that the memory planner does not foresee. Needs a CUDA build of torch, which `make dry-run` installs beside
the usual environment.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.dry_run.cases import CASES, STEPS, Case, Outcome, run
from shared.presets import PRESETS
from workers.engines.memory import (
    GIB,
    RESERVE_BYTES,
    PartSizes,
    decode_bytes,
    denoise_bytes,
    plan_memory,
)

TOLERANCE: Final = 0.10
"""How far the planner's formulas may be from the counts."""

CARDS: Final[dict[str, float]] = {
    "H100, A100 80 GB": 79.1,
    "L40S, A6000 48 GB": 44.5,
    "RTX 5090 32 GB": 31.3,
    "RTX 4090, 3090, A5000 24 GB": 23.6,
    "RTX 4000 Ada 20 GB": 19.6,
    "RTX 4080, A4000 16 GB": 15.7,
    "RTX 3060 12 GB": 11.6,
    "RTX 4060 8 GB": 7.6,
}
"""GiB that the driver reports of each."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dry_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", help="cases whose name holds this")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    chosen = parser.parse_args()
    # The scheduler's own table takes the logarithm of its last sigma, 0.
    warnings.filterwarnings("ignore", message="divide by zero encountered in log")
    outcomes = []
    for case in CASES:
        if chosen.only and chosen.only not in case.name:
            continue
        outcome = _tried(case)
        if outcome is None:
            return 1
        outcomes.append(outcome)
    wrong = [fault for outcome in outcomes for fault in _unforeseen(outcome)]
    _print_cards(outcomes)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([_as_json(outcome) for outcome in outcomes], indent=1) + "\n")
    for fault in wrong:
        print(fault, file=sys.stderr)
    return 1 if wrong else 0


def _tried(case: Case) -> Outcome | None:
    started = time.monotonic()
    try:
        outcome = run(case)
    # Whatever a card would refuse: this is what the dry run is for.
    except Exception:  # noqa: BLE001
        print(f"{case.name}: FAILED", file=sys.stderr)
        traceback.print_exc()
        return None
    _print(outcome, time.monotonic() - started)
    return outcome


def _print(outcome: Outcome, seconds: float) -> None:
    plan = outcome.plan
    frames = f", {plan.num_frames} frames" if plan.num_frames > 1 else ""
    print(
        f"\n{outcome.case.name}: {plan.width}x{plan.height}{frames}, {outcome.weight_bytes / GIB:.2f} GiB of"
        f" weights, {outcome.applied} ({seconds:.0f} s)"
    )
    print(f"  {'stage':<10}{'TFLOP':>10}{'peak GiB':>11}{'above the weights':>20}{'waits':>8}")
    for stage in outcome.stages:
        share = 1 / STEPS if stage.name == "steps" else 1
        name = "a step" if stage.name == "steps" else stage.name
        print(
            f"  {name:<10}{stage.flops * share / 1e12:>10.2f}{stage.peak_bytes / GIB:>11.2f}"
            f"{(stage.peak_bytes - outcome.weight_bytes) / GIB:>20.2f}{stage.syncs * share:>8g}"
        )
    print(f"  a job of {_steps(outcome)} steps: {_job_flops(outcome) / 1e12:.0f} TFLOP", flush=True)


def _steps(outcome: Outcome) -> int:
    return PRESETS[outcome.case.job_type].num_inference_steps


def _job_flops(outcome: Outcome) -> float:
    text, steps, decode = outcome.stages
    return text.flops + steps.flops / STEPS * _steps(outcome) + decode.flops


def _unforeseen(outcome: Outcome) -> list[str]:
    """Where the memory planner of WAN is further from the counts than it may be."""
    plan = outcome.plan
    if plan.family.name != "wan":
        return []
    size = plan.width, plan.height, plan.num_frames
    _, steps, decode = outcome.stages
    faults = []
    for name, stage, foreseen in (
        ("denoising", steps, denoise_bytes(*size, 2, plan.num_images)),
        ("decoding", decode, decode_bytes(*size, 2)),
    ):
        counted = stage.peak_bytes - outcome.weight_bytes
        # What a batch leaves on the card besides (its latents, the embeddings) is no part of the formulas.
        if counted > foreseen * (1 + TOLERANCE):
            faults.append(
                f"{outcome.case.name}: {name} takes {counted / GIB:.2f} GiB above the weights, the memory"
                f" planner foresees {foreseen / GIB:.2f}; correct workers/engines/memory.py."
            )
    return faults


def _print_cards(outcomes: list[Outcome]) -> None:
    """What fits where, with the planner's reserve for what no count shows."""
    pictures = [outcome for outcome in outcomes if outcome.plan.family.name == "sdxl"]
    videos = [outcome for outcome in outcomes if outcome.plan.medium == "video"]
    if not pictures or not videos:
        return
    print(f"\n{'card':<30}{'SDXL pictures at once':>24}   WAN")
    for name, gib in CARDS.items():
        budget = int(gib * GIB)
        fitting = [
            outcome.case.num_images for outcome in pictures if _peak(outcome) + RESERVE_BYTES <= budget
        ]
        memory = plan_memory(budget, _wan_parts(), 2)
        wan = str(memory) if memory.fits else "does not fit"
        print(f"{name:<30}{max(fitting, default=0):>24}   {wan}")


def _peak(outcome: Outcome) -> int:
    return max(stage.peak_bytes for stage in outcome.stages)


def _wan_parts() -> PartSizes:
    from benchmarks._real_shape_wan import WEIGHTS

    return PartSizes(**{name: count * 2 for name, count in WEIGHTS.items()})


def _as_json(outcome: Outcome) -> dict[str, Any]:
    plan = outcome.plan
    return {
        "case": outcome.case.name,
        "width": plan.width,
        "height": plan.height,
        "num_frames": plan.num_frames,
        "steps_counted": STEPS,
        "weight_bytes": outcome.weight_bytes,
        "applied": outcome.applied,
        "stages": [asdict(stage) for stage in outcome.stages],
        "job_flops": _job_flops(outcome),
    }


if __name__ == "__main__":
    raise SystemExit(main())
