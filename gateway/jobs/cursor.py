"""Where a page of a list of jobs ends: the creation time and id of its last job."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

PATTERN: Final = r"^[0-9]{1,16}-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
"""Microseconds of Unix time, and the id. Every text of this form can be read."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Cursor:
    created_at: datetime
    job_id: str

    def encode(self) -> str:
        return f"{(self.created_at - _EPOCH) // _MICROSECOND}-{self.job_id}"

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises ValueError for anything but `PATTERN`."""
        if not re.fullmatch(PATTERN, text):
            raise ValueError("no cursor")
        microseconds, _, job_id = text.partition("-")
        return cls(_EPOCH + int(microseconds) * _MICROSECOND, job_id)
