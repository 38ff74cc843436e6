"""Write the tiny SDXL checkpoint: the real architecture with few, random weights, in diffusers layout.

It draws noise, quickly, and answers to everything the real one answers to: prompt, negative prompt, seed,
guidance, size and number of steps. Run: `python -m demo_models.make_tiny_sdxl [folder]`.
One machine and one version of the libraries always write the same bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

HERE = Path(__file__).parent
SHIPPED = HERE.parent / "shared" / "sdxl_config"
SEED = 1
VOCABULARY = 1024
WIDTH, WIDTH_2 = 32, 48
"""Widths of the two text encoders. They differ, as the real ones do."""

START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(name: str, folder: Path) -> CLIPTokenizer:
    """The shipped tokenizer with its first merges only: rare words are spelled in more pieces."""
    merges = (SHIPPED / name / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    kept = merges[: VOCABULARY - 2 * 256 - 2]
    symbols = list(json.loads((SHIPPED / name / "vocab.json").read_text(encoding="utf-8")))[: 2 * 256]
    tokens = [*symbols, *("".join(merge.split()) for merge in kept), START, END]
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    ids = {token: index for index, token in enumerate(tokens)}
    (target / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False) + "\n", encoding="utf-8")
    (target / "merges.txt").write_text("#version: 0.2\n" + "\n".join(kept) + "\n", encoding="utf-8")
    (target / "tokenizer_config.json").write_bytes((SHIPPED / name / "tokenizer_config.json").read_bytes())
    return CLIPTokenizer.from_pretrained(target, local_files_only=True)


def text_config(name: str, width: int) -> CLIPTextConfig:
    config = CLIPTextConfig.from_pretrained(SHIPPED / name, local_files_only=True)
    config.update(
        {
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "projection_dim": width,
            "vocab_size": VOCABULARY,
        }
    )
    return config


def build_unet() -> UNet2DConditionModel:
    config = UNet2DConditionModel.load_config(SHIPPED / "unet") | {
        "sample_size": 16,
        "block_out_channels": (16, 16, 32),
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (1, 1, 2),
        "cross_attention_dim": WIDTH + WIDTH_2,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": WIDTH_2 + 6 * 8,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel.from_config(config)


def build_vae() -> AutoencoderKL:
    config = AutoencoderKL.load_config(SHIPPED / "vae") | {
        "sample_size": 128,
        "block_out_channels": (8, 16, 16, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
    }
    return AutoencoderKL.from_config(config)


def build_pipeline(folder: Path) -> Any:
    torch.manual_seed(SEED)
    return StableDiffusionXLPipeline(
        vae=build_vae(),
        text_encoder=CLIPTextModel(text_config("text_encoder", WIDTH)),
        text_encoder_2=CLIPTextModelWithProjection(text_config("text_encoder_2", WIDTH_2)),
        tokenizer=write_tokenizer("tokenizer", folder),
        tokenizer_2=write_tokenizer("tokenizer_2", folder),
        unet=build_unet(),
        scheduler=EulerDiscreteScheduler.from_pretrained(SHIPPED, subfolder="scheduler"),
        add_watermarker=False,
    )


def main(folder: Path) -> None:
    pipeline = build_pipeline(folder).to(torch.float16)
    pipeline.save_pretrained(folder)
    for name in ("tokenizer", "tokenizer_2"):
        # The libraries write the same vocabulary a second time in a form of their own.
        (folder / name / "tokenizer.json").unlink(missing_ok=True)
        write_tokenizer(name, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "sdxl-tiny")
