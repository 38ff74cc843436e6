"""From a reference's bytes to pixels, by a helper process that has nothing to lose.

Decoders are written in C and parse what strangers upload. They run in a process of their own, started for one
picture, without the worker's environment, with limits on memory and time; what comes back is a fixed header
and as many bytes as it announces, and the parent believes neither without checking.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import JobError, ReferenceRefused, ReferenceUnavailable
from workers.inputs import decode_child

_MIB = 1024 * 1024

# The helper is started as a file: with -I neither the working directory nor PYTHONPATH can lend it a module.
_COMMAND = (sys.executable, "-I", "-B", decode_child.__file__)
# A Python that was built with a shared library may be found only through this one.
_ENVIRONMENT_KEPT = ("LD_LIBRARY_PATH",)


@dataclass(frozen=True)
class DecodeLimits:
    """What one picture may cost. Pixels, bytes, seconds.

    `max_pixels` lets a camera of 24 megapixels pass; `memory_bytes` is the helper's whole address space,
    enough for that picture with transparency; `cpu_s` is processor time and whole, `wall_s` includes the
    start of the helper.
    """

    max_bytes: int = 20 * _MIB
    max_pixels: int = 25_000_000
    max_side: int = 16_384
    min_side: int = 8
    memory_bytes: int = 768 * _MIB
    cpu_s: int = 10
    wall_s: float = 20.0


def decode_image(data: bytes, limits: DecodeLimits | None = None) -> NDArray[np.uint8]:
    """The picture in `data` as an array of shape (height, width, 3), RGB.

    PNG, JPEG and WebP are recognised by content alone; animations and files of several pictures are refused.
    EXIF orientation is applied, ICC profiles are ignored, transparency is laid over white.

    Raises ReferenceRefused for a picture that breaks a rule, and ReferenceUnavailable for one that is damaged
    or that the helper could not finish.
    """
    limits = limits or DecodeLimits()
    if len(data) > limits.max_bytes:
        raise ReferenceRefused(f"The reference is larger than {limits.max_bytes} bytes.")
    return _pixels(_run_helper(data, limits), limits)


def _run_helper(data: bytes, limits: DecodeLimits) -> bytes:
    """What the helper wrote, at most one byte more than the largest picture allowed.

    Raises ReferenceRefused for a picture that used up its processor time.
    """
    arguments = (limits.memory_bytes, limits.cpu_s, limits.max_pixels, limits.max_side, limits.min_side)
    helper = subprocess.Popen(
        [*_COMMAND, *(str(argument) for argument in arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in _ENVIRONMENT_KEPT if name in os.environ},
        cwd="/",
        # A signal to the worker's group must not turn into a damaged picture: the drain decides.
        start_new_session=True,
    )
    assert helper.stdin is not None
    assert helper.stdout is not None
    # Killing the helper ends every wait below, so one timer bounds them all.
    timer = threading.Timer(limits.wall_s, helper.kill)
    timer.daemon = True
    timer.start()
    try:
        try:
            with helper.stdin:
                helper.stdin.write(data)
        except BrokenPipeError:
            pass  # the helper is gone; its missing answer says so
        with helper.stdout:
            answer = helper.stdout.read(decode_child.HEADER.size + 3 * limits.max_pixels + 1)
    finally:
        timer.cancel()
        # A helper that has already ended keeps its own exit status.
        helper.kill()
        status = helper.wait()
    if status == -signal.SIGXCPU:
        raise ReferenceRefused("The reference takes more time to decode than a picture may take.")
    return answer


def _pixels(answer: bytes, limits: DecodeLimits) -> NDArray[np.uint8]:
    """The array in the helper's answer. Raises JobError's classes for any other answer."""
    header = decode_child.HEADER
    if len(answer) < header.size:
        raise ReferenceUnavailable("The reference could not be decoded in time.")
    status, width, height = header.unpack_from(answer)
    if status != decode_child.DECODED:
        raise _refusal(status, limits)
    in_range = all(limits.min_side <= side <= limits.max_side for side in (width, height))
    if not in_range or width * height > limits.max_pixels or len(answer) != header.size + 3 * width * height:
        raise ReferenceUnavailable(
            "The reference could not be decoded: the picture that came out is not whole."
        )
    # A copy, so that the array can be written to.
    return np.frombuffer(answer, np.uint8, offset=header.size).reshape(height, width, 3).copy()


def _refusal(status: int, limits: DecodeLimits) -> JobError:
    refused = {
        decode_child.WRONG_FORMAT: "The reference is not a PNG, JPEG or WebP picture.",
        decode_child.ANIMATED: "The reference holds several pictures; send a single still one.",
        decode_child.TOO_LARGE: (
            f"The reference has too many pixels: at most {limits.max_side} on a side and "
            f"{limits.max_pixels / 1e6:g} megapixels are accepted."
        ),
        decode_child.TOO_SMALL: f"The reference is smaller than {limits.min_side} pixels on a side.",
        decode_child.OUT_OF_MEMORY: "The reference needs more memory to decode than a picture may take.",
    }
    if status in refused:
        return ReferenceRefused(refused[status])
    return ReferenceUnavailable("The reference is damaged and could not be decoded.")
