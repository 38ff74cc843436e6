"""SDXL at real size: 3.47 billion random weights in a single file, loaded and run as the worker does.

    python -m benchmarks.real_shape sdxl --folder DIR [--keep] [--dtype bfloat16] [--device cpu]
                                         [--size 1024x1024] [--steps 2]

Takes about 7 GB of disk in DIR and, in bfloat16 on the CPU, about 13 GB of memory. The first run of a process
reads the file from the disk: its pages are dropped from the page cache before each reading.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._measure import GIB, Stage, StageMeter, evict, read_plainly, table
from shared.plan import Plan
from shared.presets import SDXL
from workers.engines.base import Pass

FILE_NAME = "sdxl-random-fp16.safetensors"
NOISE_LENGTH = 1 << 24
"""Weights repeat after this many numbers, each tensor from another place on: drawing them all anew would
take longer than everything that is measured."""

RESIDUAL_GAIN = 0.5
"""Random residual branches add up; at this gain the activations stay near 1 through all blocks."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real_shape sdxl",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the checkpoint is written")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint there")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--size", default="1024x1024", help="width x height in pixels")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    path: Path = chosen.folder / FILE_NAME
    if chosen.measure:
        _measure(path, chosen)
        return 0
    try:
        if not path.is_file():
            chosen.folder.mkdir(parents=True, exist_ok=True)
            _write_checkpoint(path)
        # A fresh process, so that nothing of the writing is counted.
        command = [sys.executable, "-m", "benchmarks.real_shape", "sdxl", "--measure", *arguments]
        return subprocess.run(command, check=False).returncode
    finally:
        if not chosen.keep:
            path.unlink(missing_ok=True)


# --- the checkpoint ----------------------------------------------------------------------------------


def _write_checkpoint(path: Path) -> None:
    start = time.perf_counter()
    shapes = _shapes()
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    noise = np.random.default_rng(0).standard_normal(NOISE_LENGTH, dtype=np.float32)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        file.write(struct.pack("<Q", len(packed)) + packed)
        for number, (name, shape) in enumerate(shapes.items()):
            _write_tensor(file, name, shape, noise, start=number * 7_919_999)
    unfinished.rename(path)
    print(
        f"wrote {path.name}: {len(shapes)} tensors, {offset / 2 / 1e9:.3f} billion weights,"
        f" {path.stat().st_size / 1e9:.2f} GB in {time.perf_counter() - start:.0f} s",
        flush=True,
    )


def _shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a real checkpoint, from modules that hold no memory."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from benchmarks._original_layout import original_layout
    from shared.sdxl_config import SHIPPED_CONFIG

    def text_config(name: str) -> Any:
        return CLIPTextConfig.from_pretrained(SHIPPED_CONFIG / name, local_files_only=True)

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SHIPPED_CONFIG / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(SHIPPED_CONFIG / "vae"))
        encoders = (
            CLIPTextModel(text_config("text_encoder")),
            CLIPTextModelWithProjection(text_config("text_encoder_2")),
        )
    weights = original_layout(
        unet.state_dict(),
        vae.state_dict(),
        encoders[0].state_dict(),
        encoders[1].state_dict(),
        layers_per_block=unet.config.layers_per_block,
    )
    return {name: tuple(value.shape) for name, value in weights.items()}


def _write_tensor(
    file: IO[bytes], name: str, shape: tuple[int, ...], noise: NDArray[np.float32], start: int
) -> None:
    remaining = math.prod(shape)
    if len(shape) == 1:
        # Norms scale by 1 and shift by 0, so that every activation is of order 1 wherever it is normalised.
        constant = 1.0 if name.endswith("weight") else 0.0
        file.write(np.full(remaining, constant, np.float16).tobytes())
        return
    scale = RESIDUAL_GAIN / math.sqrt(math.prod(shape[1:]))
    while remaining:
        part = noise[start % NOISE_LENGTH :][:remaining]
        file.write((part * scale).astype(np.float16).tobytes())
        remaining -= len(part)
        start = 0


# --- the measurement ---------------------------------------------------------------------------------


def _measure(path: Path, chosen: argparse.Namespace) -> None:
    width, height = (int(side) for side in chosen.size.split("x"))
    size = path.stat().st_size
    evict(path)
    reading = read_plainly([path])
    evict(path)
    with StageMeter() as meter:
        with meter.stage("import the libraries"):
            import diffusers  # noqa: F401
            import torch
            import transformers  # noqa: F401

            from workers.engines.sdxl import SdxlEngine
        with meter.stage("load"):
            engine = SdxlEngine(str(path), device=chosen.device, dtype=chosen.dtype)
            info = engine.load()
        stages = list(_generate(engine, _plan(width, height, chosen.steps), meter))
    print(f"{info.gpu_name}, {torch.get_num_threads()} threads, {info.device}, {info.dtype}, {info.applied}")
    print(f"file {size / GIB:.2f} GiB, plainly read from the disk in {reading:.1f} s")
    print(table([*meter.stages, *stages], size))
    load = next(stage for stage in meter.stages if stage.name == "load")
    print(f"load time / reading time: {load.seconds / reading:.2f}")
    print(f"peak private memory through the load / file: {load.peak_bytes / size:.2f} (aim: at most 1.4)")


def _generate(engine: Any, plan: Plan, meter: StageMeter) -> Iterator[Stage]:
    """Run the plan; yields the encoding with the first step, every other step, and the decoding."""
    ends: list[tuple[float, int]] = []
    start = time.perf_counter()

    def on_step(step: int, total: int) -> None:
        ends.append((time.perf_counter(), meter.take_peak()))
        print(f"step {step} of {total}", flush=True)

    meter.take_peak()
    (drawn,) = engine.generate(Pass.of(plan), on_step)
    ends.append((time.perf_counter(), meter.take_peak()))
    names = ["encode text, first step", *(f"step {n}" for n in range(2, len(ends))), "decode"]
    for name, (end, peak) in zip(names, ends, strict=True):
        yield Stage(name, end - start, peak)
        start = end
    picture = drawn.result.frames[0]
    if picture.shape != (plan.height, plan.width, 3) or picture.std() == 0:
        raise SystemExit(f"the picture is wrong: {picture.shape}, standard deviation {picture.std():.2f}")
    print(f"picture {picture.shape}, mean {picture.mean():.1f}, standard deviation {picture.std():.1f}")


def _plan(width: int, height: int, steps: int) -> Plan:
    return Plan(
        job_id="real-shape",
        user_id="benchmark",
        job_type="sdxl_image_fast",
        family=SDXL,
        medium="image",
        bucket="sdxl_image_fast",
        prompt="a red boat on a calm lake",
        original_prompt="a red boat on a calm lake",
        negative_prompt="blurry, child, minor",
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=6.5,
        shift=0.0,
        num_frames=1,
        fps=1.0,
        seeds=(1,),
    )
