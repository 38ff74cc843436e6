"""Where a page of a list of jobs ends: the creation time and id of its last job, as one opaque text."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Cursor:
    created_at: datetime
    job_id: str

    def encode(self) -> str:
        text = f"{self.created_at.isoformat()} {self.job_id}"
        return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises ValueError for anything but what `encode` writes."""
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ValueError("no cursor") from error
        moment, _, job_id = raw.partition(" ")
        cursor = cls(datetime.fromisoformat(moment), job_id)
        if cursor.created_at.tzinfo is None or cursor.encode() != text:
            raise ValueError("no cursor")
        return cursor
