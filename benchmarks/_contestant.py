"""A process that works jobs off: `python -m benchmarks._contestant STYLE ENGINE`.

STYLE is one of
- `worker`: as in production; `worker-in-turn`: its start does one thing after the other;
- `bare`: nothing but the engine, in a loop;
- `common`: PNG with `optimize`; `common-quick`: PNG at Pillow's default.
ENGINE is `stand-in`, `sdxl` or `wan` (the demo checkpoints). Settings come from the environment. Each span
is a JSON line on the standard output.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import redis
from redis.connection import AbstractConnection

import sdxl_worker
import wan_worker
from benchmarks import _common_style
from benchmarks._engines import StandIn, Take, Timed, report_to
from benchmarks._pictures import photo_like
from shared.job import Envelope, Job
from shared.plan import Plan, PlanDefaults, make_plan
from shared.queue import WorkQueue
from shared.settings import Settings, load_settings
from workers.engines.base import Engine, Pass
from workers.kind import Kind
from workers.main import serve
from workers.startup import Timeline

PNG_OPTIONS: dict[str, dict[str, Any]] = {"common": {"optimize": True}, "common-quick": {}}
KINDS = {
    "stand-in": replace(sdxl_worker.KIND, import_libraries=lambda: None),
    "sdxl": sdxl_worker.KIND,
    "wan": wan_worker.KIND,
}


def main(style: str, engine_name: str) -> int:
    kind = KINDS[engine_name]
    report = report_to(sys.stdout.fileno())

    def make_engine(settings: Settings) -> Engine:
        return Timed(_stand_in() if engine_name == "stand-in" else kind.make_engine(settings), report)

    if os.environ.get("BENCHMARK_TAKES"):
        _report_takes(report)
    if style == "worker-in-turn":
        startup: Any = Timeline
        startup.beside = _in_turn
    if style.startswith("worker"):
        return serve(replace(kind, make_engine=make_engine), once=False)
    settings = load_settings(kind.model_variable)
    engine = make_engine(settings)
    engine.load()
    plan_of = _planner(kind, engine)
    assert settings.redis_url is not None
    assert settings.supabase_url is not None
    redis_url, queue = settings.redis_url.get_secret_value(), kind.queue(settings)
    if style in PNG_OPTIONS:
        _common_style.serve(engine, plan_of, redis_url, queue, settings.supabase_url, PNG_OPTIONS[style])
    _bare_loop(engine, plan_of, redis_url, queue)
    return 0


def _stand_in() -> StandIn:
    """Its seconds a pass, and the pictures that it may run at once, are variables of the environment."""
    variables = os.environ
    return StandIn(
        photo_like(), float(variables.get("BENCHMARK_PASS_S", 0)), int(variables.get("MAX_BATCH_IMAGES", 0))
    )


def _report_takes(report: Callable[[Take], None]) -> None:
    """Note each take that returns an element, and count what every connection sends."""
    queue: Any = WorkQueue
    connection: Any = AbstractConnection
    take, send = queue.take, connection.send_packed_command
    commands = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal commands
        commands += 1
        return send(*arguments, **named)

    def noted(*arguments: Any) -> Any:
        lease = take(*arguments)
        if lease is not None:
            report(Take(time.monotonic(), commands))
        return lease

    queue.take, connection.send_packed_command = noted, counted


def _in_turn(timeline: Timeline, name: str, call: Callable[[], Any]) -> Future[Any]:
    """In place of `Timeline.beside`. Reading ahead makes sense beside something else only."""
    future: Future[Any] = Future()
    if name != "reading ahead":
        with timeline.stage(name):
            future.set_result(call())
    return future


def _planner(kind: Kind, engine: Engine) -> Callable[[bytes], Plan]:
    window = engine.prompt_window()

    def plan_of(raw: bytes) -> Plan:
        return make_plan(Job.parse(Envelope.decode(raw), kind.family, ()), window, PlanDefaults(), None)

    return plan_of


def _bare_loop(engine: Engine, plan_of: Callable[[bytes], Plan], redis_url: str, queue: str) -> None:
    """All jobs that stand in the queue are planned beforehand; between two of them nothing happens."""
    client: Any = redis.Redis.from_url(redis_url, socket_timeout=None)
    while True:
        _, first = client.brpop(queue)
        plans = [plan_of(raw) for raw in [first, *(client.rpop(queue, 1_000_000) or [])]]
        for plan in plans:
            for _drawn in engine.generate(Pass.of(plan), lambda _step, _steps: None):
                pass


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
