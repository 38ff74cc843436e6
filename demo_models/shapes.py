"""The drawn world of the demo checkpoints: scenes, their captions and their pictures.

A scene is one flat shape on one flat background. The caption states what is drawn; what it leaves open
(place, the exact radius, the colour where none is named) is drawn from a seeded generator, so one
(scene, size, seed) always gives the same picture. `place` and `draw` are separate so that a film is a
scene with a changing `Placement`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]

# Far enough apart in CIELAB that the nearest name is unambiguous even after a lossy decoder.
PALETTE: dict[str, Rgb] = {
    "red": (215, 35, 35),
    "green": (35, 155, 55),
    "blue": (35, 75, 215),
    "yellow": (245, 220, 45),
    "orange": (240, 140, 30),
    "purple": (130, 45, 175),
    "pink": (245, 155, 200),
    "cyan": (50, 205, 220),
    "black": (20, 20, 20),
    "white": (240, 240, 240),
    "gray": (128, 128, 128),
    "brown": (115, 70, 35),
}
COLOURS: tuple[str, ...] = (
    "red",
    "green",
    "blue",
    "yellow",
    "orange",
    "purple",
    "pink",
    "cyan",
    "black",
    "white",
)
BACKGROUNDS: tuple[str, ...] = ("white", "black", "gray", "brown", "blue", "green", "yellow", "pink")
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star")

# Radius of the shape's circumscribed circle as a share of the picture's shorter side, by size word.
RADII: dict[str | None, tuple[float, float]] = {
    "small": (0.19, 0.23),
    "large": (0.36, 0.42),
    None: (0.19, 0.42),
}
# Width x height in pixels; all divide by 32, which the autoencoder (8) and the UNet (4) need.
FRAME_SIZES: tuple[tuple[int, int], ...] = ((128, 128), (160, 96), (96, 160))

_SUPERSAMPLING = 4
_STAR_INNER_RADIUS = 0.45


@dataclass(frozen=True)
class Scene:
    """What a caption states. `colour` None means that any colour but the background's may be drawn."""

    shape: str
    background: str
    colour: str | None = None
    size: str | None = None

    @property
    def caption(self) -> str:
        words = [word for word in (self.size, self.colour, self.shape) if word is not None]
        shape = f"{_article(words[0])} {' '.join(words)}"
        return f"{shape} on {_article(self.background)} {self.background} background"


@dataclass(frozen=True)
class Placement:
    """Where a shape stands: centre and circumscribed radius in pixels, rotation in radians."""

    x: float
    y: float
    radius: float
    rotation: float = 0.0


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def scenes(
    *,
    colours: Sequence[str | None] = COLOURS,
    backgrounds: Sequence[str] = BACKGROUNDS,
    shapes: Sequence[str] = SHAPES,
    sizes: Sequence[str | None] = (None, "small", "large"),
) -> list[Scene]:
    """Every scene of the product of the attributes whose shape differs in colour from its background."""
    return [
        Scene(shape=shape, background=background, colour=colour, size=size)
        for colour, background, shape, size in itertools.product(colours, backgrounds, shapes, sizes)
        if colour != background
    ]


def parse_caption(caption: str) -> Scene:
    """The scene of a caption as `Scene.caption` writes it.

    Raises:
        ValueError: the caption is not of that form.
    """
    words = caption.split()
    if len(words) < 6 or words[-1] != "background" or words[-4] != "on":
        raise ValueError(
            f"not a caption of this world: {caption!r}; expected 'a … <shape> on a … background'"
        )
    attributes = words[1:-4]
    size = attributes.pop(0) if attributes[0] in RADII else None
    colour = attributes.pop(0) if attributes and attributes[0] in PALETTE else None
    if len(attributes) != 1 or attributes[0] not in SHAPES or words[-2] not in PALETTE:
        raise ValueError(f"unknown words in caption {caption!r}; shapes: {SHAPES}, colours: {tuple(PALETTE)}")
    return Scene(shape=attributes[0], background=words[-2], colour=colour, size=size)


def concrete(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with its colour decided, uniformly among those that differ from the background."""
    if scene.colour is not None:
        return scene
    choices = [colour for colour in COLOURS if colour != scene.background]
    return Scene(scene.shape, scene.background, str(rng.choice(choices)), scene.size)


def place(scene: Scene, width: int, height: int, rng: np.random.Generator) -> Placement:
    """A random placement for the scene, wholly inside the frame with a margin of 4 % of the shorter side."""
    short = min(width, height)
    radius = short * float(rng.uniform(*RADII[scene.size]))
    room = radius + 0.04 * short
    return Placement(
        x=float(rng.uniform(room, width - room)), y=float(rng.uniform(room, height - room)), radius=radius
    )


def polygon(shape: str, placement: Placement) -> list[tuple[float, float]]:
    """The corners of a shape in pixels; a circle has none and is drawn by `coverage` itself.

    Raises:
        ValueError: the shape has no corners or is unknown.
    """
    up = -math.pi / 2
    if shape == "square":
        spokes = [(math.pi / 4 + k * math.pi / 2, 1.0) for k in range(4)]
    elif shape == "triangle":
        spokes = [(up + k * 2 * math.pi / 3, 1.0) for k in range(3)]
    elif shape == "star":
        spokes = [(up + k * math.pi / 5, 1.0 if k % 2 == 0 else _STAR_INNER_RADIUS) for k in range(10)]
    else:
        raise ValueError(f"no polygon for shape {shape!r}; known: square, triangle, star")
    return [
        (
            placement.x + placement.radius * share * math.cos(angle + placement.rotation),
            placement.y + placement.radius * share * math.sin(angle + placement.rotation),
        )
        for angle, share in spokes
    ]


def coverage(shape: str, placement: Placement, width: int, height: int) -> NDArray[np.float32]:
    """How much of each pixel the shape covers, (height, width) in 0…1, anti-aliased by supersampling."""
    scale = _SUPERSAMPLING
    mask = Image.new("L", (width * scale, height * scale), 0)
    pen = ImageDraw.Draw(mask)
    if shape == "circle":
        x, y, radius = placement.x * scale, placement.y * scale, placement.radius * scale
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    else:
        pen.polygon([(x * scale, y * scale) for x, y in polygon(shape, placement)], fill=255)
    return np.asarray(mask.reduce(scale), dtype=np.float32) / 255.0


def paint(
    shape: str, placement: Placement, foreground: Rgb, background: Rgb, width: int, height: int
) -> NDArray[np.uint8]:
    """The picture of one shape in given colours, (height, width, 3)."""
    share = coverage(shape, placement, width, height)[..., None]
    mixed = share * np.asarray(foreground, np.float32) + (1 - share) * np.asarray(background, np.float32)
    pixels: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return pixels


def draw(scene: Scene, placement: Placement, width: int, height: int) -> NDArray[np.uint8]:
    """The picture of a scene whose colour is decided, (height, width, 3).

    Raises:
        ValueError: the scene's colour is open (see `concrete`).
    """
    if scene.colour is None:
        raise ValueError(f"the colour of {scene.caption!r} is open: decide it with concrete() before drawing")
    return paint(scene.shape, placement, PALETTE[scene.colour], PALETTE[scene.background], width, height)


def picture(scene: Scene, width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """The picture of a scene with everything its caption leaves open decided by the seed."""
    rng = np.random.default_rng(seed)
    decided = concrete(scene, rng)
    return draw(decided, place(decided, width, height, rng), width, height)
