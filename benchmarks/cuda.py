"""Pictures a second and seconds a video on a card, for each option, against plain diffusers.

Needs a card, and checkpoints in SDXL_MODEL (a diffusers folder or a single file) and WAN_MODEL (a folder);
what is missing is skipped. Every option is timed in a process of its own, so that none meets another's
memory: `python -m benchmarks.cuda MODEL OPTION` prints one JSON line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import sdxl_worker
import wan_worker
from benchmarks._report import Cell, Figure, Section
from benchmarks._world import ROOT
from shared.job import Envelope, Job
from shared.plan import Plan, PlanDefaults, PromptWindow, make_plan
from shared.settings import load_settings
from workers.engines.base import Pass
from workers.kind import Kind

PLAIN = "plain diffusers"
OPTIONS: dict[str, dict[str, dict[str, str]]] = {
    "sdxl": {PLAIN: {}, "ours": {}, "ours, COMPILE": {"COMPILE": "1"}},
    "wan": {
        PLAIN: {},
        "ours": {},
        "ours, COMPILE": {"COMPILE": "1"},
        "ours, COMPILE, cuDNN attention": {"COMPILE": "1", "WAN_ATTENTION": "cudnn"},
    },
}
KINDS = {"sdxl": sdxl_worker.KIND, "wan": wan_worker.KIND}
PICTURES = (1, 3, 6)
PROMPT = "a sailing boat on a calm lake"
ROUNDS = 3
LIMIT_S = 1800


def run(quick: bool) -> Section:
    title = "On a card, against plain diffusers"
    reason = _reason_to_skip()
    if reason is not None:
        return Section(title, skipped=reason)
    rows: list[tuple[Cell, ...]] = []
    figures: list[Figure] = []
    data: dict[str, Any] = {}
    for model, options in OPTIONS.items():
        if not os.environ.get(KINDS[model].model_variable):
            continue
        seconds = {option: _in_own_process(model, option, quick) for option in options}
        for option, by_batch in seconds.items():
            for batch, value in by_batch.items():
                shown = (
                    f"{float(batch) / value:.3f} pictures/s" if model == "sdxl" else f"{value:.2f} s a video"
                )
                ratio = seconds[PLAIN][batch] / value
                rows.append((f"{model}, {batch} at once: {option}", shown, f"{ratio:.2f}x"))
                if option != PLAIN:
                    figures.append(Figure(f"{model}, {batch} at once, {option}: speed / {PLAIN}", ratio))
        data[model] = seconds
    return Section(title, ("", "", "speed"), tuple(rows), tuple(figures), (_card(),), data)


def _reason_to_skip() -> str | None:
    import torch

    if not torch.cuda.is_available():
        return "torch sees no CUDA device here."
    if not any(os.environ.get(kind.model_variable) for kind in KINDS.values()):
        return "neither SDXL_MODEL nor WAN_MODEL names a checkpoint."
    return None


def _card() -> str:
    import torch

    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}"


def _in_own_process(model: str, option: str, quick: bool) -> dict[str, float]:
    """Seconds of a batch by the number of its pictures."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cuda", model, option, *(["--quick"] if quick else [])],
        cwd=ROOT,
        env=os.environ | OPTIONS[model][option],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=LIMIT_S,
    )
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


# --- the process of one option


def _time_option(model: str, option: str, quick: bool) -> dict[int, float]:
    kind = KINDS[model]
    plans = {batch: _plan(model, batch) for batch in (PICTURES if model == "sdxl" else (1,))}
    generate = _plain(model) if option == PLAIN else _ours(kind, list(plans.values()))
    seconds = {}
    for batch, plan in plans.items():
        generate(plan)  # fills the allocator's caches
        seconds[batch] = median(_timed(generate, plan) for _ in range(1 if quick else ROUNDS))
    return seconds


def _timed(generate: Callable[[Plan], object], plan: Plan) -> float:
    """Seconds until the pixels are in main memory, which is when both ways return."""
    start = time.perf_counter()
    generate(plan)
    return time.perf_counter() - start


class _AnyLength:
    """The prompts here are short."""

    limit = 75

    def count(self, text: str) -> int:
        return len(text.split())


def _plan(model: str, num_images: int) -> Plan:
    job_type = {"sdxl": "sdxl_image_fast", "wan": "video_fast"}[model]
    document = {
        "id": "benchmark",
        "type": job_type,
        "prompt": PROMPT,
        "user_id": "user-1",
        "negative_prompt": "lowres, text, watermark",
        "config": {"num_images": num_images, "seed": 1234},
    }
    job = Job.parse(Envelope.decode(json.dumps(document).encode()), KINDS[model].family, ())
    window: PromptWindow = _AnyLength()
    return make_plan(job, window, PlanDefaults(), None)


def _ours(kind: Kind, plans: list[Plan]) -> Callable[[Plan], object]:
    """The engine as the worker makes it from the environment's settings, warmed up for the plans."""
    services: dict[str, Any] = {
        "REDIS_URL": "redis://127.0.0.1",
        "STORAGE_URL": "file:///nowhere",
        "CALLBACK_URL": "http://127.0.0.1",
    }
    engine = kind.make_engine(load_settings(kind.model_variable, _env_file=None, **services))
    engine.load()
    engine.warm_up([Pass.of(plan) for plan in plans], LIMIT_S / 2)
    return lambda plan: list(engine.generate(Pass.of(plan), lambda _step, _steps: None))


def _plain(model: str) -> Callable[[Plan], object]:
    """diffusers' own pipeline on the card, called as its documentation does."""
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, WanPipeline

    checkpoint = os.environ[KINDS[model].model_variable]
    pipeline: Any
    if model == "sdxl":
        read = (
            StableDiffusionXLPipeline.from_single_file
            if Path(checkpoint).is_file()
            else StableDiffusionXLPipeline.from_pretrained
        )
        pipeline = read(checkpoint, torch_dtype=torch.float16)
        pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    else:
        pipeline = WanPipeline.from_pretrained(checkpoint, torch_dtype=torch.bfloat16)
    pipeline.to("cuda")
    pipeline.set_progress_bar_config(disable=True)

    def generate(plan: Plan) -> object:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in plan.seeds]
        of_medium: dict[str, Any] = (
            {"num_images_per_prompt": plan.num_images} if model == "sdxl" else {"num_frames": plan.num_frames}
        )
        return pipeline(
            prompt=plan.prompt,
            negative_prompt=plan.negative_prompt,
            width=plan.width,
            height=plan.height,
            num_inference_steps=plan.num_inference_steps,
            guidance_scale=plan.guidance_scale,
            generator=generators if model == "sdxl" else generators[0],
            output_type="np",
            **of_medium,
        )

    return generate


if __name__ == "__main__":
    print(json.dumps(_time_option(sys.argv[1], sys.argv[2], "--quick" in sys.argv)))
