"""The drawn world of the demo WAN checkpoint: one flat shape that crosses a flat background, or stands still.

A clip of any length shows the same motion once: the shape covers its way from the first frame to the last, so
it moves slowly in a long clip and never leaves the picture. The caption leaves open where the way begins; a
seeded generator decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo_models import shapes
from demo_models.shapes import Placement, Rgb

COLOURS: tuple[str, ...] = ("red", "green", "blue", "yellow", "purple", "cyan", "white")
BACKGROUNDS: tuple[str, ...] = ("black", "white", "blue")
SHAPES: tuple[str, ...] = ("circle", "square", "triangle")
# Unit vectors in picture coordinates, x to the right and y down.
MOTIONS: dict[str, tuple[int, int]] = {
    "moving right": (1, 0),
    "moving left": (-1, 0),
    "moving up": (0, -1),
    "moving down": (0, 1),
    "standing still": (0, 0),
}
# Width x height in pixels; both divide by 16, as the transformer's patches need.
FRAME_SIZES: tuple[tuple[int, int], ...] = ((64, 64), (96, 64))
# Circumscribed radius and the room around it, as shares of the shorter side; the way, as one of the side it
# runs along.
RADIUS = 0.3
WAY = 0.28
MARGIN = 0.02


@dataclass(frozen=True)
class MovingScene:
    """What a caption states of a clip."""

    colour: str
    shape: str
    motion: str
    background: str

    @property
    def caption(self) -> str:
        return f"a {self.colour} {self.shape} {self.motion} on a {self.background} background"


@dataclass(frozen=True)
class Path:
    """A straight way at constant speed: where the shape stands in the first and in the last frame."""

    first: Placement
    last: Placement

    def at(self, share: float) -> Placement:
        """The placement after `share` (0…1) of the way."""
        return Placement(
            x=self.first.x + share * (self.last.x - self.first.x),
            y=self.first.y + share * (self.last.y - self.first.y),
            radius=self.first.radius,
        )


def scenes() -> list[MovingScene]:
    """Every scene whose shape differs in colour from its background."""
    return [
        MovingScene(colour, shape, motion, background)
        for colour, shape, motion, background in itertools.product(COLOURS, SHAPES, MOTIONS, BACKGROUNDS)
        if colour != background
    ]


def choose_path(motion: str, width: int, height: int, rng: np.random.Generator) -> Path:
    """A random path for a motion, wholly inside the frame."""
    short = min(width, height)
    radius = short * RADIUS
    room = radius + MARGIN * short
    first, last = [], []
    for side, direction in zip((width, height), MOTIONS[motion], strict=True):
        way = direction * side * WAY
        start = float(rng.uniform(room + max(0.0, -way), side - room - max(0.0, way)))
        first.append(start)
        last.append(start + way)
    return Path(Placement(first[0], first[1], radius), Placement(last[0], last[1], radius))


def paint(
    shape: str, placements: Sequence[Placement], foreground: Rgb, background: Rgb, width: int, height: int
) -> NDArray[np.uint8]:
    """The frames of one shape in given colours, (frames, height, width, 3)."""
    return np.stack(
        [shapes.paint(shape, place, foreground, background, width, height) for place in placements]
    )


def clip(scene: MovingScene, frames: int, width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """The clip of a scene, (frames, height, width, 3); a single frame is one of any moment of the way."""
    rng = np.random.default_rng(seed)
    path = choose_path(scene.motion, width, height, rng)
    moments = np.linspace(0.0, 1.0, frames) if frames > 1 else rng.uniform(size=1)
    placements = [path.at(float(moment)) for moment in moments]
    return paint(
        scene.shape,
        placements,
        shapes.PALETTE[scene.colour],
        shapes.PALETTE[scene.background],
        width,
        height,
    )
