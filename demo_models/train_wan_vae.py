"""The autoencoder of the demo WAN checkpoint: its training, and the latents it makes of drawn clips."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from demo_models import motions, shapes
from demo_models.training import PROCESSES, Schedule, fit_parts, run_side_by_side, save_whole
from demo_models.wan_models import SEED, build_vae, make_optimizer

WINDOW = 48
CLIPS_AT_ONCE = 15
KL_WEIGHT = 3e-5


@dataclass(frozen=True)
class Part:
    """A descent of the autoencoder; `batches` are (clips of each process, frames) of a step, in turn."""

    name: str
    schedule: Schedule
    batches: tuple[tuple[int, int], ...]


# Short clips first, then longer ones too, for what the autoencoder remembers from chunk to chunk: that part
# starts from the averaged weights of the first.
PARTS = (
    Part("vae", Schedule(1300, 2.5e-3, hold=0.45), ((4, 5), (4, 5), (2, 13))),
    Part("vae-polish", Schedule(1000, 1.5e-3, warmup=30, hold=0.3), ((4, 5), (2, 9), (1, 17))),
)

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


def to_tensor(clips: NDArray[np.uint8]) -> torch.Tensor:
    """(n, frames, h, w, 3) of 0…255 to (n, 3, frames, h, w) of -1…1."""
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def _channels_last(vae: Any) -> Any:
    """The layout in which convolutions of few channels are fastest on a CPU."""
    for value in vae.parameters():
        if value.ndim == 5:
            value.data = value.data.contiguous(memory_format=torch.channels_last_3d)
        elif value.ndim == 4:
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    return vae


def _window(rng: np.random.Generator, frames: int) -> NDArray[np.uint8]:
    """A short clip of a shape that drifts any way, one in five in colours outside the palette."""
    side = WINDOW
    radius = float(rng.uniform(0.9, 1.1)) * motions.RADIUS * 64
    angle = float(rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.7:
        angle = np.pi / 2 * int(rng.integers(4))
    speed = float(rng.choice([0.0, rng.uniform(0.2, 0.5), rng.uniform(0.9, 1.6)], p=[0.25, 0.2, 0.55]))
    middle = rng.uniform(0.15, 0.85, 2) * side
    drift = speed * np.array([np.cos(angle), np.sin(angle)])
    moments = np.arange(frames) - frames // 2
    placements = [shapes.Placement(x, y, radius) for x, y in middle + drift * moments[:, None]]
    if rng.random() < 0.2:
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


def train_vae(folder: Path) -> None:
    """Expected: PSNR of windows 20 dB at step 300, 28.0 after `vae`, 30.4 in the end; of clips 30 to 32."""
    run_side_by_side(_train_vae_part, folder)


def _train_vae_part(rank: int, folder: Path) -> None:
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

    def loss_at(number: int, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng([SEED, 10 * (number + 1), step, rank])
        batches = PARTS[number].batches
        count, frames = batches[step % len(batches)]
        return loss_of(to_tensor(np.stack([_window(rng, frames) for _ in range(count)])))

    seconds = fit_parts(
        PARTS,
        vae,
        loss_at,
        folder,
        seed=SEED,
        average_decay=0.995,
        max_norm=3.0,
        weight_decay=0.0,
        optimize=make_optimizer,
    )
    if rank == 0:
        print(f"vae: {seconds:.0f} s")
        _finish_vae(vae, folder)


@torch.no_grad()
def _finish_vae(vae: Any, folder: Path) -> None:
    """Keep the autoencoder with the mean and deviation of its latents over whole clips."""
    vae.eval()
    scenes = motions.scenes()
    order = np.random.default_rng([SEED, 2]).permutation(len(scenes))
    clips = to_tensor(np.stack([motions.clip(scenes[k], 17, 64, 64, seed=int(k)) for k in order[:96]]))
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(clips, 8)])
    restored = torch.cat([vae.decode(part).sample for part in torch.split(latents, 8)])
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    psnr = 10 * torch.log10(4 / (restored - clips).square().mean((0, 1, 3, 4)))
    print(f"vae: standard deviation by channel {[round(float(v), 2) for v in std]}")
    print(f"vae: PSNR by frame of whole clips {[round(float(v), 1) for v in psnr]} dB", flush=True)
    save_whole({"vae": vae.state_dict(), "mean": mean, "std": std}, folder / "vae-final.pt")


def load_vae(folder: Path) -> Any:
    state = torch.load(folder / "vae-final.pt", weights_only=True)
    vae = build_vae()
    vae.load_state_dict(state["vae"])
    vae.register_to_config(latents_mean=state["mean"].tolist(), latents_std=state["std"].tolist())
    return vae.eval()


def encode_latents(folder: Path) -> None:
    """Latents of mean 0 and deviation 1 by channel, (clips, 16, latent frames, h / 8, w / 8)."""
    started = time.monotonic()
    run_side_by_side(_encode_latents_part, folder)
    for kind in CLIPS:
        if latents_file(folder, kind).exists():
            continue
        files = [_part_file(folder, kind, rank) for rank in range(PROCESSES)]
        whole = torch.cat([torch.load(file, weights_only=True) for file in files])
        save_whole(whole, latents_file(folder, kind))
        for file in files:
            file.unlink()
    print(f"latents: {time.monotonic() - started:.0f} s", flush=True)


@torch.no_grad()
def _encode_latents_part(rank: int, folder: Path) -> None:
    vae = _channels_last(load_vae(folder))
    mean, std = (
        torch.tensor(values)[None, :, None, None, None]
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    scenes = motions.scenes()
    for kind, count in CLIPS.items():
        file = _part_file(folder, kind, rank)
        if file.exists() or latents_file(folder, kind).exists():
            continue
        shown = scenes_shown(kind)
        mine = np.array_split(np.arange(count), PROCESSES)[rank]
        parts = []
        for some in np.array_split(mine, -(-len(mine) // CLIPS_AT_ONCE)):
            drawn = [motions.clip(scenes[shown[k]], *kind, seed=1000 * int(k) + kind[0]) for k in some]
            clips = to_tensor(np.stack(drawn)).contiguous(memory_format=torch.channels_last_3d)
            with torch.autocast("cpu", torch.bfloat16):
                encoded = vae.encode(clips).latent_dist.mean.float()
            parts.append(((encoded - mean) / std).half())
        save_whole(torch.cat(parts), file)


def _part_file(folder: Path, kind: Kind, rank: int) -> Path:
    return latents_file(folder, kind).with_suffix(f".{rank}.pt")


def latents_file(folder: Path, kind: Kind) -> Path:
    frames, width, height = kind
    return folder / f"latents-{frames}-{width}x{height}.pt"


def scenes_shown(kind: Kind) -> NDArray[np.intp]:
    """The scene of each clip of a kind: all of them equally often, in random order."""
    count = len(motions.scenes())
    rng = np.random.default_rng([SEED, 4, *kind])
    rounds = [rng.permutation(count) for _ in range(-(-CLIPS[kind] // count))]
    return np.concatenate(rounds)[: CLIPS[kind]]
