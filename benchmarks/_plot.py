"""One picture of the results: what was measured of busy, gaps, queue length and start-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._report import Section

COLOURS = {"bare": "#999999", "worker": "#1b7837", "common": "#b2182b", "common-quick": "#ef8a62"}


def plot(sections: Mapping[str, Section], file: Path) -> None:
    """A panel for each measurement that has one; no file where none has."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [
        (draw, section.data)
        for name, draws in _PANELS.items()
        for draw in draws
        if (section := sections.get(name)) is not None and section.data
    ]
    if not panels:
        return
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(6.5 * columns, 4 * rows), squeeze=False, layout="constrained"
    )
    for axis, (draw, data) in zip(axes.flat, panels, strict=False):
        draw(axis, data)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _busy(axis: Any, data: Mapping[str, Any]) -> None:
    cases = data["busy"]
    styles = [style for style in COLOURS if any(style in shares for shares in cases.values())]
    width = 0.8 / len(styles)
    for index, style in enumerate(styles):
        values = [100 * shares.get(style, np.nan) for shares in cases.values()]
        axis.bar(np.arange(len(cases)) + index * width, values, width, label=style, color=COLOURS[style])
    axis.set_xticks(np.arange(len(cases)) + 0.4 - width / 2, list(cases), rotation=20, ha="right", fontsize=8)
    axis.set_ylabel("engine busy while jobs wait, %")
    axis.legend(fontsize=8, loc="lower right")


def _gaps(axis: Any, data: Mapping[str, Any]) -> None:
    for style, gaps in data["gaps_s"].items():
        values = np.sort(1000 * np.asarray(gaps))
        axis.step(values, np.arange(1, len(values) + 1) / len(values), label=style, color=COLOURS[style])
    axis.set_xscale("log")
    axis.set_xlabel("gap between two jobs on the engine, ms")
    axis.set_ylabel("share of gaps")
    axis.axvline(2, color="black", linewidth=0.6, linestyle=":")
    axis.axvline(10, color="black", linewidth=0.6, linestyle=":")
    axis.legend(fontsize=8)


def _depth(axis: Any, data: Mapping[str, Any]) -> None:
    for operation, by_depth in data["p50_ms"].items():
        axis.plot(list(map(float, by_depth)), list(by_depth.values()), marker="o", label=operation)
    axis.set_xscale("log")
    axis.set_ylim(0, 1.2 * max(max(by_depth.values()) for by_depth in data["p50_ms"].values()))
    axis.set_xlabel("jobs that wait in the queue")
    axis.set_ylabel("p50 of one operation, ms")
    axis.legend(fontsize=7)


def _memory(axis: Any, data: Mapping[str, Any]) -> None:
    axis.plot(data["jobs"], data["resident_mb"], marker=".")
    axis.set_ylim(0, 1.2 * max(data["resident_mb"]))
    axis.set_xlabel("jobs done")
    axis.set_ylabel("resident memory, MB")


def _startup(axis: Any, data: Mapping[str, Any]) -> None:
    stages = data["stages"]
    for row, (_, begin, end) in enumerate(stages):
        axis.barh(row, end - begin, left=begin, color=COLOURS["worker"])
    axis.set_yticks(range(len(stages)), [name for name, _, _ in stages], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("seconds since the process began")


_PANELS: dict[str, list[Callable[[Any, Mapping[str, Any]], None]]] = {
    "overlap": [_busy, _gaps],
    "depth": [_depth],
    "memory": [_memory],
    "startup": [_startup],
}
