"""How the gateway answers queue-job at a steady rate: `python -m benchmarks.gateway_load`.

A gateway of its own process (`python -m gateway`, every limit at its default), an embedded Valkey, and SQLite
or the database that `--database-url` names, which should be an empty one. Requests are sent at times that are
fixed beforehand, whatever the answers do, and a latency counts from the time at which its request was due:
waiting in the client counts too. Every request is a different job; users take turns, so that nobody exceeds
what one user may send.

Printed: latencies in milliseconds, errors, the gateway's CPU time a request, and whether rows and queues
agree afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import jwt
import redis
import sqlalchemy as sa

from gateway.database import Database
from gateway.settings import database_address
from gateway.tables import jobs
from shared.local_valkey import local_valkey
from shared.presets import PRESETS

SECRET = "a-secret-of-the-benchmark-with-more-than-32-bytes"
ISSUER = "https://benchmark.example/auth/v1"
JOBS_A_USER = 10
QUEUES = ("sdxl_queue", "wan_queue")
CONNECTIONS = 64
WARM_UP_S = 2.0

SUBJECTS = (
    "a sailing boat on a calm lake",
    "two women having coffee",
    "a lighthouse in a storm",
    "a red fox",
)
DETAILS = (
    "golden hour, soft light",
    "professional photography, sharp focus, highly detailed",
    "wide angle, cinematic lighting, long shadows, muted colours",
    "in the style of a watercolour",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """`latency_s` counts from when the request was due."""

    status: int
    latency_s: float


class Connection:
    """One HTTP/1.1 connection that is used again. Nothing is parsed but the status and the length."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        return int(head[9:12])


def requests(number: int, job_types: Sequence[str], port: int) -> list[bytes]:
    users = [str(uuid.uuid4()) for _ in range(-(-number // JOBS_A_USER))]
    now = int(time.time())
    claims = {"aud": "authenticated", "iss": ISSUER, "role": "authenticated", "exp": now + 3600}
    tokens = [jwt.encode(claims | {"sub": user}, SECRET, "HS256") for user in users]
    kinds = itertools.cycle(job_types)
    return [_request(next(kinds), index, tokens[index % len(tokens)], port) for index in range(number)]


def _request(job_type: str, index: int, token: str, port: int) -> bytes:
    metadata: dict[str, object] = {
        "prompt": f"{SUBJECTS[index % 4]}, number {index}, {DETAILS[index // 4 % 4]}",
        "num_images": 1 if PRESETS[job_type].medium == "video" else (1, 3)[index % 2],
    }
    body = json.dumps({"jobType": job_type, "metadata": metadata}).encode()
    head = (
        f"POST /functions/v1/queue-job HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Authorization: Bearer {token}\r\nIdempotency-Key: {uuid.uuid4()}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def send(port: int, wanted: Sequence[bytes], rate: float) -> list[Answer]:
    """Send `rate` requests a second, each at its time."""
    idle: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        idle.put_nowait(Connection("127.0.0.1", port))

    async def one(request: bytes, due: float) -> Answer:
        connection = await idle.get()
        status = 0
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            status = await connection.ask(request)
            idle.put_nowait(connection)
        if status == 0:
            idle.put_nowait(Connection("127.0.0.1", port))
        return Answer(status, time.perf_counter() - due)

    start = time.perf_counter() + 0.1
    tasks = []
    for index, request in enumerate(wanted):
        due = start + index / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(request, due)))
    return list(await asyncio.gather(*tasks))


@contextlib.contextmanager
def gateway(folder: Path, database_url: str, redis_port: int, port: int) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "storage").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.getcwd(),  # noqa: PTH109
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}",
        "DATABASE_URL": database_url,
        "STORAGE_URL": (folder / "storage").as_uri(),
        "FILE_LINK_SECRET": SECRET,
        "JOB_CALLBACK_SECRET": SECRET,
        "SUPABASE_JWT_SECRET": SECRET,
        "JWT_ISSUER": ISSUER,
        "GATEWAY_PORT": str(port),
        "LOG_LEVEL": "WARNING",
    }
    process = subprocess.Popen([sys.executable, "-m", "gateway"], cwd=folder, env=environment)
    try:
        _wait_for(port, process)
        yield process
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit("the gateway did not start")


def _cpu_s(process: subprocess.Popen[bytes]) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(answers: Sequence[Answer], rate: float, cpu_s: float) -> None:
    latencies = sorted(answer.latency_s * 1000 for answer in answers)
    cuts = statistics.quantiles(latencies, n=1000)
    print(f"requests            {len(answers)} at {rate:g} a second")
    print(f"answers             {dict(Counter(answer.status for answer in answers))}")
    print(f"latency p50         {cuts[499]:8.1f} ms")
    print(f"latency p95         {cuts[949]:8.1f} ms")
    print(f"latency p99         {cuts[989]:8.1f} ms")
    print(f"latency p99.9       {cuts[998]:8.1f} ms")
    print(f"latency max         {latencies[-1]:8.1f} ms")
    print(f"CPU of the gateway  {cpu_s * 1000 / len(answers):8.2f} ms a request")


def agree(database_url: str, redis_port: int) -> bool:
    """Whether every row is in its queue once, and nothing else is."""
    database = Database(database_address(database_url))
    with database.read() as connection:
        rows = Counter(connection.execute(sa.select(jobs.c.id)).scalars())
        statuses = Counter(connection.execute(sa.select(jobs.c.status)).scalars())
    database.close()
    client = redis.Redis(port=redis_port)
    elements = Counter(json.loads(each)["id"] for name in QUEUES for each in client.lrange(name, 0, -1))
    print(f"rows                {len(rows)} {dict(statuses)}, elements {elements.total()}")
    return rows == elements


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_load", description=__doc__)
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--job-type", choices=PRESETS, help="one type only (default: all ten in turn)")
    parser.add_argument("--database-url", help="default: SQLite in a folder of its own")
    arguments = parser.parse_args()
    job_types = [arguments.job_type] if arguments.job_type else list(PRESETS)
    print(f"machine             {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start")
    with tempfile.TemporaryDirectory() as name, local_valkey() as valkey:
        folder = Path(name)
        database_url = arguments.database_url or f"sqlite:///{folder / 'gateway.db'}"
        port = _free_port()
        with gateway(folder, database_url, valkey.port, port) as process:
            number = round(arguments.rate * arguments.seconds)
            warm_up = round(arguments.rate * WARM_UP_S)
            wanted = requests(warm_up + number, job_types, port)
            asyncio.run(send(port, wanted[:warm_up], arguments.rate))
            before = _cpu_s(process)
            answers = asyncio.run(send(port, wanted[warm_up:], arguments.rate))
            report(answers, arguments.rate, _cpu_s(process) - before)
        consistent = agree(database_url, valkey.port)
    print("rows and queues     " + ("agree" if consistent else "DO NOT AGREE"))
    return 0 if consistent and all(answer.status == 200 for answer in answers) else 1


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    raise SystemExit(main())
