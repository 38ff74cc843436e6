"""Whether the queue's length matters: each operation while 10, 10,000 and a million jobs wait."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks._engines import named_for
from benchmarks._report import Cell, Figure, Section, at_most, quantile
from benchmarks._world import TAKES, World, world
from shared.queue import RedisConnections, WorkQueue

CHUNK = 10_000
COUNTED_JOBS = 100
Durations = dict[str, list[float]]


def run(quick: bool) -> Section:
    """One operation at a time, the lengths in turn; then whole workers whose commands are counted."""
    depths = (10, 10_000) if quick else (10, 10_000, 1_000_000)
    rounds = 50 if quick else 400
    with world() as surroundings:
        queues = {depth: _filled(surroundings, f"depth-{depth}", depth) for depth in depths}
        durations: dict[int, Durations] = {depth: defaultdict(list) for depth in depths}
        for number in range(-5, rounds):
            for depth, queue in queues.items():
                _one_job(surroundings.client, queue, durations[depth] if number >= 0 else defaultdict(list))
        trips = {depth: _round_trips(surroundings, depth) for depth in depths}
    return _section(durations, trips, rounds)


def _filled(surroundings: World, name: str, depth: int) -> WorkQueue:
    _fill(surroundings.client, name, depth)
    queue = WorkQueue(RedisConnections(surroundings.redis_url, 1.0), name)
    queue.register()
    return queue


def _fill(client: Any, name: str, depth: int) -> None:
    for first in range(0, depth, CHUNK):
        client.lpush(name, *(_element(name, number) for number in range(first, min(depth, first + CHUNK))))


def _element(name: str, number: int) -> bytes:
    """A small job that takes no time on the stand-in."""
    return json.dumps(
        {
            "id": named_for(0.0, f"{name}-{number}"),
            "type": "sdxl_image_fast",
            "prompt": "a boat on a lake",
            "user_id": "user-1",
            "config": {"width": 256, "height": 256},
        }
    ).encode()


def _one_job(client: Any, queue: WorkQueue, durations: Durations) -> None:
    """The way of one job through the queue. The length stays: one is pushed before one is taken."""

    @contextmanager
    def timed(operation: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        durations[operation].append(time.perf_counter() - start)

    with timed("push"):
        client.lpush(queue.keys.queue, _element(queue.keys.queue, time.monotonic_ns()))
    with timed("take"):
        lease = queue.take(1.0)
    assert lease is not None
    with timed("give back"):
        queue.give_back(lease)
    lease = queue.take(1.0)
    assert lease is not None
    job_id = json.loads(lease.raw)["id"]
    calls: dict[str, Callable[[], object]] = {
        "begin": lambda: queue.begin(lease, job_id),
        "owns": lambda: queue.owns(lease, job_id),
        "claim": lambda: queue.claim_publish(lease, job_id, "claim"),
        "finish": lambda: queue.finish(lease, job_id, b"{}"),
        "heartbeat": queue.beat,
    }
    for operation, call in calls.items():
        with timed(operation):
            call()


def _round_trips(surroundings: World, depth: int) -> float:
    """Commands that a whole worker sends for each job while so many wait.

    With hardly any room between its stages, so that it commits jobs as fast as it takes them.
    """
    worker = surroundings.contestant("worker", suffix=f"-{depth}", SPOOL_MB="1", **TAKES)
    _fill(surroundings.client, worker.queue, depth + 2 * COUNTED_JOBS)
    takes = worker.takes(2 * COUNTED_JOBS)[COUNTED_JOBS - 1 :]
    worker.stop()
    return (takes[-1].commands - takes[0].commands) / COUNTED_JOBS


def _section(durations: dict[int, Durations], trips: dict[int, float], rounds: int) -> Section:
    shortest, *_, longest = durations
    p50 = {
        operation: {depth: 1000 * quantile(durations[depth][operation], 0.5) for depth in durations}
        for operation in durations[shortest]
    }
    rows: list[tuple[Cell, ...]] = [
        (
            operation,
            *(f"{by_depth[depth]:.3f}" for depth in by_depth),
            f"{1000 * quantile(durations[longest][operation], 0.99):.3f}",
            f"{by_depth[longest] / by_depth[shortest]:.2f}x",
        )
        for operation, by_depth in p50.items()
    ]
    rows.append(("round trips a job", *(f"{count:.1f}" for count in trips.values()), "", ""))
    worst = max(by_depth[longest] / by_depth[shortest] for by_depth in p50.values())
    return Section(
        title="Queue operations and the queue's length",
        columns=("p50 in ms at", *(f"{depth:,}" for depth in p50["take"]), f"p99 at {longest:,}", "ratio"),
        rows=tuple(rows),
        figures=(
            Figure(f"worst p50 at {longest:,} / at {shortest:,} waiting jobs", worst, at_most(1.3)),
            Figure(
                f"round trips a job at {longest:,} / at {shortest:,}",
                trips[longest] / trips[shortest],
                at_most(1.1),
            ),
        ),
        notes=(f"{rounds} jobs at each length, the lengths in turn.",),
        data={"p50_ms": p50, "round_trips": trips},
    )
