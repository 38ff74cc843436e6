"""What a worker needs around it, each in a process of its own: Valkey, services behind a network, workers."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import redis

from benchmarks._engines import Span, Take
from benchmarks._measure import status_bytes
from shared.local_valkey import local_valkey

ROOT = Path(__file__).parents[1]
PAYLOADS = ROOT / "tests" / "data" / "payloads"
T = TypeVar("T")
TAKES = {"BENCHMARK_TAKES": "1"}
"""Variables of a worker that reports when its takes return."""
PATIENCE_S = 300.0
"""A measurement in which nothing happens for so long has failed."""


class Contestant:
    """A process that works off the jobs of its own queue and reports each one's span."""

    def __init__(self, process: subprocess.Popen[str], queue_name: str, log: Path, client: Any) -> None:
        assert process.stdout is not None
        self.process, self.queue = process, queue_name
        self._log, self._client = log, client
        self._spans: queue.SimpleQueue[Span | None] = queue.SimpleQueue()
        self._takes: queue.SimpleQueue[Take | None] = queue.SimpleQueue()
        _read_lines(process.stdout, self._sort)

    def push(self, *elements: bytes) -> None:
        """In one command: all of them wait before the first is taken."""
        self._client.lpush(self.queue, *elements)

    def spans(self, count: int) -> list[Span]:
        """The next `count` jobs, as soon as they ran."""
        return [self._next(self._spans) for _ in range(count)]

    def takes(self, count: int) -> list[Take]:
        """The next `count` elements that were taken; of a `worker` that runs with TAKES."""
        return [self._next(self._takes) for _ in range(count)]

    def _next(self, reported: queue.SimpleQueue[T | None]) -> T:
        try:
            report = reported.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise TimeoutError(f"nothing came for {PATIENCE_S:.0f} s; the log ends\n{self.log()}") from None
        if report is None:
            raise RuntimeError(f"the process ended; its log ends\n{self.log()}")
        return report

    def _sort(self, line: str | None) -> None:
        if line is None:
            self._spans.put(None)
            self._takes.put(None)
            return
        report = json.loads(line)
        if "taken" in report:
            self._takes.put(Take(**report))
        else:
            self._spans.put(Span(**report))

    def logged(self, message: str) -> dict[str, Any]:
        """The first line of its log with this message, once it is there."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in self._log.read_text().splitlines():
                if line.startswith("{") and line.endswith("}") and json.loads(line)["message"] == message:
                    found: dict[str, Any] = json.loads(line)
                    return found
            time.sleep(0.05)
        raise RuntimeError(f"it did not say {message!r}; its log ends\n{self.log()}")

    def stop(self) -> None:
        """End the process; the world ends those that still run."""
        _stop(self.process)

    def log(self) -> str:
        return "\n".join(self._log.read_text().splitlines()[-20:])

    def resident_bytes(self) -> int:
        return status_bytes("VmRSS", self.process.pid)


class World:
    """A Valkey and services whose answers take `delay_s` seconds; workers are added with `contestant`."""

    def __init__(self, stack: ExitStack, delay_s: float) -> None:
        self._stack = stack
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(local_valkey())
        self.redis_url = f"redis://127.0.0.1:{server.port}"
        self.client: Any = redis.Redis.from_url(self.redis_url)
        services = self._start("benchmarks._services", "--delay", str(delay_s), log=self.folder / "services")
        assert services.stdout is not None
        self.services_url = f"http://127.0.0.1:{int(services.stdout.readline())}"
        self._ended: dict[str, tuple[str, float]] = {}
        self._changed = threading.Condition()
        _read_lines(services.stdout, self._take_callback)

    def contestant(
        self, style: str, engine: str = "stand-in", suffix: str = "", **variables: str
    ) -> Contestant:
        """A process of this style with a queue of its own; `variables` are added to its environment."""
        name = f"{style}-{engine}{suffix}"
        queue_name = f"{name}_queue"
        family = "wan" if engine == "wan" else "sdxl"
        settings = {
            "REDIS_URL": self.redis_url,
            "SUPABASE_URL": self.services_url,
            "SUPABASE_SERVICE_KEY": "a-service-key",
            "JOB_CALLBACK_SECRET": "a-secret-for-callbacks",
            "STATE_DIR": str(self.folder / "state"),
            "SDXL_MODEL": str(ROOT / "demo_models" / "sdxl-shapes"),
            "WAN_MODEL": str(ROOT / "demo_models" / "wan-tiny"),
            f"{family.upper()}_QUEUE": queue_name,
        }
        log = self.folder / f"{name}.log"
        process = self._start("benchmarks._contestant", style, engine, log=log, **{**settings, **variables})
        return Contestant(process, queue_name, log, self.client)

    def wait_completed(self, job_ids: list[str]) -> None:
        """Until each job's terminal callback came. Raises RuntimeError where a job did not complete."""

        def ended() -> bool:
            return all(job_id in self._ended for job_id in job_ids)

        with self._changed:
            if not self._changed.wait_for(ended, PATIENCE_S):
                raise TimeoutError(f"callbacks are missing after {PATIENCE_S:.0f} s")
            failed = [job_id for job_id in job_ids if self._ended[job_id][0] != "completed"]
        if failed:
            raise RuntimeError(f"{len(failed)} jobs failed, the first is {failed[0]}")

    def _take_callback(self, line: str | None) -> None:
        if line is None:
            return
        callback = json.loads(line)
        if callback["status"] != "processing":
            with self._changed:
                self._ended[callback["job_id"]] = callback["status"], callback["at"]
                self._changed.notify_all()

    def _start(self, module: str, *arguments: str, log: Path, **variables: str) -> subprocess.Popen[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} | variables
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self._stack.enter_context(log.open("w")),
            text=True,
        )
        self._stack.callback(_stop, process)
        return process


@contextmanager
def world(delay_s: float = 0.0) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, delay_s)


def payload(job_id: str, num_images: int = 1, name: str = "sdxl_image_fast", **config: Any) -> bytes:
    """A captured payload under another id, with some of its config replaced."""
    document = json.loads((PAYLOADS / f"{name}.json").read_text())
    document["id"] = job_id
    document["config"] |= {"num_images": num_images, **config}
    return json.dumps(document).encode()


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read_lines(stream: IO[str], take: Callable[[str | None], None]) -> None:
    """Hand each line to `take` from a thread, and None at the end."""

    def read() -> None:
        for line in stream:
            take(line)
        take(None)

    threading.Thread(target=read, daemon=True).start()


def pause_until(moment: float) -> None:
    """Sleep until `moment` of the monotonic clock."""
    left = moment - time.monotonic()
    if left > 0:
        time.sleep(left)
