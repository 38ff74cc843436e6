"""SDXL on diffusers: `Plan` → pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import OutOfMemory
from shared.plan import Adjustment, Plan, PromptWindow
from workers.engines.base import EngineInfo, Sample, StepCallback
from workers.engines.cache import ByteBoundedCache
from workers.engines.device import (
    cpu_generators,
    device_name,
    free_cached_memory,
    limit_memory,
    quiet_libraries,
    resolve_device,
    resolve_dtype,
    run_once_per_step,
    to_uint8,
    translated_errors,
)
from workers.engines.sdxl_checkpoint import load_pipeline
from workers.engines.sdxl_text import ClipTokenizers, TextEmbedding, encode_text

if TYPE_CHECKING:
    import torch

EMBEDDING_CACHE_BYTES: Final = 64 << 20
"""About two hundred texts in float16, kept on the device."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    pipeline: Any
    device: torch.device
    tokenizers: ClipTokenizers

    @property
    def encoders(self) -> Sequence[Any]:
        return (self.pipeline.text_encoder, self.pipeline.text_encoder_2)


class SdxlEngine:
    """An SDXL checkpoint that draws pictures.

    `model` is a `.safetensors` file in the original layout, a diffusers folder or a hub id. `device` and
    `dtype` are the settings DEVICE and DTYPE; `config` replaces the shipped configuration and tokenizers of
    a single file; `memory_gb` is the share of the card in GiB, None for all of it.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        config: Path | None = None,
        memory_gb: float | None = None,
    ) -> None:
        self._model = model
        self._device_setting = device
        self._dtype_setting = dtype
        self._config = config
        self._memory_gb = memory_gb
        self._loaded: _Loaded | None = None
        self.embeddings: ByteBoundedCache[str, TextEmbedding] = ByteBoundedCache(EMBEDDING_CACHE_BYTES)

    def load(self) -> EngineInfo:
        """Load the checkpoint onto the device. Raises `SettingsError` where it cannot be used."""
        import torch

        device = resolve_device(self._device_setting)
        dtype = resolve_dtype(self._dtype_setting, device)
        limit_memory(device, self._memory_gb)
        quiet_libraries()
        pipeline = load_pipeline(self._model, device, dtype, self._config)
        pipeline.set_progress_bar_config(disable=True)
        on_cuda = device.type == "cuda"
        if on_cuda:
            # Convolutions in half precision run on tensor cores in this order without transposing.
            for part in (pipeline.unet, pipeline.vae):
                part.to(memory_format=torch.channels_last)
        self._loaded = _Loaded(pipeline, device, ClipTokenizers([pipeline.tokenizer, pipeline.tokenizer_2]))
        return EngineInfo(
            gpu_name=device_name(device),
            device=str(device),
            dtype=_name(dtype),
            applied={
                "vae_dtype": _name(pipeline.vae.dtype),
                "memory_format": "channels_last" if on_cuda else "contiguous",
                "attention": "sdpa",
                "prediction_type": str(pipeline.scheduler.config.prediction_type),
            },
        )

    def prompt_window(self) -> PromptWindow:
        """CLIP's window of 75 tokens, counted with both tokenizers of the checkpoint. Thread-safe."""
        return self._ready().tokenizers

    def generate(self, plan: Plan, on_step: StepCallback) -> Iterator[Sample]:
        """Draw all pictures of the plan in one batch and yield each as it is decoded.

        Where the device runs out of memory the batch is halved, again and again down to single pictures;
        the samples record it, and the steps are counted from 1 again. Raises `OutOfMemory` where not even
        one picture fits.
        """
        at_once = plan.num_images
        first = 0
        adjustments: tuple[Adjustment, ...] = ()
        while first < plan.num_images:
            latents = self._denoise_if_it_fits(plan, plan.seeds[first : first + at_once], on_step)
            if latents is None:
                at_once = (min(at_once, plan.num_images - first) + 1) // 2
                adjustments = (_split(plan.num_images, at_once),)
                continue
            for row in range(len(latents)):
                yield Sample(first + row, self._decode(latents[row : row + 1]), adjustments)
            first += len(latents)

    def _denoise_if_it_fits(
        self, plan: Plan, seeds: Sequence[int], on_step: StepCallback
    ) -> torch.Tensor | None:
        """Latents for the seeds; None where memory ran out and a smaller batch may still fit."""
        try:
            return self._denoise(plan, seeds, on_step)
        except OutOfMemory:
            if len(seeds) == 1:
                raise
        # Outside the handler, so that the exception no longer holds the tensors of the failed try.
        free_cached_memory(self._ready().device)
        return None

    def _denoise(self, plan: Plan, seeds: Sequence[int], on_step: StepCallback) -> torch.Tensor:
        """Latents of shape (number of seeds, 4, height / 8, width / 8)."""
        import torch

        loaded = self._ready()
        guided = plan.guidance_scale > 1.0
        with translated_errors(), torch.inference_mode():
            positive = self._encode(plan.prompt)
            negative = self._encode(plan.negative_prompt) if guided else None
            (latents,) = loaded.pipeline(
                prompt_embeds=positive.hidden,
                pooled_prompt_embeds=positive.pooled,
                negative_prompt_embeds=negative.hidden if negative else None,
                negative_pooled_prompt_embeds=negative.pooled if negative else None,
                num_images_per_prompt=len(seeds),
                width=plan.width,
                height=plan.height,
                num_inference_steps=plan.num_inference_steps,
                guidance_scale=plan.guidance_scale,
                generator=cpu_generators(seeds),
                output_type="latent",
                return_dict=False,
                callback_on_step_end=run_once_per_step(on_step, plan.num_inference_steps),
                callback_on_step_end_tensor_inputs=[],
            )
        result: torch.Tensor = latents
        return result

    def _encode(self, text: str) -> TextEmbedding:
        loaded = self._ready()
        return self.embeddings.get_or_make(
            text, lambda: encode_text(text, loaded.tokenizers, loaded.encoders)
        )

    def _decode(self, latent: torch.Tensor) -> NDArray[np.uint8]:
        """One picture's latents, shape (1, 4, h, w), as pixels of shape (1, 8 h, 8 w, 3)."""
        import torch

        vae = self._ready().pipeline.vae
        with translated_errors(), torch.inference_mode():
            scaled = (latent.float() / vae.config.scaling_factor).to(vae.dtype)
            (decoded,) = vae.decode(scaled, return_dict=False)
            return to_uint8(decoded)

    def _ready(self) -> _Loaded:
        if self._loaded is None:
            raise RuntimeError("load() comes first")
        return self._loaded


def _split(requested: int, used: int) -> Adjustment:
    return Adjustment(
        "batch_size", requested, used, "more pictures at once need more memory than the device has"
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
