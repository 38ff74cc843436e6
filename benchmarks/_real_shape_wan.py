"""WAN 2.1 1.3B at real size: 7.2 billion random weights in a diffusers folder, run as the worker does.

    python -m benchmarks.real_shape wan --folder DIR [--keep] [--dtype bfloat16] [--device cpu]
                                        [--size 480x832] [--frames 1] [--steps 2] [--layers N]

Takes about 15 GB of disk in DIR. The text encoder's pages are mapped from its files, so they take main memory
only while nobody else needs it. `--layers` cuts the text encoder and the transformer short, for a quick look.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._measure import GIB, Stage, StageMeter, evict, read_plainly, table
from shared.plan import Plan
from shared.presets import WAN
from workers.engines.base import Pass

FOLDER_NAME = "wan-random-bf16"
BAR_GB = 20
"""Most private memory, in 10^9 bytes, that one picture may take on the CPU."""

WEIGHTS = {"text_encoder": 5_680_910_336, "transformer": 1_418_996_800, "vae": 126_892_531}
"""Parameters of the published checkpoint, which the configuration below has to arrive at."""

SHARD_BYTES = 5 * 10**9
NOISE_LENGTH = 1 << 24
"""Weights repeat after this many numbers, each tensor from another place on: drawing them all anew would
take longer than everything that is measured."""

RESIDUAL_GAIN = 0.5
"""Random residual branches add up; at this gain the activations stay near 1 through all blocks."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real_shape wan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the checkpoint is written")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint there")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--size", default="480x832", help="width x height in pixels")
    parser.add_argument("--frames", type=int, default=1, help="4k+1")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--layers", type=int, help="fewer layers than the real 24 and 30")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    checkpoint: Path = chosen.folder / FOLDER_NAME
    if chosen.measure:
        return _measure(checkpoint, chosen)
    try:
        if not (checkpoint / "model_index.json").is_file():
            _write_checkpoint(checkpoint, chosen.layers)
        # A fresh process, so that nothing of the writing is counted.
        command = [sys.executable, "-m", "benchmarks.real_shape", "wan", "--measure", *arguments]
        return subprocess.run(command, check=False).returncode
    finally:
        if not chosen.keep:
            shutil.rmtree(checkpoint, ignore_errors=True)


# --- the checkpoint ----------------------------------------------------------------------------------


def _write_checkpoint(folder: Path, layers: int | None) -> None:
    from demo_models.make_tiny_wan import build_tokenizer

    start = time.perf_counter()
    noise = np.random.default_rng(0).standard_normal(NOISE_LENGTH, dtype=np.float32)
    for part, make in modules(layers).items():
        module = _without_memory(make)
        count = sum(weights.numel() for weights in module.parameters())
        if layers is None and count != WEIGHTS[part]:
            raise SystemExit(f"{part} has {count:,} weights, the published one {WEIGHTS[part]:,}")
        (folder / part).mkdir(parents=True, exist_ok=True)
        if part == "text_encoder":
            module.config.save_pretrained(folder / part)
        else:
            module.save_config(folder / part)
        _write_weights(folder / part, part, module, noise)
    build_tokenizer().save_pretrained(folder / "tokenizer")
    # Last, because its presence says that everything else is there.
    (folder / "model_index.json").write_text(json.dumps(_index(), indent=2))
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    print(f"wrote {folder.name}: {size / 1e9:.2f} GB in {time.perf_counter() - start:.0f} s", flush=True)


def modules(layers: int | None = None) -> dict[str, Callable[[], Any]]:
    """What makes WAN 2.1 T2V 1.3B's parts; `layers` cuts the text encoder and the transformer short."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    return {
        "text_encoder": lambda: UMT5EncoderModel(
            UMT5Config(
                vocab_size=256_384,
                d_model=4096,
                d_kv=64,
                num_heads=64,
                d_ff=10_240,
                num_layers=layers or 24,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,
            )
        ),
        "transformer": lambda: WanTransformer3DModel(
            num_attention_heads=12,
            attention_head_dim=128,
            ffn_dim=8960,
            num_layers=layers or 30,
            text_dim=4096,
            freq_dim=256,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
        ),
        "vae": AutoencoderKLWan,
    }


def _without_memory(make: Callable[[], Any]) -> Any:
    import torch

    with torch.device("meta"):
        return make()


def _index() -> dict[str, Any]:
    return {
        "_class_name": "WanPipeline",
        "boundary_ratio": None,
        "expand_timesteps": False,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }


def _write_weights(folder: Path, part: str, module: Any, noise: NDArray[np.float32]) -> None:
    """Safetensors shards with their index, streamed: no more than one block of numbers is in memory."""
    stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    # The embedding is one tensor under two names; a real checkpoint holds it once.
    shapes = {
        name: tuple(weights.shape)
        for name, weights in module.state_dict().items()
        if name != "encoder.embed_tokens.weight"
    }
    shards = _shards(shapes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"{stem}-{number:05}-of-{len(shards):05}" if len(shards) > 1 else stem
        weight_map |= dict.fromkeys(names, f"{file}.safetensors")
        _write_shard(folder / f"{file}.safetensors", {name: shapes[name] for name in names}, noise)
    if len(shards) > 1:
        total = sum(2 * math.prod(shape) for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def _shards(shapes: dict[str, tuple[int, ...]]) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        bytes_ = 2 * math.prod(shape)
        if size + bytes_ > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += bytes_
    return shards


def _write_shard(path: Path, shapes: dict[str, tuple[int, ...]], noise: NDArray[np.float32]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(packed)) + packed)
        for number, (name, shape) in enumerate(shapes.items()):
            _write_tensor(file, name, shape, noise, start=number * 7_919_999 % NOISE_LENGTH)


def _write_tensor(
    file: IO[bytes], name: str, shape: tuple[int, ...], noise: NDArray[np.float32], start: int
) -> None:
    remaining = math.prod(shape)
    if len(shape) == 1 or name.endswith("gamma"):
        # Norms scale by 1 and shift by 0, so that every activation is of order 1 wherever it is normalised.
        constant = 0.0 if name.endswith("bias") else 1.0
        file.write(_bfloat16(np.full(remaining, constant, np.float32)).tobytes())
        return
    embedding = name.startswith("shared")
    scale = 1.0 if embedding else RESIDUAL_GAIN / math.sqrt(math.prod(shape[1:]))
    while remaining:
        part = noise[start:][:remaining]
        file.write(_bfloat16(part * np.float32(scale)).tobytes())
        remaining -= len(part)
        start = 0


def _bfloat16(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of the numbers, rounded; NumPy has no bfloat16 of its own."""
    return ((numbers.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)


# --- the measurement ---------------------------------------------------------------------------------


def _measure(folder: Path, chosen: argparse.Namespace) -> int:
    files = sorted(folder.rglob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    for file in files:
        evict(file)
    reading = read_plainly(files)
    for file in files:
        evict(file)
    plan = _plan(chosen)
    with StageMeter() as meter:
        with meter.stage("import the libraries"):
            import diffusers  # noqa: F401
            import torch
            import transformers  # noqa: F401

            from workers.engines.wan import WanEngine
        with meter.stage("load"):
            engine = WanEngine(str(folder), device=chosen.device, dtype=chosen.dtype)
            info = engine.load()
        with meter.stage("encode text"):
            # generate() finds it in the cache; here it is a stage of its own.
            engine._parts().embeddings.of([plan])
        stages = list(_generate(engine, plan, meter))
    print(f"{info.gpu_name}, {torch.get_num_threads()} threads, {info.device}, {info.dtype}, {info.applied}")
    print(f"files {size / GIB:.2f} GiB, plainly read from the disk in {reading:.1f} s")
    print(table([*meter.stages, *stages], size))
    peak = max(stage.peak_bytes for stage in (*meter.stages, *stages)) / 1e9
    print(f"peak private memory: {peak:.2f} GB (bar: under {BAR_GB})")
    return 0 if peak < BAR_GB else 1


def _generate(engine: Any, plan: Plan, meter: StageMeter) -> Iterator[Stage]:
    """Run the plan; yields every step and the decoding."""
    ends: list[tuple[float, int]] = []
    start = time.perf_counter()

    def on_step(step: int, total: int) -> None:
        ends.append((time.perf_counter(), meter.take_peak()))
        print(f"step {step} of {total}", flush=True)

    meter.take_peak()
    (drawn,) = engine.generate(Pass.of(plan), on_step)
    ends.append((time.perf_counter(), meter.take_peak()))
    names = [*(f"step {n}" for n in range(1, len(ends))), "decode"]
    for name, (end, peak) in zip(names, ends, strict=True):
        yield Stage(name, end - start, peak)
        start = end
    frames = drawn.result.frames
    if frames.shape != (plan.num_frames, plan.height, plan.width, 3) or frames.std() == 0:
        raise SystemExit(f"the frames are wrong: {frames.shape}, standard deviation {frames.std():.2f}")
    print(f"frames {frames.shape}, mean {frames.mean():.1f}, standard deviation {frames.std():.1f}")


def _plan(chosen: argparse.Namespace) -> Plan:
    width, height = (int(side) for side in chosen.size.split("x"))
    return Plan(
        job_id="real-shape",
        user_id="benchmark",
        job_type="image_fast",
        family=WAN,
        medium="image" if chosen.frames == 1 else "video",
        bucket="image_fast",
        prompt="a red boat on a calm lake",
        original_prompt="a red boat on a calm lake",
        negative_prompt="blurry, static, low quality",
        width=width,
        height=height,
        num_inference_steps=chosen.steps,
        guidance_scale=6.5,
        shift=5.0,
        num_frames=chosen.frames,
        fps=16.0,
        seeds=(1,),
    )
