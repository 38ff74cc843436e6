"""Pictures and videos to encode: like photographs, and like drawings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
SIDE = 1024
FRAMES, HEIGHT, WIDTH, FPS = 81, 480, 832, 16.0


def photo_like(height: int = SIDE, width: int = SIDE, seed: int = 0) -> Pixels:
    """Noise whose amplitude falls with frequency as that of photographs does, with a little grain."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.standard_normal((height, width, 3)), axes=(0, 1))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0
    picture = np.fft.irfft2(spectrum / frequency[..., None] ** 1.6, s=(height, width), axes=(0, 1))
    picture = 0.35 * picture + 0.65 * np.sqrt(3) * picture.mean(axis=2, keepdims=True)
    picture = 120.0 + 50.0 * (picture - picture.mean()) / picture.std()
    picture += 1.5 * rng.standard_normal((height, width, 1))
    return as_pixels(picture)


def as_pixels(picture: NDArray[np.floating[Any]]) -> Pixels:
    pixels: Pixels = np.clip(picture, 0, 255).astype(np.uint8)
    return pixels


def flat_shapes(grain: float) -> Pixels:
    """Drawn shapes in even colours, as the demonstration's models draw them."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    picture = np.empty((SIDE, SIDE, 3))
    picture[:] = (90, 150, 220)
    picture[y > 0.6] = (40, 90, 160)
    picture[(x - 0.7) ** 2 + (y - 0.3) ** 2 < 0.02] = (250, 220, 80)
    return as_pixels(picture + grain * np.random.default_rng(0).standard_normal(picture.shape))


def moving_picture() -> Pixels:
    """A photo-like picture that moves past, with fresh grain in every frame."""
    rng = np.random.default_rng(1)
    scene = photo_like(HEIGHT + FRAMES, WIDTH + 2 * FRAMES).astype(np.int16)
    video = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for index, frame in enumerate(video):
        part = scene[index : index + HEIGHT, 2 * index : 2 * index + WIDTH]
        frame[:] = np.clip(part + rng.integers(-2, 3, (HEIGHT, WIDTH, 1)), 0, 255)
    return video
