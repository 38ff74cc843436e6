"""What a picture of this world shows, by plain image analysis: no learnt model judges a learnt model.

Colours are the nearest palette names in CIELAB; the background is the median of the frame's rim, the shape
is the largest region that is nearer to the foreground than to the background. Its name follows from its
rotational symmetry (3, 4 or 5 corners, or none) and has to agree with how compact it is.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from demo_models import shapes

Pixels = NDArray[np.uint8]
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

RIM = 3
# The least distance in CIELAB at which a region counts as something other than background.
VISIBLE = 10.0
# Share of the picture below which a region is a speck; the smallest shape, a small star, covers 1.5 %.
SPECK = 0.005
# Circumscribed radius over the frame's shorter side: below it a shape is small, else large.
SMALL_BELOW = 0.295
# By the number of corners: shape, least strength of that symmetry, area over the mean squared distance from
# the centroid (that of the exact shape; a pentagon's is 6.18).
SYMMETRIES = {3: ("triangle", 0.14, 5.196), 4: ("square", 0.07, 6.0), 5: ("star", 0.15, 5.066)}
ROUND_BELOW = 0.07
ROUND_COMPACTNESS = 2 * np.pi
COMPACTNESS_TOLERANCE = 0.1
# Area over the squared circumscribed radius.
AREAS = {"circle": np.pi, "triangle": 1.299, "square": 2.0, "star": 1.3226}


@dataclass(frozen=True)
class Observation:
    """What is seen. `shape`, `colour`, `size` and `region` are None where no clear shape is."""

    background: str
    colour: str | None
    shape: str | None
    size: str | None
    # Distances in CIELAB from the palette's colours of these names.
    background_error: float
    colour_error: float
    # The shape's pixels.
    region: Mask | None = field(default=None, repr=False, compare=False)


def to_lab(rgb: NDArray[np.generic]) -> Array:
    """sRGB 0…255 (…, 3) to CIELAB under D65 (IEC 61966-2-1 and CIE 15)."""
    share = np.asarray(rgb, np.float64) / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


_PALETTE_LAB = {name: to_lab(np.array(rgb)) for name, rgb in shapes.PALETTE.items()}


def name_colour(lab: Array) -> tuple[str, float]:
    """The nearest palette name and its distance in CIELAB."""
    distances = {name: float(np.linalg.norm(lab - reference)) for name, reference in _PALETTE_LAB.items()}
    name = min(distances, key=distances.__getitem__)
    return name, distances[name]


def observe(picture: Pixels) -> Observation:
    """Judge a picture (height, width, 3)."""
    lab = to_lab(picture)
    rim = np.concatenate([lab[:RIM], lab[-RIM:]], axis=0).reshape(-1, 3)
    sides = np.concatenate([lab[:, :RIM], lab[:, -RIM:]], axis=1).reshape(-1, 3)
    ground = np.median(np.concatenate([rim, sides]), axis=0)
    background, background_error = name_colour(ground)

    region = _region(lab, ground)
    if region is None:
        return Observation(background, None, None, None, background_error, 0.0)
    colour, colour_error = name_colour(np.median(lab[_eroded(region)], axis=0))
    shape = _name_shape(region)
    size = None
    if shape is not None:
        radius = float(np.sqrt(region.sum() / AREAS[shape])) / min(region.shape)
        size = "small" if radius < SMALL_BELOW else "large"
    return Observation(background, colour, shape, size, background_error, colour_error, region)


def _region(lab: Array, ground: Array) -> Mask | None:
    """The largest connected region nearer to the foreground's colour than to the background's."""
    contrast = np.linalg.norm(lab - ground, axis=-1)
    strong = contrast > max(VISIBLE, 0.6 * float(np.percentile(contrast, 99)))
    if strong.mean() < SPECK:
        return None
    figure = np.median(lab[strong], axis=0)
    nearer = np.linalg.norm(lab - figure, axis=-1) < contrast
    region = _largest_component(nearer)
    return region if region.mean() >= SPECK else None


def _largest_component(mask: Mask) -> Mask:
    best: list[tuple[int, int]] = []
    left = mask.copy()
    height, width = mask.shape
    for start in zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True):
        if not left[start]:
            continue
        left[start] = False
        component, at = [start], 0
        while at < len(component):
            y, x = component[at]
            at += 1
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= near[0] < height and 0 <= near[1] < width and left[near]:
                    left[near] = False
                    component.append(near)
        best = max(best, component, key=len)
    result = np.zeros_like(mask)
    if best:
        rows, columns = zip(*best, strict=True)
        result[list(rows), list(columns)] = True
    return result


def _eroded(region: Mask) -> Mask:
    """The region without its rim of two pixels, where colours mix; unchanged if nothing would be left."""
    inner = region.copy()
    for _ in range(2):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inner if inner.any() else region


def _name_shape(region: Mask) -> str | None:
    """Circle, triangle, square or star, or None where symmetry and compactness name none of them.

    The strength of a k-fold symmetry is the k-th Fourier coefficient of the region's angles about its
    centroid: 0 for a circle, 0.28, 0.14 and 0.32 for the exact triangle, square and star. Compactness
    takes the mean distance, not the farthest point: an autoencoder rounds the tips of small shapes.
    """
    rows, columns = np.nonzero(region)
    y, x = rows - rows.mean(), columns - columns.mean()
    angle, squared = np.arctan2(y, x), x * x + y * y
    strengths = {k: float(np.abs(np.exp(1j * k * angle).mean())) for k in (2, *SYMMETRIES)}
    compactness = len(rows) / float(squared.mean())
    folds = max(SYMMETRIES, key=lambda k: strengths[k] / SYMMETRIES[k][1])
    name, least, expected = SYMMETRIES[folds]
    if max(strengths.values()) < ROUND_BELOW:
        name, expected = "circle", ROUND_COMPACTNESS
    elif strengths[folds] < least or strengths[2] > strengths[folds]:
        return None
    return name if abs(compactness / expected - 1) <= COMPACTNESS_TOLERANCE else None


def palette_distance() -> float:
    """The least distance in CIELAB between two palette colours."""
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(_PALETTE_LAB.values(), 2))
