"""Where the files of a job lie in its bucket. Depends on the job alone: a second run overwrites."""

from __future__ import annotations

from typing import Protocol

from shared.presets import Medium


class HasFiles(Protocol):
    """What the paths of a job's files depend on."""

    @property
    def job_id(self) -> str: ...
    @property
    def user_id(self) -> str: ...
    @property
    def medium(self) -> Medium: ...


def asset_key(job: HasFiles, index: int) -> str:
    """The path within the bucket of sample `index` (from 0): pictures are numbered from 1."""
    return _stem(job, index) + (".mp4" if job.medium == "video" else ".png")


def thumbnail_key(job: HasFiles, index: int) -> str:
    """The path within the bucket of the thumbnail of sample `index` (from 0)."""
    return _stem(job, index) + ".thumb.webp"


def _stem(job: HasFiles, index: int) -> str:
    stem = f"{job.user_id}/{job.job_id}"
    return stem if job.medium == "video" else f"{stem}_{index + 1}"
