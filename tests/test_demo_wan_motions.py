"""The moving world of the demo WAN checkpoint, and the judge that measures clips of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_models import motion_captions, motion_judge, motions, shapes
from demo_models.wan_models import build_tokenizer

SCENES = motions.scenes()


def test_the_world_is_as_large_as_promised() -> None:
    assert len(motions.COLOURS) >= 6
    assert len(motions.SHAPES) >= 3
    assert len(motions.MOTIONS) == 5
    assert (64, 64) in motions.FRAME_SIZES
    assert all(side % 16 == 0 for size in motions.FRAME_SIZES for side in size)


def test_every_scene_has_a_caption_of_its_own() -> None:
    assert len({scene.caption for scene in SCENES}) == len(SCENES)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(SCENES), st.sampled_from([1, 5, 17]), st.integers(0, 2**32))
def test_a_scene_and_a_seed_give_one_clip(scene: motions.MovingScene, frames: int, seed: int) -> None:
    first, second = (motions.clip(scene, frames, 96, 64, seed) for _ in range(2))
    assert first.shape == (frames, 64, 96, 3)
    assert np.array_equal(first, second)


@given(
    st.sampled_from(sorted(motions.MOTIONS)),
    st.sampled_from(motions.FRAME_SIZES),
    st.integers(0, 2**32),
    st.floats(0, 1),
)
def test_a_shape_never_leaves_the_picture(
    motion: str, size: tuple[int, int], seed: int, share: float
) -> None:
    place = motions.choose_path(motion, *size, np.random.default_rng(seed)).at(share)
    assert place.radius <= place.x <= size[0] - place.radius
    assert place.radius <= place.y <= size[1] - place.radius


@pytest.mark.parametrize("frames", [17, 81])
def test_the_judge_names_drawn_clips_right(frames: int) -> None:
    chosen = SCENES[::7] if frames == 17 else SCENES[::29]
    for number, scene in enumerate(chosen):
        size = motions.FRAME_SIZES[number % 2]
        seen = motion_judge.observe(motions.clip(scene, frames, *size, seed=number)[:: frames // 17 or 1])
        assert (seen.colour, seen.shape, seen.motion, seen.background) == (
            scene.colour,
            scene.shape,
            scene.motion,
            scene.background,
        )
        assert seen.greatest_step < 0.06


def test_a_clip_played_backwards_moves_the_other_way() -> None:
    scene = motions.MovingScene("red", "circle", "moving right", "black")
    clip = motions.clip(scene, 17, 64, 64, seed=1)
    assert motion_judge.observe(clip[::-1]).motion == "moving left"


def test_shuffled_frames_are_not_smooth() -> None:
    scene = motions.MovingScene("red", "circle", "moving right", "black")
    clip = motions.clip(scene, 17, 64, 64, seed=1)
    shuffled = clip[np.random.default_rng(0).permutation(17)]
    assert motion_judge.observe(shuffled).greatest_step > 0.06


def test_the_judge_names_no_motion_between_standing_and_moving_or_across_the_corner() -> None:
    line = np.linspace(0, 1, 17)[:, None]
    assert motion_judge.name_motion(0.3 + line * (0.11, 0.0)) is None
    assert motion_judge.name_motion(0.3 + line * (0.3, 0.25)) is None
    assert motion_judge.name_motion(0.3 + line * (0.3, 0.05)) == "moving right"


def test_an_empty_clip_shows_nothing() -> None:
    seen = motion_judge.observe(np.full((3, 64, 64, 3), shapes.PALETTE["black"], np.uint8))
    assert (seen.background, seen.colour, seen.shape, seen.motion) == ("black", None, None, None)
    assert seen.greatest_step == np.inf


def test_every_word_of_a_varied_caption_is_one_token() -> None:
    tokenizer = build_tokenizer()
    rng = np.random.default_rng(0)
    for scene in SCENES[::5]:
        caption = motion_captions.vary(scene, rng)
        words = caption.replace(",", "").replace(".", "").split()
        tokens = [token for token in tokenizer.tokenize(caption) if token not in (",", ".")]
        assert len(tokens) == len(words), caption


def test_captions_are_sometimes_empty_and_mostly_whole() -> None:
    rng = np.random.default_rng(0)
    scene = SCENES[0]
    captions = [motion_captions.vary(scene, rng) for _ in range(1000)]
    assert 600 < captions.count(scene.caption) < 800
    assert captions.count("") > 20
    assert captions.count(motion_captions.USUAL_NEGATIVES) > 10


@pytest.mark.parametrize("shape", motions.SHAPES)
def test_a_blurred_shape_is_still_named(shape: str) -> None:
    share = shapes.coverage(shape, shapes.Placement(31.3, 33.8, 16.2), 64, 64)
    padded = np.pad(share, 2, mode="edge")
    blurred = np.mean([padded[y : y + 64, x : x + 64] for y in range(5) for x in range(5)], axis=0)
    assert motion_judge.name_shape([blurred > 0.5]) == shape


def test_an_ellipse_and_a_bar_are_no_shape_of_this_world() -> None:
    y, x = np.mgrid[:64, :64] - 32
    assert motion_judge.name_shape([(x / 24) ** 2 + (y / 9) ** 2 < 1]) is None
    assert motion_judge.name_shape([(abs(x) < 24) & (abs(y) < 7)]) is None
