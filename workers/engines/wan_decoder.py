"""WAN's latents to frames, whole or in tiles, without ever holding a video as floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from workers.engines.download import Download
from workers.engines.memory import TILE_PIXELS

if TYPE_CHECKING:
    import torch

Frames = NDArray[np.uint8]
"""Shape (F, H, W, 3), RGB."""

TILE_OVERLAP: Final = 0.25
"""Share of a tile's side that two neighbours have in common at least: the VAE class's 64 of 256 pixels."""


class FrameDecoder:
    """Latents to frames in main memory.

    The VAE decodes one latent frame (four frames) after the other and keeps what it needs of the last ones.
    Each group becomes uint8 as soon as it is decoded, so a video exists as floats only four frames at a time;
    the library would join all of them, and copy the whole video again for each group.
    """

    def __init__(self, vae: Any, tile_pixels: int = TILE_PIXELS) -> None:
        import torch

        self._vae = vae
        self._scale: int = vae.config.scale_factor_spatial
        self._tile = tile_pixels // self._scale
        shape = (1, vae.config.z_dim, 1, 1, 1)
        self._mean = torch.tensor(vae.config.latents_mean, device=vae.device).view(shape)
        self._reciprocal_std = 1.0 / torch.tensor(vae.config.latents_std, device=vae.device).view(shape)

    def decode(self, latent: torch.Tensor, tiles: bool) -> Callable[[], Frames]:
        """Start to decode one sample; the result waits for its frames.

        `latent` has the shape (16, latent frames, H / 8, W / 8). Raises `GenerationFailed` where a value is
        not finite, there or here.
        """
        latents = (latent.unsqueeze(0) / self._reciprocal_std + self._mean).to(self._vae.dtype)
        if not tiles:
            return self._whole(latents).frames
        frames = self._in_tiles(latents)
        return lambda: frames

    def _whole(self, latents: torch.Tensor) -> Download:
        import torch

        _, _, latent_frames, height, width = latents.shape
        download = Download(4 * latent_frames - 3, height * self._scale, width * self._scale, latents.device)

        def collect(_decoder: Any, _inputs: Any, group: torch.Tensor) -> torch.Tensor:
            download.put(group[0].transpose(0, 1))
            # What the VAE goes on with: the same group without a frame.
            return group.new_empty((*group.shape[:2], 0, *group.shape[3:]))

        hook = self._vae.decoder.register_forward_hook(collect)
        try:
            with torch.no_grad():
                self._vae.decode(latents, return_dict=False)
        finally:
            hook.remove()
            self._vae.clear_cache()
        return download

    def _in_tiles(self, latents: torch.Tensor) -> Frames:
        """The same in overlapping tiles, each through all frames: a row of tiles first, then the rows.

        Tiles meet as uint8: the blend is a level off at most, and the video is never held as floats.
        """
        _, _, latent_frames, height, width = latents.shape
        side, scale = self._tile, self._scale
        frames = np.empty((4 * latent_frames - 3, height * scale, width * scale, 3), np.uint8)
        bottom = 0
        for top in _tile_starts(height, side):
            row = np.empty((len(frames), min(side, height) * scale, width * scale, 3), np.uint8)
            right = 0
            for left in _tile_starts(width, side):
                tile = self._whole(latents[..., top : top + side, left : left + side]).frames()
                right = _lay(row, tile, left * scale, right, axis=2)
            bottom = _lay(frames, row, top * scale, bottom, axis=1)
        return frames


def _tile_starts(length: int, side: int) -> list[int]:
    """Evenly spaced starts of the fewest tiles that cover `length` with the overlap, in latent pixels."""
    if length <= side:
        return [0]
    steps = math.ceil((length - side) / (side * (1 - TILE_OVERLAP)))
    return [round(step * (length - side) / steps) for step in range(steps + 1)]


def _lay(canvas: Frames, piece: Frames, start: int, laid: int, axis: int) -> int:
    """Write `piece` at `start` along `axis` and blend it with the pixels before `laid`; returns its end."""
    end, overlap = start + int(piece.shape[axis]), laid - start
    before = (slice(None),) * axis
    canvas[(*before, slice(max(start, laid), end))] = piece[(*before, slice(max(0, overlap), None))]
    if overlap > 0:
        shared = (*before, slice(start, laid))
        ramp = (np.arange(overlap, dtype=np.float32) / overlap).reshape(
            [overlap if dimension == axis else 1 for dimension in range(4)]
        )
        old, new = canvas[shared].astype(np.float32), piece[(*before, slice(0, overlap))]
        canvas[shared] = np.rint(old + ramp * (new - old)).astype(np.uint8)
    return end
