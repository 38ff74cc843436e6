"""The training of the demo SDXL checkpoint's UNet and text encoders: from nothing, then on its mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from demo_models import captions, shapes
from demo_models.optimizers import MuonWithAdamW
from demo_models.sdxl_attention import use_small_attention
from demo_models.sdxl_autoencoder import load_latents
from demo_models.sdxl_models import SEED, WORK, Denoiser, build_scheduler, build_tokenizers
from demo_models.training import Schedule, fit, run_side_by_side

PICTURES_PER_CAPTION = 2
MIN_SNR_GAMMA = 5.0

# Of each process.
CAPTIONS = 5
STEPS = 3440
RATE = 1.2e-3
HOLD = 0.762
SHIFT = 0.3
# A second descent from the averaged weights.
POLISH_STEPS = 700
POLISH_RATE = 6e-4

# One process; each picture with the caption of a user and with that of a negative prompt.
REFINE_CAPTIONS = 12
REFINE_STEPS = 2750
REFINE_RATE = 1.2e-3
REFINE_HOLD = 0.45
REFINE_SHIFT = 0.4
# A second descent from the averaged weights.
FINISH_STEPS = 550
FINISH_RATE = 6e-4
GUIDANCE = 6.5
GUIDED_WEIGHT = 0.06

Size = tuple[int, int]
NoiseLevels = Callable[[int, np.random.Generator], NDArray[np.int64]]


@dataclass(frozen=True)
class Noisy:
    """Latents on their way to noise: what the UNet sees and what it is to say.

    `noisy` and `target` (n, 4, h, w), `steps` (n,), `sigma` (n, 1, 1, 1), `time_ids` (n, 6).
    """

    noisy: torch.Tensor
    steps: torch.Tensor
    sigma: torch.Tensor
    target: torch.Tensor
    time_ids: torch.Tensor


class Pictures:
    """Latents of every scene by frame size, (variants, scenes, 4, h, w)."""

    def __init__(self, latents: Mapping[Size, torch.Tensor]) -> None:
        self.scenes = shapes.scenes()
        self._latents = latents
        self._centre = latents[(128, 128)].float().mean((0, 1, 3, 4))[None, :, None, None]
        self._signals = build_scheduler().alphas_cumprod

    def choose(self, count: int, rng: np.random.Generator) -> tuple[Size, NDArray[np.int64]]:
        """A frame size and `count` scenes, by number."""
        size = shapes.FRAME_SIZES[int(rng.choice(3, p=(0.6, 0.2, 0.2)))]
        return size, rng.integers(len(self.scenes), size=count)

    def noisy(
        self,
        size: Size,
        chosen: NDArray[np.int64],
        levels: NoiseLevels,
        shift: float,
        rng: np.random.Generator,
    ) -> Noisy:
        """`PICTURES_PER_CAPTION` pictures of each chosen scene, one after the other."""
        repeated = np.repeat(chosen, PICTURES_PER_CAPTION)
        latents = self._latents[size]
        clean = latents[rng.integers(len(latents), size=len(repeated)), repeated].float()
        noise = torch.randn_like(clean)
        steps = torch.from_numpy(levels(len(clean), rng))
        signal = self._signals[steps].sqrt()[:, None, None, None]
        sigma = (1 - self._signals[steps]).sqrt()[:, None, None, None] / signal
        astray = _guidance_error(clean - self._centre, sigma, shift, rng)
        return Noisy(
            noisy=signal * (clean + astray + sigma * noise),
            steps=steps,
            sigma=sigma,
            target=noise + astray / sigma,
            time_ids=_time_ids(size, len(clean), rng),
        )


def _predict(denoiser: Denoiser, texts: list[captions.Caption], batch: Noisy) -> torch.Tensor:
    """The predicted noise under each caption; with k times as many captions, k predictions a picture."""
    times = len(texts) * PICTURES_PER_CAPTION // len(batch.steps)
    with torch.autocast("cpu", torch.bfloat16):
        states, pooled = denoiser.encode(texts)
        conditions = {
            "text_embeds": pooled.repeat_interleave(PICTURES_PER_CAPTION, 0),
            "time_ids": batch.time_ids.repeat(times, 1),
        }
        predicted: torch.Tensor = denoiser.unet(
            batch.noisy.repeat(times, 1, 1, 1),
            batch.steps.repeat(times),
            states,
            added_cond_kwargs=conditions,
        ).sample
    return predicted.float()


# --- from nothing


def train_unet() -> None:
    """Expected: loss 0.18 at step 200, 0.063 at 1,000, 0.045 at 2,600, 0.028 in the end."""
    run_side_by_side(_train_unet_part, WORK)


def _train_unet_part(rank: int, folder: Path) -> None:
    pictures = Pictures(load_latents())
    denoiser = Denoiser(build_tokenizers(folder / f"tokenizers-{rank}"))
    use_small_attention(denoiser)

    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng([SEED, 3, step, rank])
        size, chosen = pictures.choose(CAPTIONS, rng)
        texts = [captions.vary(pictures.scenes[k], rng) for k in chosen]
        batch = pictures.noisy(size, chosen, _noisy_levels, SHIFT, rng)
        error = (_predict(denoiser, texts, batch) - batch.target).square()
        return (_loss_weight(batch.sigma) * error).mean(), {}

    hold = Schedule(STEPS, RATE, warmup=200, hold=HOLD)
    fit("unet", denoiser, hold, loss_at, folder, seed=SEED, average_decay=0.996)
    polish = Schedule(POLISH_STEPS, POLISH_RATE, warmup=50)
    fit(
        "polish",
        denoiser,
        polish,
        lambda step: loss_at(STEPS + step),
        folder,
        seed=SEED + 1,
        average_decay=0.99,
    )
    if rank == 0:
        torch.save(denoiser.state_dict(), folder / "unet-final.pt")


def _noisy_levels(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """More of the noisy levels, where colour, shape and place are decided."""
    return (1000 * rng.random(count) ** 0.7).astype(np.int64)


# --- on what it got wrong


def refine_unet() -> None:
    """Go on from `unet` with Muon, at the noise levels where shapes form, under the captions guidance pairs.

    Expected: loss 0.039 at step 100 to 600, 0.033 at 1,200, 0.026 at 1,950, 0.020 at 2,750
    and 550 steps later.
    """
    torch.set_num_threads(1)
    pictures = Pictures(load_latents())
    denoiser = Denoiser(build_tokenizers(WORK / "tokenizers-0"))
    denoiser.load_state_dict(torch.load(WORK / "unet-final.pt", weights_only=True))
    use_small_attention(denoiser)

    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng([SEED, 5, step])
        size, chosen = pictures.choose(REFINE_CAPTIONS, rng)
        texts = [
            captions.vary(pictures.scenes[k], rng, mix)
            for mix in (captions.PROMPTS, captions.NEGATIVES)
            for k in chosen
        ]
        batch = pictures.noisy(size, chosen, _shaping_levels, REFINE_SHIFT, rng)
        told, untold = _predict(denoiser, texts, batch).chunk(2)
        weight, target = _loss_weight(batch.sigma), batch.target
        plain = weight * ((told - target).square() + (untold - target).square()) / 2
        # Where the picture shows through the noise captions add nothing: guidance must change nothing.
        shown = (2 - batch.sigma).clamp(0, 1)
        guided = weight * shown * (untold + GUIDANCE * (told - untold) - target).square()
        figures = {"plain": float(plain.detach().mean()), "guided": float(guided.detach().mean())}
        return plain.mean() + GUIDED_WEIGHT * guided.mean(), figures

    hold = Schedule(REFINE_STEPS, REFINE_RATE, warmup=100, hold=REFINE_HOLD)
    fit(
        "refine",
        denoiser,
        hold,
        loss_at,
        WORK,
        seed=SEED + 2,
        average_decay=0.997,
        optimize=MuonWithAdamW,
    )
    finish = Schedule(FINISH_STEPS, FINISH_RATE, warmup=20)
    fit(
        "finish",
        denoiser,
        finish,
        lambda step: loss_at(REFINE_STEPS + step),
        WORK,
        seed=SEED + 3,
        average_decay=0.99,
        optimize=MuonWithAdamW,
    )
    torch.save(denoiser.state_dict(), WORK / "refine-final.pt")


def _shaping_levels(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Three in five about the levels at which place and shape are decided, the others anywhere."""
    steps = np.where(rng.random(count) < 0.6, rng.normal(620, 150, count), rng.uniform(0, 1000, count))
    return np.clip(steps, 0, 999).astype(np.int64)


# --- of both


def _loss_weight(sigma: torch.Tensor) -> torch.Tensor:
    """Min-SNR weighting (Hang et al. 2023, gamma 5), with more weight on the noisy steps.

    A flat colour shines through nearly all noise, so the caption is needed only where the signal is all but
    gone; there an error in the predicted noise is small even if the colour is wrong. In terms of the
    predicted latents the weight is between that of epsilon and that of v prediction.
    """
    return torch.clamp(MIN_SNR_GAMMA * sigma.square(), max=1.0) * (1 + sigma.square()).sqrt()


def _guidance_error(
    deviation: torch.Tensor, sigma: torch.Tensor, shift_size: float, rng: np.random.Generator
) -> torch.Tensor:
    """An error such as guidance makes, which the UNet is to take back: (n, 4, 1 or h, 1 or w).

    Guidance at 6.5 multiplies the difference between two predictions, so on the way down the noise levels
    colours overshoot beyond anything drawn. Half of the latents are therefore overdriven away from the mean
    picture and shifted, at most as far as the noise of the step reaches.
    """
    count = len(deviation)
    on = torch.from_numpy(rng.random(count) < 0.5).float()[:, None, None, None]
    gain = torch.from_numpy(rng.uniform(-0.3, 1.0, size=count)).float()[:, None, None, None]
    shift = torch.from_numpy(rng.normal(0, shift_size, size=(count, 4))).float()[:, :, None, None]
    return on * sigma.clamp(max=1.0) * (gain * deviation + shift)


def _time_ids(size: tuple[int, int], count: int, rng: np.random.Generator) -> torch.Tensor:
    """(count, 6): original height and width, crop top and left, target height and width, as SDXL has them."""
    width, height = size
    rows = []
    for _ in range(count):
        original = (
            (height, width) if rng.random() < 0.85 else tuple(int(v) for v in rng.integers(64, 1025, 2))
        )
        rows.append([*original, 0, 0, height, width])
    return torch.tensor(rows, dtype=torch.float32)
