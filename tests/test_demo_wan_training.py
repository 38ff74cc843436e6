"""What the training of the demo WAN checkpoint stands on."""

from __future__ import annotations

import copy

import numpy as np
import torch
from diffusers import WanPipeline
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from demo_models import muon, train_wan_vae, wan_models
from shared.settings import QUALITY_NEGATIVES


def test_orthogonalised_matrices_turn_and_stretch_little() -> None:
    torch.manual_seed(0)
    stretched = torch.randn(3, 24, 40) * torch.logspace(-1, 0.5, 24)[:, None]
    values = torch.linalg.svdvals(muon.orthogonalised(stretched))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_muon_moves_every_kind_of_weight_and_goes_on_from_a_saved_state() -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(32, 4))
    batch, before = torch.randn(2, 3, 4, 4), copy.deepcopy(layers.state_dict())

    def steps(module: torch.nn.Module, optimizer: muon.Muon, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            module(batch).square().mean().backward()
            optimizer.step()

    optimizer = muon.muon(layers, 1e-2, 0.1)
    steps(layers, optimizer, 2)
    assert all(not torch.equal(value, before[name]) for name, value in layers.state_dict().items())
    resumed = copy.deepcopy(layers)
    other = muon.muon(resumed, 1e-2, 0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for module, each in ((layers, optimizer), (resumed, other)):
        steps(module, each, 3)
    for name, value in layers.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


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
