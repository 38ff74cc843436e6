"""Convert an SDXL checkpoint from the diffusers layout into one file of the original layout.

`python demo_models/to_single_file.py [folder] [file]`. Names follow the key tables of diffusers' own
single-file loader, which reads the result back. The second text encoder takes OpenCLIP's names; that needs
its projection to be as wide as its hidden states, as in SDXL.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
Tensors = dict[str, torch.Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def unet_name(name: str, layers: int, has_attention: Callable[[str], bool]) -> str:
    """The original name of a UNet tensor; `layers` is layers_per_block.

    `has_attention` says whether an up block (its prefix) has attentions: they stand before its upsampler.

    Raises:
        ValueError: the name belongs to no part of the SDXL UNet.
    """
    part, leaf = name.rsplit(".", 1)
    if part in _UNET_ENDS:
        return f"{_UNET_ENDS[part]}.{leaf}"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", part):
        kind, index, rest = match.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}.{_inner(kind, rest)}.{leaf}"
    match = re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", part
    )
    if match is None:
        raise ValueError(f"{name!r} is no tensor of an SDXL UNet")
    way, block, kind, index, rest = match.groups()
    if way == "down":
        position = (layers + 1) * int(block) + 1 + (layers if kind == "downsamplers" else int(index))
        inner = "0.op" if kind == "downsamplers" else f"{int(kind == 'attentions')}.{_inner(kind, rest)}"
        return f"input_blocks.{position}.{inner}.{leaf}"
    position = (layers + 1) * int(block) + (layers if kind == "upsamplers" else int(index))
    if kind == "upsamplers":
        return f"output_blocks.{position}.{2 if has_attention(f'up_blocks.{block}.') else 1}.conv.{leaf}"
    return f"output_blocks.{position}.{int(kind == 'attentions')}.{_inner(kind, rest)}.{leaf}"


def _inner(kind: str, rest: str) -> str:
    return _RESNET[rest] if kind == "resnets" else rest


def vae_name(name: str, blocks: int) -> str:
    """The original name of a VAE tensor; `blocks` is the number of resolutions."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        side, part, leaf = match.groups()
        return f"{side}.mid.attn_1.{_VAE_ATTENTION[part]}.{leaf}"
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(
        r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{blocks - 1 - int(m[1])}.block.{m[2]}", name
    )
    return re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)


def convert_unet(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    layers = 1 + max(
        int(m[1]) for name in tensors if (m := re.match(r"down_blocks\.0\.resnets\.(\d+)", name))
    )

    def has_attention(prefix: str) -> bool:
        return any(name.startswith(f"{prefix}attentions.") for name in tensors)

    return {unet_name(name, layers, has_attention): value for name, value in tensors.items()}


def convert_vae(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    blocks = 1 + max(int(m[1]) for name in tensors if (m := re.match(r"decoder\.up_blocks\.(\d+)", name)))
    converted = {}
    for name, value in tensors.items():
        # The original keeps these linear layers as 1x1 convolutions.
        convolution = ".mid_block.attentions." in name and value.ndim == 2
        converted[vae_name(name, blocks)] = value[:, :, None, None] if convolution else value
    return converted


def convert_first_encoder(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {f"text_model.{name.removeprefix('text_model.')}": value for name, value in tensors.items()}


def convert_second_encoder(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """OpenCLIP's names: one packed matrix for query, key and value, and the projection transposed.

    Raises:
        ValueError: the projection is not square, so the packed matrices could not be cut apart again.
    """
    plain = {name.removeprefix("text_model."): value for name, value in tensors.items()}
    projection = plain.pop("text_projection.weight")
    if projection.shape[0] != projection.shape[1]:
        raise ValueError(
            f"text projection of shape {tuple(projection.shape)} must be square for OpenCLIP's layout"
        )
    converted = {
        "text_projection": projection.T,
        "positional_embedding": plain.pop("embeddings.position_embedding.weight"),
        "token_embedding.weight": plain.pop("embeddings.token_embedding.weight"),
        "ln_final.weight": plain.pop("final_layer_norm.weight"),
        "ln_final.bias": plain.pop("final_layer_norm.bias"),
    }
    packed: dict[str, list[torch.Tensor]] = {}
    for name in sorted(
        plain, key=lambda name: re.sub(r"(.)_proj\.", lambda m: f"{'qkv'.find(m[1])}_proj.", name)
    ):
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if match is None:
            if name == "embeddings.position_ids":
                continue
            raise ValueError(f"{name!r} is no tensor of a CLIP text encoder")
        layer, part, leaf = match.groups()
        prefix = f"transformer.resblocks.{layer}"
        if part in _OPEN_CLIP_LAYER:
            converted[f"{prefix}.{_OPEN_CLIP_LAYER[part]}.{leaf}"] = plain[name]
        else:
            packed.setdefault(f"{prefix}.attn.in_proj_{leaf}", []).append(plain[name])
    return converted | {name: torch.cat(parts) for name, parts in packed.items()}


def convert(folder: Path) -> Tensors:
    """All tensors of a diffusers folder under their original names."""
    parts: list[tuple[str, str, Callable[[Mapping[str, torch.Tensor]], Tensors]]] = [
        ("unet/diffusion_pytorch_model", "model.diffusion_model.", convert_unet),
        ("vae/diffusion_pytorch_model", "first_stage_model.", convert_vae),
        ("text_encoder/model", "conditioner.embedders.0.transformer.", convert_first_encoder),
        ("text_encoder_2/model", "conditioner.embedders.1.model.", convert_second_encoder),
    ]
    return {
        prefix + name: value.contiguous()
        for file, prefix, converted in parts
        for name, value in converted(load_file(folder / f"{file}.safetensors")).items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=HERE / "sdxl-shapes")
    parser.add_argument("file", type=Path, nargs="?", default=HERE / "sdxl-shapes.safetensors")
    arguments = parser.parse_args()
    save_file(convert(arguments.folder), arguments.file, metadata={"format": "pt"})
    print(f"{arguments.file}: {arguments.file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
