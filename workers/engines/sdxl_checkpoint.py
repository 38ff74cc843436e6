"""An SDXL checkpoint in any of its three forms → a diffusers pipeline on the device.

The forms: a single `.safetensors` in the original layout (no hub: configuration and tokenizers ship with
this project), a folder in diffusers layout, a hub id. Weights are read from safetensors only, because a
pickle runs whatever code it holds; code from a checkpoint's folder or from a hub is never run either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shared.errors import SettingsError
from workers.engines.device import has_bfloat16, translated_load_errors

if TYPE_CHECKING:
    import torch

SHIPPED_CONFIG: Final = Path(__file__).parent / "sdxl_config"

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PARTS: Final = ("unet", "vae", "text_encoder", "text_encoder_2")

# One name of each part in the original layout: a file without one of them is something else.
_ORIGINAL_NAMES: Final = {
    "UNet": "model.diffusion_model.input_blocks.0.0.weight",
    "VAE": "first_stage_model.decoder.conv_in.weight",
    "first text encoder": "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
    "second text encoder": "conditioner.embedders.1.model.token_embedding.weight",
}


def vae_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """In which numbers the VAE decodes beside a UNet in `dtype`.

    SDXL's VAE leaves the range of float16 (black pictures). bfloat16 has the range of float32, so it cannot,
    and it decodes as fast as float16; its rounding stays around one level of 255. Cards before Ampere
    have no bfloat16: float32 there. Loaded once in that form, nothing is cast back and forth.
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
            raise _unusable(
                model,
                "which is neither a file nor a folder here nor the id of a model on the hub (owner/name)",
            )
        _check(model, pipeline)
        return pipeline.to(device)


def _from_single_file(path: Path, device: torch.device, dtype: torch.dtype, config: Path) -> Any:
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel

    overrides = _sampling_overrides(_names_in(path))
    source = {"config": str(config), "local_files_only": True}
    parts: dict[str, Any] = {}
    # The large parts one by one: their weights are mapped, cast tensor by tensor and put on the device, so
    # that no second copy of the file builds up in main memory.
    for name, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        part_dtype = vae_dtype(device, dtype) if name == "vae" else dtype
        try:
            parts[name] = kind.from_single_file(
                str(path), subfolder=name, dtype=part_dtype, device=device, **source
            )
        except NotImplementedError as error:
            # What torch raises for moving a tensor that no weight was found for.
            raise _unusable(
                path, f"whose {name} lacks tensors that its configuration asks for ({error})"
            ) from error
    pipeline = StableDiffusionXLPipeline.from_single_file(
        str(path), **parts, dtype=dtype, add_watermarker=False, **source
    )
    return _with_euler(pipeline, overrides)


def _names_in(path: Path) -> set[str]:
    """Names of the tensors in a safetensors file, checked to be those of an SDXL checkpoint."""
    from safetensors import SafetensorError, safe_open

    if path.suffix.lower() != ".safetensors":
        raise _unusable(
            path,
            f"a {path.suffix or 'nameless'} file; such files may be pickles, which run the code that they"
            " hold: use a .safetensors file",
        )
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
    except SafetensorError as error:
        raise _unusable(
            path,
            f"which is no safetensors file, whatever its name says, or was not copied to its end ({error})",
        ) from error
    missing = [part for part, name in _ORIGINAL_NAMES.items() if name not in names]
    if missing:
        raise _unusable(
            path,
            f"which lacks the {', the '.join(missing)} of an SDXL checkpoint in the original layout; use a"
            " full checkpoint, not a LoRA, a part of one, or another model",
        )
    return names


def _sampling_overrides(names: set[str]) -> dict[str, Any]:
    """What the marker tensors that checkpoints carry since SDXL's v-prediction finetunes say of sampling."""
    overrides: dict[str, Any] = {}
    if "v_pred" in names:
        overrides["prediction_type"] = "v_prediction"
    if "ztsnr" in names:
        overrides |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return overrides


def _from_folder(path: Path, device: torch.device, dtype: torch.dtype) -> Any:
    if not (path / "model_index.json").is_file():
        raise _unusable(path, "a folder without model_index.json; it has to be in diffusers layout")
    for part in _PARTS:
        if not any((path / part).glob("*.safetensors")):
            raise _unusable(
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
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    parts: dict[str, Any] = {}
    for name, kind in (
        ("unet", UNet2DConditionModel),
        ("vae", AutoencoderKL),
        ("text_encoder", CLIPTextModel),
        ("text_encoder_2", CLIPTextModelWithProjection),
    ):
        # One by one, because only so the libraries tell which tensors they did not find. The encoders' would
        # otherwise be random numbers.
        part, report = kind.from_pretrained(
            model,
            subfolder=name,
            dtype=vae_dtype(device, dtype) if name == "vae" else dtype,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        _refuse_gaps(model, name, report["missing_keys"])
        parts[name] = part.to(device)
    pipeline = StableDiffusionXLPipeline.from_pretrained(model, **parts, add_watermarker=False, **options)
    return _with_euler(pipeline, {})


def _with_euler(pipeline: Any, overrides: dict[str, Any]) -> Any:
    from diffusers import EulerDiscreteScheduler

    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, **overrides)
    return pipeline


def _check(model: str | Path, pipeline: Any) -> None:
    for part in _PARTS:
        module = getattr(pipeline, part)
        if module is None:
            raise _unusable(model, f"whose pipeline has no {part}; it has to be an SDXL base model")
        _refuse_gaps(model, part, [name for name, tensor in _tensors(module) if tensor.is_meta])
    channels = pipeline.unet.config.in_channels
    if channels != pipeline.vae.config.latent_channels:
        raise _unusable(
            model,
            f"whose UNet reads {channels} channels; inpainting and editing models are not base models",
        )
    if pipeline.vae.config.latents_mean is not None:
        raise _unusable(model, "whose VAE normalises its latents; it is a model of another family")


def _refuse_gaps(model: str | Path, part: str, missing: Iterable[str]) -> None:
    names = sorted(missing)
    if names:
        raise _unusable(
            model,
            f"whose {part} lacks {len(names)} tensors that its configuration asks for, such as {names[0]}",
        )


def _tensors(module: Any) -> Iterable[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _unusable(model: str | Path, reason: str) -> SettingsError:
    return SettingsError([f"SDXL_MODEL is {model}, {reason}."])
