"""SDXL on diffusers: `Plan` → pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shared.plan import PromptWindow
from workers.engines.base import BatchSize, Drawn, EngineInfo, Pass, Row, StepCallback
from workers.engines.cache import ByteBoundedCache
from workers.engines.compiling import Compiler
from workers.engines.device import (
    allocator_options,
    cpu_generators,
    device_name,
    limit_memory,
    quiet_libraries,
    resolve_device,
    resolve_dtype,
    run_once_per_step,
    translated_errors,
)
from workers.engines.download import Download
from workers.engines.drawing import Decoding, draw
from workers.engines.sdxl_checkpoint import load_pipeline
from workers.engines.sdxl_text import ClipTokenizers, TextEmbedding, encode_text
from workers.engines.warmup import warm_up

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
    a single file; `memory_gb` is the share of the card in GiB, None for all of it; `compiler` decides whether
    the UNet and the VAE's decoder are compiled.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        config: Path | None = None,
        memory_gb: float | None = None,
        compiler: Compiler | None = None,
    ) -> None:
        self._model = model
        self._device_setting = device
        self._dtype_setting = dtype
        self._config = config
        self._memory_gb = memory_gb
        self._compiler = compiler or Compiler(on=False)
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
        self._compiler.compile(pipeline.unet)
        self._compiler.compile(pipeline.vae.decoder)
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
                "compile": "unet, vae decoder" if self._compiler.on else "off",
                "allocator": allocator_options(device),
            },
            measures=lambda: {"embedding_cache_hit_rate": round(self.embeddings.hit_rate, 3)},
        )

    def warm_up(self, passes: Sequence[Pass], seconds: float) -> frozenset[BatchSize]:
        with self._compiler.warming_up():
            return warm_up(self.generate, passes, seconds)

    def prompt_window(self) -> PromptWindow:
        """CLIP's window of 75 tokens, counted with both tokenizers of the checkpoint. Thread-safe."""
        return self._ready().tokenizers

    def generate(self, run: Pass, on_step: StepCallback) -> Iterator[Drawn]:
        """Draw all pictures of the pass in one batch and yield each as it is decoded.

        Where the device runs out of memory the batch is halved, again and again down to single pictures, and
        the steps are counted from 1 again. Raises `OutOfMemory` where not even one picture fits.
        """
        return draw(
            run.rows,
            run.size.num_images,
            lambda rows: self._denoise(rows, on_step),
            self._decode,
            self._ready().device,
        )

    def _denoise(self, rows: Sequence[Row], on_step: StepCallback) -> torch.Tensor:
        """Latents of shape (number of rows, 4, height / 8, width / 8)."""
        import torch

        loaded = self._ready()
        shape = rows[0].plan.shape
        with translated_errors(), torch.inference_mode(), self._compiler.running():
            positive = self._encode([row.plan.prompt for row in rows])
            negative = None
            if shape.guidance_scale > 1.0:
                negative = self._encode([row.plan.negative_prompt for row in rows])
            (latents,) = loaded.pipeline(
                prompt_embeds=positive.hidden,
                pooled_prompt_embeds=positive.pooled,
                negative_prompt_embeds=negative.hidden if negative else None,
                negative_pooled_prompt_embeds=negative.pooled if negative else None,
                width=shape.width,
                height=shape.height,
                num_inference_steps=shape.num_inference_steps,
                guidance_scale=shape.guidance_scale,
                generator=cpu_generators([row.seed for row in rows]),
                output_type="latent",
                return_dict=False,
                callback_on_step_end=run_once_per_step(on_step, shape.num_inference_steps),
                callback_on_step_end_tensor_inputs=[],
            )
        result: torch.Tensor = latents
        return result

    def _encode(self, texts: Sequence[str]) -> TextEmbedding:
        """A row for each text; texts are encoded one by one, so that no embedding depends on the others."""
        loaded = self._ready()
        encoded = {
            text: self.embeddings.get_or_make(
                text, partial(encode_text, text, loaded.tokenizers, loaded.encoders)
            )
            for text in dict.fromkeys(texts)
        }
        return TextEmbedding.stacked([encoded[text] for text in texts])

    def _decode(self, latent: torch.Tensor) -> Decoding:
        """Start to decode one picture's latents, shape (4, h, w), to pixels of shape (1, 8 h, 8 w, 3)."""
        import torch

        loaded = self._ready()
        vae = loaded.pipeline.vae
        with translated_errors(), torch.inference_mode(), self._compiler.running():
            scaled = (latent.unsqueeze(0).float() / vae.config.scaling_factor).to(vae.dtype)
            (decoded,) = vae.decode(scaled, return_dict=False)
            height, width = decoded.shape[-2:]
            download = Download(1, height, width, loaded.device)
            download.put(decoded)
        return Decoding(download.frames)

    def _ready(self) -> _Loaded:
        if self._loaded is None:
            raise RuntimeError("load() comes first")
        return self._loaded


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
