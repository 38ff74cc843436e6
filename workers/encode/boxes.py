"""Reading the boxes of an MP4 file (ISO/IEC 14496-12) as far as a video's size and timing stand in them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from workers.encode.types import MediaFault

_CONTAINERS = {"moov", "trak", "mdia", "minf", "stbl"}
_UUID_BYTES = 16
XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
"""The type of the box that holds an XMP packet (Adobe's XMP Specification, part 3)."""


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What the file says about its only track. `fps` is frames a second, durations are seconds, exact.

    `order` holds the types of the top-level boxes: a player can start at once where "moov" stands before
    "mdat". `xmp` is the XMP packet, None where there is none.
    """

    order: tuple[str, ...]
    width: int
    height: int
    num_frames: int
    fps: Fraction
    duration: Fraction
    movie_duration: Fraction
    xmp: str | None


def read_video_facts(path: Path) -> VideoFacts:
    """Raises `MediaFault` where the file is no MP4 with one video track of constant rate."""
    data = path.read_bytes()
    try:
        return _facts(memoryview(data))
    except (struct.error, IndexError, KeyError, ZeroDivisionError, UnicodeDecodeError) as error:
        raise MediaFault(f"{path.name} is not a sound MP4 file: {error!r}") from error


def _facts(data: memoryview) -> VideoFacts:
    top = list(_boxes(data))
    own = {bytes(body[:_UUID_BYTES]): body[_UUID_BYTES:] for kind, body in top if kind == "uuid"}
    xmp = own.get(XMP_UUID)
    found: dict[str, memoryview] = {}
    for kind, body in _descend(data):
        if kind in {"trak", "stts"} and kind in found:
            raise MediaFault("the file has more than one track")
        found[kind] = body
    movie_scale, movie_duration = _time(found["mvhd"])
    scale, duration = _time(found["mdhd"])
    runs, *_ = struct.unpack_from(">I", found["stts"], 4)
    if runs != 1:
        raise MediaFault(f"the frames do not all last equally long: {runs} runs of durations")
    num_frames, delta = struct.unpack_from(">II", found["stts"], 8)
    width, height = struct.unpack(">II", found["tkhd"][-8:])
    return VideoFacts(
        order=tuple(kind for kind, _ in top),
        width=width >> 16,
        height=height >> 16,
        num_frames=num_frames,
        fps=Fraction(scale, delta),
        duration=Fraction(duration, scale),
        movie_duration=Fraction(movie_duration, movie_scale),
        xmp=None if xmp is None else bytes(xmp).decode(),
    )


def _time(header: memoryview) -> tuple[int, int]:
    """Timescale (units a second) and duration (units) of an mvhd or mdhd box of version 0 or 1."""
    form, offset = (">IQ", 20) if header[0] == 1 else (">II", 12)
    scale, duration = struct.unpack_from(form, header, offset)
    return scale, duration


def _descend(data: memoryview) -> Iterator[tuple[str, memoryview]]:
    for kind, body in _boxes(data):
        yield kind, body
        if kind in _CONTAINERS:
            yield from _descend(body)


def _boxes(data: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Type and content of each box in `data`, in order; nothing may be left over."""
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        start = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            start = 16
        if size < start or at + size > len(data):
            raise MediaFault(f"a box at byte {at} is cut short")
        yield kind.decode("latin-1"), data[at + start : at + size]
        at += size


def uuid_box(uuid: bytes, content: bytes) -> bytes:
    """A box of a type of one's own, named by a UUID of 16 bytes."""
    assert len(uuid) == _UUID_BYTES
    return struct.pack(">I4s", 8 + _UUID_BYTES + len(content), b"uuid") + uuid + content
