"""What of WAN stays on the card, decided from sizes alone. Pure: no torch, no device.

The text encoder is four fifths of the weights and is used once a prompt; the transformer is used every
step. So on a small card the text encoder waits in main memory and its layers cross the bus one after the
other for each prompt that is not cached yet; the VAE decodes in tiles where even that is not enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

GIB: Final = 2**30

Residency = Literal["all", "offload_text"]
"""`all`: every weight on the device. `offload_text`: the text encoder's weights in main memory."""

RESIDENCIES: Final[tuple[Residency, ...]] = ("all", "offload_text")

# Peaks of live tensors, counted by running the real configuration on fake tensors (sizes and dtypes are
# true, nothing is computed): transformer at 1,560 to 147,600 tokens, VAE at 256x256 to 1280x720 pixels.
# Both are linear within 2 % over that range.
DENOISE_BASE_BYTES: Final = GIB // 4
DENOISE_NUMBERS_PER_TOKEN: Final = 24_500
DECODE_NUMBERS_PER_PIXEL: Final = {"picture": 1_750, "video": 5_080}
"""The decoder handles four frames at a time beside the features it keeps of the frames before, so a video's
peak does not grow with its length; a single frame keeps nothing."""

ENCODE_BYTES: Final = int(2.2 * GIB)
"""Offloaded encoding holds one layer at a time; the largest is the vocabulary's embedding (2.1 GB)."""

RESERVE_BYTES: Final = int(1.25 * GIB)
"""For the CUDA context, the workspaces of cuDNN and cuBLAS and the allocator's gaps: an allowance, not a
measurement."""

USUAL_VIDEO: Final = (480, 832, 81)
"""Width, height and frames of the job that the residency is chosen for: what the job types ask for."""

TILE_PIXELS: Final = 256
"""Side of a decoder tile: the VAE class's own default."""


@dataclass(frozen=True, slots=True)
class PartSizes:
    """Bytes of each part's weights in the dtype that they are loaded in."""

    text_encoder: int
    transformer: int
    vae: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The choice, and what follows from it for a job. `budget_bytes` is None where nothing limits it."""

    residency: Residency
    budget_bytes: int | None
    resident_bytes: int
    number_bytes: int
    fits: bool

    def wants_tiles(self, width: int, height: int, num_frames: int) -> bool:
        """Whether decoding a sample of this size whole would exceed the budget."""
        if self.budget_bytes is None or max(width, height) <= TILE_PIXELS:
            return False
        free = self.budget_bytes - self.resident_bytes - RESERVE_BYTES
        return decode_bytes(width, height, num_frames, self.number_bytes) > free

    def __str__(self) -> str:
        if self.budget_bytes is None:
            return f"{self.residency}, no limit"
        width, height, frames = USUAL_VIDEO
        tiles = "in tiles" if self.wants_tiles(width, height, frames) else "whole"
        return (
            f"{self.residency}: {self.resident_bytes / GIB:.1f} GiB of weights resident in a budget of"
            f" {self.budget_bytes / GIB:.1f} GiB, a video of {width}x{height} is decoded {tiles}"
        )


def denoise_bytes(width: int, height: int, num_frames: int, number_bytes: int, batch: int = 1) -> int:
    """Peak of the activations in the transformer; a token is 16x16 pixels of 4 frames (the first alone)."""
    tokens = batch * (width // 16) * (height // 16) * ((num_frames - 1) // 4 + 1)
    return DENOISE_BASE_BYTES + tokens * DENOISE_NUMBERS_PER_TOKEN * number_bytes


def decode_bytes(width: int, height: int, num_frames: int, number_bytes: int) -> int:
    """Peak of the activations and kept features while the VAE decodes one sample whole."""
    per_pixel = DECODE_NUMBERS_PER_PIXEL["picture" if num_frames == 1 else "video"]
    return width * height * per_pixel * number_bytes


def plan_memory(
    budget_bytes: int | None, parts: PartSizes, number_bytes: int, wanted: Residency | None = None
) -> MemoryPlan:
    """Choose what stays resident.

    `budget_bytes` is what the worker may use of the device, None for no limit; `number_bytes` the size of an
    activation's number. Offloading comes before tiles, because tiles change the picture a little and
    offloading only costs the transfer of a new prompt's layers. `wanted` overrides the choice, not the
    arithmetic: `fits` tells whether a usual video is expected to fit with the residency used.
    """
    choices = (wanted,) if wanted else RESIDENCIES
    plans = [_plan(residency, budget_bytes, parts, number_bytes) for residency in choices]
    whole = [plan for plan in plans if plan.fits and not plan.wants_tiles(*USUAL_VIDEO)]
    return next(iter(whole), plans[-1])


def _plan(residency: Residency, budget: int | None, parts: PartSizes, number_bytes: int) -> MemoryPlan:
    resident = parts.transformer + parts.vae + (parts.text_encoder if residency == "all" else 0)
    stages = [
        denoise_bytes(*USUAL_VIDEO, number_bytes),
        decode_bytes(TILE_PIXELS, TILE_PIXELS, USUAL_VIDEO[2], number_bytes),
        ENCODE_BYTES if residency == "offload_text" else 0,
    ]
    fits = budget is None or resident + max(stages) + RESERVE_BYTES <= budget
    return MemoryPlan(residency, budget, resident, number_bytes, fits)
