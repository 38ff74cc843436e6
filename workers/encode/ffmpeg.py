"""Running ffmpeg: no shell, nothing of our environment, killed when it fails or hangs."""

from __future__ import annotations

import os
import selectors
import subprocess
from collections.abc import Iterable, Iterator, Sequence

import imageio_ffmpeg

from workers.encode.types import MediaFault

STALL_S = 120.0
"""Seconds in which ffmpeg must take input, say something or end. A frame takes milliseconds."""
_MESSAGE_LIMIT = 2000
_READ_SIZE = 1 << 16


def run_ffmpeg(
    arguments: Sequence[str],
    frames: Iterable[memoryview] = (),
    stall_s: float = STALL_S,
    executable: str | None = None,
) -> bytes:
    """Run ffmpeg with `frames` as its standard input and return its standard output.

    A frame is asked for when the one before it has been taken, and is not copied. Raises `MediaFault` with
    the end of ffmpeg's messages where it fails, and where nothing moves for `stall_s` seconds.
    """
    command = [executable or _bundled(), "-nostdin", "-hide_banner", "-loglevel", "error", *arguments]
    process = subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"LC_ALL": "C"},  # no secrets for a child that needs none
        process_group=0,  # an interrupt at the terminal drains the worker; it must not end a running encode
    )
    with process:
        try:
            output, messages = _exchange(process, iter(frames), stall_s)
            code = process.wait(stall_s)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise MediaFault(f"ffmpeg made no progress for {stall_s:g} s") from error
        except BaseException:
            process.kill()
            raise
    if code:
        tail = messages.decode(errors="replace").strip()[-_MESSAGE_LIMIT:]
        raise MediaFault(f"ffmpeg ended with {code}: {tail or 'no message'}")
    return output


def _bundled() -> str:
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise MediaFault("no ffmpeg was found; reinstall imageio-ffmpeg or set IMAGEIO_FFMPEG_EXE") from error


def _exchange(
    process: subprocess.Popen[bytes], frames: Iterator[memoryview], stall_s: float
) -> tuple[bytes, bytes]:
    """Feed standard input and drain the two outputs side by side until all three are closed."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    output, messages = bytearray(), bytearray()
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, output)
        selector.register(process.stderr, selectors.EVENT_READ, messages)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        pending = next(frames, None)
        while selector.get_map():
            ready = selector.select(stall_s)
            if not ready:
                raise subprocess.TimeoutExpired(process.args, stall_s)
            for key, _ in ready:
                if key.data is None:
                    pending = _feed(key.fd, pending, frames)
                    if pending is None:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                elif data := os.read(key.fd, _READ_SIZE):
                    key.data.extend(data)
                else:
                    selector.unregister(key.fileobj)
    return bytes(output), bytes(messages)


def _feed(pipe: int, pending: memoryview | None, frames: Iterator[memoryview]) -> memoryview | None:
    """Write what the pipe takes and return what is to be written next, None at the end."""
    if pending is None:
        return None
    try:
        written = os.write(pipe, pending)
    except BrokenPipeError:  # ffmpeg ended early: its exit code and messages say why
        return None
    return pending[written:] if written < pending.nbytes else next(frames, None)
