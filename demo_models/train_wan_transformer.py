"""The transformer and the text encoder of the demo WAN checkpoint: their training on cached latents."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from demo_models import motion_captions, motions
from demo_models.muon import muon
from demo_models.train_wan_vae import CLIPS, WHOLE, Kind, latents_file, scenes_shown
from demo_models.training import Schedule, fit
from demo_models.wan_models import SEED, SHIFT, Denoiser


@dataclass(frozen=True)
class Part:
    """A descent of the transformer; a step takes clips of one kind, the kinds in turn, of about equal cost.

    `turns` are (kind, clips). Uniform noise levels are raised to `noisier` (1 or less) before the shift.
    """

    name: str
    schedule: Schedule
    turns: tuple[tuple[Kind, int], ...]
    noisier: float


# Colours and shapes first. Directions come last and need most: the transformer knows places only relative to
# each other, and a clip's noise has to tell it where the edges are and which frame is the first.
PARTS = (
    Part(
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
    Part(
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
    Part(
        "transformer-polish",
        Schedule(1800, 2e-3, hold=0.25),
        (
            *((WHOLE, 26),) * 4,
            ((1, 64, 64), 64),
            *((WHOLE, 26),) * 2,
            ((81, 64, 64), 5),
            *((WHOLE, 26),) * 2,
            ((17, 96, 64), 14),
        ),
        noisier=0.9,
    ),
)


def train_transformer(folder: Path) -> None:
    """Expected: loss ... at step ...."""
    scenes = motions.scenes()
    latents = {kind: torch.load(latents_file(folder, kind), weights_only=True) for kind in CLIPS}
    shown = {kind: scenes_shown(kind) for kind in CLIPS}
    denoiser = Denoiser()

    def loss_at(step: int, number: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng([SEED, 3 + number, step])
        part = PARTS[number]
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
    for number, part in enumerate(PARTS):
        seconds += fit(
            part.name,
            denoiser,
            part.schedule,
            functools.partial(loss_at, number=number),
            folder,
            seed=SEED + number,
            average_decay=0.996,
            weight_decay=0.02,
            optimize=muon,
        )
    print(f"transformer: {seconds:.0f} s")
    torch.save(denoiser.state_dict(), folder / "transformer-final.pt")


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
