"""1 to 64 workers that share one Valkey: throughput, notice time, and whether a job is lost or taken twice.

Each worker is a thread that takes its elements through the protocol, script by script, as a worker does, and
makes no pictures; they are spread over a few processes: `python -m benchmarks.fleet URL QUEUE THREADS`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

import redis

from benchmarks._report import Cell, Figure, Section, at_most, quantile
from benchmarks._world import ROOT
from shared.local_valkey import local_valkey
from shared.queue import RedisConnections, WorkQueue

WORKERS = (1, 4, 16, 64)
PROCESSES = 2
END = b"end"
SETTLE_S = 0.02


def run(quick: bool) -> Section:
    """The same number of jobs for each number of workers, on a fresh queue."""
    jobs, pushes = (300, 20) if quick else (3000, 100)
    results = []
    with local_valkey() as server:
        url = f"redis://127.0.0.1:{server.port}"
        for workers in (1, 16) if quick else WORKERS:
            results.append(_measure(url, workers, jobs, pushes))
    return _section(results, jobs, pushes)


def _measure(url: str, workers: int, jobs: int, pushes: int) -> dict[str, float]:
    client: Any = redis.Redis.from_url(url)
    name = f"fleet-{workers}"
    with ExitStack() as stack:
        processes = []
        for index in range(min(workers, PROCESSES)):
            threads = workers // PROCESSES + (index < workers % PROCESSES)
            processes.append(stack.enter_context(_process(url, name, threads)))
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # all of its workers wait for a job
        pushed = {}
        for number in range(pushes):
            pushed[f"notice-{number}"] = time.monotonic()
            client.lpush(name, f"notice-{number}")
            time.sleep(SETTLE_S)
        client.config_resetstat()
        started = time.monotonic()
        client.lpush(name, *(f"job-{number}" for number in range(jobs)))
        while client.hlen(f"{{{name}}}:outbox:bodies") < jobs + pushes and time.monotonic() < started + 120:
            time.sleep(SETTLE_S)
        wall_s = time.monotonic() - started
        server_us = {
            command: stats["usec_per_call"]
            for command, stats in (
                (key.removeprefix("cmdstat_"), value) for key, value in client.info("commandstats").items()
            )
        }
        client.lpush(name, *[END] * workers)
        reports = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    taken = [entry for report in reports for entry in report["taken"]]
    notice = [moment - pushed[job] for job, moment in taken if job in pushed]
    finished = [seconds for report in reports for seconds in report["finish_s"]]
    ids = [job for job, _ in taken]
    held = client.llen(name) + sum(client.llen(key) for key in client.scan_iter(f"{{{name}}}:processing:*"))
    return {
        "workers": workers,
        "jobs_per_s": jobs / wall_s,
        "notice_p50_ms": 1000 * quantile(notice, 0.5),
        "notice_p99_ms": 1000 * quantile(notice, 0.99),
        "finish_p50_ms": 1000 * quantile(finished, 0.5),
        "lrem_us": server_us["lrem"],
        "script_us": server_us["evalsha"],
        "lost": jobs + pushes - len(set(ids)) + held,
        "twice": len(ids) - len(set(ids)),
    }


def _process(url: str, name: str, threads: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fleet", url, name, str(threads)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def _section(results: list[dict[str, float]], jobs: int, pushes: int) -> Section:
    rows: list[tuple[Cell, ...]] = [
        (
            f"{each['workers']:.0f}",
            f"{each['jobs_per_s']:.0f}",
            f"{each['notice_p50_ms']:.3f}",
            f"{each['notice_p99_ms']:.3f}",
            f"{each['finish_p50_ms']:.2f}",
            f"{each['script_us']:.0f}",
            f"{each['lrem_us']:.1f}",
            f"{each['lost']:.0f}",
            f"{each['twice']:.0f}",
        )
        for each in results
    ]
    first, last = results[0], results[-1]
    return Section(
        title="Workers that share one Valkey",
        columns=(
            *("workers", "jobs/s", "notice p50 ms", "p99", "commit p50 ms"),
            *("script µs", "LREM µs", "lost", "twice"),
        ),
        rows=tuple(rows),
        figures=(
            Figure("jobs lost", sum(each["lost"] for each in results), at_most(0), "{:.0f}"),
            Figure("jobs taken twice", sum(each["twice"] for each in results), at_most(0), "{:.0f}"),
            Figure(
                f"LREM in the server, {last['workers']:.0f} workers / {first['workers']:.0f}",
                last["lrem_us"] / first["lrem_us"],
                at_most(1.5),
            ),
        ),
        notes=(
            f"{jobs} jobs through take, begin, claim, owns and commit; {pushes} pushes to idle workers; the"
            f" workers are threads of {PROCESSES} processes, whose Python bounds the jobs a second.",
            "Script and LREM: the mean time inside the server.",
        ),
        data={"results": results},
    )


# --- the process that holds some of the workers


def _work(url: str, name: str, threads: int) -> None:
    taken: list[tuple[str, float]] = []
    finish_s: list[float] = []
    ready = threading.Barrier(threads + 1)

    def worker() -> None:
        queue = WorkQueue(RedisConnections(url, 5.0), name)
        queue.register()
        ready.wait()
        while True:
            lease = queue.take(5.0)
            if lease is None:
                continue
            moment = time.monotonic()
            if lease.raw == END:
                queue.finish(lease, None, None, "end")
                return
            job_id = lease.raw.decode()
            taken.append((job_id, moment))
            queue.begin(lease, job_id)
            queue.claim_publish(lease, job_id, "claim")
            queue.owns(lease, job_id)
            start = time.perf_counter()
            queue.finish(lease, job_id, b"{}")
            finish_s.append(time.perf_counter() - start)

    running = [threading.Thread(target=worker) for _ in range(threads)]
    for thread in running:
        thread.start()
    ready.wait()
    print("ready", flush=True)
    for thread in running:
        thread.join()
    print(json.dumps({"taken": taken, "finish_s": finish_s}))


if __name__ == "__main__":
    _work(sys.argv[1], sys.argv[2], int(sys.argv[3]))
