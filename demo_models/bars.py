"""Figures with the values they must reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """A figure with the value it must reach."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        return (self.least is None or self.value >= self.least) and (
            self.most is None or self.value <= self.most
        )

    def __str__(self) -> str:
        bound = f"  (bar: >= {self.least:g})" if self.least is not None else ""
        bound = f"  (bar: <= {self.most:g})" if self.most is not None else bound
        return f"{self.name:<64} {self.value:.4g}{bound}{'' if self.met else '  MISSED'}"


def report(bars: Sequence[Bar], seconds: float) -> bool:
    """Print the bars; whether all are met."""
    print("\n".join(str(bar) for bar in bars))
    print(f"{sum(bar.met for bar in bars)} of {len(bars)} bars met in {seconds:.0f} s")
    return all(bar.met for bar in bars)
