"""Plans for the tiny SDXL checkpoint, and that checkpoint in the original single file's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.plan import Plan
from shared.presets import SDXL

TINY_SDXL = Path(__file__).resolve().parents[2] / "demo_models" / "sdxl-tiny"


def sdxl_plan(**changes: Any) -> Plan:
    """A small picture in few steps; `changes` replace fields of the plan."""
    fields: dict[str, Any] = {
        "job_id": "job-1",
        "user_id": "user-1",
        "job_type": "sdxl_image_fast",
        "family": SDXL,
        "medium": "image",
        "bucket": "sdxl_image_fast",
        "prompt": "a red boat on a calm lake",
        "original_prompt": "a red boat on a calm lake",
        "negative_prompt": "blurry, child, minor",
        "width": 64,
        "height": 64,
        "num_inference_steps": 2,
        "guidance_scale": 6.5,
        "shift": 5.0,
        "num_frames": 1,
        "fps": 16.0,
        "seeds": (11,),
    }
    return Plan(**{**fields, **changes})


def write_single_file(folder: Path, without: str = "", extra: tuple[str, ...] = ()) -> Path:
    """The tiny checkpoint as one file in the original layout.

    Tensors whose name begins with `without` are left out; `extra` names empty marker tensors to put in.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from benchmarks._original_layout import original_layout

    unet, vae, first, second = (
        kind.from_pretrained(TINY_SDXL, subfolder=name, dtype=torch.float16, local_files_only=True)
        for kind, name in (
            (UNet2DConditionModel, "unet"),
            (AutoencoderKL, "vae"),
            (CLIPTextModel, "text_encoder"),
            (CLIPTextModelWithProjection, "text_encoder_2"),
        )
    )
    weights = original_layout(
        unet.state_dict(),
        vae.state_dict(),
        first.state_dict(),
        second.state_dict(),
        layers_per_block=unet.config.layers_per_block,
    )
    kept = {
        name: value.contiguous()
        for name, value in weights.items()
        if not (without and name.startswith(without))
    }
    path = folder / "tiny.safetensors"
    save_file({**kept, **{name: torch.empty(0) for name in extra}}, path)
    return path
