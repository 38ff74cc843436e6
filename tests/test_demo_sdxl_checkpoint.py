"""The demo SDXL checkpoint means what it is told: measured through plain diffusers, by image analysis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from demo_models import evaluate, judge, sampling, shapes, to_single_file
from demo_models.evaluate import Sampling
from demo_models.sdxl_autoencoder import to_tensor

FOLDER = Path(evaluate.__file__).parent / "sdxl-shapes"
SCENES = [
    shapes.Scene("circle", "white", "red", "large"),
    shapes.Scene("square", "yellow", "blue", None),
    shapes.Scene("triangle", "black", "green", "large"),
    shapes.Scene("star", "gray", "orange", "large"),
    shapes.Scene("circle", "brown", "pink", "small"),
    shapes.Scene("square", "pink", "purple", "large"),
]
SEEDS = range(len(SCENES))
COLOURLESS = "a circle on a white background"


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return evaluate.load_sdxl(FOLDER)


@pytest.fixture(scope="module")
def guided(pipeline: Any) -> list[judge.Pixels]:
    return evaluate.sample(pipeline, [scene.caption for scene in SCENES], SEEDS, Sampling())


def test_the_checkpoint_is_small_enough_for_a_repository() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 15e6


def test_pictures_have_the_colours_and_shapes_of_their_captions(guided: list[judge.Pixels]) -> None:
    figures = evaluate.accuracy(SCENES, guided)
    assert figures.foreground == 1
    assert figures.background == 1
    assert figures.shape >= 5 / 6


def test_guidance_brings_pictures_nearer_to_their_captions(pipeline: Any, guided: list[judge.Pixels]) -> None:
    free = evaluate.sample(
        pipeline,
        [scene.caption for scene in SCENES],
        SEEDS,
        Sampling(guidance_scale=1.0, num_inference_steps=15),
    )
    with_it, without = evaluate.accuracy(SCENES, guided), evaluate.accuracy(SCENES, free)
    assert with_it.all_right >= without.all_right
    assert any(not np.array_equal(*pair) for pair in zip(guided, free, strict=True))


def circles(pipeline: Any, negative: str = "") -> list[str | None]:
    """The colours of twelve circles of which the prompt names none."""
    quick, prompts = Sampling(num_inference_steps=15, negative=negative), [COLOURLESS] * 12
    return [judge.observe(picture).colour for picture in evaluate.sample(pipeline, prompts, range(12), quick)]


@pytest.fixture(scope="module")
def free(pipeline: Any) -> list[str | None]:
    return circles(pipeline)


def test_where_the_prompt_names_no_colour_seeds_draw_several(free: list[str | None]) -> None:
    assert len(set(free)) >= 3


def test_a_colour_in_the_negative_prompt_becomes_rare(pipeline: Any, free: list[str | None]) -> None:
    common = max(sorted(str(colour) for colour in free), key=lambda colour: free.count(colour))
    assert free.count(common) >= 3
    assert circles(pipeline, negative=common).count(common) <= 1


def test_the_judge_names_drawn_pictures_right_after_the_autoencoder(pipeline: Any) -> None:
    scenes = sampling.spread(shapes.scenes(), 48, evaluate.ORDER)
    drawn = np.stack([shapes.picture(scene, 128, 128, seed) for seed, scene in enumerate(scenes)])
    with torch.no_grad():
        latents = pipeline.vae.encode(to_tensor(drawn)).latent_dist.mean
        restored = pipeline.vae.decode(latents).sample.clamp(-1, 1).permute(0, 2, 3, 1)
    pictures = list(np.rint((restored.numpy() + 1) * 127.5).astype(np.uint8))
    figures = evaluate.accuracy(scenes, pictures)
    assert figures.foreground == figures.background == 1
    assert figures.shape >= 0.95


def test_a_seed_decides_what_the_caption_leaves_open(pipeline: Any) -> None:
    caption, quick = SCENES[0].caption, Sampling(num_inference_steps=10)
    first, again, other = (evaluate.sample(pipeline, [caption], [seed], quick)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other.astype(int)).max() > 50


@pytest.mark.parametrize(("width", "height"), [(160, 96), (96, 160)])
def test_other_sizes_are_drawn_as_well(pipeline: Any, width: int, height: int) -> None:
    scenes = SCENES[:2]
    pictures = evaluate.sample(
        pipeline, [scene.caption for scene in scenes], [0, 1], Sampling(width=width, height=height)
    )
    assert pictures[0].shape == (height, width, 3)
    figures = evaluate.accuracy(scenes, pictures)
    assert figures.foreground == figures.background == 1


def test_the_single_file_of_the_original_layout_gives_the_same_picture(pipeline: Any, tmp_path: Path) -> None:
    file = tmp_path / "sdxl-shapes.safetensors"
    save_file(to_single_file.convert(FOLDER), file)
    single = evaluate.load_sdxl(file)
    quick = Sampling(num_inference_steps=6)
    from_folder, from_file = (
        evaluate.sample(pipe, [SCENES[0].caption], [0], quick) for pipe in (pipeline, single)
    )
    assert np.array_equal(from_folder[0], from_file[0])
    assert single.scheduler.config.timestep_spacing == pipeline.scheduler.config.timestep_spacing


def test_the_single_file_has_the_original_names() -> None:
    names = to_single_file.convert(FOLDER).keys()
    assert {
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.label_emb.0.0.weight",
        "model.diffusion_model.output_blocks.2.2.conv.weight",
        "first_stage_model.decoder.up.3.block.0.norm1.weight",
        "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight",
        "conditioner.embedders.1.model.text_projection",
    } <= names
    tensors = sum(len(load_file(file)) for file in FOLDER.rglob("*.safetensors"))
    assert len(names) > tensors / 2


def test_a_projection_that_is_not_square_is_refused() -> None:
    with pytest.raises(ValueError, match="square"):
        to_single_file.convert_second_encoder({"text_projection.weight": torch.zeros(4, 8)})
