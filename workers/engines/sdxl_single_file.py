"""The weights of an SDXL checkpoint in a single file of the original layout, read without a hub.

diffusers' own `from_single_file` would do it too, but it visits the tensors in the order of its modules and
so all over the file: from a disk it read one and a half times the file's size. Here the file is mapped and
each part is read front to back, every tensor cast and sent to the device on its way, so that no second copy
builds up in main memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shared.errors import SettingsError

if TYPE_CHECKING:
    import torch

# One name of each part in the original layout: a file without one of them is something else.
_ORIGINAL_NAMES: Final = {
    "UNet": "model.diffusion_model.input_blocks.0.0.weight",
    "VAE": "first_stage_model.decoder.conv_in.weight",
    "first text encoder": "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
    "second text encoder": "conditioner.embedders.1.model.token_embedding.weight",
}


class SingleFile:
    """A mapped checkpoint file, checked to be an SDXL checkpoint in the original layout.

    Raises `SettingsError` where it is not.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        if path.suffix.lower() != ".safetensors":
            raise unusable(
                path,
                f"a {path.suffix or 'nameless'} file; such files may be pickles, which run the code that they"
                " hold: use a .safetensors file",
            )
        try:
            with safe_open(path, framework="pt") as file:
                names = set(file.keys())
                missing = [part for part, name in _ORIGINAL_NAMES.items() if name not in names]
                if missing:
                    raise unusable(
                        path,
                        f"which lacks the {', the '.join(missing)} of an SDXL checkpoint in the original"
                        " layout; use a full checkpoint, not a LoRA, a part of one, or another model",
                    )
                # Views of the mapping: nothing is read before it is used.
                self._weights = {name: file.get_tensor(name) for name in names}
        except SafetensorError as error:
            raise unusable(
                path,
                "which is no safetensors file, whatever its name says, or was not copied to its end"
                f" ({error})",
            ) from error
        self._path = path

    def sampling_overrides(self) -> dict[str, Any]:
        """What the file's marker tensors, a custom of v-prediction finetunes, say of sampling."""
        overrides: dict[str, Any] = {}
        if "v_pred" in self._weights:
            overrides["prediction_type"] = "v_prediction"
        if "ztsnr" in self._weights:
            overrides |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return overrides

    def parts(self, config: Path, device: torch.device, dtypes: Mapping[str, torch.dtype]) -> dict[str, Any]:
        """The pipeline's four models by name, on `device` in `dtypes`, configured by the folder `config`.

        Raises `SettingsError` where the file's tensors are not those that the configuration asks for.
        """
        from accelerate import init_empty_weights
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from diffusers.loaders import single_file_utils as layout
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        with init_empty_weights():
            vae, unet = (
                kind.from_config(kind.load_config(config, subfolder=name))
                for kind, name in ((AutoencoderKL, "vae"), (UNet2DConditionModel, "unet"))
            )
            first, second = (
                kind(CLIPTextConfig.from_pretrained(config / name, local_files_only=True))
                for kind, name in (
                    (CLIPTextModel, "text_encoder"),
                    (CLIPTextModelWithProjection, "text_encoder_2"),
                )
            )
        # In the order in which the parts usually stand in a file.
        for name, module, weights in (
            ("text_encoder", first, layout.convert_ldm_clip_checkpoint(self._weights)),
            (
                "text_encoder_2",
                second,
                layout.convert_open_clip_checkpoint(second, self._weights, "conditioner.embedders.1.model."),
            ),
            ("vae", vae, layout.convert_ldm_vae_checkpoint(self._weights, vae.config)),
            ("unet", unet, layout.convert_ldm_unet_checkpoint(self._weights, unet.config)),
        ):
            self._fill(name, module, weights, device, dtypes[name])
        return {"unet": unet, "vae": vae, "text_encoder": first, "text_encoder_2": second}

    def _fill(
        self,
        part: str,
        module: Any,
        weights: Mapping[str, torch.Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        expected = module.state_dict()
        # transformers 5.6 took away a level of names that checkpoints and diffusers still have.
        found = {
            name if name in expected else name.removeprefix("text_model."): tensor
            for name, tensor in weights.items()
        }
        refuse_gaps(self._path, part, [name for name in expected if name not in found])
        for name, tensor in expected.items():
            if tensor.shape != found[name].shape:
                raise unusable(
                    self._path,
                    f"whose {part} does not have the shape of its configuration: {name} is"
                    f" {tuple(found[name].shape)} and not {tuple(tensor.shape)}",
                )
        in_file_order = sorted(expected, key=lambda name: found[name].data_ptr())
        module.load_state_dict(
            {name: found[name].to(device=device, dtype=dtype) for name in in_file_order}, assign=True
        )
        # For the buffers, which stand in no checkpoint.
        module.to(device)
        module.requires_grad_(False).eval()


def refuse_gaps(model: str | Path, part: str, missing: list[str]) -> None:
    if missing:
        raise unusable(
            model,
            f"whose {part} lacks {len(missing)} tensors that its configuration asks for, such as"
            f" {min(missing)}",
        )


def unusable(model: str | Path, reason: str) -> SettingsError:
    return SettingsError([f"SDXL_MODEL is {model}, {reason}."])
