"""How the demo SDXL checkpoint is trained: captions in pairs, noise with an error of guidance, attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_models import captions, sdxl_denoiser, shapes
from demo_models.sdxl_attention import use_small_attention
from demo_models.sdxl_models import Denoiser, build_tokenizers

SCENE = shapes.Scene("circle", "white", "red", "small")


def noise_levels(count: int, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return rng.integers(1000, size=count)


@pytest.fixture(scope="module")
def latents() -> dict[tuple[int, int], torch.Tensor]:
    """Two pictures of each scene: their values tell the scene and the picture."""
    scenes = len(shapes.scenes())
    torch.manual_seed(0)
    return {
        (width, height): torch.randn(2, scenes, 4, height // 8, width // 8)
        for width, height in shapes.FRAME_SIZES
    }


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), shift=st.floats(0, 1))
def test_what_the_unet_is_to_say_leads_back_to_the_clean_picture(
    latents: dict[tuple[int, int], torch.Tensor], seed: int, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    pictures = sdxl_denoiser.Pictures(latents)
    size, chosen = pictures.choose(3, rng)
    batch = pictures.noisy(size, chosen, noise_levels, shift, rng)
    signal = 1 / (1 + batch.sigma.square()).sqrt()
    clean = batch.noisy / signal - batch.sigma * batch.target
    for number, picture in enumerate(clean):
        drawn = latents[size][:, chosen[number // sdxl_denoiser.PICTURES_PER_CAPTION]]
        assert min(float((picture - one).abs().max()) for one in drawn) < 1e-3


def test_small_attention_says_what_the_pipelines_attention_says(tmp_path: Path) -> None:
    denoiser = Denoiser(build_tokenizers(tmp_path)).eval()
    noisy = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([10, 300, 500, 900])
    texts: list[captions.Caption] = [SCENE.caption, None]

    def predict(repeats: int) -> torch.Tensor:
        states, pooled = denoiser.encode(texts)
        conditions = {"text_embeds": pooled.repeat_interleave(2, 0), "time_ids": torch.full((4, 6), 128.0)}
        answer: torch.Tensor = denoiser.unet(
            noisy, steps, states.repeat_interleave(repeats, 0), added_cond_kwargs=conditions
        ).sample
        return answer

    with torch.no_grad():
        plain = predict(repeats=2)
        use_small_attention(denoiser)
        small = predict(repeats=1)
    assert torch.allclose(plain, small, atol=1e-4)


def test_of_a_pair_one_caption_tells_the_picture_and_the_other_at_most_parts_of_it() -> None:
    rng = np.random.default_rng(0)
    told = [captions.vary(SCENE, rng, captions.PROMPTS) for _ in range(1000)]
    untold = [captions.vary(SCENE, rng, captions.NEGATIVES) for _ in range(1000)]
    assert None not in told
    assert "" not in told
    assert {"a small circle on a white background", SCENE.caption} <= set(told)
    assert {None, "", "child, minor", "red, child, minor"} <= set(untold)
    assert not any(text and SCENE.caption in text for text in untold)


@given(st.integers(0, 2**32), st.sampled_from([captions.VARIED, captions.PROMPTS, captions.NEGATIVES]))
def test_a_caption_names_no_colour_that_is_not_in_the_picture(seed: int, mix: captions.Mix) -> None:
    text = captions.vary(SCENE, np.random.default_rng(seed), mix) or ""
    assert not (set(text.replace(",", " ").split()) & set(shapes.PALETTE)) - {"red", "white"}
