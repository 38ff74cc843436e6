from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from shared.sdxl_config import SHIPPED_CONFIG
from workers.engines.device import quiet_libraries


def parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_shipped_configuration_has_the_real_models_parameter_counts() -> None:
    quiet_libraries()
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def text_config(name: str) -> Any:
        return CLIPTextConfig.from_pretrained(SHIPPED_CONFIG / name, local_files_only=True)

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SHIPPED_CONFIG / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(SHIPPED_CONFIG / "vae"))
        encoder = CLIPTextModel(text_config("text_encoder"))
        encoder_2 = CLIPTextModelWithProjection(text_config("text_encoder_2"))
    assert parameters(unet) == 2_567_463_684
    assert parameters(vae) == 83_653_863
    assert parameters(encoder) == 123_060_480
    assert parameters(encoder_2) == 694_659_840
    assert vae.config.scaling_factor == 0.13025


@pytest.mark.parametrize(("name", "padding"), [("tokenizer", 49407), ("tokenizer_2", 0)])
def test_the_shipped_vocabulary_gives_clips_own_token_ids(name: str, padding: int) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(SHIPPED_CONFIG / name, local_files_only=True)
    # "a photo of a cat" is the sentence of CLIP's paper; its ids are known from the released tokenizer.
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert (len(tokenizer), tokenizer.pad_token_id, tokenizer.model_max_length) == (49408, padding, 77)


def test_the_shipped_pipeline_samples_with_euler_and_draws_no_watermark() -> None:
    index = json.loads((SHIPPED_CONFIG / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline"
    assert index["scheduler"] == ["diffusers", "EulerDiscreteScheduler"]
    assert index["add_watermarker"] is False
