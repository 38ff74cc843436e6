"""How many requests a user may send in a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import limits
import redis
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from gateway.errors import too_many

log = logging.getLogger(__name__)

REST_S: Final = 5.0
"""So long Redis is not asked again after it did not answer."""


class Pace:
    """One limit for each user, counted in Redis for all gateways together.

    Where Redis does not answer each gateway counts for itself: a fault of the counting must not keep every
    user out, and must not let anybody in without limit either.
    """

    def __init__(self, rate: str, client: redis.Redis, clock: Callable[[], float] = time.monotonic) -> None:
        """`rate` is written like `120/minute`."""
        self._limit = limits.parse(rate)
        storage = RedisStorage(
            "redis://", client.connection_pool, key_prefix="gateway:pace", wrap_exceptions=True
        )
        self._shared = SlidingWindowCounterRateLimiter(storage)
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._clock = clock
        self._resting_until = float("-inf")

    def take(self, user_id: str) -> None:
        """Count one request. Raises `ApiError` 429 where it is one too many."""
        if self._clock() >= self._resting_until:
            try:
                self._take(self._shared, user_id)
            except StorageError:
                log.warning("Redis does not answer: each gateway counts requests for itself for %g s", REST_S)
                self._resting_until = self._clock() + REST_S
            else:
                return
        self._take(self._own, user_id)

    def _take(self, counter: SlidingWindowCounterRateLimiter, user_id: str) -> None:
        if not counter.hit(self._limit, user_id):
            wait_s = counter.get_window_stats(self._limit, user_id).reset_time - time.time()
            raise too_many("rate_limited", f"Too many requests: at most {self._limit} are taken.", wait_s)
