"""The start of a process: what runs side by side, and how long each part of it took."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shared.errors import SettingsError

T = TypeVar("T")

_READ_BYTES = 16 << 20

_OWN_STAT = Path("/proc/self/stat")
_START_FIELD = 22
"""Of /proc/self/stat, counted from 1: when the process began, in clock ticks after the machine (proc(5))."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the start, in seconds since the process began."""

    name: str
    begin: float
    end: float


class Timeline:
    """Notes the stages of the start; they may overlap and end in several threads."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self._offset = _process_age() - time.monotonic()
        self._note("interpreter and imports", 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = self.now()
        yield
        self._note(name, begin)

    def beside(self, name: str, call: Callable[[], T]) -> Future[T]:
        """`call` as a stage in a thread of its own, a daemon: a service that never answers holds nobody."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                with self.stage(name):
                    result = call()
            except BaseException as error:  # noqa: BLE001
                # Raised again where the result is asked for.
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=run, name=name, daemon=True).start()
        return future

    def now(self) -> float:
        """Seconds since the process began."""
        return time.monotonic() + self._offset

    def told(self) -> dict[str, list[float]]:
        """Begin and end of each stage for a log line, in the order of their begin."""
        return {
            stage.name: [round(stage.begin, 3), round(stage.end, 3)]
            for stage in sorted(self.stages, key=lambda stage: stage.begin)
        }

    def _note(self, name: str, begin: float) -> None:
        self.stages.append(Stage(name, begin, self.now()))


def problems_known(*started: Future[Any]) -> list[str]:
    """What those that have ended by now found wrong in the settings."""
    errors = [future.exception() for future in started if future.done()]
    return [text for error in errors if isinstance(error, SettingsError) for text in error.problems]


def read_ahead(model: str) -> None:
    """Read a checkpoint's files once, so that they are in the page cache when they are mapped.

    Meant to run beside the imports of the model libraries. Files that do not fit into half of the free memory
    are left alone: they would push each other out. Advising the kernel instead (POSIX_FADV_WILLNEED) made the
    reading five to ten times slower on a virtual disk. Raises OSError.
    """
    path = Path(model).expanduser()
    files = [path] if path.is_file() else sorted(path.glob("*/*.safetensors"))
    if 2 * sum(file.stat().st_size for file in files) > _free_bytes():
        return
    buffer = bytearray(_READ_BYTES)
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass


def _free_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _process_age() -> float:
    """Seconds since this process began; 0.0 where the system does not tell."""
    try:
        # The second field, the program's name in parentheses, may hold blanks.
        fields = _OWN_STAT.read_text().rpartition(")")[2].split()
        started = int(fields[_START_FIELD - 3]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
