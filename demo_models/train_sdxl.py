"""Train the demo SDXL checkpoint from scratch on two CPU cores: `python demo_models/train_sdxl.py all`.

Stages, each resumable (checkpoints in demo_models/_work/sdxl/, every two minutes):

    vae      the autoencoder, on crops of drawn pictures
    latents  latents of every scene, drawn several times
    unet     the UNet and both text encoders together
    export   fp16 safetensors in the diffusers layout at demo_models/sdxl-shapes/

Seeds are fixed; data and noise of a step depend on its number alone. Expected losses stand beside each
stage's constants, times in sdxl-shapes/README.md.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from torch.multiprocessing.spawn import spawn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

if __package__ in (None, ""):
    # Run as a script: the checkout's root is not on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo_models import captions, shapes, vocabulary
from demo_models.training import Schedule, fit

HERE = Path(__file__).parent
WORK = HERE / "_work" / "sdxl"
CHECKPOINT = HERE / "sdxl-shapes"
SEED = 4

VAE_CROP = 64
VAE_BATCH = 16
VAE_STEPS = 3100
VAE_RATE = 1e-3
VAE_FIRST_LOGVAR = -5.0
KL_WEIGHT = 1e-5

# Pictures of each scene in the latent cache, by frame size.
VARIANTS: dict[tuple[int, int], int] = {(128, 128): 6, (160, 96): 2, (96, 160): 2}

# Of each of the processes that train the UNet together.
UNET_CAPTIONS = 5
UNET_PICTURES_PER_CAPTION = 2
UNET_STEPS = 3440
UNET_RATE = 1.2e-3
UNET_HOLD = 0.762
# A second descent from the averaged weights.
POLISH_STEPS = 700
POLISH_RATE = 6e-4
MIN_SNR_GAMMA = 5.0
TIME_EMBEDDING = 32
# The two differ in width, by which diffusers tells them apart in a single file; the second's projection has
# its own width, which the conversion from OpenCLIP's names assumes.
FIRST_ENCODER = {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 3, "projection_dim": 96}
SECOND_ENCODER = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "projection_dim": 128,
}


def to_tensor(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """(n, h, w, 3) of 0…255 to (n, 3, h, w) of -1…1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


# --- the autoencoder


def build_vae() -> Any:
    torch.manual_seed(SEED)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        # Few groups: in a flat picture a group of one or two channels would be normalised to a constant
        # and its colour lost.
        norm_num_groups=2,
        sample_size=128,
        force_upcast=True,
    )
    with torch.no_grad():
        # Nearly no sampling noise at first: at a log variance of 0 the decoder learns to ignore the latents.
        vae.quant_conv.bias[4:] += VAE_FIRST_LOGVAR
    return vae


def _vae_crop(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A window of a drawn picture that touches its shape, two in five in colours outside the palette."""
    width, height = shapes.FRAME_SIZES[int(rng.integers(3))]
    open_scene = shapes.Scene(str(rng.choice(shapes.SHAPES)), str(rng.choice(shapes.BACKGROUNDS)))
    scene = shapes.concrete(open_scene, rng)
    place = shapes.place(scene, width, height, rng)
    foreground, background = shapes.PALETTE[str(scene.colour)], shapes.PALETTE[scene.background]
    if rng.random() < 0.4:
        foreground, background = _any_colour(rng), _any_colour(rng)
    left = int(np.clip(place.x + rng.uniform(-1, 1) * place.radius - VAE_CROP / 2, 0, width - VAE_CROP))
    top = int(np.clip(place.y + rng.uniform(-1, 1) * place.radius - VAE_CROP / 2, 0, height - VAE_CROP))
    picture = shapes.paint(scene.shape, place, foreground, background, width, height)
    return picture[top : top + VAE_CROP, left : left + VAE_CROP]


def _any_colour(rng: np.random.Generator) -> shapes.Rgb:
    red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
    return red, green, blue


def train_vae() -> None:
    """Expected: PSNR of crops 13 dB at step 150, 21 dB at 2,000; 30 dB on whole pictures in the end."""
    vae = build_vae().to(memory_format=torch.channels_last)

    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng([SEED, 1, step])
        pictures = to_tensor(np.stack([_vae_crop(rng) for _ in range(VAE_BATCH)]))
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

    schedule = Schedule(VAE_STEPS, VAE_RATE)
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


# --- latents of every scene


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
        torch.save(latents.half(), WORK / f"latents-{width}x{height}.pt")


def _picture_seed(scene: int, variant: int) -> int:
    return scene * 1000 + variant


# --- the UNet and the text encoders


def build_unet() -> Any:
    torch.manual_seed(SEED + 1)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 64, 96),
        layers_per_block=2,
        transformer_layers_per_block=1,
        # diffusers' name for the number of heads here, as in SDXL's own configuration.
        attention_head_dim=(3, 4, 6),
        norm_num_groups=4,
        cross_attention_dim=FIRST_ENCODER["hidden_size"] + SECOND_ENCODER["hidden_size"],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_EMBEDDING,
        projection_class_embeddings_input_dim=6 * TIME_EMBEDDING + SECOND_ENCODER["projection_dim"],
    )


def build_text_encoders() -> tuple[Any, Any]:
    symbols, _ = vocabulary.build()
    common: dict[str, Any] = {
        "vocab_size": len(symbols),
        "max_position_embeddings": vocabulary.MAX_LENGTH,
        # The pipeline reads the layer before the last, so two of three are heard by the UNet.
        "num_hidden_layers": 3,
        "bos_token_id": symbols[vocabulary.START_OF_TEXT],
        "eos_token_id": symbols[vocabulary.END_OF_TEXT],
    }
    torch.manual_seed(SEED + 2)
    end = symbols[vocabulary.END_OF_TEXT]
    first = CLIPTextModel(
        CLIPTextConfig(**common, **FIRST_ENCODER, hidden_act="quick_gelu", pad_token_id=end)
    )
    second = CLIPTextModelWithProjection(
        CLIPTextConfig(**common, **SECOND_ENCODER, hidden_act="gelu", pad_token_id=0)
    )
    return first, second


def build_tokenizers(folder: Path) -> tuple[Any, Any]:
    vocabulary.write(folder / "tokenizer", pad_token=vocabulary.END_OF_TEXT)
    vocabulary.write(folder / "tokenizer_2", pad_token="!")
    first, second = (
        CLIPTokenizer.from_pretrained(str(folder / name)) for name in ("tokenizer", "tokenizer_2")
    )
    return first, second


def build_scheduler() -> Any:
    """SDXL base's scheduler configuration."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type="epsilon",
        timestep_spacing="leading",
        steps_offset=1,
        interpolation_type="linear",
        use_karras_sigmas=False,
    )


class Denoiser(torch.nn.Module):
    """The UNet with both text encoders, called as StableDiffusionXLPipeline calls them."""

    def __init__(self, tokenizers: tuple[Any, Any]) -> None:
        super().__init__()
        self.unet = build_unet()
        self.text_encoder, self.text_encoder_2 = build_text_encoders()
        self._tokenizers = tokenizers

    def encode(self, texts: list[captions.Caption]) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, 77, d1 + d2) hidden states and (n, d2) pooled embeddings, zeros where a caption is None."""
        given = [text or "" for text in texts]
        states, pooled = [], torch.empty(0)
        for tokenizer, encoder in zip(
            self._tokenizers, (self.text_encoder, self.text_encoder_2), strict=True
        ):
            ids = tokenizer(
                given,
                padding="max_length",
                max_length=vocabulary.MAX_LENGTH,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            output = encoder(ids, output_hidden_states=True)
            states.append(output.hidden_states[-2])
            pooled = output[0]
        kept = torch.tensor([text is not None for text in texts], dtype=torch.float32)
        return torch.cat(states, dim=-1) * kept[:, None, None], pooled * kept[:, None]


def train_unet(processes: int = 2) -> None:
    """Expected: loss 0.18 at step 200, 0.063 at 1,000, 0.045 at 2,600, 0.028 in the end."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "GLOO_SOCKET_IFNAME": "lo"}
    spawn(_train_unet_part, args=(processes,), nprocs=processes)  # type: ignore[no-untyped-call]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _train_unet_part(rank: int, processes: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=processes)
    scenes = shapes.scenes()
    latents = {
        size: torch.load(WORK / f"latents-{size[0]}x{size[1]}.pt", weights_only=True) for size in VARIANTS
    }
    centre = latents[(128, 128)].float().mean((0, 1, 3, 4))[None, :, None, None]
    signals = build_scheduler().alphas_cumprod
    denoiser = Denoiser(build_tokenizers(WORK / f"tokenizers-{rank}"))

    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng([SEED, 3, step, rank])
        size = list(VARIANTS)[int(rng.choice(3, p=(0.6, 0.2, 0.2)))]
        chosen = rng.integers(len(scenes), size=UNET_CAPTIONS)
        texts = [captions.vary(scenes[k], rng) for k in chosen]
        repeated = np.repeat(chosen, UNET_PICTURES_PER_CAPTION)
        clean = latents[size][rng.integers(VARIANTS[size], size=len(repeated)), repeated].float()
        noise = torch.randn_like(clean)
        # More of the noisy steps, where colour, shape and place are decided.
        steps = torch.from_numpy((1000 * rng.random(len(clean)) ** 0.7).astype(np.int64))
        signal = signals[steps].sqrt()[:, None, None, None]
        sigma = (1 - signals[steps]).sqrt()[:, None, None, None] / signal
        astray = _guidance_error(clean - centre, sigma, rng)
        noisy = signal * (clean + astray + sigma * noise)
        target = noise + astray / sigma
        weight = _loss_weight(sigma)

        with torch.autocast("cpu", torch.bfloat16):
            states, pooled = denoiser.encode(texts)
            conditions = {
                "text_embeds": pooled.repeat_interleave(UNET_PICTURES_PER_CAPTION, 0),
                "time_ids": _time_ids(size, len(clean), rng),
            }
            states = states.repeat_interleave(UNET_PICTURES_PER_CAPTION, 0)
            predicted = denoiser.unet(noisy, steps, states, added_cond_kwargs=conditions).sample.float()
        error = (predicted - target).square()
        far = sigma.flatten() > 5.0
        missed = (sigma.square() * error)[far].mean() if bool(far.any()) else torch.zeros(())
        return (weight * error).mean(), {"latents from noise": float(missed.detach())}

    hold = Schedule(UNET_STEPS, UNET_RATE, warmup=200, hold=UNET_HOLD)
    fit("unet", denoiser, hold, loss_at, WORK, seed=SEED, average_decay=0.996)
    for value in denoiser.parameters():
        # The average is kept by the first process alone.
        dist.broadcast(value.data, 0)
    polish = Schedule(POLISH_STEPS, POLISH_RATE, warmup=50)
    fit(
        "polish",
        denoiser,
        polish,
        lambda step: loss_at(UNET_STEPS + step),
        WORK,
        seed=SEED + 1,
        average_decay=0.99,
    )
    if rank == 0:
        torch.save(denoiser.state_dict(), WORK / "unet-final.pt")
    dist.destroy_process_group()


def _loss_weight(sigma: torch.Tensor) -> torch.Tensor:
    """Min-SNR weighting (Hang et al. 2023, gamma 5), with more weight on the noisy steps.

    A flat colour shines through nearly all noise, so the caption is needed only where the signal is all but
    gone; there an error in the predicted noise is small even if the colour is wrong. In terms of the
    predicted latents the weight is between that of epsilon and that of v prediction.
    """
    return torch.clamp(MIN_SNR_GAMMA * sigma.square(), max=1.0) * (1 + sigma.square()).sqrt()


def _guidance_error(deviation: torch.Tensor, sigma: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """An error such as guidance makes, which the UNet is to take back: (n, 4, 1 or h, 1 or w).

    Guidance at 6.5 multiplies the difference between two predictions, so on the way down the noise levels
    colours overshoot beyond anything drawn. Half of the latents are therefore overdriven away from the mean
    picture and shifted, at most as far as the noise of the step reaches.
    """
    count = len(deviation)
    on = torch.from_numpy(rng.random(count) < 0.5).float()[:, None, None, None]
    gain = torch.from_numpy(rng.uniform(-0.3, 1.0, size=count)).float()[:, None, None, None]
    shift = torch.from_numpy(rng.normal(0, 0.3, size=(count, 4))).float()[:, :, None, None]
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


# --- the checkpoint


def export(averaged_so_far: bool = False) -> None:
    """Write the pipeline. `averaged_so_far` takes the running average of an unfinished UNet."""
    denoiser = Denoiser(build_tokenizers(WORK))
    if averaged_so_far:
        denoiser.load_state_dict(torch.load(WORK / "unet.pt", weights_only=True)["average"], strict=False)
    else:
        denoiser.load_state_dict(torch.load(WORK / "unet-final.pt", weights_only=True))
    first, second = build_tokenizers(CHECKPOINT)
    pipeline = StableDiffusionXLPipeline(
        vae=load_vae(),
        text_encoder=denoiser.text_encoder,
        text_encoder_2=denoiser.text_encoder_2,
        tokenizer=first,
        tokenizer_2=second,
        unet=denoiser.unet,
        scheduler=build_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.to(torch.float16).save_pretrained(CHECKPOINT, safe_serialization=True)
    # The plain vocabulary files are what other CLIP tokenizers read.
    build_tokenizers(CHECKPOINT)
    size = sum(file.stat().st_size for file in CHECKPOINT.rglob("*") if file.is_file())
    print(f"export: {size / 1e6:.2f} MB at {CHECKPOINT}")


STAGES = {"vae": train_vae, "latents": encode_latents, "unet": train_unet, "export": export}


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
