"""What the measurements share: time and private memory by stage, and reading a file plainly."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

GIB = 2**30


def private_bytes() -> int:
    """RssAnon of this process: memory of its own, without pages of mapped files."""
    return status_bytes("RssAnon")


def status_bytes(field: str, process: int | str = "self") -> int:
    """A size in /proc/<process>/status (proc(5)): VmRSS, VmHWM, RssAnon."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"the kernel reports no {field}; it takes Linux 4.5 or newer")


@dataclass(frozen=True, slots=True)
class Stage:
    """`seconds` of wall time; `peak_bytes` is the highest RssAnon seen meanwhile."""

    name: str
    seconds: float
    peak_bytes: int


class StageMeter:
    """Measures named stages, one after the other, while a thread looks at the memory.

    with StageMeter() as meter:
        with meter.stage("load"):
            ...
    """

    def __init__(self, interval_s: float = 0.01) -> None:
        self.stages: list[Stage] = []
        self._interval_s = interval_s
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> StageMeter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._peak = private_bytes()
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.stages.append(Stage(name, seconds, max(self._peak, private_bytes())))

    def take_peak(self) -> int:
        """The highest RssAnon since the last call or the stage's begin; for stages cut out by callbacks."""
        now = private_bytes()
        peak, self._peak = max(self._peak, now), now
        return peak

    def _watch(self) -> None:
        while not self._ended.wait(self._interval_s):
            self._peak = max(self._peak, private_bytes())


def table(stages: list[Stage], relative_to_bytes: int) -> str:
    """The stages as text, their peaks in GiB and as a share of `relative_to_bytes`."""
    lines = [f"{'stage':<28}{'seconds':>10}{'peak private':>16}{'of the weights':>17}"]
    lines += [
        f"{stage.name:<28}{stage.seconds:>10.2f}{stage.peak_bytes / GIB:>12.2f} GiB"
        f"{stage.peak_bytes / relative_to_bytes:>16.2f}x"
        for stage in stages
    ]
    return "\n".join(lines)


def evict(path: Path) -> None:
    """Drop the file's clean pages from the page cache, so that the next reading comes from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_plainly(paths: list[Path]) -> float:
    """Seconds that reading the files from start to end takes, into one buffer of 16 MiB."""
    buffer = bytearray(16 << 20)
    start = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start
