"""How far a running job is: as its worker publishes it, and as others read it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

import redis

from shared.queue import Keys, member_of, translated_redis_errors

_SPELLING: Final = re.compile(r"(\d{1,6})/(\d{1,6}) (\d{1,6})", re.ASCII)


@dataclass(frozen=True, slots=True)
class StepProgress:
    """Denoising steps done, of how many, in which attempt (from 1).

    The steps begin again where a batch is split for lack of memory, and with every attempt.
    """

    step: int
    steps: int
    attempt: int

    def encode(self) -> str:
        return f"{self.step}/{self.steps} {self.attempt}"

    @classmethod
    def decode(cls, raw: bytes) -> StepProgress | None:
        """None for anything but what `encode` writes."""
        found = _SPELLING.fullmatch(raw.decode("ascii", "replace"))
        return None if found is None else cls(*map(int, found.groups()))


def read_progress(client: redis.Redis, queue: str, job_ids: Iterable[str]) -> dict[str, StepProgress]:
    """The progress of those of the queue's jobs that generate now; one round trip.

    Raises `ServiceUnavailable` or `ServiceMisconfigured` when Redis does not answer as it should.
    """
    keys, wanted = Keys(queue), list(job_ids)
    if not wanted:
        return {}
    with translated_redis_errors():
        values = cast(list[Any], client.mget([keys.progress(member_of(job_id)) for job_id in wanted]))
    decoded = {
        job_id: StepProgress.decode(raw)
        for job_id, raw in zip(wanted, values, strict=True)
        if raw is not None
    }
    return {job_id: progress for job_id, progress in decoded.items() if progress is not None}
