"""WAN 2.1 T2V from disk or hub into main memory, checked part by part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import SettingsError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The parts on the CPU. Weights stay mapped to their files where they are stored in the wanted dtype."""

    tokenizer: Any
    text_encoder: Any
    transformer: Any
    vae: Any


def read_checkpoint(model: str, dtype: torch.dtype, vae_dtype: torch.dtype) -> Checkpoint:
    """Read a diffusers folder, or a hub repository by its id.

    `dtype` is the transformer's; the text encoder is read in bfloat16 (11.4 GB, float32 would take twice
    that). Raises `SettingsError` with what is wrong and what to set.
    """
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from diffusers.utils import logging as diffusers_logging
    from transformers import AutoTokenizer, UMT5EncoderModel
    from transformers.utils import logging as transformers_logging

    # Progress bars would fill a log with control characters.
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    folder = Path(model).expanduser()
    local = folder.exists()
    source = str(folder) if local else model
    _require_text_to_video(model, source, folder)

    def read(part_class: Any, name: str, part_dtype: torch.dtype) -> Any:
        # Only safetensors: a pickle may run any code when it is read.
        part, info = part_class.from_pretrained(
            source,
            subfolder=name,
            dtype=part_dtype,
            use_safetensors=True,
            local_files_only=local,
            output_loading_info=True,
        )
        # Both libraries fill the gap with random numbers and go on.
        _require_complete(model, name, info["missing_keys"])
        return part.requires_grad_(False).eval()

    try:
        checkpoint = Checkpoint(
            tokenizer=AutoTokenizer.from_pretrained(source, subfolder="tokenizer", local_files_only=local),
            text_encoder=read(UMT5EncoderModel, "text_encoder", torch.bfloat16),
            transformer=read(WanTransformer3DModel, "transformer", dtype),
            vae=read(AutoencoderKLWan, "vae", vae_dtype),
        )
    except SettingsError:
        raise
    # Broad because the loaders raise anything: whatever they find wrong, the operator has to mend.
    except Exception as error:
        raise _unusable(model, f"it cannot be loaded ({_first_line(error)})") from error
    if checkpoint.vae.config.patch_size is not None or checkpoint.transformer.config.image_dim is not None:
        raise _unusable(model, "its transformer or VAE is that of another WAN model")
    return checkpoint


def _require_text_to_video(model: str, source: str, folder: Path) -> None:
    """Refuse what is no WAN 2.1 T2V checkpoint before gigabytes are read."""
    from diffusers import DiffusionPipeline

    if folder.is_file():
        raise _unusable(model, "it is a file")
    if not folder.exists() and (model.count("/") != 1 or model.startswith((".", "/", "~"))):
        raise _unusable(model, "there is no such folder")
    try:
        index = DiffusionPipeline.load_config(source, local_files_only=folder.exists())
    except (OSError, ValueError) as error:
        raise _unusable(model, _first_line(error)) from error
    name = index.get("_class_name")
    if name != "WanPipeline":
        raise _unusable(model, f"its model_index.json names {name}")
    second_transformer, *_ = index.get("transformer_2") or [None]
    if second_transformer is not None or index.get("expand_timesteps"):
        raise _unusable(model, "it is a WAN 2.2 checkpoint")


def _require_complete(model: str, part: str, missing: Iterable[str]) -> None:
    names = sorted(missing)
    if names:
        raise _unusable(model, f"{len(names)} tensors are missing in its {part}, the first is {names[0]}")


def _unusable(model: str, found: str) -> SettingsError:
    return SettingsError(
        [
            f'WAN_MODEL is "{model}": {found}. Set it to a folder in diffusers layout of WAN 2.1 T2V'
            " (model_index.json, tokenizer, and text_encoder, transformer, vae as .safetensors), or to the id"
            " of such a hub repository."
        ]
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
