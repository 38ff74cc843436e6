"""The producer's side of a queue: a job's element enters it once, however often it is pushed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import redis

from shared.queue import SEVEN_DAYS_MS, Keys, Scripts, member_of


@dataclass(frozen=True, slots=True)
class Pushed:
    """`fresh` is False where the job had been pushed before; `length` counts what waits in the queue."""

    fresh: bool
    length: int


class Producer:
    """Puts elements where workers that pop on the side `pop` take them last. Thread-safe."""

    def __init__(self, commands: redis.Redis, pop: Literal["left", "right"] = "right") -> None:
        self._scripts = Scripts(commands)
        self._command = "LPUSH" if pop == "right" else "RPUSH"

    def push(self, queue: str, job_id: str, element: bytes) -> Pushed:
        """Push in one step with a mark of the job, so that a repeat after a lost reply changes nothing.

        The mark lives as long as that of a job that is done. Raises `ServiceUnavailable` where it is unclear
        whether the element was pushed, and `ServiceMisconfigured`; the call may be repeated.
        """
        keys = Keys(queue)
        fresh, length = self._scripts.run(
            "push", [queue, keys.pushed(member_of(job_id))], [self._command, element, SEVEN_DAYS_MS]
        )
        return Pushed(bool(fresh), length)
