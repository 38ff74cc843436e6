"""The content screen before anything of a request is stored, and the note of a refusal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from gateway.errors import ApiError
from shared.moderation import RedisModerationSink, Refusal
from shared.screen import Screen, ScreenInput

# A signed link holds letters without a meaning, and no model is given its text.
_ADDRESS: Final = re.compile(r"https?://\S+")


@dataclass(frozen=True, slots=True)
class Screening:
    """`sinks` keeps the notes, by the name of the queue that the request is for."""

    screen: Screen
    sinks: Mapping[str, RedisModerationSink]

    def refuse_unless_allowed(
        self, given: ScreenInput, further: Iterable[str] = (), *, job_id: str, user_id: str, queue: str
    ) -> None:
        """Raises `ApiError` 422, without the rule, where the texts or any of `further` are refused.

        `job_id` names the request in the note; no job of that id has to exist.
        """
        others = (ScreenInput(text) for text in further if text and not _ADDRESS.fullmatch(text))
        for each in (given, *others):
            verdict = self.screen.check(each)
            if not verdict.allowed:
                self.sinks[queue].refused(Refusal(job_id, user_id, verdict.rule_id or "", asdict(each)))
                raise ApiError(
                    422,
                    "content_refused",
                    "The request was refused by the content rules of this service.",
                    retry=False,
                )
