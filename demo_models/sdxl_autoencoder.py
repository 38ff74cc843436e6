"""The autoencoder of the demo SDXL checkpoint: its training, and the latents of every scene."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from demo_models import shapes
from demo_models.sdxl_models import SEED, WORK, build_vae
from demo_models.training import Schedule, fit

CROP = 64
BATCH = 16
STEPS = 3100
RATE = 1e-3
KL_WEIGHT = 1e-5

# Pictures of each scene in the latent cache, by frame size.
VARIANTS: dict[tuple[int, int], int] = {(128, 128): 10, (160, 96): 3, (96, 160): 3}


def to_tensor(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """(n, h, w, 3) of 0…255 to (n, 3, h, w) of -1…1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _vae_crop(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A window of a drawn picture that touches its shape, two in five in colours outside the palette."""
    width, height = shapes.FRAME_SIZES[int(rng.integers(3))]
    open_scene = shapes.Scene(str(rng.choice(shapes.SHAPES)), str(rng.choice(shapes.BACKGROUNDS)))
    scene = shapes.concrete(open_scene, rng)
    place = shapes.place(scene, width, height, rng)
    foreground, background = shapes.PALETTE[str(scene.colour)], shapes.PALETTE[scene.background]
    if rng.random() < 0.4:
        foreground, background = _any_colour(rng), _any_colour(rng)
    left = int(np.clip(place.x + rng.uniform(-1, 1) * place.radius - CROP / 2, 0, width - CROP))
    top = int(np.clip(place.y + rng.uniform(-1, 1) * place.radius - CROP / 2, 0, height - CROP))
    picture = shapes.paint(scene.shape, place, foreground, background, width, height)
    return picture[top : top + CROP, left : left + CROP]


def _any_colour(rng: np.random.Generator) -> shapes.Rgb:
    red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
    return red, green, blue


def train_vae() -> None:
    """Expected: PSNR of crops 13 dB at step 150, 21 dB at 2,000; 30 dB on whole pictures in the end."""
    vae = build_vae().to(memory_format=torch.channels_last)

    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng([SEED, 1, step])
        pictures = to_tensor(np.stack([_vae_crop(rng) for _ in range(BATCH)]))
        pictures = pictures.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pictures).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            restored = vae.decode(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)).sample.float()
        error = restored - pictures
        square, absolute = error.square().mean(), error.abs().mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        psnr = float(10 * torch.log10(4 / square.detach()))
        return square + 0.2 * absolute + KL_WEIGHT * kl, {"psnr": psnr, "kl": float(kl.detach())}

    schedule = Schedule(STEPS, RATE)
    seconds = fit(
        "vae", vae, schedule, loss_at, WORK, seed=SEED, average_decay=0.995, weight_decay=0.0, max_norm=3.0
    )
    vae = vae.to(memory_format=torch.contiguous_format).eval()
    pictures = to_tensor(_sample_pictures(256))
    with torch.no_grad():
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(pictures, 32)])
        restored = torch.cat([vae.decode(part).sample.clamp(-1, 1) for part in torch.split(latents, 32)])
        _centre(vae, latents.mean((0, 2, 3)))
    scaling_factor = 1.0 / float(latents.std())
    psnr = 10 * torch.log10(4 / (restored - pictures).square().mean())
    print(f"vae: PSNR {float(psnr):.2f} dB on whole pictures, {seconds:.0f} s, scale {scaling_factor:.5f}")
    print(f"vae: standard deviation by channel {[round(float(v), 3) for v in latents.std((0, 2, 3))]}")
    torch.save({"vae": vae.state_dict(), "scaling_factor": scaling_factor}, WORK / "vae-final.pt")


def _sample_pictures(count: int) -> NDArray[np.uint8]:
    scenes = shapes.scenes()
    order = np.random.default_rng([SEED, 2]).permutation(len(scenes))
    return np.stack([shapes.picture(scenes[order[k % len(order)]], 128, 128, seed=k) for k in range(count)])


def _centre(vae: Any, mean: torch.Tensor) -> None:
    """Move the latents' mean to 0: the pipeline starts from noise around 0 and knows no shift.

    Both neighbours of the latents are 1x1 convolutions, so the move is exact.
    """
    vae.quant_conv.bias[:4] -= mean
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean


def load_vae() -> Any:
    state = torch.load(WORK / "vae-final.pt", weights_only=True)
    vae = build_vae()
    vae.load_state_dict(state["vae"])
    vae.register_to_config(scaling_factor=state["scaling_factor"])
    return vae.eval()


def encode_latents() -> None:
    vae = load_vae()
    scenes = shapes.scenes()
    started = time.monotonic()
    for (width, height), variants in VARIANTS.items():
        parts = []
        for variant in range(variants):
            drawn = [
                shapes.picture(scene, width, height, _picture_seed(k, variant))
                for k, scene in enumerate(scenes)
            ]
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                encoded = [
                    vae.encode(part).latent_dist.mean for part in torch.split(to_tensor(np.stack(drawn)), 37)
                ]
            parts += [part.float() * vae.config.scaling_factor for part in encoded]
            print(
                f"latents {width}x{height} {variant + 1}/{variants}  {time.monotonic() - started:.0f} s",
                flush=True,
            )
        latents = torch.cat(parts).reshape(variants, len(scenes), 4, height // 8, width // 8)
        torch.save(latents.half(), _latent_file((width, height)))


def _picture_seed(scene: int, variant: int) -> int:
    return scene * 1000 + variant


def load_latents() -> dict[tuple[int, int], torch.Tensor]:
    """Of every frame size, (variants, scenes, 4, h, w) in half precision, scaled as the UNet sees them."""
    return {size: torch.load(_latent_file(size), weights_only=True) for size in VARIANTS}


def _latent_file(size: tuple[int, int]) -> Path:
    return WORK / f"latents-{size[0]}x{size[1]}.pt"
