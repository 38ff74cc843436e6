"""PNG by NumPy and zlib: a fixed filter, then run lengths and Huffman codes without a search for strings.

Pictures of a diffusion model have grain, in which that search finds nothing: leaving it out makes the file
smaller and several times quicker to write than a general PNG encoder does (`python -m benchmarks.encode`).
Drawings, for which it pays, are told by a sample of their rows. Filter and compression release the GIL, so a
picture that is being written does not hold up the thread that drives the GPU. zlib of the standard library is
chosen over faster ones because these pick their code by the processor, and the same job must give the same
bytes on every pod.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode_png(pixels: NDArray[np.uint8], texts: Mapping[str, str]) -> bytes:
    """An RGB PNG of `pixels`, shape (H, W, 3), with `texts` as its text chunks, in their order.

    Keywords are Latin-1 of 1 to 79 characters, as PNG asks; values are any text. The colours are marked as
    sRGB.
    """
    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [
        _chunk(b"IHDR", header),
        _chunk(b"sRGB", b"\0"),
        *(_text(keyword, value) for keyword, value in texts.items()),
        _chunk(b"IDAT", _compress(pixels.reshape(height, 3 * width))),
        _chunk(b"IEND", b""),
    ]
    return _SIGNATURE + b"".join(chunks)


def _average(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scanlines under PNG's filter 3: each byte less the floored mean of its left and upper neighbours.

    (a + b) // 2 is written as (a & b) + ((a ^ b) >> 1), which does not leave eight bits.
    """
    left, above = np.zeros_like(rows), np.zeros_like(rows)
    left[:, 3:] = rows[:, :-3]
    above[1:] = rows[:-1]
    return _scanlines(3, rows - ((left & above) + ((left ^ above) >> 1)))


def _paeth(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scanlines under PNG's filter 4: each byte less its left, upper or upper left neighbour.

    It is the one nearest to left + upper - upper left, of equally near ones the first in this order.
    """
    left, above, corner = (np.zeros(rows.shape, np.int16) for _ in range(3))
    left[:, 3:] = rows[:, :-3]
    above[1:] = rows[:-1]
    corner[1:, 3:] = rows[:-1, :-3]
    to_left, to_above = above - corner, left - corner
    to_corner = np.abs(to_left + to_above)
    to_left, to_above = np.abs(to_left), np.abs(to_above)
    nearest = np.where(to_above <= to_corner, above, corner)
    nearest = np.where((to_left <= to_above) & (to_left <= to_corner), left, nearest)
    return _scanlines(4, rows - nearest.astype(np.uint8))


def _scanlines(filter_type: int, filtered: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each row behind the byte that names its filter."""
    return np.pad(filtered, ((0, 0), (1, 0)), constant_values=filter_type)


@dataclass(frozen=True, slots=True)
class _Recipe:
    filtered: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    level: int
    strategy: int

    def compress(self, rows: NDArray[np.uint8]) -> bytes:
        return self._deflate(self.filtered(rows))

    def sampled_size(self, bands: list[NDArray[np.uint8]]) -> int:
        """Compressed bytes of the bands, less their first rows, whose upper neighbours are missing."""
        return len(self._deflate(np.concatenate([self.filtered(band)[1:] for band in bands])))

    def _deflate(self, lines: NDArray[np.uint8]) -> bytes:
        deflate = zlib.compressobj(
            self.level, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, self.strategy
        )
        return deflate.compress(lines.data) + deflate.flush()


_FOR_GRAIN = _Recipe(_average, 1, zlib.Z_RLE)
_FOR_DRAWINGS = (_Recipe(_paeth, 1, zlib.Z_RLE), _Recipe(_paeth, 5, zlib.Z_DEFAULT_STRATEGY))
_WORTH_IT = 0.9
"""A slower recipe has to make the sample smaller than this share of what the quick one makes of it."""
_SAMPLED = 32
"""One row in so many is sampled, in `_BANDS` bands of neighbouring rows."""
_BANDS = 4


def _compress(rows: NDArray[np.uint8]) -> bytes:
    """The zlib stream of `rows`, shape (H, 3 W)."""
    bands = _bands(rows)
    sizes = {recipe: recipe.sampled_size(bands) for recipe in (_FOR_GRAIN, *_FOR_DRAWINGS)}
    smallest = min(sizes, key=lambda recipe: sizes[recipe])
    worth_it = sizes[smallest] < _WORTH_IT * sizes[_FOR_GRAIN]
    return (smallest if worth_it else _FOR_GRAIN).compress(rows)


def _bands(rows: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    spacing = len(rows) // _BANDS
    depth = spacing // _SAMPLED
    if depth < 2:
        return [rows]
    starts = range(spacing // 2, len(rows) - depth, spacing)
    return [rows[start - 1 : start + depth] for start in starts]


def _text(keyword: str, value: str) -> bytes:
    """An uncompressed iTXt chunk: keyword, no compression, no language, no translated keyword, UTF-8."""
    return _chunk(b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + value.encode())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
