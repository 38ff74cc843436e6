"""The parts of the demo WAN checkpoint before training: the classes of WAN 2.1 in miniature."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from demo_models import make_tiny_wan, motion_captions
from demo_models.optimizers import MuonWithAdamW

SEED = 6
LATENT_CHANNELS = 16
SHIFT = 5.0
FIRST_LOGVAR = -5.0
TEXT_LENGTH = 512
TEXT_WIDTH = 96
HEADS, HEAD_WIDTH, LAYERS, INNER_WIDTH = 5, 32, 6, 480


make_optimizer = functools.partial(
    MuonWithAdamW,
    outer=("table", "shared", "relative", "conv_in", "conv_out", "proj_out"),
    # What is not orthogonalised gets noisy earlier.
    adamw_share=0.4,
)


def build_vae() -> Any:
    """16 latent channels and the strides of WAN (8 in space, 4 in time); the decoder is twice as wide."""
    torch.manual_seed(SEED)
    vae = AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=16,
        z_dim=LATENT_CHANNELS,
        num_res_blocks=1,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )
    _begin_as_a_pyramid(vae)
    with torch.no_grad():
        # Nearly no sampling noise at first: at a log variance of 0 the decoder learns to ignore the latents.
        vae.quant_conv.bias[LATENT_CHANNELS:] += FIRST_LOGVAR
    return vae


@torch.no_grad()
def _begin_as_a_pyramid(vae: Any) -> None:
    """Let the untrained autoencoder pass on averages, so that colours are there from the first step.

    PyTorch's own start shrinks the signal in every layer and adds a bias of the same size: what a latent
    says of its pixels then takes a thousand steps to appear. Here a layer that changes the resolution or the
    width begins as a mean over its taps with some noise, and residual blocks begin small.
    """
    for name, layer in vae.named_modules():
        if not isinstance(layer, torch.nn.Conv2d | torch.nn.Conv3d):
            continue
        weight = layer.weight
        fan_in = weight[0].numel()
        assert layer.bias is not None
        torch.nn.init.zeros_(layer.bias)
        if name.endswith(("conv1", "to_qkv", "conv_out")):
            torch.nn.init.normal_(weight, std=1.4 / fan_in**0.5)
        elif name.endswith(("conv2", "proj")):
            torch.nn.init.normal_(weight, std=0.3 / fan_in**0.5)
        else:
            noise = 0.0 if "quant_conv" in name else 0.4
            torch.nn.init.normal_(weight, std=noise / fan_in**0.5)
            _add_pass(name, weight)
    # The constant beside the colours: norms over channels keep proportions only.
    torch.nn.init.normal_(vae.encoder.conv_in.bias, std=0.5)


def _add_pass(name: str, weight: torch.Tensor) -> None:
    """Add a map that keeps lengths to the taps that a flat or still picture is carried through by."""
    outputs, inputs = weight.shape[:2]
    carried = torch.eye(outputs, inputs)
    if name.endswith("time_conv"):
        # Downwards the mean of three frames, upwards the newest one for both halves.
        if outputs == inputs:
            weight += carried[:, :, None, None, None] / 3
        else:
            weight[:, :, -1, 0, 0] += torch.cat([torch.eye(inputs)] * 2)
    elif outputs == inputs and "downs" not in name and "down_blocks" in name and weight.ndim == 4:
        weight[:, :, :2, :2] += carried[:, :, None, None] / 4
    else:
        torch.nn.init.orthogonal_(carried, gain=max(1.0, inputs / outputs) ** 0.5)
        carried = torch.eye(outputs) if outputs == inputs else carried
        middle = weight.shape[-1] // 2
        (weight[:, :, -1] if weight.ndim == 5 else weight)[:, :, middle, middle] += carried


def build_tokenizer() -> T5Tokenizer:
    return make_tiny_wan.build_tokenizer(motion_captions.WORDS)


class _PaddedText(WanAttnProcessor):  # type: ignore[misc]
    """Cross attention in which one key stands for all of the padding.

    The pipeline pads embeddings with zeros to 512 tokens and masks nothing. Equal keys with equal values are
    one key whose logit is greater by the logarithm of their number: exact, at 5 % of the cost.
    """

    bias: torch.Tensor

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any, *_: Any) -> Any:
        bias = self.bias.to(hidden_states.dtype)
        return super().__call__(attn, hidden_states, encoder_hidden_states, bias, None)


def build_transformer() -> Any:
    torch.manual_seed(SEED + 1)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_WIDTH,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=128,
        ffn_dim=INNER_WIDTH,
        num_layers=LAYERS,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
    )
    torch.nn.init.zeros_(transformer.proj_out.weight)
    torch.nn.init.zeros_(transformer.proj_out.bias)
    embedder = transformer.condition_embedder.text_embedder
    for layer in (embedder.linear_1, embedder.linear_2):
        torch.nn.init.zeros_(layer.bias)
    for block in transformer.blocks:
        _look_away_from_padding(block.attn2)
    return transformer


@torch.no_grad()
def _look_away_from_padding(attention: Any) -> None:
    """Start with queries that point away from the key of the padding.

    500 zeros would take nearly all of the attention from a caption of 12 tokens, and the caption's gradient
    with it. A zero embedding's key is little more than the layer's bias, so a bias that opposes the queries'
    lowers its logit and leaves that of words, in which it is a small part.
    """
    away = torch.where(torch.rand(attention.to_k.bias.shape) < 0.5, -1.0, 1.0)
    attention.to_k.bias.copy_(0.02 * away)
    attention.to_q.bias.copy_(-0.8 * away)
    attention.norm_q.weight.fill_(1.2)
    attention.norm_k.weight.fill_(1.2)


def build_text_encoder(symbols: int) -> Any:
    torch.manual_seed(SEED + 2)
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=symbols,
            d_model=TEXT_WIDTH,
            d_kv=24,
            num_heads=4,
            d_ff=192,
            num_layers=2,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    )


class Denoiser(torch.nn.Module):
    """The transformer with its text encoder, called as WanPipeline calls them."""

    def __init__(self) -> None:
        super().__init__()
        self._tokenizer = build_tokenizer()
        self.text_encoder = build_text_encoder(len(self._tokenizer))
        self.transformer = build_transformer()
        self._padded = _PaddedText()
        for block in self.transformer.blocks:
            block.attn2.set_processor(self._padded)

    def forward(self, latents: torch.Tensor, sigmas: torch.Tensor, texts: list[str]) -> torch.Tensor:
        """The velocity (noise minus latents) at noise levels `sigmas` of (n,)."""
        tokens = self._tokenizer(texts, padding=True, return_tensors="pt")
        mask = tokens.attention_mask
        states = self.text_encoder(tokens.input_ids, mask).last_hidden_state * mask[..., None]
        states = torch.nn.functional.pad(states, (0, 0, 0, 1))
        padding = (TEXT_LENGTH - mask.sum(1, keepdim=True)).log()
        bias = torch.cat([torch.where(mask > 0, 0.0, -torch.inf), padding], dim=1)
        self._padded.bias = bias[:, None, None, :]
        return self.transformer(latents, 1000 * sigmas, states, return_dict=False)[0]  # type: ignore[no-any-return]
