"""What the training of the demo WAN checkpoint stands on."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import WanPipeline
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from demo_models import train_wan_vae, wan_models
from shared.settings import QUALITY_NEGATIVES


def test_colours_pass_the_untrained_autoencoder() -> None:
    """A linear map reads a flat picture's colour off what comes out."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (48, 1, 1, 1, 3)).astype(np.uint8)
    clips = train_wan_vae.to_tensor(np.broadcast_to(colours, (48, 1, 32, 32, 3)).copy())
    vae = wan_models.build_vae()
    with torch.no_grad():
        restored = vae.decode(vae.encode(clips).latent_dist.mean).sample
    seen = torch.cat([restored.mean((2, 3, 4)), torch.ones(48, 1)], dim=1)
    told = clips[:, :, 0, 0, 0]
    missed = told - seen @ torch.linalg.lstsq(seen, told).solution
    assert float(missed.square().mean() / told.var()) < 0.6


def test_the_padding_of_a_prompt_counts_in_training_as_it_does_in_the_pipeline() -> None:
    """Training puts one key in the place of 500 equal ones; the pipeline has them all."""
    denoiser = wan_models.Denoiser().eval()
    torch.nn.init.normal_(denoiser.transformer.proj_out.weight, std=0.05)
    texts = ["a red circle moving right on a black background", "", QUALITY_NEGATIVES]
    latents, sigmas = torch.randn(3, 16, 2, 4, 4), torch.tensor([0.9, 0.5, 0.99])
    with torch.no_grad():
        trained = denoiser(latents, sigmas, texts)
        for block in denoiser.transformer.blocks:
            block.attn2.set_processor(WanAttnProcessor())
        tokenizer = wan_models.build_tokenizer()
        encoder = WanPipeline(tokenizer, denoiser.text_encoder, vae=None, scheduler=None)
        states, _ = encoder.encode_prompt(texts, do_classifier_free_guidance=False, max_sequence_length=512)
        served = denoiser.transformer(latents, 1000 * sigmas, states).sample
    assert torch.allclose(trained, served, atol=1e-4)
    assert float(served.abs().mean()) > 0.1
