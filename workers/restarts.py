"""Pauses that grow from one failed start to the next, so that a container that restarts does not spin."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LONGEST_PAUSE_S: Final = 300.0
FORGOTTEN_AFTER_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Restarts:
    """Failures in a row, remembered in a file that survives a restart of the container."""

    file: Path
    wall_clock: Callable[[], float] = time.time

    def count(self) -> int:
        """Failures in a row; those an hour ago and older are forgotten."""
        try:
            record = json.loads(self.file.read_text())
            count, at = int(record["count"]), float(record["at"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return count if self.wall_clock() - at < FORGOTTEN_AFTER_S else 0

    def failed(self) -> float:
        """Note one more failure and return the pause in seconds to make before the process ends."""
        count = self.count() + 1
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps({"count": count, "at": self.wall_clock()}))
        except OSError:
            # A read-only file system cannot remember: then every pause is the first one.
            count = 1
        return float(min(LONGEST_PAUSE_S, 2.0 ** min(count - 1, 20)))

    def succeeded(self) -> None:
        try:
            self.file.unlink(missing_ok=True)
        except OSError:
            return
