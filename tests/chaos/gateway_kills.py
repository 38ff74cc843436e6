"""python -m tests.chaos.gateway_kills: kill the gateway while jobs are submitted; compare rows and queues.

Clients submit jobs over HTTP without a pause and repeat with the same Idempotency-Key what was not answered,
as a client does that wants its job once. At random moments the gateway's process gets SIGKILL and is started
again. Ends with 1 where a row and its element parted or anything stands there twice; each breach is printed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import sqlalchemy as sa

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.gateway import ISSUER, JWT_SECRET, make_token, request  # noqa: E402
from support.harness import until  # noqa: E402
from support.postgres import local_postgres, postgres_programs  # noqa: E402

from gateway.database import Database  # noqa: E402
from gateway.settings import database_address  # noqa: E402
from gateway.tables import PENDING, images, jobs, usage_logs, videos  # noqa: E402
from shared.local_valkey import local_valkey  # noqa: E402

CLIENTS = 6
QUEUES = ("sdxl_queue", "wan_queue")
TYPES = ("sdxl_image_fast", "image_fast", "video_fast")
PICTURES = 3
START_S = 60.0


@dataclass(slots=True)
class Outcome:
    """`unpushed` counts the jobs that a kill left before their push, `unnoted` those before its note."""

    kills: int = 0
    acknowledged: int = 0
    rows: int = 0
    unpushed: int = 0
    unnoted: int = 0
    breaches: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class World:
    redis_url: str
    database_url: str
    folder: Path
    port: int

    @contextmanager
    def database(self) -> Iterator[Database]:
        database = Database(database_address(self.database_url))
        try:
            yield database
        finally:
            database.close()

    def elements(self) -> list[str]:
        client: Any = redis.Redis.from_url(self.redis_url, decode_responses=True)
        return [element for queue in QUEUES for element in client.lrange(queue, 0, -1)]

    def start(self) -> subprocess.Popen[bytes]:
        storage = self.folder / "storage"
        storage.mkdir(exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": self.redis_url,
            "DATABASE_URL": self.database_url,
            "STORAGE_URL": storage.as_uri(),
            "FILE_LINK_SECRET": JWT_SECRET,
            "JOB_CALLBACK_SECRET": JWT_SECRET,
            "SUPABASE_JWT_SECRET": JWT_SECRET,
            "JWT_ISSUER": ISSUER,
            "GATEWAY_PORT": str(self.port),
            "MAX_WAITING_JOBS": "1000000",
            "RATE_LIMIT": "1000000/second",
            "RELAY_S": "0.2",
            "LOG_LEVEL": "ERROR",
        }
        return subprocess.Popen([sys.executable, "-m", "gateway"], cwd=self.folder, env=environment)


class Client(threading.Thread):
    """Submits one job after the other; what was not answered is sent again first."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.stop = threading.Event()
        self.answered: dict[str, str] = {}
        self.refused: list[str] = []
        self._port, self._number = port, number
        self._token = make_token(str(uuid.uuid4()))
        self._unanswered: list[tuple[str, bytes]] = []

    @property
    def is_settled(self) -> bool:
        return not self._unanswered

    def run(self) -> None:
        while not (self.stop.is_set() and self.is_settled):
            if not self._unanswered:
                self._unanswered.append(self._new())
            try:
                self._send(*self._unanswered[0])
            except (OSError, http.client.HTTPException):
                # The gateway is not there: waiting for it costs nothing.
                time.sleep(0.02)
            else:
                self._unanswered.pop(0)

    def _new(self) -> tuple[str, bytes]:
        number = len(self.answered)
        job_type = TYPES[(number + self._number) % len(TYPES)]
        pictures = 1 if job_type.startswith("video") else PICTURES
        body = request(job_type, num_images=pictures, prompt=f"boat {number} of harbour {self._number}")
        return str(uuid.uuid4()), json.dumps(body).encode()

    def _send(self, key: str, body: bytes) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            headers = {
                "Authorization": f"Bearer {self._token}",
                "Content-Type": "application/json",
                "Idempotency-Key": key,
            }
            connection.request("POST", "/functions/v1/queue-job", body, headers)
            answer = connection.getresponse()
            document = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status == 200:
            self.answered[key] = document["job"]["id"]
        else:
            self.refused.append(f"{answer.status} {document['error']}")
            self.stop.set()


def run(world: World, kills: int, seed: int) -> Outcome:
    chance, outcome = random.Random(seed), Outcome()
    clients = [Client(world.port, number) for number in range(CLIENTS)]
    process = world.start()
    for client in clients:
        client.start()
    answers = 0
    for _ in range(kills):
        # Not before it answers again, so that every kill meets requests.
        until(lambda: _answers(clients) > answers, START_S)  # noqa: B023
        time.sleep(chance.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        outcome.kills += 1
        _count_pending(world, outcome)
        answers = _answers(clients)
        process = world.start()
    for client in clients:
        client.stop.set()
    try:
        for client in clients:
            client.join(START_S)
        until(lambda: not _pending(world), START_S)
    finally:
        process.terminate()
        process.wait(20)
    _compare(world, clients, outcome)
    return outcome


def _answers(clients: list[Client]) -> int:
    return sum(len(client.answered) for client in clients)


def _pending(world: World) -> set[str]:
    with world.database() as database, database.read() as connection:
        return set(connection.execute(sa.select(jobs.c.id).where(jobs.c.status == PENDING)).scalars())


def _count_pending(world: World, outcome: Outcome) -> None:
    pending = _pending(world)
    pushed = {json.loads(element)["id"] for element in world.elements()}
    outcome.unnoted += len(pending & pushed)
    outcome.unpushed += len(pending - pushed)


def _compare(world: World, clients: list[Client], outcome: Outcome) -> None:
    breach = outcome.breaches.append
    with world.database() as database, database.read() as connection:
        rows = {row.id: row for row in connection.execute(sa.select(jobs))}
        results = Counter(connection.execute(sa.select(images.c.job_id)).scalars())
        results += Counter(connection.execute(sa.select(videos.c.job_id)).scalars())
        usage = Counter(connection.execute(sa.select(usage_logs.c.job_id)).scalars())
    elements = Counter(world.elements())
    outcome.rows, outcome.acknowledged = len(rows), _answers(clients)
    payloads = Counter(row.payload for row in rows.values())
    for element, number in (elements - payloads).items():
        breach(f"{number} elements too many of job {json.loads(element)['id']}")
    for payload in payloads - elements:
        breach(f"the job {json.loads(payload)['id']} has a row and no element")
    for row in rows.values():
        expected = 1 if row.format == "video" else PICTURES
        if (row.status, results[row.id], usage[row.id]) != ("queued", expected, 1):
            breach(
                f"the job {row.id} is {row.status}, has {results[row.id]} results, {usage[row.id]} entries"
            )
    if set(results) - set(rows) or set(usage) - set(rows):
        breach("there are results or usage entries without a job")
    keys = {row.idempotency_key: row.id for row in rows.values()}
    answered = {key: job_id for client in clients for key, job_id in client.answered.items()}
    if keys != answered:
        breach(f"{len(answered)} keys were answered and {len(keys)} have a job")
    for client in clients:
        outcome.breaches += [f"refused: {refusal}" for refusal in client.refused]
        if client.is_alive():
            breach(f"{client.name} was not answered")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.gateway_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=40, help="on each database")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    programs, failed = postgres_programs(), False
    for name in ("sqlite", *(["postgresql"] if programs else [])):
        folder = Path(tempfile.mkdtemp())
        try:
            with local_valkey() as valkey, _database(name, folder, programs) as database_url:
                world = World(f"redis://127.0.0.1:{valkey.port}", database_url, folder, free_port())
                outcome = run(world, arguments.kills, arguments.seed)
        finally:
            shutil.rmtree(folder)
        say(
            f"{name:<11} {outcome.kills} kills, {outcome.rows} jobs, {outcome.acknowledged} answered;"
            f" killed before the push {outcome.unpushed}, before its note {outcome.unnoted};"
            f" {len(outcome.breaches)} breaches"
        )
        for breach in outcome.breaches[:50]:
            say(f"{name:<11} BREACH {breach}")
        failed = failed or bool(outcome.breaches)
    return int(failed)


@contextmanager
def _database(name: str, folder: Path, programs: Path | None) -> Iterator[str]:
    if name == "sqlite":
        yield f"sqlite:///{folder / 'gateway.db'}"
    else:
        assert programs is not None
        with local_postgres(programs) as url:
            yield url


if __name__ == "__main__":
    raise SystemExit(main())
