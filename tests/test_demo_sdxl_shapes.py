"""The drawn world of the demo checkpoint, and the judge that measures pictures of it."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_models import captions, judge, shapes, vocabulary

SCENES = shapes.scenes()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary.write(folder, pad_token="!")
    return CLIPTokenizer.from_pretrained(str(folder))


def test_the_world_is_as_large_as_promised() -> None:
    assert len(shapes.COLOURS) >= 8
    assert len(shapes.SHAPES) >= 4
    assert len(shapes.BACKGROUNDS) >= 8
    assert {"small", "large"} <= set(shapes.RADII)
    assert (128, 128) in shapes.FRAME_SIZES
    assert any(width != height for width, height in shapes.FRAME_SIZES)


@given(st.sampled_from(SCENES + shapes.scenes(colours=[None])))
def test_a_caption_names_its_scene_and_no_other(scene: shapes.Scene) -> None:
    assert shapes.parse_caption(scene.caption) == scene


@pytest.mark.parametrize("caption", ["", "a red circle", "a mauve circle on a white background"])
def test_a_caption_of_another_world_is_refused(caption: str) -> None:
    with pytest.raises(ValueError, match="caption"):
        shapes.parse_caption(caption)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(SCENES), st.sampled_from(shapes.FRAME_SIZES), st.integers(0, 2**32))
def test_a_scene_and_a_seed_give_one_picture(scene: shapes.Scene, frame: tuple[int, int], seed: int) -> None:
    first, second = (shapes.picture(scene, *frame, seed) for _ in range(2))
    assert first.shape == (frame[1], frame[0], 3)
    assert np.array_equal(first, second)


def test_an_open_colour_is_never_that_of_the_background() -> None:
    rng = np.random.default_rng(0)
    drawn = {shapes.concrete(shapes.Scene("circle", "white"), rng).colour for _ in range(200)}
    assert drawn == set(shapes.COLOURS) - {"white"}


def test_the_judge_names_drawn_pictures_right() -> None:
    right = 0
    chosen = SCENES[::7]
    for number, scene in enumerate(chosen):
        seen = judge.observe(shapes.picture(scene, *shapes.FRAME_SIZES[number % 3], seed=number))
        size = scene.size or seen.size
        right += (seen.shape, seen.background, seen.colour, seen.size) == (
            scene.shape,
            scene.background,
            scene.colour,
            size,
        )
    assert right / len(chosen) >= 0.99


@pytest.mark.parametrize("kind", ["flat", "noise", "ellipse", "half", "pentagon", "bar", "ring", "two"])
def test_the_judge_names_no_shape_where_none_of_the_four_is(kind: str) -> None:
    picture = np.full((128, 128, 3), shapes.PALETTE["white"], np.uint8)
    y, x = np.mgrid[:128, :128] - 64
    if kind == "noise":
        picture = np.random.default_rng(0).integers(0, 256, picture.shape, dtype=np.uint8)
    elif kind == "ellipse":
        picture[(x / 50) ** 2 + (y / 15) ** 2 < 1] = shapes.PALETTE["red"]
    elif kind == "half":
        picture[(x**2 + y**2 < 40**2) & (x > 0)] = shapes.PALETTE["red"]
    elif kind == "pentagon":
        spokes = np.deg2rad(np.arange(5) * 72 - 90)
        sides = [x * np.cos(angle + np.pi / 5) + y * np.sin(angle + np.pi / 5) < 32 for angle in spokes]
        picture[np.logical_and.reduce(sides)] = shapes.PALETTE["red"]
    elif kind == "bar":
        picture[(abs(x) < 40) & (abs(y) < 20)] = shapes.PALETTE["red"]
    elif kind == "ring":
        picture[(x**2 + y**2 < 40**2) & (x**2 + y**2 > 25**2)] = shapes.PALETTE["red"]
    elif kind == "two":
        picture[((x - 18) ** 2 + y**2 < 20**2) | ((x + 18) ** 2 + y**2 < 20**2)] = shapes.PALETTE["red"]
    assert judge.observe(picture).shape is None


def test_palette_colours_are_far_apart() -> None:
    assert judge.palette_distance() > 25


def test_every_word_of_the_captions_is_one_token(tokenizer: Any) -> None:
    for word in {word for scene in SCENES for word in scene.caption.split()} | {"child", "minor"}:
        assert len(tokenizer(word).input_ids) == 3, word


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_tokens_within_the_vocabulary(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
    assert len(ids) == 77
    assert 0 <= min(ids) <= max(ids) < len(tokenizer)


def test_the_vocabulary_is_laid_out_as_clips() -> None:
    symbols, merges = vocabulary.build()
    assert symbols["!"] == 0
    assert list(symbols)[-2:] == [vocabulary.START_OF_TEXT, vocabulary.END_OF_TEXT]
    assert len(symbols) == 2 * 256 + len(merges) + 2
    assert all(letter in symbols for letter in string.ascii_lowercase)


def test_captions_are_dropped_in_every_form_of_an_unconditional_branch() -> None:
    rng = np.random.default_rng(0)
    scene = shapes.Scene("circle", "white", "red", "small")
    seen = [captions.vary(scene, rng) for _ in range(2000)]
    assert {None, "", "child, minor", "red, child, minor", "red", scene.caption} <= set(seen)
    named = [text for text in seen if text is not None and "circle" in text and "white" in text]
    assert 0.6 < len(named) / len(seen) < 0.85


def test_the_files_of_a_tokenizer_are_plain_clip_files(tmp_path: Path) -> None:
    vocabulary.write(tmp_path, pad_token="!")
    assert (tmp_path / "merges.txt").read_text(encoding="utf-8").startswith("#version")
    assert (tmp_path / "vocab.json").stat().st_size > 1000
