"""python -m tests.chaos: kill workers for a long time and look whether anything was lost or came twice.

Ends with 1 where a promise was broken; each breach is printed.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from chaos.scenarios import SCENARIOS, Outcome, run, run_poison  # noqa: E402
from chaos.world import Workshop, World  # noqa: E402

POISON = "poison"
COLUMNS = "kills jobs completed failed processing repeated attempts".split()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="kill -9 in the scenario `kills`")
    parser.add_argument("--each", type=int, default=40, help="kills in each of the other scenarios")
    parser.add_argument("--gap", type=float, default=0.7, help="mean seconds between two kills")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn")
    parser.add_argument(
        "--scenario",
        action="append",
        choices=[*SCENARIOS, POISON],
        help="may be repeated (default: all)",
    )
    parser.add_argument("--side-by-side", type=int, default=2, help="scenarios at a time")
    arguments = parser.parse_args()
    names = arguments.scenario or [*SCENARIOS, POISON]

    gap_s = 0.3 * arguments.gap, 1.7 * arguments.gap

    def disturb(name: str) -> Outcome:
        if name == POISON:
            outcome = run_poison(workshop, seed=arguments.seed)
        else:
            kills = arguments.kills if name == "kills" else arguments.each
            outcome = run(
                workshop,
                SCENARIOS[name],
                kills=kills,
                seconds=5,
                seed=arguments.seed,
                gap_s=gap_s,
                tell=Teller(name),
            )
        say(f"{name:<16} {outcome.seconds:6.0f} s {outcome.kills:6} kills  ended")
        for breach in outcome.breaches[:50]:
            say(f"{name:<16} BREACH {breach}")
        return outcome

    with Workshop() as workshop, ThreadPoolExecutor(arguments.side_by_side) as pool:
        outcomes = list(pool.map(disturb, names))
    print_table(outcomes)
    return 1 if any(outcome.breaches for outcome in outcomes) else 0


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


class Teller:
    """Prints how far a run is, every 25 kills."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started = time.monotonic()
        self._told = 0

    def __call__(self, world: World) -> None:
        if world.kills >= self._told + 25:
            self._told = world.kills
            seconds = time.monotonic() - self._started
            pushed, begun = len(world.pushed), len(world.receiver.accepted)
            say(f"{self._name:<16} {seconds:6.0f} s {world.kills:6} kills {pushed:7} jobs {begun:7} begun")


def print_table(outcomes: list[Outcome]) -> None:
    say(f"{'scenario':<16}" + "".join(f"{name:>12}" for name in [*COLUMNS, "seconds", "breaches"]))
    for outcome in outcomes:
        figures = "".join(f"{getattr(outcome, name):>12}" for name in COLUMNS)
        say(f"{outcome.name:<16}{figures}{outcome.seconds:>12.0f}{len(outcome.breaches):>12}")


if __name__ == "__main__":
    sys.exit(main())
