from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image

from workers.encode.png import encode_png

Pixels = NDArray[np.uint8]
PICTURES = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=24).map(lambda s: (*s, 3)))


def decoded(data: bytes) -> tuple[Pixels, dict[str, str]]:
    with Image.open(BytesIO(data), formats=["PNG"]) as image:
        texts = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
        return np.asarray(image), texts


def pillow_level_6(pixels: Pixels) -> bytes:
    data = BytesIO()
    Image.fromarray(pixels).save(data, "PNG", compress_level=6)
    return data.getvalue()


@settings(max_examples=60, deadline=None)
@given(PICTURES)
def test_any_picture_comes_back_exactly(pixels: Pixels) -> None:
    assert np.array_equal(decoded(encode_png(pixels, {}))[0], pixels)


@settings(max_examples=60, deadline=None)
@given(PICTURES)
def test_the_same_picture_gives_the_same_bytes(pixels: Pixels) -> None:
    assert encode_png(pixels, {"a": "b"}) == encode_png(pixels.copy(), {"a": "b"})


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["seed", "prompt", "size"]), st.text(st.characters(codec="utf-8"))))
def test_any_text_comes_back_exactly(texts: dict[str, str]) -> None:
    assert decoded(encode_png(np.zeros((1, 1, 3), np.uint8), texts))[1] == texts


def test_a_view_into_a_video_that_is_not_contiguous_is_written_as_it_looks() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 40), np.uint8).transpose(1, 2, 0)[::2, ::-1]
    assert np.array_equal(decoded(encode_png(pixels, {}))[0], pixels)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 9), st.integers(0, 9))
def test_tall_pictures_whose_rows_are_sampled_come_back_exactly(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 1 + 25 * seed, (height, width, 3)).astype(np.uint8)
    assert np.array_equal(decoded(encode_png(pixels, {}))[0], pixels)


Y, X = np.mgrid[:256, :256] / 256
SMOOTH = {
    "even": np.full((256, 256, 3), 0.5),
    "a gradient": np.stack([X, Y, (X + Y) / 2], axis=-1),
    "a circle": np.where(
        ((X - 0.7) ** 2 + (Y - 0.3) ** 2 < 0.02)[..., None], (0.9, 0.8, 0.3), (0.1, 0.4, 0.6)
    ),
    "waves": np.stack([np.sin(40 * X * Y), np.cos(30 * X), np.sin(9 * Y)], axis=-1) / 2 + 0.5,
    "stripes": np.stack([X * 64 % 1 > 0.5] * 3, axis=-1).astype(float),
}


@pytest.mark.parametrize("grain", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("name", SMOOTH)
def test_a_file_is_at_most_a_quarter_larger_than_at_pillows_default_level(name: str, grain: float) -> None:
    noise = grain * np.random.default_rng(0).standard_normal((256, 256, 3))
    pixels = np.clip(SMOOTH[name] * 220 + 20 + noise, 0, 255).astype(np.uint8)
    # A kilobyte more or less says nothing about pictures of a few hundred bytes.
    assert len(encode_png(pixels, {})) <= 1.25 * len(pillow_level_6(pixels)) + 1024
