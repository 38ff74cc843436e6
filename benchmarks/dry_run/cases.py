"""Both engines' whole calls, as the workers make them, at the shapes that customers ask for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

import torch

from benchmarks.dry_run.card import fake_card, made_on_card
from benchmarks.dry_run.meter import Meter, Stage
from shared.errors import JobError
from shared.job import Envelope, Job
from shared.plan import Plan, PromptWindow, make_plan
from shared.presets import PRESETS
from workers.engines.base import Pass, Sample

STEPS: Final = 2
CARD_BYTES: Final = 80 * 2**30
PROMPT: Final = "a sailing boat on a calm lake in the morning, soft light, wide view, detailed"

SDXL_WEIGHTS: Final = {
    "unet": 2_567_463_684,
    "vae": 83_653_863,
    "text_encoder": 123_060_480,
    "text_encoder_2": 694_659_840,
}
"""Parameters of SDXL base, which the shipped configuration has to arrive at."""


@dataclass(frozen=True, slots=True)
class Case:
    job_type: str
    num_images: int = 1

    @property
    def name(self) -> str:
        return self.job_type if self.num_images == 1 else f"{self.job_type} x {self.num_images}"


CASES: Final = (
    *(Case("sdxl_image_fast", number) for number in (1, 3, 6)),
    *(Case("image_fast", number) for number in (1, 3, 6)),
    Case("video_fast"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`stages` in their order; "steps" sums up `STEPS` steps. `weight_bytes` lie on the card."""

    case: Case
    plan: Plan
    stages: tuple[Stage, ...]
    weight_bytes: int
    applied: dict[str, str]


def run(case: Case) -> Outcome:
    """One job through `load` and `generate`. Raises whatever a card would: nothing is caught."""
    load = {"sdxl": _load_sdxl, "wan": _load_wan}[PRESETS[case.job_type].family.name]
    meter = Meter()
    with fake_card(CARD_BYTES), meter:
        engine, applied, modules = load(meter)
        weight_bytes = sum(value.nbytes for module in modules for value in module.parameters())
        plan = _plan(case, engine.prompt_window())
        results = [drawn.result for drawn in engine.generate(Pass.of(plan), lambda _step, _steps: None)]
    _check_samples(plan, results)
    stages = tuple(meter.stages[name] for name in ("text", "steps", "decode"))
    return Outcome(case, plan, stages, weight_bytes, applied)


def _plan(case: Case, window: PromptWindow) -> Plan:
    config = {"sample_steps": STEPS, "num_images": case.num_images}
    payload = {"id": "dry-run", "user_id": "benchmark", "type": case.job_type, "prompt": PROMPT}
    raw = json.dumps(payload | {"config": config}).encode()
    job = Job.parse(Envelope.decode(raw), PRESETS[case.job_type].family)
    return make_plan(job, window)


def _check_samples(plan: Plan, results: list[Sample | JobError]) -> None:
    shapes = [result.frames.shape for result in results if isinstance(result, Sample)]
    expected = [(plan.num_frames, plan.height, plan.width, 3)] * plan.num_images
    if shapes != expected:
        raise AssertionError(f"the samples have the shapes {shapes}, the plan says {expected}")


# --- the engines with weights that are not there ------------------------------------------------------


def _load_sdxl(meter: Meter) -> tuple[Any, dict[str, str], list[torch.nn.Module]]:
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from shared.sdxl_config import SHIPPED_CONFIG
    from workers.engines import sdxl
    from workers.engines.sdxl_checkpoint import vae_dtype

    def text_config(name: str) -> Any:
        return CLIPTextConfig.from_pretrained(SHIPPED_CONFIG / name, local_files_only=True)

    def load_pipeline(_model: str, device: torch.device, dtype: torch.dtype, _config: Any) -> Any:
        makes: dict[str, tuple[Callable[[], Any], torch.dtype]] = {
            "unet": (
                lambda: UNet2DConditionModel.from_config(
                    UNet2DConditionModel.load_config(SHIPPED_CONFIG / "unet")
                ),
                dtype,
            ),
            "vae": (
                lambda: AutoencoderKL.from_config(AutoencoderKL.load_config(SHIPPED_CONFIG / "vae")),
                vae_dtype(device, dtype),
            ),
            "text_encoder": (lambda: CLIPTextModel(text_config("text_encoder")), dtype),
            "text_encoder_2": (lambda: CLIPTextModelWithProjection(text_config("text_encoder_2")), dtype),
        }
        parts = {name: made_on_card(make, part_dtype) for name, (make, part_dtype) in makes.items()}
        _check_weights(parts, SDXL_WEIGHTS)
        return StableDiffusionXLPipeline.from_pretrained(
            str(SHIPPED_CONFIG), **parts, add_watermarker=False, local_files_only=True
        )

    seen: list[Any] = []

    def remembered(*arguments: Any) -> Any:
        seen.append(load_pipeline(*arguments))
        return seen[0]

    with patch.object(sdxl, "load_pipeline", remembered):
        engine = sdxl.SdxlEngine("dry-run")
        info = engine.load()
    (pipeline,) = seen
    modules = [pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2]
    _watch(meter, modules[2:], pipeline.unet, pipeline.vae)
    return engine, info.applied, modules


def _load_wan(meter: Meter) -> tuple[Any, dict[str, str], list[torch.nn.Module]]:
    from benchmarks._real_shape_wan import WEIGHTS, modules
    from demo_models.make_tiny_wan import build_tokenizer
    from workers.engines import wan
    from workers.engines.wan_checkpoint import Checkpoint

    seen: list[Checkpoint] = []

    def read_checkpoint(_model: str, dtype: torch.dtype, vae_dtype: torch.dtype) -> Checkpoint:
        dtypes = {"text_encoder": torch.bfloat16, "transformer": dtype, "vae": vae_dtype}
        parts = {name: made_on_card(make, dtypes[name]) for name, make in modules().items()}
        _check_weights(parts, WEIGHTS)
        seen.append(Checkpoint(tokenizer=build_tokenizer(), **parts))
        return seen[0]

    with patch.object(wan, "read_checkpoint", read_checkpoint):
        engine = wan.WanEngine("dry-run")
        info = engine.load()
    (checkpoint,) = seen
    parts = [checkpoint.text_encoder, checkpoint.transformer, checkpoint.vae]
    _watch(meter, parts[:1], checkpoint.transformer, checkpoint.vae)
    return engine, info.applied, parts


def _check_weights(parts: dict[str, Any], expected: dict[str, int]) -> None:
    for name, part in parts.items():
        count = sum(weights.numel() for weights in part.parameters())
        if count != expected[name]:
            raise AssertionError(f"{name} has {count:,} weights, the published one {expected[name]:,}")


def _watch(meter: Meter, encoders: list[Any], denoiser: Any, vae: Any) -> None:
    """Name the stages by the module that is called first in each."""
    meter.start((*encoders, denoiser, vae))
    for encoder in encoders:
        encoder.register_forward_pre_hook(lambda *_: meter.begin("text"))
    denoiser.register_forward_pre_hook(lambda *_: meter.begin("steps"))
    decode = vae.decode

    def begun(*arguments: Any, **options: Any) -> Any:
        meter.begin("decode")
        return decode(*arguments, **options)

    vae.decode = begun
