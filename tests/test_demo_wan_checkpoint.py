"""The demo WAN checkpoint means what it is told: measured through plain diffusers, by image analysis."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo_models import evaluate_wan, motion_captions, motion_judge
from demo_models.evaluate_wan import Sampling
from demo_models.motion_judge import Clip
from demo_models.motions import MovingScene
from shared.settings import QUALITY_NEGATIVES

FOLDER = Path(evaluate_wan.__file__).parent / "wan-shapes"
SCENES = [
    MovingScene("red", "circle", "moving right", "black"),
    MovingScene("yellow", "square", "moving left", "blue"),
    MovingScene("green", "triangle", "moving up", "white"),
    MovingScene("cyan", "circle", "moving down", "black"),
    MovingScene("purple", "square", "standing still", "white"),
]
QUICK = Sampling(num_inference_steps=15)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return evaluate_wan.load_wan(FOLDER)


@pytest.fixture(scope="module")
def clips(pipeline: Any) -> list[Clip]:
    return evaluate_wan.sample(pipeline, [scene.caption for scene in SCENES], range(len(SCENES)), Sampling())


def test_the_checkpoint_is_small_enough_for_a_repository() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 15e6


def test_the_negative_prompt_of_training_is_the_one_that_jobs_get() -> None:
    assert motion_captions.USUAL_NEGATIVES == QUALITY_NEGATIVES


def test_latents_are_stated_as_the_checkpoint_has_them(pipeline: Any) -> None:
    deviations = np.array(pipeline.vae.config.latents_std)
    assert len(deviations) == pipeline.vae.config.z_dim == 16
    assert (deviations > 0.1).all()
    assert pipeline.scheduler.config.shift == 5.0


def test_clips_have_the_colours_shapes_and_directions_of_their_captions(clips: list[Clip]) -> None:
    figures = evaluate_wan.accuracy(SCENES, clips)
    assert figures.foreground == figures.background == 1
    assert figures.motion == 1
    assert figures.shape == 1


def test_a_shape_moves_from_frame_to_frame_without_a_jump(clips: list[Clip]) -> None:
    assert evaluate_wan.accuracy(SCENES, clips).smooth == 1


def test_frames_come_in_the_order_of_the_motion(clips: list[Clip]) -> None:
    assert motion_judge.observe(clips[0]).motion == "moving right"
    assert motion_judge.observe(clips[0][::-1]).motion == "moving left"


def test_the_direction_in_the_caption_decides_and_not_the_seed(pipeline: Any) -> None:
    directions = ["moving right", "moving left", "moving up", "moving down"]
    captions = [MovingScene("white", "circle", direction, "blue").caption for direction in directions]
    made = evaluate_wan.sample(pipeline, captions, [3] * 4, QUICK)
    assert [motion_judge.observe(clip).motion for clip in made] == directions


def test_a_single_frame_has_the_colours_of_its_caption(pipeline: Any) -> None:
    captions = [scene.caption for scene in SCENES]
    pictures = evaluate_wan.sample(pipeline, captions, range(len(SCENES)), replace(QUICK, frames=1))
    assert pictures[0].shape == (1, 64, 64, 3)
    figures = evaluate_wan.accuracy(SCENES, pictures)
    assert figures.foreground == figures.background == figures.shape == 1


def test_a_picture_can_be_asked_for_without_a_motion(pipeline: Any) -> None:
    captions = ["a red circle on a white background", "a yellow square on a black background"]
    seen = [
        motion_judge.observe(picture)
        for picture in evaluate_wan.sample(pipeline, captions, [0, 1], replace(QUICK, frames=1))
    ]
    assert [(each.colour, each.background) for each in seen] == [("red", "white"), ("yellow", "black")]


def test_81_frames_are_one_steady_motion(pipeline: Any) -> None:
    scene = MovingScene("yellow", "circle", "moving right", "blue")
    (clip,) = evaluate_wan.sample(pipeline, [scene.caption], [0], replace(QUICK, frames=81))
    assert clip.shape == (81, 64, 64, 3)
    figures = evaluate_wan.accuracy([scene], [clip])
    assert (figures.foreground, figures.background, figures.motion, figures.smooth) == (1, 1, 1, 1)


def test_wide_clips_are_made_as_well(pipeline: Any) -> None:
    made = evaluate_wan.sample(
        pipeline, [scene.caption for scene in SCENES[:2]], [0, 1], replace(QUICK, width=96)
    )
    assert made[0].shape == (17, 64, 96, 3)
    figures = evaluate_wan.accuracy(SCENES[:2], made)
    assert figures.foreground == figures.background == 1


def test_a_seed_decides_what_the_caption_leaves_open(pipeline: Any) -> None:
    caption, few = SCENES[0].caption, replace(QUICK, num_inference_steps=6)
    first, again, other = (evaluate_wan.sample(pipeline, [caption], [seed], few)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other.astype(int)).max() > 50


def test_a_colour_in_the_negative_prompt_is_avoided(pipeline: Any) -> None:
    """At one frame, which is quick; a caption that leaves the colour open."""
    pictures = replace(QUICK, frames=1)
    captions = ["circle, black background"] * 12
    free = [
        motion_judge.observe(each).colour
        for each in evaluate_wan.sample(pipeline, captions, range(12), pictures)
    ]
    common = max(sorted(str(colour) for colour in free), key=lambda colour: free.count(colour))
    refused = evaluate_wan.sample(pipeline, captions, range(12), replace(pictures, negative=common))
    left = sum(motion_judge.observe(each).colour == common for each in refused)
    assert left < free.count(common)
