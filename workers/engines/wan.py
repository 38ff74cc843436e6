"""WAN 2.1 text-to-video behind the engine's interface: videos, and pictures of one frame.

torch, diffusers and transformers are imported inside the functions, so that importing this module is free.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from shared.errors import OutOfMemory, SettingsError
from shared.plan import Adjustment, Plan, PromptWindow
from workers.engines.base import BatchSize, Drawn, EngineInfo, Pass, Row, StepCallback
from workers.engines.compiling import Compiler
from workers.engines.device import (
    allocator_options,
    cpu_generators,
    device_name,
    free_cached_memory,
    limit_memory,
    resolve_device,
    resolve_dtype,
    run_once_per_step,
    translated_errors,
)
from workers.engines.drawing import Decoding, draw, subject
from workers.engines.memory import RESIDENCIES, MemoryPlan, PartSizes, Residency, plan_memory
from workers.engines.wan_checkpoint import Checkpoint, read_checkpoint
from workers.engines.wan_decoder import FrameDecoder
from workers.engines.wan_text import PromptEmbeddings, Umt5Window
from workers.engines.warmup import warm_up

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)


class WanEngine:
    """One loaded WAN 2.1 T2V checkpoint. Not thread-safe, but for `prompt_window()`.

    `model` is a diffusers folder or the id of a hub repository. `memory_gb` is the share of the card in GiB
    (None: all that is free). `residency` is `auto`, `all` or `offload_text` (see `memory`), `vae_tiling`
    None lets the memory plan decide for each job. `attention` is one of `ATTENTION`; `compiler` decides
    whether the transformer's blocks are compiled.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        memory_gb: float | None = None,
        residency: str = "auto",
        vae_tiling: bool | None = None,
        attention: str = "sdpa",
        compiler: Compiler | None = None,
    ) -> None:
        self._model = model
        self._device_setting, self._dtype_setting = device, dtype
        self._memory_gb = memory_gb
        self._residency = residency
        self._vae_tiling = vae_tiling
        self._attention = attention
        self._compiler = compiler or Compiler(on=False)
        self._loaded: _Loaded | None = None

    def load(self) -> EngineInfo:
        """Load the checkpoint. Raises `SettingsError` where it cannot be used as it stands."""
        wanted = _wanted_residency(self._residency)
        device = resolve_device(self._device_setting)
        dtype = resolve_dtype(self._dtype_setting, device, auto_on_cuda="bfloat16")
        vae_dtype = _vae_dtype(dtype, device)
        limit_memory(device, self._memory_gb)
        checkpoint = read_checkpoint(self._model, dtype, vae_dtype)
        _set_attention(checkpoint.transformer, self._attention, device)
        self._compiler.compile_blocks(checkpoint.transformer)
        sizes = PartSizes(
            _bytes_of(checkpoint.text_encoder), _bytes_of(checkpoint.transformer), _bytes_of(checkpoint.vae)
        )
        budget = _budget_bytes(device, self._memory_gb)
        memory = plan_memory(budget, sizes, vae_dtype.itemsize, wanted)
        _log.info("memory plan: %s", memory)
        if not memory.fits:
            _log.warning(
                "a usual video is not expected to fit (%s); raise GPU_MEMORY_GB, or take a larger card",
                memory,
            )
        try:
            with translated_errors("The checkpoint"):
                self._loaded = _place(checkpoint, memory, device)
        except OutOfMemory as error:
            raise SettingsError(
                [f"WAN_MODEL does not fit on {device_name(device)} ({memory}); raise GPU_MEMORY_GB."]
            ) from error
        return EngineInfo(
            gpu_name=device_name(device),
            device=str(device),
            dtype=_name(dtype),
            applied={
                "text_encoder": _name(checkpoint.text_encoder.dtype),
                "vae": _name(vae_dtype),
                "residency": memory.residency,
                "vae_tiling": {None: "when needed", True: "always", False: "never"}[self._vae_tiling],
                "attention": self._attention,
                "compile": "transformer blocks" if self._compiler.on else "off",
                "allocator": allocator_options(device),
            },
            measures=lambda: {"embedding_cache_hit_rate": round(self._parts().embeddings.hit_rate, 3)},
        )

    def warm_up(self, passes: Sequence[Pass], seconds: float) -> frozenset[BatchSize]:
        with self._compiler.warming_up():
            return warm_up(self.generate, passes, seconds)

    def prompt_window(self) -> PromptWindow:
        return self._parts().window

    def generate(self, run: Pass, on_step: StepCallback) -> Iterator[Drawn]:
        """Make the plan's video, or the pictures of all plans.

        Pictures are made in one batch; after running out of memory in smaller ones. Raises `OutOfMemory` when
        a single sample does not fit.
        """
        parts = self._parts()
        frames = run.shape.num_frames
        assert frames % 4 == 1, "the pipeline would floor the frames and tell nobody but the log"
        return draw(
            run.rows,
            run.size.num_images if frames == 1 else 1,
            lambda rows: self._denoise(parts, rows, on_step),
            lambda latent: self._decode(parts, run.plans[0], latent),
            parts.device,
        )

    def _denoise(self, parts: _Loaded, rows: Sequence[Row], on_step: StepCallback) -> torch.Tensor:
        with self._compiler.running():
            return _denoise(parts, rows, on_step)

    def _decode(self, parts: _Loaded, plan: Plan, latent: torch.Tensor) -> Decoding:
        """Start to decode a sample; whole where that fits, else in tiles, which is recorded after a failure.

        `plan` is any of those that have the sample's size.
        """
        planned = parts.memory.wants_tiles(plan.width, plan.height, plan.num_frames)
        tiles = planned if self._vae_tiling is None else self._vae_tiling
        try:
            with translated_errors(subject(plan)):
                return Decoding(parts.decoder.decode(latent, tiles))
        except OutOfMemory:
            if tiles or self._vae_tiling is False:
                raise
        _log.warning("out of memory while decoding, trying once more in tiles")
        free_cached_memory(parts.device)
        with translated_errors(subject(plan)):
            frames = parts.decoder.decode(latent, tiles=True)
        reason = "the GPU ran out of memory while decoding the frames whole"
        return Decoding(frames, (Adjustment("vae_tiling", False, True, reason),))

    def _parts(self) -> _Loaded:
        assert self._loaded is not None, "load() comes before anything else"
        return self._loaded


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What a job needs. The sampler is a diffusers pipeline without its text encoder."""

    device: torch.device
    memory: MemoryPlan
    window: Umt5Window
    embeddings: PromptEmbeddings
    sampler: Any
    decoder: FrameDecoder


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- loading -----------------------------------------------------------------------------------------


def _wanted_residency(setting: str) -> Residency | None:
    for residency in RESIDENCIES:
        if setting == residency:
            return residency
    if setting == "auto":
        return None
    raise SettingsError([f'WAN_RESIDENCY is "{setting}"; set it to auto, {" or ".join(RESIDENCIES)}.'])


ATTENTION: Final = {"sdpa": "native", "cudnn": "_native_cudnn", "flash": "flash", "flash3": "_flash_3"}
"""Ways to calculate attention, as this project and as diffusers call them; all of them give the same picture
to rounding. `sdpa` leaves the choice to torch."""


def _set_attention(transformer: Any, attention: str, device: torch.device) -> None:
    """Raises `SettingsError` for what is not there."""
    if attention not in ATTENTION:
        raise SettingsError([f'WAN_ATTENTION is "{attention}"; set it to one of {", ".join(ATTENTION)}.'])
    if attention == "sdpa":
        return
    if device.type != "cuda":
        raise SettingsError([f"WAN_ATTENTION is {attention}, which only cards have; set it to sdpa."])
    try:
        transformer.set_attention_backend(ATTENTION[attention])
    except (RuntimeError, ValueError, ImportError) as error:
        problem = str(error).strip().splitlines()[0]
        raise SettingsError([f"WAN_ATTENTION is {attention}: {problem} Or set it to sdpa."]) from error


def _vae_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The VAE follows the transformer into bfloat16 on a card and stays in float32 everywhere else.

    Decoding in bfloat16 is 1.2 to 1.3 times as fast, at an MS-SSIM of 0.9999 against float32, and takes half
    of the memory. float16 is no choice: nothing bounds the decoder's activations to its range.
    """
    import torch

    return dtype if device.type == "cuda" and dtype is torch.bfloat16 else torch.float32


def _budget_bytes(device: torch.device, memory_gb: float | None) -> int | None:
    """What this process may use of the card; None on the CPU, where the system decides."""
    import torch

    if device.type != "cuda":
        return None
    free, _total = torch.cuda.mem_get_info(device)
    return free if memory_gb is None else min(free, int(memory_gb * 2**30))


def _bytes_of(module: torch.nn.Module) -> int:
    return sum(weights.nbytes for weights in module.parameters())


def _place(checkpoint: Checkpoint, memory: MemoryPlan, device: torch.device) -> _Loaded:
    """Send the weights where the memory plan wants them."""
    from accelerate import cpu_offload
    from diffusers import WanPipeline

    checkpoint.transformer.to(device)
    checkpoint.vae.to(device)
    if memory.residency == "offload_text":
        # Layer by layer: the whole encoder would not fit beside the rest on the cards this is for.
        cpu_offload(checkpoint.text_encoder, execution_device=device)
    else:
        checkpoint.text_encoder.to(device)
    # Without the text encoder, because diffusers takes a pipeline's device from whichever part comes first,
    # and an offloaded one is on none.
    sampler = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        transformer=checkpoint.transformer,
        vae=checkpoint.vae,
        scheduler=_scheduler(1.0),
    )
    sampler.set_progress_bar_config(disable=True)
    # A tokenizer of its own, as other threads count while this one encodes.
    window = Umt5Window(copy.deepcopy(checkpoint.tokenizer))
    embeddings = PromptEmbeddings(checkpoint.tokenizer, checkpoint.text_encoder, window, device)
    return _Loaded(device, memory, window, embeddings, sampler, FrameDecoder(checkpoint.vae))


# --- sampling ----------------------------------------------------------------------------------------


@functools.cache
def _scheduler_class() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    class FlowMatchEuler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
        """The library's scheduler, without waiting for the card and without rounding the latents."""

        timesteps: Any

        def set_timesteps(
            self, num_inference_steps: int | None = None, device: Any = None, **options: Any
        ) -> None:
            # The pipeline reads one sigma a step; read from the card, each would stop the host until the
            # card has caught up.
            super().set_timesteps(num_inference_steps, device="cpu", **options)
            self.timesteps = self.timesteps.to(device)

        def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> Any:
            # The library casts the latents to the model's dtype after each step. In bfloat16 that rounds
            # them to 8 bits 50 times over; kept in float32 they cost one cast as well.
            return super().step(model_output.float(), timestep, sample, **options)

    return FlowMatchEuler


def _scheduler(shift: float) -> Any:
    """A fresh scheduler, so that no job can leave anything to the next one."""
    return _scheduler_class()(shift=shift)


def _denoise(parts: _Loaded, rows: Sequence[Row], on_step: StepCallback) -> torch.Tensor:
    """Latents of shape (number of rows, 16, latent frames, H / 8, W / 8), float32.

    Each seed's start noise comes from a generator of its own, so a sample does not depend on its neighbours.
    """
    plan = rows[0].plan
    parts.sampler.scheduler = _scheduler(plan.shift)
    with translated_errors(subject(plan)):
        text = parts.embeddings.of([row.plan for row in rows])
        latents: torch.Tensor = parts.sampler(
            prompt_embeds=text.positive,
            negative_prompt_embeds=text.negative,
            height=plan.height,
            width=plan.width,
            num_frames=plan.num_frames,
            num_inference_steps=plan.num_inference_steps,
            guidance_scale=plan.guidance_scale,
            generator=cpu_generators([row.seed for row in rows]),
            output_type="latent",
            callback_on_step_end=run_once_per_step(on_step, plan.num_inference_steps),
            callback_on_step_end_tensor_inputs=[],
        ).frames
    return latents
