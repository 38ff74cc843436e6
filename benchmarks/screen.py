"""Recall, false refusals and time of the content screen: `python -m benchmarks.screen`.

Recall is the share of a corpus of refused terms that is refused, as written and under every generated evasion
(each normalisation and every pair of them); false refusals are the share of harmless texts that is refused.
Each figure is printed for the corpora the rules were tuned on and for those written without sight of them.
The time is CPU time of one check of 10,000 hostile characters, the best of several runs, by kind.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from shared.screen import Screen, ScreenInput

# The corpora and the evasions belong to the tests; the benchmark reads the same ones.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.evasions import paired, single
from support.hostile_texts import hostile_texts
from support.screen_corpora import (
    ADULT_SERVICE,
    BENIGN,
    CORPORA,
    HELD_OUT_PREFIX,
    PASS,
    REFUSE,
    evaded,
    lines,
    tally,
)

HOSTILE_CHARACTERS = 10_000
MAX_MILLISECONDS = 5.0
MIN_RECALL_PLAIN, MIN_RECALL_EVADED = 0.995, 0.98
MAX_REFUSED_BENIGN, MAX_REFUSED_ADULT_SERVICE = 0.005, 0.02
REPETITIONS = 40


def main() -> int:
    """Print the figures; 1 where a bar is missed, 0 where all are met."""
    arguments = _arguments()
    screen = Screen.standard()
    met = True
    for prefix, title in (("", "own corpora"), (HELD_OUT_PREFIX, "held-out corpora")):
        if not (arguments.own_only and prefix) and (CORPORA / f"{prefix}{REFUSE}.txt").exists():
            print(f"\n{title}")
            met &= _report_corpora(screen, prefix, show=arguments.show, every=arguments.every)
    print(f"\ntime for {HOSTILE_CHARACTERS} hostile characters, best of {REPETITIONS}, CPU time")
    return 0 if _report_time(screen) and met else 1


def _report_corpora(screen: Screen, prefix: str, *, show: bool, every: int) -> bool:
    terms = lines(prefix + REFUSE)
    figures = (
        _recall(screen, "recall, plain", terms, MIN_RECALL_PLAIN, show),
        _recall(screen, "recall, each evasion", evaded(terms, single), MIN_RECALL_EVADED, show),
        _recall(screen, "recall, pairs of evasions", evaded(terms[::every], paired), MIN_RECALL_EVADED, show),
        _false(screen, "false refusals, benign", lines(prefix + BENIGN), MAX_REFUSED_BENIGN, show),
        _false(
            screen,
            "false refusals, adult service",
            lines(prefix + ADULT_SERVICE),
            MAX_REFUSED_ADULT_SERVICE,
            show,
        ),
        _false(screen, "false refusals, near misses", lines(prefix + PASS), None, show),
    )
    return all(figures)


def _recall(screen: Screen, title: str, texts: Iterable[str], bar: float, show: bool) -> bool:
    result = tally(screen, texts, allowed=False)
    return _line(
        title, 1 - result.rate, result.total, result.wrong, (">=", bar), 1 - result.rate >= bar, show
    )


def _false(screen: Screen, title: str, texts: Iterable[str], bar: float | None, show: bool) -> bool:
    result = tally(screen, texts, allowed=True)
    met = bar is None or result.rate <= bar
    return _line(title, result.rate, result.total, result.wrong, ("<=", bar), met, show)


def _line(
    title: str,
    share: float,
    total: int,
    wrong: tuple[str, ...],
    bar: tuple[str, float | None],
    met: bool,
    show: bool,
) -> bool:
    against = f"bar {bar[0]} {bar[1]:.1%}" if bar[1] is not None else "no bar"
    print(
        f"  {title:<32}{share:>9.2%}   {len(wrong)} wrong of {total}   {against}{'' if met else '   MISSED'}"
    )
    if show:
        for text in wrong[:100]:
            print(f"      {text!r}")
    return met


def _report_time(screen: Screen) -> bool:
    best = _best_milliseconds(screen, hostile_texts(HOSTILE_CHARACTERS))
    slowest = sorted(((milliseconds, name) for name, milliseconds in best.items()), reverse=True)
    for milliseconds, name in slowest[:8]:
        print(f"  {name:<32}{milliseconds:>9.2f} ms")
    worst = slowest[0][0]
    met = worst < MAX_MILLISECONDS
    print(f"  worst {worst:.2f} ms, bar < {MAX_MILLISECONDS:.0f} ms{'' if met else '   MISSED'}")
    return met


def _best_milliseconds(screen: Screen, texts: Mapping[str, str]) -> dict[str, float]:
    """The least CPU time of one check of each text, in rounds: a busy moment must not fall on one text."""
    best = dict.fromkeys(texts, float("inf"))
    for _ in range(REPETITIONS):
        for name, text in texts.items():
            begun = time.thread_time()
            screen.check(ScreenInput(text))
            best[name] = min(best[name], (time.thread_time() - begun) * 1_000)
    return best


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--own-only", action="store_true", help="leave the held-out corpora alone, as tuning must"
    )
    parser.add_argument("--show", action="store_true", help="list what came out wrong")
    parser.add_argument(
        "--every", type=int, default=1, help="pairs for every nth term only; the full set takes minutes"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
