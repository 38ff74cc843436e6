"""A whole worker in the test's process: real Valkey, real files, real HTTP, and any engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from support.jobs import element

from shared.presets import SDXL, WAN
from shared.settings import load_settings
from workers.build import Built, build
from workers.engines.base import Engine
from workers.engines.fake import FakeEngine
from workers.kind import Kind
from workers.local_receiver import LocalReceiver, Received

SECRET = "a-secret-for-callbacks"


@dataclass
class Installation:
    """One queue, one storage folder, one callback receiver; any number of workers."""

    redis_url: str
    folder: Path
    receiver: LocalReceiver
    kind_name: str = "sdxl"
    engine: Engine = field(default_factory=FakeEngine)
    overrides: dict[str, Any] = field(default_factory=dict)
    exits: list[int] = field(default_factory=list)
    """Exit codes with which a worker would have ended the process at once, and the tests with it."""

    def __post_init__(self) -> None:
        self.client: Any = redis.Redis.from_url(self.redis_url)

    @property
    def queue(self) -> str:
        return f"{self.kind_name}_queue"

    def push(self, *documents: dict[str, Any] | bytes, spelling: str = "object") -> None:
        for document in documents:
            raw = document if isinstance(document, bytes) else element(document, spelling)
            self.client.lpush(self.queue, raw)

    def build(self, *, once: bool = False, **more: Any) -> Built:
        family = {"sdxl": SDXL, "wan": WAN}[self.kind_name]
        kind = Kind(
            self.kind_name, family, f"{self.kind_name.upper()}_MODEL", lambda _: self.engine, Path("none")
        )
        settings = load_settings(
            kind.model_variable,
            **{
                "_env_file": None,
                "REDIS_URL": self.redis_url,
                "STORAGE_URL": self.folder.as_uri(),
                "CALLBACK_URL": self.receiver.url,
                "JOB_CALLBACK_SECRET": SECRET,
                "STATE_DIR": self.folder / "state",
                kind.model_variable: "fake",
                "BLOCK_S": 1,
                "HEARTBEAT_S": 1,
                "LEASE_S": 5,
                "DRAIN_S": 20,
                **self.overrides,
            },
        )
        return build(kind, settings, once=once, exit_now=self.exits.append, **more)

    def run_once(self) -> int:
        """Handle what waits, deliver the callbacks, end."""
        built = self.build(once=True)
        try:
            code = built.worker.run()
        finally:
            built.close()
        assert self.exits == [], "the worker did not end by itself within DRAIN_S"
        return code

    def run_jobs(self, *documents: dict[str, Any] | bytes, spelling: str = "object") -> list[Received]:
        """Push, handle, and return each job's terminal callback."""
        self.push(*documents, spelling=spelling)
        assert self.run_once() == 0
        return [self.terminal(json.loads(d)["id"] if isinstance(d, bytes) else d["id"]) for d in documents]

    def terminal(self, job_id: str) -> Received:
        return self.receiver.wait_for(job_id, {"completed", "failed"}, 20)

    @contextmanager
    def serving(self, **more: Any) -> Iterator[Built]:
        """A worker that serves in a thread until the end of the block, then drains."""
        built = self.build(**more)
        thread = threading.Thread(target=built.worker.run)
        thread.start()
        try:
            yield built
        finally:
            if not built.worker.stopping.is_set():
                built.worker.stop()
            thread.join(30)
            built.close()
            assert not thread.is_alive()
            assert self.exits == [], "the worker did not end by itself within DRAIN_S"

    def asset(self, callback: Received, index: int = 0) -> Path:
        document = callback.document
        return self.folder / str(document["metadata"]["bucket"]) / str(document["assets"][index])

    def leftovers(self) -> list[str]:
        """Keys that should be gone when everything is done: anything still held or waiting."""
        names = [key.decode() for key in self.client.keys("*")]
        return [
            name
            for name in names
            if ":processing:" in name or name.endswith((":outbox", ":leases")) or name == self.queue
        ]


def until(reached: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for something that has no event of its own, and fail if it does not come."""
    ticks = threading.Event()
    for _ in range(round(timeout_s / 0.01)):
        if reached():
            return
        ticks.wait(0.01)
    raise AssertionError("it did not happen in time")
