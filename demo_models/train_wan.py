"""Train the demo WAN checkpoint from scratch on CPU cores: `python demo_models/train_wan.py all`.

Stages, each resumable (checkpoints in demo_models/_work/wan/, every two minutes):

    vae          the autoencoder, on windows of drawn clips
    latents      latents of drawn clips of every length
    transformer  the transformer and the text encoder together
    export       fp16 safetensors in the diffusers layout at demo_models/wan-shapes/

Seeds are fixed; data and noise of a step depend on its number alone. Expected losses stand beside each
stage's constants, times in wan-shapes/README.md.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from numpy.typing import NDArray
from transformers import UMT5Config, UMT5EncoderModel

if __package__ in (None, ""):
    # Run as a script: the checkout's root is not on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo_models import motion_captions, motions, shapes
from demo_models.make_tiny_wan import build_tokenizer
from demo_models.muon import Muon
from demo_models.training import Schedule, fit

HERE = Path(__file__).parent
WORK = HERE / "_work" / "wan"
CHECKPOINT = HERE / "wan-shapes"
SEED = 6

LATENT_CHANNELS = 16
VAE_WINDOW = 48


@dataclass(frozen=True)
class VaePart:
    """A descent of the autoencoder; `batches` are (clips, frames) of a step, in turn."""

    name: str
    schedule: Schedule
    batches: tuple[tuple[int, int], ...]


# Short clips first, then longer ones for what the autoencoder remembers from chunk to chunk. Each part starts
# from the averaged weights of the one before.
VAE_PARTS = (
    VaePart("vae", Schedule(1300, 2.5e-3, hold=0.45), ((8, 5), (8, 5), (3, 13))),
    VaePart("vae-longer", Schedule(560, 2e-3, warmup=30, hold=0.4), ((4, 9), (2, 17))),
    VaePart("vae-polish", Schedule(900, 1.5e-3, warmup=30, hold=0.3), ((8, 5), (4, 9), (2, 17))),
)
VAE_FIRST_LOGVAR = -5.0
KL_WEIGHT = 3e-5

# (frames, width, height)
Kind = tuple[int, int, int]
WHOLE: Kind = (17, 64, 64)
# Clips in the latent cache.
CLIPS: dict[Kind, int] = {
    WHOLE: 3600,
    (1, 64, 64): 3000,
    (33, 64, 64): 165,
    (81, 64, 64): 165,
    (17, 96, 64): 240,
}


@dataclass(frozen=True)
class TransformerPart:
    """A descent of the transformer; a step takes clips of one kind, the kinds in turn, of about equal cost.

    `turns` are (kind, clips). Uniform noise levels are raised to `noisier` (1 or less) before the shift.
    """

    name: str
    schedule: Schedule
    turns: tuple[tuple[Kind, int], ...]
    noisier: float


# Colours and shapes first. Directions come last and need most: the transformer knows places only relative to
# each other, and a clip's noise has to tell it where the edges are and which frame is the first.
TRANSFORMER_PARTS = (
    TransformerPart(
        "transformer",
        Schedule(3200, 3e-3, hold=0.6),
        (
            (WHOLE, 22),
            ((1, 64, 64), 64),
            (WHOLE, 22),
            ((81, 64, 64), 5),
            (WHOLE, 22),
            ((1, 64, 64), 64),
            ((17, 96, 64), 14),
            (WHOLE, 22),
            ((33, 64, 64), 12),
        ),
        noisier=1.0,
    ),
    TransformerPart(
        "transformer-directions",
        Schedule(2400, 2e-3, hold=0.35),
        (
            *((WHOLE, 24),) * 3,
            ((1, 64, 64), 64),
            *((WHOLE, 24),) * 3,
            ((81, 64, 64), 5),
            (WHOLE, 24),
            ((17, 96, 64), 14),
        ),
        noisier=0.75,
    ),
)
SHIFT = 5.0
TEXT_LENGTH = 512
TEXT_WIDTH = 96
HEADS, HEAD_WIDTH, LAYERS, INNER_WIDTH = 5, 32, 6, 480


def to_tensor(clips: NDArray[np.uint8]) -> torch.Tensor:
    """(n, frames, h, w, 3) of 0…255 to (n, 3, frames, h, w) of -1…1."""
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def split_by_shape(module: torch.nn.Module, rate: float, weight_decay: float) -> Muon:
    """Muon for the weights of layers, AdamW for embeddings, biases and norms."""
    matrices, others = [], []
    for name, value in module.named_parameters():
        inner = value.ndim > 1 and not any(
            part in name
            for part in ("norm", "table", "shared", "relative", "conv_in", "conv_out", "proj_out")
        )
        (matrices if inner else others).append(value)
    return Muon(matrices, others, lr=rate, weight_decay=weight_decay)


# --- the autoencoder


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
        vae.quant_conv.bias[LATENT_CHANNELS:] += VAE_FIRST_LOGVAR
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


def _channels_last(vae: Any) -> Any:
    """The layout in which convolutions of few channels are fastest on a CPU."""
    for value in vae.parameters():
        if value.ndim == 5:
            value.data = value.data.contiguous(memory_format=torch.channels_last_3d)
        elif value.ndim == 4:
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    return vae


def _window(rng: np.random.Generator, frames: int) -> NDArray[np.uint8]:
    """A short clip of a shape that drifts any way, three in ten in colours outside the palette."""
    side = VAE_WINDOW
    radius = float(rng.uniform(0.2, 0.3)) * 64
    angle = float(rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.7:
        angle = np.pi / 2 * int(rng.integers(4))
    speed = float(rng.choice([0.0, rng.uniform(0.2, 0.5), rng.uniform(0.9, 1.6)], p=[0.25, 0.2, 0.55]))
    middle = rng.uniform(0.15, 0.85, 2) * side
    drift = speed * np.array([np.cos(angle), np.sin(angle)])
    placements = [shapes.Placement(*(middle + drift * (k - frames // 2)), radius) for k in range(frames)]
    if rng.random() < 0.3:
        foreground, background = _any_colour(rng), _any_colour(rng)
    else:
        foreground = shapes.PALETTE[str(rng.choice(motions.COLOURS))]
        background = shapes.PALETTE[str(rng.choice(motions.BACKGROUNDS))]
    return motions.paint(str(rng.choice(motions.SHAPES)), placements, foreground, background, side, side)


def _any_colour(rng: np.random.Generator) -> shapes.Rgb:
    red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
    return red, green, blue


def _decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """`vae.decode` without its clamp, which would stop the gradient wherever a colour overshoots."""
    vae.clear_cache()
    latents = vae.post_quant_conv(latents)
    parts = []
    for k in range(latents.shape[2]):
        vae._conv_idx = [0]
        parts.append(
            vae.decoder(
                latents[:, :, k : k + 1], feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=k == 0
            )
        )
    vae.clear_cache()
    return torch.cat(parts, dim=2)


def _hue_error(error: torch.Tensor) -> torch.Tensor:
    """Mean square by frame of what an error changes in red against green and in both against blue.

    Brightness is most of the variance of the palette's colours, and their differences would be learnt last.
    """
    red, green, blue = error.unbind(1)
    hues = (red - green).square() + 0.5 * (0.5 * (red + green) - blue).square()
    return hues.mean((0, 2, 3))


def train_vae() -> None:
    """Expected: PSNR of windows ... dB at step ...; ... dB on whole clips in the end."""
    vae = _channels_last(build_vae())

    def loss_of(clips: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(clips).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            restored = _decode(vae, mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)).float()
        error = restored - clips
        square, absolute = error.square().mean((0, 1, 3, 4)), error.abs().mean((0, 1, 3, 4))
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        by_frame = square + 0.2 * absolute + 0.5 * _hue_error(error)
        # The first frame has a latent of its own, and is all there is of a picture.
        loss = by_frame.mean() + 0.1 * by_frame[0] + KL_WEIGHT * kl
        decibels = -10 * torch.log10(square.detach() / 4)
        return loss, {
            "psnr": float(decibels.mean()),
            "first": float(decibels[0]),
            "last": float(decibels[-1]),
        }

    def loss_at(step: int, number: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng([SEED, 10 * (number + 1), step])
        batches = VAE_PARTS[number].batches
        count, frames = batches[step % len(batches)]
        return loss_of(to_tensor(np.stack([_window(rng, frames) for _ in range(count)])))

    seconds = 0.0
    for number, part in enumerate(VAE_PARTS):
        seconds += fit(
            part.name,
            vae,
            part.schedule,
            functools.partial(loss_at, number=number),
            WORK,
            seed=SEED + number,
            average_decay=0.995,
            max_norm=3.0,
            weight_decay=0.0,
            optimize=split_by_shape,
        )
    vae.eval()
    scenes = motions.scenes()
    order = np.random.default_rng([SEED, 2]).permutation(len(scenes))
    clips = to_tensor(np.stack([motions.clip(scenes[k], 17, 64, 64, seed=int(k)) for k in order[:96]]))
    with torch.no_grad():
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(clips, 16)])
        restored = torch.cat([vae.decode(part).sample for part in torch.split(latents, 16)])
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    psnr = 10 * torch.log10(4 / (restored - clips).square().mean((0, 1, 3, 4)))
    print(f"vae: {seconds:.0f} s, standard deviation by channel {[round(float(v), 2) for v in std]}")
    print(f"vae: PSNR by frame of whole clips {[round(float(v), 1) for v in psnr]} dB")
    torch.save({"vae": vae.state_dict(), "mean": mean, "std": std}, WORK / "vae-final.pt")


def load_vae() -> Any:
    state = torch.load(WORK / "vae-final.pt", weights_only=True)
    vae = build_vae()
    vae.load_state_dict(state["vae"])
    vae.register_to_config(latents_mean=state["mean"].tolist(), latents_std=state["std"].tolist())
    return vae.eval()


# --- latents of drawn clips


def encode_latents() -> None:
    """Latents of mean 0 and deviation 1 by channel, (clips, 16, latent frames, h / 8, w / 8)."""
    vae = _channels_last(load_vae())
    mean, std = (
        torch.tensor(values)[None, :, None, None, None]
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    scenes = motions.scenes()
    started = time.monotonic()
    for kind, count in CLIPS.items():
        if _latents_file(kind).exists():
            continue
        shown = _scenes_shown(kind)
        parts = []
        for first in range(0, count, 15):
            drawn = [
                motions.clip(scenes[shown[k]], *kind, seed=1000 * k + kind[0])
                for k in range(first, first + 15)
            ]
            clips = to_tensor(np.stack(drawn)).contiguous(memory_format=torch.channels_last_3d)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                encoded = vae.encode(clips).latent_dist.mean.float()
            parts.append(((encoded - mean) / std).half())
        latents = torch.cat(parts)
        torch.save(latents, _latents_file(kind))
        print(f"latents {tuple(latents.shape)}  {time.monotonic() - started:.0f} s", flush=True)


def _latents_file(kind: Kind) -> Path:
    frames, width, height = kind
    return WORK / f"latents-{frames}-{width}x{height}.pt"


def _scenes_shown(kind: Kind) -> NDArray[np.intp]:
    """The scene of each clip of a kind: all of them equally often, in random order."""
    count = len(motions.scenes())
    rng = np.random.default_rng([SEED, 4, *kind])
    rounds = [rng.permutation(count) for _ in range(-(-CLIPS[kind] // count))]
    return np.concatenate(rounds)[: CLIPS[kind]]


# --- the transformer and the text encoder


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
        self._tokenizer = build_tokenizer(motion_captions.WORDS)
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


def train_transformer() -> None:
    """Expected: loss ... at step ...."""
    scenes = motions.scenes()
    latents = {kind: torch.load(_latents_file(kind), weights_only=True) for kind in CLIPS}
    shown = {kind: _scenes_shown(kind) for kind in CLIPS}
    denoiser = Denoiser()

    def loss_at(step: int, number: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng([SEED, 3 + number, step])
        part = TRANSFORMER_PARTS[number]
        kind, count = part.turns[step % len(part.turns)]
        chosen = rng.integers(CLIPS[kind], size=count)
        texts = [motion_captions.vary(scenes[shown[kind][k]], rng) for k in chosen]
        clean = latents[kind][chosen].float()
        uniform = torch.from_numpy((rng.permutation(count) + rng.random(count)) / count).float()
        uniform = uniform**part.noisier
        sigmas = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
        sigma = sigmas[:, None, None, None, None]
        astray = _guidance_error(clean, sigma, rng)
        noise = torch.randn_like(clean)
        noisy = (1 - sigma) * (clean + astray) + sigma * noise
        target = noise - clean + (1 - sigma) / sigma * astray
        error = (denoiser(noisy, sigmas, texts) - target).square().mean((1, 2, 3, 4))
        return error.mean(), {"noisiest quarter": float(error.detach()[uniform > 0.75].mean())}

    seconds = 0.0
    for number, part in enumerate(TRANSFORMER_PARTS):
        seconds += fit(
            part.name,
            denoiser,
            part.schedule,
            functools.partial(loss_at, number=number),
            WORK,
            seed=SEED + number,
            average_decay=0.996,
            weight_decay=0.02,
            optimize=split_by_shape,
        )
    print(f"transformer: {seconds:.0f} s")
    torch.save(denoiser.state_dict(), WORK / "transformer-final.pt")


def _guidance_error(clean: torch.Tensor, sigma: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """An error such as guidance makes, which the transformer is to take back, shaped as the latents.

    Guidance at 6.5 multiplies the difference between two predictions, so on the way down the noise levels
    colours overshoot beyond anything drawn. A third of the latents are therefore overdriven away from the
    mean and shifted, at most as far as the noise of the step reaches.
    """
    count, channels = clean.shape[:2]
    on = torch.from_numpy(rng.random(count) < 0.35).float()[:, None, None, None, None]
    gain = torch.from_numpy(rng.uniform(-0.3, 1.0, size=count)).float()[:, None, None, None, None]
    shift = torch.from_numpy(rng.normal(0, 0.3, size=(count, channels))).float()[:, :, None, None, None]
    reach = (sigma / (1 - sigma).clamp(min=1e-3)).clamp(max=1.0)
    return on * reach * (gain * clean + shift)


# --- the checkpoint


def export(averaged_so_far: bool = False, folder: Path = CHECKPOINT) -> None:
    """Write the pipeline. `averaged_so_far` takes the running average of an unfinished transformer."""
    denoiser = Denoiser()
    if averaged_so_far:
        denoiser.load_state_dict(
            torch.load(WORK / "transformer.pt", weights_only=True)["average"], strict=False
        )
    else:
        denoiser.load_state_dict(torch.load(WORK / "transformer-final.pt", weights_only=True))
    for block in denoiser.transformer.blocks:
        block.attn2.set_processor(WanAttnProcessor())
    pipeline = WanPipeline(
        tokenizer=build_tokenizer(motion_captions.WORDS),
        text_encoder=denoiser.text_encoder,
        transformer=denoiser.transformer,
        vae=load_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
    )
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"export: {size / 1e6:.2f} MB at {folder}")


STAGES: dict[str, Callable[[], None]] = {
    "vae": train_vae,
    "latents": encode_latents,
    "transformer": train_transformer,
    "export": export,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["all", *STAGES, "export-unfinished"])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    WORK.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "export-unfinished":
        export(averaged_so_far=True)
        return
    for name, stage in STAGES.items():
        if arguments.stage in ("all", name):
            stage()


if __name__ == "__main__":
    main()
