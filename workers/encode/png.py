"""PNG: one fixed filter computed by NumPy, then zlib with run lengths and Huffman codes only.

Pictures of a diffusion model have grain, in which the search for repeated strings finds nothing: leaving it
out makes the file smaller and several times quicker to write than a general PNG encoder does
(`python -m benchmarks.encode`). Both steps release the GIL, so a picture that is being written does not hold
up the thread that drives the GPU. zlib of the standard library is chosen over faster ones because these pick
their code by the processor, and the same job must give the same bytes on every pod.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_AVERAGE_FILTER = 3
_FLAT = 1 / 16
"""Below this share of the raw size a picture is so flat that searching for strings is quick and pays."""


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
        _chunk(b"IDAT", _compress(_filtered(pixels))),
        _chunk(b"IEND", b""),
    ]
    return _SIGNATURE + b"".join(chunks)


def _filtered(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scanlines under PNG's filter 3: each byte less the floored mean of its left and upper neighbours.

    (a + b) // 2 is written as (a & b) + ((a ^ b) >> 1), which does not leave eight bits.
    """
    height, width, channels = pixels.shape
    rows = pixels.reshape(height, width * channels)
    left = np.zeros_like(rows)
    left[:, channels:] = rows[:, :-channels]
    above = np.zeros_like(rows)
    above[1:] = rows[:-1]
    lines = np.empty((height, 1 + width * channels), np.uint8)
    lines[:, 0] = _AVERAGE_FILTER
    lines[:, 1:] = rows - ((left & above) + ((left ^ above) >> 1))
    return lines


def _compress(lines: NDArray[np.uint8]) -> bytes:
    quick = _deflate(lines, level=1, strategy=zlib.Z_RLE)
    if len(quick) >= lines.nbytes * _FLAT:
        return quick
    return min(quick, _deflate(lines, level=6, strategy=zlib.Z_DEFAULT_STRATEGY), key=len)


def _deflate(lines: NDArray[np.uint8], level: int, strategy: int) -> bytes:
    deflate = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return deflate.compress(lines.data) + deflate.flush()


def _text(keyword: str, value: str) -> bytes:
    """An uncompressed iTXt chunk: keyword, no compression, no language, no translated keyword, UTF-8."""
    return _chunk(b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + value.encode())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
