"""Reading every file back before it is handed on. A file that is not what was planned fails the job."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.encode.boxes import VideoFacts, read_video_facts
from workers.encode.ffmpeg import run_ffmpeg
from workers.encode.types import MediaFault


def verify_png(path: Path, pixels: NDArray[np.uint8], texts: Mapping[str, str]) -> None:
    """The file decodes to exactly `pixels` and holds `texts`."""
    found, info = _decoded(path, "PNG")
    if not np.array_equal(found, pixels):
        raise MediaFault(f"{path.name} does not decode to the picture that was generated")
    for keyword, text in texts.items():
        _holds(path, f"text {keyword!r}", info.get(keyword), text)


def verify_thumbnail(path: Path, width: int, height: int, xmp: str) -> None:
    """The file decodes, has this size in pixels and holds the XMP packet."""
    pixels, info = _decoded(path, "WEBP")
    found_height, found_width, _ = pixels.shape
    _holds(path, "XMP packet", info.get("xmp"), xmp.encode())
    _same(path, "width", found_width, width)
    _same(path, "height", found_height, height)


def verify_mp4(path: Path, width: int, height: int, num_frames: int, fps: Fraction, xmp: str) -> VideoFacts:
    """Every frame decodes, and what the file says of itself is the plan; returns what it says."""
    facts = read_video_facts(path)
    _same(path, "width", facts.width, width)
    _same(path, "height", facts.height, height)
    _same(path, "number of frames", facts.num_frames, num_frames)
    _same(path, "frame rate", facts.fps, fps)
    _same(path, "duration", facts.duration, num_frames / fps)
    _same(path, "duration of the movie", facts.movie_duration, num_frames / fps)
    _holds(path, "XMP packet", facts.xmp, xmp)
    if facts.order.index("moov") > facts.order.index("mdat"):
        raise MediaFault(f"{path.name} cannot be played while it loads: its index stands at the end")
    _same(path, "number of decodable frames", _decodable_frames(path), num_frames)
    return facts


def _decoded(path: Path, format_: str) -> tuple[NDArray[np.uint8], dict[str | tuple[int, int], Any]]:
    try:
        with Image.open(path, formats=[format_]) as image:
            if image.mode != "RGB":
                raise MediaFault(f"{path.name} is {image.mode}, not RGB")
            return np.asarray(image), image.info
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
        raise MediaFault(f"{path.name} does not decode: {error}") from error


def _decodable_frames(path: Path) -> int:
    """Decode the whole file; the framecrc format prints a line for each frame, headers begin with #."""
    listing = run_ffmpeg(["-xerror", "-i", f"file:{path}", "-map", "0:v", "-f", "framecrc", "pipe:1"])
    return sum(1 for line in listing.splitlines() if line and not line.startswith(b"#"))


def _holds(path: Path, what: str, found: object, written: object) -> None:
    """Says what is missing but not its content: a text may be a prompt, and messages are logged."""
    if found != written:
        raise MediaFault(f"{path.name} lacks its {what}")


def _same(path: Path, what: str, found: object, planned: object) -> None:
    if found != planned:
        raise MediaFault(f"the {what} of {path.name} is {found}, planned was {planned}")
