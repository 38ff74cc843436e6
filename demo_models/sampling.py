"""What measuring either demo checkpoint takes: which scenes, outputs in batches, a sheet of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from demo_models.judge import Pixels

Scene = TypeVar("Scene")


def spread(scenes: Sequence[Scene], count: int, seed: int) -> list[Scene]:
    """`count` scenes in a fixed random order, so that every attribute is met about equally often."""
    order = np.random.default_rng(seed).permutation(len(scenes))
    return [scenes[int(order[k % len(order)])] for k in range(count)]


def outputs(
    pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], negative: str, batch: int, **settings: Any
) -> Iterator[Any]:
    """A diffusers pipeline's outputs, `batch` prompts each, every prompt with a generator of its own seed."""
    for first in range(0, len(prompts), batch):
        part = list(prompts[first : first + batch])
        yield pipeline(
            prompt=part,
            negative_prompt=[negative] * len(part),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[first : first + batch]],
            output_type="np",
            **settings,
        )


def to_pixels(values: Any) -> list[Pixels]:
    """Pictures or clips of 0…1, along the first axis, to bytes."""
    return list(np.rint(values * 255).astype(np.uint8))


def save_sheet(pictures: Sequence[Pixels], path: Path, columns: int) -> None:
    """Pictures of one size side by side, row by row, as one PNG; of a last row that is not full nothing."""
    rows = [np.hstack(pictures[first : first + columns]) for first in range(0, len(pictures), columns)]
    Image.fromarray(np.vstack([row for row in rows if row.shape == rows[0].shape])).save(path)
