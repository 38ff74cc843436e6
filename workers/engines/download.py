"""Pixels on their way from the device into main memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import GenerationFailed

if TYPE_CHECKING:
    import torch


class Download:
    """The frames of one sample, copied as they are decoded; nothing waits for the device before `frames`.

    On a card the target is page-locked memory: copies into it run while the host prepares the next work.
    Whether every number was finite crosses in the same way, as one byte behind the last frame.
    """

    def __init__(self, num_frames: int, height: int, width: int, device: torch.device) -> None:
        import torch

        on_cuda = device.type == "cuda"
        self._pixels = torch.empty((num_frames, height, width, 3), dtype=torch.uint8, pin_memory=on_cuda)
        self._all_finite = torch.empty((), dtype=torch.bool, pin_memory=on_cuda)
        self._finite: torch.Tensor | None = None
        self._arrived = torch.cuda.Event() if on_cuda else None  # type: ignore[no-untyped-call]
        self._started = 0

    def put(self, decoded: torch.Tensor) -> None:
        """Start the copy of the next frames: numbers in -1…1 of the shape (F, 3, H, W).

        They are rounded on the device, so that a quarter of the bytes cross the bus.
        """
        import torch

        pixels = decoded.float().mul(127.5).add_(127.5)
        finite = torch.isfinite(pixels).all()
        self._finite = finite if self._finite is None else self._finite & finite
        rounded = pixels.clamp_(0.0, 255.0).round_().to(torch.uint8).movedim(-3, -1).contiguous()
        end = self._started + len(rounded)
        self._pixels[self._started : end].copy_(rounded, non_blocking=True)
        self._started = end
        if end == len(self._pixels):
            self._all_finite.copy_(self._finite, non_blocking=True)
            if self._arrived is not None:
                # Behind the last copy, and before whatever is given to the device next.
                self._arrived.record()

    def frames(self) -> NDArray[np.uint8]:
        """Wait until all frames are there; shape (F, H, W, 3).

        Raises `GenerationFailed` where a number was not finite: it would show as black.
        """
        assert self._started == len(self._pixels), (
            f"{self._started} of {len(self._pixels)} frames were decoded"
        )
        if self._arrived is not None:
            self._arrived.synchronize()
        if not bool(self._all_finite):
            raise GenerationFailed(
                "The model's output was not a picture; another seed or other settings may help."
            )
        array: NDArray[Any] = self._pixels.numpy()
        return array
