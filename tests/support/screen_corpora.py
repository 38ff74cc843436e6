"""The corpora of the content screen, and what is measured on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.screen import Screen, ScreenInput

CORPORA = Path(__file__).parent.parent / "screen" / "corpora"

REFUSE, PASS, ADULT_SERVICE, BENIGN = "refuse", "pass", "adult_service", "benign"
HELD_OUT_PREFIX = "heldout_"


@dataclass(frozen=True, slots=True)
class Tally:
    """How many texts were screened, and those that came out wrong."""

    total: int
    wrong: tuple[str, ...]

    @property
    def rate(self) -> float:
        """The share that came out wrong, 0 to 1."""
        return len(self.wrong) / self.total if self.total else 0.0


def lines(name: str) -> tuple[str, ...]:
    """The entries of the corpus `name`; `#` begins a comment line."""
    text = (CORPORA / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))


def tally(screen: Screen, texts: Iterable[str], *, allowed: bool) -> Tally:
    """How many of `texts` do not get the verdict `allowed`."""
    total, wrong = 0, []
    for text in texts:
        total += 1
        if screen.check(ScreenInput(text)).allowed is not allowed:
            wrong.append(text)
    return Tally(total, tuple(wrong))


def evaded(terms: Iterable[str], evade: Callable[[str], Iterator[tuple[str, str]]]) -> Iterator[str]:
    """Every term under every transformation of `evade`."""
    return (text for term in terms for _, text in evade(term))
