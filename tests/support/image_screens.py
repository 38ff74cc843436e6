"""Image screens of the tests' own."""

from __future__ import annotations

from collections.abc import Sequence

from workers.image_screen import ImageVerdict, Picture, Purpose


class StubImageScreen:
    """Gives one verdict to everything, or raises; notes what it was asked."""

    def __init__(self, verdict: ImageVerdict | Exception) -> None:
        self._verdict = verdict
        self.asked: list[tuple[int, Purpose]] = []

    def check(self, pictures: Sequence[Picture], purpose: Purpose) -> ImageVerdict:
        self.asked.append((len(pictures), purpose))
        if isinstance(self._verdict, Exception):
            raise self._verdict
        return self._verdict
