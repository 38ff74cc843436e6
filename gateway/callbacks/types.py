"""A job as it stands in the database, and what can become of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from gateway.tables import COMPLETED, PROCESSING
from shared.presets import PRESETS, Medium, Preset

Row = Mapping[str, Any]
"""Values for columns of one row."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it stands in the database. `promised`: pictures it was queued for, 1 for a video."""

    job_id: str
    user_id: str
    job_type: str
    status: str
    queue: str
    metadata: Mapping[str, Any]
    bucket: str
    promised: int

    @property
    def preset(self) -> Preset:
        return PRESETS[self.job_type]

    @property
    def medium(self) -> Medium:
        return self.preset.medium


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has begun the job."""

    status: ClassVar[str] = PROCESSING
    refused: ClassVar[None] = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The job's last state. `images` has a row for each picture by its index, `video` one for a video.

    `refused` tells an operator why a result was not taken.
    """

    status: Literal["completed", "failed", "cancelled"]
    error_code: str | None
    error_message: str | None
    metadata: Row
    images: Sequence[Row] = ()
    video: Row | None = None
    refused: str | None = None

    @property
    def returns_credits(self) -> bool:
        return self.status != COMPLETED
