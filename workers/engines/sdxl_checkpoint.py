"""An SDXL checkpoint in any of its three forms → a diffusers pipeline on the device.

The forms: a single `.safetensors` in the original layout (no hub: configuration and tokenizers ship with
this project), a folder in diffusers layout, a hub id. Weights are read from safetensors only, because a
pickle runs whatever code it holds; code from a checkpoint's folder or from a hub is never run either.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shared.sdxl_config import SHIPPED_CONFIG
from workers.engines.device import has_bfloat16, translated_load_errors
from workers.engines.sdxl_single_file import SingleFile, refuse_gaps, unusable

if TYPE_CHECKING:
    import torch

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PARTS: Final = ("unet", "vae", "text_encoder", "text_encoder_2")


def vae_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """In which numbers the VAE decodes beside a UNet in `dtype`.

    SDXL's VAE leaves the range of float16 (black pictures). bfloat16 has the range of float32, so it cannot,
    and it decodes as fast as float16. Its rounding costs little: a trained decoder of this architecture came
    within 3 levels of 255 of its float32 result everywhere, 0.24 on average (54 dB). Cards before Ampere have
    no bfloat16: float32 there. Loaded once in that form, nothing is cast back and forth.
    """
    import torch

    if dtype is not torch.float16:
        return dtype
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def load_pipeline(model: str, device: torch.device, dtype: torch.dtype, config: Path | None = None) -> Any:
    """The checkpoint `model` as a `StableDiffusionXLPipeline` with an Euler scheduler, on `device`.

    `config` is a folder in diffusers layout whose configuration and tokenizers a single file is read with;
    None takes the shipped one. Raises `SettingsError` where the checkpoint cannot be used as it stands.
    """
    path = Path(model).expanduser()
    with translated_load_errors("SDXL_MODEL", model):
        if path.is_file():
            pipeline = _from_single_file(path, device, dtype, config or SHIPPED_CONFIG)
        elif path.is_dir():
            pipeline = _from_folder(path, device, dtype)
        elif _HUB_ID.fullmatch(model):
            pipeline = _from_hub(model, device, dtype)
        else:
            raise unusable(
                model,
                "which is neither a file nor a folder here nor the id of a model on the hub (owner/name)",
            )
        _check(model, pipeline)
        return pipeline


def _from_single_file(path: Path, device: torch.device, dtype: torch.dtype, config: Path) -> Any:
    file = SingleFile(path)
    parts = file.parts(config, device, _dtypes(device, dtype))
    return _assemble(str(config), parts, file.sampling_overrides(), local_files_only=True)


def _from_folder(path: Path, device: torch.device, dtype: torch.dtype) -> Any:
    if not (path / "model_index.json").is_file():
        raise unusable(path, "a folder without model_index.json; it has to be in diffusers layout")
    for part in _PARTS:
        if not any((path / part).glob("*.safetensors")):
            raise unusable(
                path,
                f"whose {part} holds no .safetensors file; weights in pickles (.bin, .ckpt, .pt) are not"
                " read, because they run the code that they hold: convert them",
            )
    halves = list((path / "unet").glob("*.fp16*.safetensors"))
    variant = "fp16" if len(halves) == len(list((path / "unet").glob("*.safetensors"))) else None
    return _from_pretrained(str(path), device, dtype, variant=variant, local_files_only=True)


def _from_hub(model: str, device: torch.device, dtype: torch.dtype) -> Any:
    import torch

    if dtype is not torch.float32:
        try:
            return _from_pretrained(model, device, dtype, variant="fp16")
        except (OSError, ValueError):
            # Not every repository has files of half the size beside the full ones; where something else is
            # wrong, the second try says so.
            pass
    return _from_pretrained(model, device, dtype)


def _from_pretrained(model: str, device: torch.device, dtype: torch.dtype, **options: Any) -> Any:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kinds = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    parts: dict[str, Any] = {}
    for name, part_dtype in _dtypes(device, dtype).items():
        # One by one, because only so the libraries tell which tensors they did not find. The encoders' would
        # otherwise be random numbers.
        part, report = kinds[name].from_pretrained(
            model,
            subfolder=name,
            dtype=part_dtype,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        refuse_gaps(model, name, list(report["missing_keys"]))
        parts[name] = part.to(device)
    return _assemble(model, parts, {}, **options)


def _dtypes(device: torch.device, dtype: torch.dtype) -> dict[str, torch.dtype]:
    return dict.fromkeys(_PARTS, dtype) | {"vae": vae_dtype(device, dtype)}


def _assemble(source: str, parts: dict[str, Any], overrides: dict[str, Any], **options: Any) -> Any:
    """A pipeline of the given parts, with the tokenizers and the sampling of `source`."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(source, **parts, add_watermarker=False, **options)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, **overrides)
    return pipeline


def _check(model: str, pipeline: Any) -> None:
    channels = pipeline.unet.config.in_channels
    if channels != pipeline.vae.config.latent_channels:
        raise unusable(
            model,
            f"whose UNet reads {channels} channels; inpainting and editing models are not base models",
        )
    if pipeline.vae.config.latents_mean is not None:
        raise unusable(model, "whose VAE normalises its latents; it is a model of another family")
