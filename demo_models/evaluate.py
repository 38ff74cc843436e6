"""Measure a demo checkpoint by plain image analysis: `python demo_models/evaluate.py sdxl|wan [--quick]`.

Every figure comes from fixed seeds through diffusers' own pipeline. Exit status 1 below a bar.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline

if __package__ in (None, ""):
    # Run as a script: the checkout's root is not on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo_models import evaluate_wan, judge, shapes
from demo_models.bars import Bar, report
from demo_models.sampling import outputs, save_sheet, spread, to_pixels
from demo_models.shapes import Scene

HERE = Path(__file__).parent
# What the product puts behind every negative prompt.
ALWAYS_NEGATIVE = "child, minor"
BATCH = 8
# Seed of the order in which scenes are measured.
ORDER = 2024


@dataclass(frozen=True)
class Sampling:
    """Settings of a run; `negative` stands before the always negative terms."""

    num_inference_steps: int = 25
    guidance_scale: float = 6.5
    width: int = 128
    height: int = 128
    negative: str = ""


@dataclass(frozen=True)
class Accuracy:
    """Shares of pictures with the named attribute right; `size` among captions that state one."""

    foreground: float
    background: float
    shape: float
    size: float
    colour_error: float
    count: int

    @property
    def all_right(self) -> float:
        return min(self.foreground, self.background, self.shape)

    def __str__(self) -> str:
        return (
            f"foreground {self.foreground:.1%}  background {self.background:.1%}  shape {self.shape:.1%}  "
            f"size {self.size:.1%}  mean colour error {self.colour_error:.1f} dE  ({self.count} pictures)"
        )


def load_sdxl(checkpoint: Path) -> Any:
    if checkpoint.is_dir():
        pipeline = StableDiffusionXLPipeline.from_pretrained(
            checkpoint, dtype=torch.float32, add_watermarker=False
        )
    else:
        pipeline = StableDiffusionXLPipeline.from_single_file(
            str(checkpoint),
            config=str(HERE / "sdxl-shapes"),
            local_files_only=True,
            dtype=torch.float32,
            add_watermarker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(
    pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
) -> list[judge.Pixels]:
    """One picture a prompt and seed, (height, width, 3) each."""
    negative = ", ".join(term for term in (sampling.negative, ALWAYS_NEGATIVE) if term)
    return [
        picture
        for output in outputs(
            pipeline,
            prompts,
            seeds,
            negative,
            BATCH,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            width=sampling.width,
            height=sampling.height,
        )
        for picture in to_pixels(output.images)
    ]


def accuracy(scenes: Sequence[Scene], pictures: Sequence[judge.Pixels]) -> Accuracy:
    seen = [judge.observe(picture) for picture in pictures]
    pairs = list(zip(scenes, seen, strict=True))
    sized = [pair for pair in pairs if pair[0].size is not None]

    def share(
        right: Callable[[Scene, judge.Observation], bool], among: list[tuple[Scene, judge.Observation]]
    ) -> float:
        return statistics.mean(right(*pair) for pair in among) if among else math.nan

    return Accuracy(
        foreground=share(lambda scene, o: scene.colour == o.colour, pairs),
        background=share(lambda scene, o: scene.background == o.background, pairs),
        shape=share(lambda scene, o: scene.shape == o.shape, pairs),
        size=share(lambda scene, o: scene.size == o.size, sized),
        colour_error=statistics.mean((o.colour_error + o.background_error) / 2 for o in seen),
        count=len(pairs),
    )


def shares_by_shape(scenes: Sequence[Scene], pictures: Sequence[judge.Pixels]) -> str:
    right: dict[str, list[bool]] = {shape: [] for shape in shapes.SHAPES}
    for scene, picture in zip(scenes, pictures, strict=True):
        right[scene.shape].append(judge.observe(picture).shape == scene.shape)
    return "  ".join(f"{shape} {sum(found)}/{len(found)}" for shape, found in right.items())


def fisher_exact(fewer: int, of_fewer: int, more: int, of_more: int) -> float:
    """One-sided Fisher test: the probability of `fewer` or less in the first group were both groups alike."""
    hits, total = fewer + more, of_fewer + of_more
    ways = [math.comb(of_fewer, k) * math.comb(of_more, hits - k) for k in range(min(hits, fewer) + 1)]
    return sum(ways) / math.comb(total, hits)


def negative_prompt_effect(
    pipeline: Any, per_colour: int, colours: Sequence[str]
) -> tuple[int, int, int, int]:
    """Circles of a colour with that colour as negative prompt and without, summed over the colours.

    No picture counts twice: every colour has seeds of its own, and others with the negative prompt than
    without it, so that the two numbers are independent.

    Returns:
        (with, of, without, of): numbers of pictures.
    """
    circle, count = Scene("circle", "white").caption, per_colour * len(colours)
    free = sample(pipeline, [circle] * count, range(count), Sampling())
    refused: list[judge.Pixels] = []
    for number, colour in enumerate(colours):
        seeds = range(count + number * per_colour, count + (number + 1) * per_colour)
        refused += sample(pipeline, [circle] * per_colour, seeds, Sampling(negative=colour))
    named = [colour for colour in colours for _ in range(per_colour)]

    def hits(pictures: list[judge.Pixels]) -> int:
        return sum(
            judge.observe(picture).colour == colour for picture, colour in zip(pictures, named, strict=True)
        )

    return hits(refused), count, hits(free), count


def seconds_per_picture(pipeline: Any, repeats: int) -> float:
    """Median seconds of one 128x128 picture of 25 steps, alone in its batch, after one for warming up."""
    took = []
    for seed in range(repeats + 1):
        started = time.perf_counter()
        sample(pipeline, ["a red circle on a white background"], [seed], Sampling())
        took.append(time.perf_counter() - started)
    return statistics.median(took[1:])


def evaluate_sdxl_quick(pipeline: Any) -> list[Bar]:
    scenes = spread(shapes.scenes(), 24, ORDER)
    figures = accuracy(scenes, sample(pipeline, [scene.caption for scene in scenes], range(24), Sampling()))
    print(f"25 steps, guidance 6.5: {figures}")
    # These guard the shipped checkpoint against getting worse; the aims stand in the full run.
    return [
        Bar("foreground colour right", figures.foreground, least=0.9),
        Bar("background colour right", figures.background, least=0.95),
        Bar("shape right", figures.shape, least=0.85),
        Bar("seconds a picture of 25 steps", seconds_per_picture(pipeline, 1), most=6.0),
    ]


def evaluate_sdxl_full(pipeline: Any, count: int, show: Path | None) -> list[Bar]:
    scenes = spread(shapes.scenes(), count, ORDER)
    captions = [scene.caption for scene in scenes]

    def measured(title: str, number: int, sampling: Sampling) -> Accuracy:
        pictures = sample(pipeline, captions[:number], range(number), sampling)
        figures = accuracy(scenes[:number], pictures)
        print(f"{title}: {figures}", flush=True)
        return figures

    drawn = sample(pipeline, captions, range(count), Sampling())
    main = accuracy(scenes, drawn)
    print(f"25 steps, guidance 6.5: {main}", flush=True)
    print(f"shape right by shape: {shares_by_shape(scenes, drawn)}", flush=True)
    few, compared = min(count, 32), min(count, 100)
    high = measured("50 steps, guidance 7.5", few, Sampling(num_inference_steps=50, guidance_scale=7.5))
    guided = accuracy(scenes[:compared], drawn[:compared])
    unguided = measured("25 steps, guidance 1", compared, Sampling(guidance_scale=1.0))
    wide = measured("160x96, 25 steps, guidance 6.5", few, Sampling(width=160, height=96))
    tall = measured("96x160, 25 steps, guidance 6.5", few, Sampling(width=96, height=160))
    colours = [colour for colour in shapes.COLOURS if colour != "white"]
    with_it, of_with, without, of_without = negative_prompt_effect(pipeline, 24, colours)
    print(f"negative prompt: its colour in {with_it}/{of_with} circles, without it in {without}/{of_without}")
    if show is not None:
        save_sheet(drawn[:40], show, columns=8)
    return [
        Bar("captions measured", count, least=200),
        Bar("foreground colour right, 25 steps, guidance 6.5", main.foreground, least=0.95),
        Bar("background colour right, 25 steps, guidance 6.5", main.background, least=0.95),
        Bar("shape right, 25 steps, guidance 6.5", main.shape, least=0.9),
        Bar("size word right, 25 steps, guidance 6.5", main.size, least=0.9),
        Bar("worst attribute, 50 steps, guidance 7.5", high.all_right, least=0.9),
        Bar("worst attribute, 160x96", wide.all_right, least=0.85),
        Bar("worst attribute, 96x160", tall.all_right, least=0.85),
        Bar("accuracy at guidance 6.5 above guidance 1 by", _mean(guided) - _mean(unguided), least=0.001),
        Bar(
            "p of the negative prompt's effect",
            fisher_exact(with_it, of_with, without, of_without),
            most=0.001,
        ),
        Bar("seconds a picture of 25 steps", seconds_per_picture(pipeline, 5), most=3.0),
    ]


def _mean(figures: Accuracy) -> float:
    return statistics.mean((figures.foreground, figures.background, figures.shape, figures.size))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    sdxl = kinds.add_parser("sdxl", help="the picture checkpoint")
    sdxl.add_argument(
        "--checkpoint", type=Path, default=HERE / "sdxl-shapes", help="diffusers folder or single file"
    )
    sdxl.add_argument("--quick", action="store_true", help="24 captions, under 50 s on two cores")
    sdxl.add_argument("--count", type=int, default=len(shapes.scenes()), help="captions of the full run")
    sdxl.add_argument("--show", type=Path, help="write a sheet of 40 samples to this PNG")
    wan = kinds.add_parser("wan", help="the video checkpoint")
    wan.add_argument("--checkpoint", type=Path, default=HERE / "wan-shapes", help="diffusers folder")
    wan.add_argument("--quick", action="store_true", help="20 captions, under a minute on two cores")
    wan.add_argument("--count", type=int, default=150, help="captions of the full run")
    wan.add_argument("--show", type=Path, help="write three frames each of 24 clips to this PNG")
    for kind in (sdxl, wan):
        kind.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    if arguments.kind == "sdxl":
        load, quick, full = load_sdxl, evaluate_sdxl_quick, evaluate_sdxl_full
    else:
        load, quick, full = evaluate_wan.load_wan, evaluate_wan.evaluate_quick, evaluate_wan.evaluate_full
    pipeline = load(arguments.checkpoint)
    bars = quick(pipeline) if arguments.quick else full(pipeline, arguments.count, arguments.show)
    return 0 if report(bars, time.monotonic() - started) else 1


if __name__ == "__main__":
    sys.exit(main())
