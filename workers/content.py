"""The content rules at work: what they refuse is told in one neutral sentence and noted for the operator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn, Protocol

from shared.errors import ContentRefused
from shared.job import Job
from shared.moderation import Refusal
from shared.plan import Plan
from shared.screen import Screen, ScreenInput
from workers.engines.base import Sample
from workers.image_screen import ImageScreen, Purpose

SCREENED_FRAMES = 8
"""Frames of a video that a configured image screen sees, spread evenly from the first to the last."""


class ModerationSink(Protocol):
    def refused(self, refusal: Refusal) -> None:
        """Note a refusal. Must not raise for a fault of its own store."""


class ContentRules:
    """Every text of a job, and every sample where an image screen is configured. Raise `ContentRefused`."""

    def __init__(self, screen: Screen, image_screen: ImageScreen | None, moderation: ModerationSink) -> None:
        self._screen = screen
        self._image_screen = image_screen
        self._moderation = moderation

    def check_job(self, job: Job, enhanced_prompt: str | None = None) -> None:
        verdict = self._screen.check(
            ScreenInput(
                prompt=job.prompt,
                negative_prompt=job.negative_prompt,
                compel_weights=job.compel_weights,
                enhanced_prompt=enhanced_prompt,
            )
        )
        if not verdict.allowed:
            texts = {
                "prompt": job.prompt,
                "negative_prompt": job.negative_prompt,
                "compel_weights": job.compel_weights,
                "enhanced_prompt": enhanced_prompt,
            }
            self._refuse(Refusal(job.id, job.user_id, verdict.rule_id or "", texts))

    def check_samples(self, plan: Plan, samples: Iterable[Sample]) -> None:
        """Pictures, or frames spread over a video."""
        if self._image_screen is None:
            return
        purpose: Purpose = "frame" if plan.medium == "video" else "generated"
        for sample in samples:
            last = len(sample.frames) - 1
            chosen = sorted({round(last * part / (SCREENED_FRAMES - 1)) for part in range(SCREENED_FRAMES)})
            verdict = self._image_screen.check([sample.frames[frame] for frame in chosen], purpose)
            if not verdict.allowed:
                texts = {"prompt": plan.prompt, "negative_prompt": plan.negative_prompt}
                self._refuse(Refusal(plan.job_id, plan.user_id, verdict.reason_id or "", texts))

    def _refuse(self, refusal: Refusal) -> NoReturn:
        self._moderation.refused(refusal)
        raise ContentRefused("The request was refused by the content rules of this service.")
