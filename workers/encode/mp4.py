"""MP4: H.264 in 4:2:0, ready to play while it loads."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workers.encode.boxes import XMP_UUID, uuid_box
from workers.encode.ffmpeg import run_ffmpeg

PRESET = "veryfast"
"""Less than half of `medium`'s time; 1 dB less, in a smaller file (`python -m benchmarks.encode`)."""
CONSTANT_RATE_FACTOR = 17
"""Hardly to be told from the frames by eye."""
THREADS = 4
"""Fixed, because x264's output depends on it, and the same job must give the same bytes on every pod."""

_TO_BT709 = "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int"
_TAG_BT709 = "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
"""The pixels are converted first and named afterwards: what is named before would be converted again."""

_LARGEST_DENOMINATOR = 16_000
"""With 60 frames a second at most, the numerator stays below what ffmpeg takes (1,001,000)."""
_SMALLEST_TIMESCALE = 10_000


def frame_rate(fps: float) -> Fraction:
    """The rate that is written for `fps`: exact for whole, decimal and NTSC (n/1001) rates.

    Rates that are no such fraction are rounded by less than 1/32,000 of a frame a second.
    """
    return Fraction(fps).limit_denominator(_LARGEST_DENOMINATOR)


def write_mp4(path: Path, frames: NDArray[np.uint8], fps: float, xmp: str) -> None:
    """Encode `frames`, shape (F, H, W, 3) RGB with even H and W, and append the XMP packet.

    Frames go to the encoder one at a time; no second copy of the video exists in this process. Raises
    `MediaFault`.
    """
    _, height, width, _ = frames.shape
    rate = frame_rate(fps)
    timescale = rate.numerator * -(-_SMALLEST_TIMESCALE // rate.numerator)
    run_ffmpeg(
        [
            *("-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}"),
            *("-framerate", f"{rate.numerator}/{rate.denominator}", "-i", "pipe:0"),
            *("-filter_threads", "1"),
            *("-filter:v", f"{_TO_BT709},{_TAG_BT709}", "-pix_fmt", "yuv420p"),
            *("-c:v", "libx264", "-preset", PRESET, "-crf", str(CONSTANT_RATE_FACTOR)),
            *("-threads", str(THREADS)),
            # Both clocks count in the same units, so that no duration is rounded to milliseconds.
            *("-movie_timescale", str(timescale), "-video_track_timescale", str(timescale)),
            *("-movflags", "+faststart"),
            *("-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1"),
            *("-f", "mp4", "-y", f"file:{path}"),
        ],
        _each_frame(frames),
    )
    with path.open("ab") as file:
        file.write(uuid_box(XMP_UUID, xmp.encode()))


def _each_frame(frames: NDArray[np.uint8]) -> Iterator[memoryview]:
    for frame in frames:
        yield np.ascontiguousarray(frame).reshape(-1).data
