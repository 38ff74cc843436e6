"""What a clip of the moving world shows, by plain image analysis of its frames (see `judge`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo_models import judge, motions, shapes

Clip = NDArray[np.uint8]
"""Shape (frames, height, width, 3), RGB."""

# Shares of the side along which a shape moves: below the first it stands still, from the second on it moves.
# The drawn ways are 0 and 0.28.
STILL_BELOW = 0.08
MOVES_FROM = 0.14
# A way is in one direction where it is this many times as long as across it.
STRAIGHT = 2.0
# Intersection over union: a circle and a square of one area and centre have 0.83.
OVERLAPS_FROM = 0.8
CLEARLY_BETTER = 0.03


@dataclass(frozen=True)
class ClipObservation:
    """What is seen in most frames, and how it moves. None where it is not clear."""

    background: str
    colour: str | None
    shape: str | None
    motion: str | None
    # Greatest step of the shape's centroid between two frames, over the frame's shorter side; infinite where
    # the shape is missing in a frame.
    greatest_step: float


def observe(clip: Clip) -> ClipObservation:
    """Judge a clip (frames, height, width, 3), which may be a single frame."""
    seen = [judge.observe(frame) for frame in clip]
    height, width = clip.shape[1:3]
    regions = [frame.region for frame in seen if frame.region is not None]
    centres = np.array([_centre(region) for region in regions])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1) if len(centres) > 1 else np.zeros(1)
    return ClipObservation(
        background=str(_most_common(frame.background for frame in seen)),
        colour=_most_common(frame.colour for frame in seen),
        shape=name_shape(regions),
        motion=name_motion(centres / (width, height)) if len(centres) > 1 else None,
        greatest_step=float(steps.max()) / min(width, height) if len(centres) == len(clip) else np.inf,
    )


def _centre(region: judge.Mask) -> tuple[float, float]:
    """Centroid (x, y) in pixels."""
    rows, columns = np.nonzero(region)
    return float(columns.mean()), float(rows.mean())


def name_shape(regions: Sequence[judge.Mask]) -> str | None:
    """The shape that overlaps a shape's regions in the frames best.

    Each ideal is drawn upright with a region's area about its centroid: all shapes of this world are upright,
    and at 64 pixels a corner is a matter of two or three of them, so overlap tells more than corners do. None
    where nothing overlaps well on average, or two shapes do alike.
    """
    if not regions:
        return None
    overlaps = {
        shape: float(np.mean([_overlap(region, shape) for region in regions])) for shape in motions.SHAPES
    }
    best, second = sorted(overlaps, key=overlaps.__getitem__, reverse=True)[:2]
    clear = overlaps[best] >= OVERLAPS_FROM and overlaps[best] - overlaps[second] >= CLEARLY_BETTER
    return best if clear else None


def _overlap(region: judge.Mask, shape: str) -> float:
    """Intersection over union of a region with the ideal shape."""
    x, y = _centre(region)
    height, width = region.shape
    place = shapes.Placement(x + 0.5, y + 0.5, float(np.sqrt(region.sum() / judge.AREAS[shape])))
    ideal = shapes.coverage(shape, place, width, height) >= 0.5
    return float((region & ideal).sum() / (region | ideal).sum())


def _most_common(names: Iterable[str | None]) -> str | None:
    return Counter(names).most_common(1)[0][0]


def name_motion(centres: NDArray[np.float64]) -> str | None:
    """The motion of centroids (frames, 2), given as shares of width and height.

    The way is that of the straight line fitted to them over time.
    """
    time = np.linspace(-0.5, 0.5, len(centres))
    way = time @ centres / (time @ time)
    along = int(np.argmax(np.abs(way)))
    length, across = abs(way[along]), abs(way[1 - along])
    if length < STILL_BELOW:
        return "standing still"
    if length < MOVES_FROM or length < STRAIGHT * across:
        return None
    direction = [0, 0]
    direction[along] = int(np.sign(way[along]))
    return next(name for name, vector in motions.MOTIONS.items() if vector == tuple(direction))
