"""From the rows of a pass to its samples: in batches that fit, decoded one ahead of who takes them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.errors import GenerationFailed, OutOfMemory
from shared.plan import Adjustment, Plan
from workers.engines.base import Drawn, Row, Sample
from workers.engines.device import free_cached_memory, translated_errors

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decoding:
    """A sample that the device is decoding. `frames` waits for it; it may raise `GenerationFailed`."""

    frames: Callable[[], NDArray[np.uint8]]
    adjustments: tuple[Adjustment, ...] = ()


Denoise = Callable[[Sequence[Row]], "torch.Tensor"]
"""Latents, one for each row. Raises `OutOfMemory` where the rows do not fit at once."""
Decode = Callable[["torch.Tensor"], Decoding]
"""Starts to decode one row's latents, without the batch dimension."""


def draw(
    rows: Sequence[Row], at_once: int, denoise: Denoise, decode: Decode, device: torch.device
) -> Iterator[Drawn]:
    """Draw the rows, at most `at_once` in one batch.

    Where the device runs out of memory the batch is halved, again and again down to single rows; jobs whose
    samples it separates record it. Raises `OutOfMemory` where not even one row fits.
    """
    while rows:
        batch = rows[:at_once]
        latents = _denoised_if_it_fits(batch, denoise)
        if latents is None:
            at_once = math.ceil(len(batch) / 2)
            log.warning("out of memory with %d samples at once, going on with %d", len(batch), at_once)
            free_cached_memory(device)
            continue
        yield from _decoded(batch, latents, decode, at_once)
        rows = rows[at_once:]


def _denoised_if_it_fits(batch: Sequence[Row], denoise: Denoise) -> torch.Tensor | None:
    # Returns before the caller goes on, so that the exception no longer holds the failed call's tensors.
    try:
        return denoise(batch)
    except OutOfMemory:
        if len(batch) == 1:
            raise
    return None


def _decoded(batch: Sequence[Row], latents: torch.Tensor, decode: Decode, at_once: int) -> Iterator[Drawn]:
    """The device gets the next sample to decode before the host waits for the one before."""
    ahead: Callable[[], Drawn] | None = None
    for row, latent in zip(batch, latents, strict=True):
        started = _start(row, latent, decode, _split(row.plan, at_once))
        if ahead is not None:
            yield ahead()
        ahead = started
    assert ahead is not None, "a batch has rows"
    yield ahead()


def _start(
    row: Row, latent: torch.Tensor, decode: Decode, split: tuple[Adjustment, ...]
) -> Callable[[], Drawn]:
    """Start a row's decoding; the result waits for it. What spoils one row fails that row's job alone."""

    def failed(error: GenerationFailed) -> Drawn:
        return Drawn(row.job, error)

    try:
        decoding = decode(latent)
    except GenerationFailed as error:
        reason = error
        return lambda: failed(reason)

    def finished() -> Drawn:
        try:
            with translated_errors(subject(row.plan)):
                frames = decoding.frames()
        except GenerationFailed as error:
            return failed(error)
        return Drawn(row.job, Sample(row.index, frames, (*split, *decoding.adjustments)))

    return finished


def _split(plan: Plan, at_once: int) -> tuple[Adjustment, ...]:
    if at_once >= plan.num_images or plan.num_frames > 1:
        return ()
    reason = f"the device ran out of memory with more than {at_once} pictures at once"
    return (Adjustment("batch_size", plan.num_images, at_once, reason),)


def subject(plan: Plan) -> str:
    """How a sentence about the plan's output begins."""
    return "The picture" if plan.num_frames == 1 else "The video"
