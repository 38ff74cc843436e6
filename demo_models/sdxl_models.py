"""The parts of the demo SDXL checkpoint, untrained: the real architecture in miniature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from demo_models import vocabulary
from demo_models.captions import Caption

WORK = Path(__file__).parent / "_work" / "sdxl"
SEED = 4

VAE_FIRST_LOGVAR = -5.0
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

    def encode(self, texts: list[Caption]) -> tuple[torch.Tensor, torch.Tensor]:
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
