"""What a measurement hands back, and how it is shown: a table, and figures that are held against a bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

Cell = str | float | int


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure has to reach."""

    direction: Literal["at least", "at most"]
    value: float

    def met(self, value: float) -> bool:
        return value >= self.value if self.direction == "at least" else value <= self.value


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that counts. `format` is how its value and its bar are printed."""

    name: str
    value: float
    bar: Bar | None = None
    format: str = "{:.2f}"

    @property
    def met(self) -> bool:
        return self.bar is None or self.bar.met(self.value)

    def __str__(self) -> str:
        shown = self.format.format(self.value)
        if self.bar is None:
            return f"{self.name:<66}{shown:>12}"
        wanted = f"{self.bar.direction} {self.format.format(self.bar.value)}"
        return f"{self.name:<66}{shown:>12}   {wanted:<20}{'' if self.met else 'MISSED'}"


@dataclass(frozen=True, slots=True)
class Section:
    """The result of one measurement. `data` is what the plot and a later reader need beside the table.

    A `skipped` measurement has nothing but the sentence that says why.
    """

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
    skipped: str | None = None

    def __str__(self) -> str:
        parts = [f"\n{self.title}", *(f"  {note}" for note in self.notes)]
        if self.skipped is not None:
            return "\n".join([*parts, f"  skipped: {self.skipped}"])
        if self.rows:
            parts.append(_table(self.columns, self.rows))
        parts += [f"  {figure}" for figure in self.figures]
        return "\n".join(parts)

    def as_json(self) -> dict[str, Any]:
        figures = [asdict(figure) | {"met": figure.met} for figure in self.figures]
        return asdict(self) | {"figures": figures}


def at_least(value: float) -> Bar:
    return Bar("at least", value)


def at_most(value: float) -> Bar:
    return Bar("at most", value)


def quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(np.asarray(values), share))


def milliseconds(values: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the largest of values in seconds, in milliseconds, and how many there were."""
    return {
        "count": len(values),
        "p50_ms": 1000 * quantile(values, 0.5),
        "p99_ms": 1000 * quantile(values, 0.99),
        "max_ms": 1000 * max(values),
    }


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """The first column to the left, the others to the right."""
    shown = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[index]) for row in shown) for index in range(len(columns))]
    return "\n".join(
        "  "
        + "   ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in shown
    )
