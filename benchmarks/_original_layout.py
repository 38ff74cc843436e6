"""SDXL weights from diffusers' names into those of the original single file.

The reverse of what diffusers does when it loads such a file; that both agree is checked by loading one.
Works on tensors of the meta device too, where it only yields names and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

Weights = dict[str, torch.Tensor]

_UNET_PREFIX = "model.diffusion_model."
_VAE_PREFIX = "first_stage_model."
_CLIP_PREFIX = "conditioner.embedders.0.transformer.text_model."
_OPEN_CLIP_PREFIX = "conditioner.embedders.1.model."

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_MIDDLE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP_ENDS = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def original_layout(
    unet: Mapping[str, torch.Tensor],
    vae: Mapping[str, torch.Tensor],
    text_encoder: Mapping[str, torch.Tensor],
    text_encoder_2: Mapping[str, torch.Tensor],
    layers_per_block: int,
) -> Weights:
    """All weights of the pipeline as the original single file names them.

    `layers_per_block` is the UNet's: the original counts its blocks through.
    """
    return {
        **{_UNET_PREFIX + _unet_name(name, unet, layers_per_block): value for name, value in unet.items()},
        **_vae(vae),
        **{_CLIP_PREFIX + name.removeprefix("text_model."): value for name, value in text_encoder.items()},
        **_open_clip(text_encoder_2),
    }


def _unet_name(name: str, unet: Mapping[str, torch.Tensor], layers_per_block: int) -> str:
    parts = re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name
    )
    if parts is None:
        for ours, theirs in _UNET_ENDS.items():
            if name.startswith(ours + "."):
                return theirs + "." + _unet_resnet(name[len(ours) + 1 :])
        raise ValueError(f"no original name is known for the UNet's {name}")
    way, kind, rest = parts[1], parts[3], parts[5]
    block, layer = int(parts[2]), int(parts[4])
    blocks = layers_per_block + 1
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * blocks}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        # It follows the last layer of the block, which has an attention or not.
        attends = f"up_blocks.{block}.attentions.0.norm.weight" in unet
        return f"output_blocks.{block * blocks + layers_per_block}.{1 + attends}.{rest}"
    row = (
        f"input_blocks.{1 + block * blocks + layer}"
        if way == "down"
        else f"output_blocks.{block * blocks + layer}"
    )
    return f"{row}.0.{_unet_resnet(rest)}" if kind == "resnets" else f"{row}.1.{rest}"


def _unet_resnet(name: str) -> str:
    first, _, rest = name.partition(".")
    return f"{_UNET_RESNET[first]}.{rest}" if first in _UNET_RESNET else name


def _vae(vae: Mapping[str, torch.Tensor]) -> Weights:
    last = max(int(found[1]) for name in vae if (found := re.match(r"decoder\.up_blocks\.(\d+)\.", name)))
    weights: Weights = {}
    for name, value in vae.items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", new)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda found: f"up.{last - int(found[1])}.block.", new)
        new = re.sub(
            r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda found: f"up.{last - int(found[1])}.upsample.", new
        )
        for ours, theirs in _VAE_MIDDLE.items():
            new = new.replace(ours, theirs)
        if ".attn_1." in new:
            for ours, theirs in _VAE_ATTENTION.items():
                new = new.replace(f".{ours}.", f".{theirs}.")
            # The original's projections are convolutions of one pixel.
            value = value[:, :, None, None] if value.ndim == 2 else value
        weights[_VAE_PREFIX + new] = value
    return weights


def _open_clip(text_encoder_2: Mapping[str, torch.Tensor]) -> Weights:
    weights: Weights = {}
    for name, value in text_encoder_2.items():
        layer = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name)
        if name == "text_projection.weight":
            weights[_OPEN_CLIP_PREFIX + "text_projection"] = value.T
        elif layer is None:
            weights[_OPEN_CLIP_PREFIX + _OPEN_CLIP_ENDS[name]] = value
        elif layer[2] in _OPEN_CLIP_LAYER:
            row = f"transformer.resblocks.{layer[1]}.{_OPEN_CLIP_LAYER[layer[2]]}.{layer[3]}"
            weights[_OPEN_CLIP_PREFIX + row] = value
        elif layer[2] == "self_attn.q_proj":
            others = [text_encoder_2[name.replace("q_proj", f"{letter}_proj")] for letter in "kv"]
            row = f"transformer.resblocks.{layer[1]}.attn.in_proj_{layer[3]}"
            weights[_OPEN_CLIP_PREFIX + row] = torch.cat([value, *others])
    return weights
