"""Work queues on a real Valkey with a clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import redis

from shared.queue import QueueSettings, RedisConnections, WorkQueue

TEST_CLOCK = """
local function now_ms()
  return tonumber(redis.call('GET', 'test:now') or '0')
end
"""


@dataclass
class Fleet:
    """Workers of one queue that share a test's clock."""

    url: str
    settings: QueueSettings = QueueSettings(lease_s=90, grace_s=30, leftovers_every_s=1)  # noqa: RUF009
    name: str = "sdxl_queue"
    now_ms: int = 1_700_000_000_000
    ids: Any = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.client: Any = redis.Redis.from_url(self.url)
        self.client.set("test:now", self.now_ms)

    def advance(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)
        self.client.set("test:now", self.now_ms)

    def worker(self) -> WorkQueue:
        queue = WorkQueue(
            RedisConnections(self.url, 1),
            self.name,
            self.settings,
            clock=TEST_CLOCK,
            new_id=lambda: f"w{next(self.ids)}",
        )
        queue.register()
        return queue

    def push(self, *elements: bytes) -> None:
        self.client.lpush(self.name, *elements)

    def waiting(self) -> list[bytes]:
        """Elements in the queue, the next one to be taken first."""
        return list(reversed(self.client.lrange(self.name, 0, -1)))
