"""The transformer and the text encoder of the demo WAN checkpoint: their training on cached latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from demo_models import motion_captions, motions
from demo_models.motions import MovingScene
from demo_models.train_wan_vae import CLIPS, WHOLE, Kind, latents_file, scenes_shown
from demo_models.training import Schedule, fit_parts, run_side_by_side, save_whole
from demo_models.wan_models import SEED, SHIFT, Denoiser, make_optimizer

# What 25 steps are asked for with (the quality `fast`), and how much of the loss its clips get: at more, what
# multiplies a difference by 6.5 drowns what makes either prediction better.
GUIDANCE = 6.5
GUIDED_WEIGHT = 0.06
# Sigma up to which a clip shows through the noise, and from which on it does not.
SHOWN = (0.75, 0.9)
# Uniform levels between which shapes form, sigma 0.36 to 0.92.
SHAPING = (0.1, 0.7)


@dataclass(frozen=True)
class Part:
    """A descent of the transformer; a step takes clips of one kind, the kinds in turn, of about equal cost.

    `turns` are (kind, clips of each process). Uniform noise levels are raised to `noisier` (1 or less) before
    the shift. Where it is `paired`, each noisy clip is predicted under a user's caption and under that of
    a negative prompt, and half of the noise levels are those at which shapes form.
    """

    name: str
    schedule: Schedule
    turns: tuple[tuple[Kind, int], ...]
    noisier: float = 1.0
    paired: bool = False


# Colours first. Directions need most: the transformer knows places only relative to each other, and a clip's
# noise has to tell it where the edges are and which frame is the first. Shapes last, under the two captions
# that guidance joins.
PARTS = (
    Part(
        "transformer",
        Schedule(2200, 3e-3, hold=0.6),
        (
            *((WHOLE, 11),) * 2,
            ((1, 64, 64), 32),
            (WHOLE, 11),
            ((81, 64, 64), 3),
            (WHOLE, 11),
            ((1, 64, 64), 32),
            (WHOLE, 11),
            ((17, 96, 64), 7),
            ((33, 64, 64), 6),
        ),
    ),
    Part(
        "transformer-directions",
        Schedule(1700, 2e-3, hold=0.35),
        (
            *((WHOLE, 12),) * 3,
            ((1, 64, 64), 32),
            *((WHOLE, 12),) * 3,
            ((81, 64, 64), 3),
            (WHOLE, 12),
            ((17, 96, 64), 7),
        ),
        noisier=0.75,
    ),
    Part(
        "transformer-refine",
        Schedule(2500, 1.5e-3, hold=0.3),
        (
            *((WHOLE, 16),) * 3,
            ((1, 64, 64), 48),
            *((WHOLE, 16),) * 4,
            ((81, 64, 64), 4),
            *((WHOLE, 16),) * 2,
            ((17, 96, 64), 10),
        ),
        paired=True,
    ),
)


def train_transformer(folder: Path) -> None:
    """Expected: loss 0.44 at step 600 of the first part, 0.27 in its end; 0.25 after the second, at noisier
    levels; in the third 0.24 at step 350, 0.22 at 1,250, 0.18 at 2,000 and in the end.
    """
    run_side_by_side(_train_transformer_part, folder)


def _train_transformer_part(rank: int, folder: Path) -> None:
    clips = Clips(folder)
    denoiser = Denoiser()

    def loss_at(number: int, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng([SEED, 3 + number, step, rank])
        part = PARTS[number]
        kind, count = part.turns[step % len(part.turns)]
        scenes, latents = clips.choose(kind, count, rng)
        batch = _noisy(latents, _levels(part, count, rng), rng)
        return (_paired_loss if part.paired else _plain_loss)(denoiser, scenes, batch, rng)

    seconds = fit_parts(
        PARTS,
        denoiser,
        loss_at,
        folder,
        seed=SEED,
        average_decay=0.996,
        weight_decay=0.02,
        optimize=make_optimizer,
    )
    if rank == 0:
        print(f"transformer: {seconds:.0f} s")
        save_whole(denoiser.state_dict(), folder / "transformer-final.pt")


class Clips:
    """Cached latents of drawn clips, by kind."""

    def __init__(self, folder: Path) -> None:
        self._scenes = motions.scenes()
        self._latents = {kind: torch.load(latents_file(folder, kind), weights_only=True) for kind in CLIPS}
        self._shown = {kind: scenes_shown(kind) for kind in CLIPS}

    def choose(
        self, kind: Kind, count: int, rng: np.random.Generator
    ) -> tuple[list[MovingScene], torch.Tensor]:
        """`count` clips: what they show, and their latents (count, 16, latent frames, h / 8, w / 8)."""
        chosen = rng.integers(CLIPS[kind], size=count)
        return [self._scenes[self._shown[kind][k]] for k in chosen], self._latents[kind][chosen].float()


@dataclass(frozen=True)
class Noisy:
    """Latents on their way to noise: `noisy` and `target` (n, 16, f, h, w), `sigmas` (n,)."""

    noisy: torch.Tensor
    sigmas: torch.Tensor
    target: torch.Tensor


def _levels(part: Part, count: int, rng: np.random.Generator) -> torch.Tensor:
    """Noise levels (count,) before the shift: one in each of as many equal strata.

    Where the part is paired, half of them are brought between those at which shapes form.
    """
    uniform = (rng.permutation(count) + rng.random(count)) / count
    if part.paired:
        shaping = rng.random(count) < 0.5
        uniform = np.where(shaping, SHAPING[0] + (SHAPING[1] - SHAPING[0]) * uniform, uniform)
    return torch.from_numpy(uniform**part.noisier).float()


def _noisy(clean: torch.Tensor, uniform: torch.Tensor, rng: np.random.Generator) -> Noisy:
    sigmas = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
    sigma = _by_clip(sigmas)
    astray = _guidance_error(clean, sigma, rng)
    noise = torch.randn_like(clean)
    return Noisy(
        noisy=(1 - sigma) * (clean + astray) + sigma * noise,
        sigmas=sigmas,
        target=noise - clean + (1 - sigma) / sigma * astray,
    )


def _by_clip(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None, None]


def _plain_loss(
    denoiser: Denoiser, scenes: list[MovingScene], batch: Noisy, rng: np.random.Generator
) -> tuple[torch.Tensor, dict[str, float]]:
    texts = [motion_captions.vary(scene, rng) for scene in scenes]
    error = (denoiser(batch.noisy, batch.sigmas, texts) - batch.target).square().mean((1, 2, 3, 4))
    noisiest = batch.sigmas.topk(-(-len(error) // 4)).indices
    return error.mean(), {"noisiest quarter": float(error.detach()[noisiest].mean())}


def _paired_loss(
    denoiser: Denoiser, scenes: list[MovingScene], batch: Noisy, rng: np.random.Generator
) -> tuple[torch.Tensor, dict[str, float]]:
    """The error under both captions, and a small part of that of the two as guidance joins them."""
    texts = [
        motion_captions.vary(scene, rng, mix)
        for mix in (motion_captions.PROMPTS, motion_captions.NEGATIVES)
        for scene in scenes
    ]
    both = denoiser(batch.noisy.repeat(2, 1, 1, 1, 1), batch.sigmas.repeat(2), texts)
    told, untold = both.chunk(2)
    target = batch.target
    plain = ((told - target).square() + (untold - target).square()).mean() / 2
    # Where the clip shows through the noise captions add nothing: guidance must change nothing.
    shown = ((SHOWN[1] - batch.sigmas) / (SHOWN[1] - SHOWN[0])).clamp(0, 1)
    joined = untold + GUIDANCE * (told - untold)
    guided = (_by_clip(shown) * (joined - target).square()).mean()
    return plain + GUIDED_WEIGHT * guided, {
        "told": float((told - target).detach().square().mean()),
        "untold": float((untold - target).detach().square().mean()),
        "guided": float(guided.detach()),
    }


def _guidance_error(clean: torch.Tensor, sigma: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """An error such as guidance makes, which the transformer is to take back, shaped as the latents.

    Guidance at 6.5 multiplies the difference between two predictions, so on the way down the noise levels
    colours overshoot beyond anything drawn. A third of the latents are therefore overdriven away from the
    mean and shifted, at most as far as the noise of the step reaches.
    """
    count, channels = clean.shape[:2]
    on = _by_clip(torch.from_numpy(rng.random(count) < 0.35).float())
    gain = _by_clip(torch.from_numpy(rng.uniform(-0.3, 1.0, size=count)).float())
    shift = torch.from_numpy(rng.normal(0, 0.3, size=(count, channels))).float()[:, :, None, None, None]
    reach = (sigma / (1 - sigma).clamp(min=1e-3)).clamp(max=1.0)
    return on * reach * (gain * clean + shift)
