from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.passes import samples_of
from support.sdxl import TINY_SDXL, sdxl_plan, write_single_file

from shared.errors import SettingsError
from workers.engines import sdxl_checkpoint
from workers.engines.base import Pass
from workers.engines.sdxl import SdxlEngine
from workers.engines.sdxl_checkpoint import load_pipeline, vae_dtype

CPU = torch.device("cpu")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The tiny checkpoint in a folder that a test may spoil."""
    return Path(shutil.copytree(TINY_SDXL, tmp_path / "copy"))


def refusal(model: Path | str, config: Path | None = TINY_SDXL) -> str:
    """The message with which the start ends."""
    with pytest.raises(SettingsError) as caught:
        SdxlEngine(str(model), device="cpu", config=config).load()
    assert f"SDXL_MODEL is {model}" in str(caught.value)
    return str(caught.value)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_single_file_draws_the_same_picture_as_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pictures = []
    for model in (TINY_SDXL, write_single_file(tmp_path)):
        engine = SdxlEngine(str(model), device="cpu", config=TINY_SDXL)
        engine.load()
        ((sample,),) = samples_of(engine.generate(Pass.of(sdxl_plan()), lambda step, total: None))
        pictures.append(sample.frames)
    np.testing.assert_array_equal(pictures[0], pictures[1])


def test_a_single_file_is_read_with_the_shipped_configuration_unless_told_otherwise(tmp_path: Path) -> None:
    # The tiny weights do not fit the real configuration: the message proves which one was used.
    assert "such as encoder.layers.10." in refusal(write_single_file(tmp_path), config=None)


def test_weights_of_another_shape_than_configured_are_refused(tmp_path: Path, copied: Path) -> None:
    edit(copied / "vae" / "config.json", block_out_channels=[16, 32, 32, 32])
    assert "whose vae does not have the shape" in refusal(write_single_file(tmp_path), config=copied)


def test_every_component_has_the_dtype_asked_for(tmp_path: Path) -> None:
    for model in (TINY_SDXL, write_single_file(tmp_path)):
        pipeline = load_pipeline(str(model), CPU, torch.bfloat16, TINY_SDXL)
        parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
        assert {tensor.dtype for part in parts for tensor in part.parameters()} == {torch.bfloat16}
        assert type(pipeline.scheduler).__name__ == "EulerDiscreteScheduler"
        assert pipeline.watermark is None
        assert not any(part.training for part in parts)


def test_beside_a_float16_unet_the_vae_never_decodes_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda", 0)
    monkeypatch.setattr(sdxl_checkpoint, "has_bfloat16", lambda _: True)
    assert vae_dtype(card, torch.float16) is torch.bfloat16
    assert vae_dtype(card, torch.bfloat16) is torch.bfloat16
    assert vae_dtype(card, torch.float32) is torch.float32
    monkeypatch.setattr(sdxl_checkpoint, "has_bfloat16", lambda _: False)
    assert vae_dtype(card, torch.float16) is torch.float32


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin", "model.pth", "model"])
def test_a_pickled_checkpoint_is_refused_unread(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"a": 1}))
    assert "use a .safetensors file" in refusal(path)


def test_a_pickle_under_a_safetensors_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save({"a": torch.zeros(3)}, path)
    assert "is no safetensors file, whatever its name says" in refusal(path)


def test_a_file_that_was_not_copied_to_its_end_is_refused(tmp_path: Path) -> None:
    path = write_single_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "not copied to its end" in refusal(path)


def test_a_folder_of_pickles_is_refused(copied: Path) -> None:
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert "whose unet holds no .safetensors file" in refusal(copied)


@pytest.mark.parametrize(
    ("prefix", "part"),
    [
        ("first_stage_model.", "VAE"),
        ("conditioner.embedders.0.", "first text encoder"),
        ("conditioner.embedders.1.", "second text encoder"),
        ("model.diffusion_model.", "UNet"),
    ],
)
def test_a_part_of_a_checkpoint_is_refused_with_what_it_lacks(prefix: str, part: str, tmp_path: Path) -> None:
    assert f"lacks the {part}" in refusal(write_single_file(tmp_path, without=prefix))


@pytest.mark.parametrize(
    ("tensor", "part"),
    [
        ("model.diffusion_model.out.2.weight", "unet"),
        ("conditioner.embedders.1.model.ln_final.bias", "text_encoder_2"),
    ],
)
def test_a_file_that_lacks_a_tensor_is_refused(tensor: str, part: str, tmp_path: Path) -> None:
    assert f"whose {part} lacks" in refusal(write_single_file(tmp_path, without=tensor))


@pytest.mark.parametrize("part", ["vae", "text_encoder_2"])
def test_a_folder_that_lacks_weights_is_refused(part: str, copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    (path,) = (copied / part).glob("*.safetensors")
    weights = load_file(path)
    weights.pop(next(name for name in weights if name.endswith("weight")))
    save_file(weights, path, metadata={"format": "pt"})
    assert f"whose {part} lacks" in refusal(copied)


def test_what_is_no_checkpoint_at_all_is_refused(tmp_path: Path) -> None:
    assert "neither a file nor a folder" in refusal(tmp_path / "nowhere.safetensors")
    assert "without model_index.json" in refusal(tmp_path)


def test_a_model_with_latents_of_another_family_is_refused(copied: Path) -> None:
    edit(copied / "vae" / "config.json", latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    assert "model of another family" in refusal(copied)


def test_code_in_a_checkpoints_folder_is_never_run(copied: Path) -> None:
    trace = copied / "was_run"
    for name in ("own", "unet/own"):
        (copied / f"{name}.py").write_text(
            f"from pathlib import Path\nPath({str(trace)!r}).touch()\nclass Own: pass\n"
        )
    index = json.loads((copied / "model_index.json").read_text())
    index["unet"] = ["own", "Own"]
    edit(copied / "model_index.json", **index)
    refusal(copied)
    assert not trace.exists()


def test_a_folder_that_asks_for_another_solver_samples_with_euler(copied: Path) -> None:
    edit(copied / "scheduler" / "scheduler_config.json", _class_name="DPMSolverMultistepScheduler")
    index = json.loads((copied / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DPMSolverMultistepScheduler"]
    edit(copied / "model_index.json", **index)
    pipeline = load_pipeline(str(copied), CPU, torch.float32)
    assert type(pipeline.scheduler).__name__ == "EulerDiscreteScheduler"
    assert pipeline.scheduler.config.beta_end == 0.012


def test_a_folder_with_half_precision_files_only_is_read(copied: Path) -> None:
    for path in copied.glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    assert load_pipeline(str(copied), CPU, torch.float32).unet.dtype is torch.float32


def test_the_markers_of_v_prediction_checkpoints_are_obeyed(tmp_path: Path) -> None:
    path = write_single_file(tmp_path, extra=("v_pred", "ztsnr"))
    config = load_pipeline(str(path), CPU, torch.float32, TINY_SDXL).scheduler.config
    assert (config.prediction_type, config.rescale_betas_zero_snr) == ("v_prediction", True)


@pytest.mark.parametrize("has_halves", [True, False])
def test_a_hub_id_is_asked_for_files_in_half_precision_first(
    has_halves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def from_pretrained(model: str, *_: Any, variant: str | None = None, **options: Any) -> Any:
        assert "trust_remote_code" not in options
        asked.append(variant)
        if variant and not has_halves:
            raise OSError("no such files")
        return whole(str(TINY_SDXL), CPU, torch.float32, local_files_only=True)

    whole = sdxl_checkpoint._from_pretrained
    monkeypatch.setattr(sdxl_checkpoint, "_from_pretrained", from_pretrained)
    assert load_pipeline("owner/some-sdxl", CPU, torch.bfloat16) is not None
    assert asked == (["fp16"] if has_halves else ["fp16", None])
