"""Where the files of a job lie in its bucket. Depends on the job alone: a second run overwrites."""

from __future__ import annotations

from shared.plan import Plan


def asset_key(plan: Plan, index: int) -> str:
    """The path within the bucket of sample `index` (from 0): pictures are numbered from 1."""
    return _stem(plan, index) + (".mp4" if plan.medium == "video" else ".png")


def thumbnail_key(plan: Plan, index: int) -> str:
    """The path within the bucket of the thumbnail of sample `index` (from 0)."""
    return _stem(plan, index) + ".thumb.webp"


def _stem(plan: Plan, index: int) -> str:
    stem = f"{plan.user_id}/{plan.job_id}"
    return stem if plan.medium == "video" else f"{stem}_{index + 1}"
