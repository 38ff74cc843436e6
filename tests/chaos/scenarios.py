"""What goes wrong while workers are killed: one row a scenario."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

import redis
from chaos.verify import breaches, leftovers
from chaos.world import BLOCK_S, HEARTBEAT_S, LEASE_S, QUEUE, Traits, Workshop, World
from support.supabase_double import Reply

from shared.queue import QueueSettings, RedisConnections, WorkQueue
from workers.local_receiver import TERMINAL, Answer

BACKLOG = 6
POISONED_STAGES = ("intake", "plan", "generate", "decode", "encode", "upload")


@dataclass(frozen=True, slots=True)
class Scenario:
    """`disturb` runs in a thread beside the kills until its event is set, and leaves everything mended."""

    name: str
    traits: Traits = field(default_factory=Traits)
    disturb: Callable[[World, threading.Event, random.Random], None] | None = None
    push: Callable[[World], object] = World.push_some
    signals: tuple[int, ...] = (signal.SIGKILL,)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`processing` and `repeated` are deliveries; `attempts` is the largest number of runs a job needed."""

    name: str
    kills: int
    jobs: int
    completed: int
    failed: int
    processing: int
    repeated: int
    attempts: int
    seconds: float
    breaches: list[str]


def run(
    workshop: Workshop,
    scenario: Scenario,
    *,
    kills: int,
    seconds: float,
    seed: int,
    gap_s: tuple[float, float] = (0.2, 1.2),
    settle_s: float = 120.0,
    tell: Callable[[World], None] = lambda _world: None,
) -> Outcome:
    """Disturb for at least so many kills and seconds, then let everything settle and look."""
    started = time.monotonic()
    world = World(workshop, seed, scenario.traits)
    over = threading.Event()
    disturbing = threading.Thread(
        target=_disturbing, args=(scenario, world, over, random.Random(seed + 2)), daemon=True
    )
    try:
        world.staff()
        disturbing.start()
        next_kill = time.monotonic() + 1.0
        while world.kills < kills or time.monotonic() < started + seconds:
            world.staff()
            if world.waiting() < BACKLOG:
                scenario.push(world)
            if time.monotonic() >= next_kill:
                world.kill(world.random.choice(scenario.signals))
                next_kill = time.monotonic() + world.random.uniform(*gap_s)
            tell(world)
            time.sleep(0.03)
        over.set()
        disturbing.join()
        world.calm()
        _settle(world, settle_s)
        return _outcome(scenario.name, world, time.monotonic() - started)
    finally:
        over.set()
        world.close()


def run_poison(workshop: Workshop, *, seed: int, settle_s: float = 180.0) -> Outcome:
    """Jobs that kill their workers, one for each stage, among others that do not; no other kills."""
    started = time.monotonic()
    traits = Traits(dying_share=0.0, environment={"MAX_DELIVERIES": "3"})
    world = World(workshop, seed, traits)
    try:
        world.push_some(4)
        poison = []
        for stage in POISONED_STAGES:
            poison.append(world.push(f"poison-{stage}-1"))
            world.push_some(4)
        _settle(world, settle_s)
        # The first death of each only marks it; the next three are its own.
        if world.kills < 4 * len(poison):
            world.problems.append(f"{len(poison)} jobs were given up after {world.kills} deaths")
        return _outcome("poison", world, time.monotonic() - started, poison)
    finally:
        world.close()


def _settle(world: World, settle_s: float) -> None:
    deadline = time.monotonic() + settle_s
    while time.monotonic() < deadline:
        world.staff()
        # Old lists are looked at every five minutes; here at once.
        world.client.delete(world.keys.sweeper)
        accepted = world.receiver.accepted
        ended = sum(any(c.status in TERMINAL for c in callbacks) for callbacks in accepted.values())
        if ended >= len(world.pushed) and not leftovers(world):
            # A callback that is on its way is still in the outbox; a `processing` may be on its way.
            return
        time.sleep(0.1)


def _outcome(name: str, world: World, seconds: float, poison: Collection[str] = ()) -> Outcome:
    found = breaches(world, poison)
    if found:
        found.append(f"the workers' log is kept in {world.keep_log()}")
    accepted = [callback for callbacks in world.receiver.accepted.values() for callback in callbacks]
    received = world.receiver.received
    return Outcome(
        name=name,
        kills=world.kills,
        jobs=len(world.pushed),
        completed=sum(callback.status == "completed" for callback in accepted),
        failed=sum(callback.status == "failed" for callback in accepted),
        processing=sum(callback.status == "processing" for callback in received),
        repeated=sum(callback.repeated for callback in received),
        attempts=max((callback.document["metadata"]["attempt"] for callback in accepted), default=0),
        seconds=seconds,
        breaches=found,
    )


def _disturbing(scenario: Scenario, world: World, over: threading.Event, rng: random.Random) -> None:
    if scenario.disturb is None:
        return
    try:
        scenario.disturb(world, over, rng)
    except Exception as error:  # noqa: BLE001  # whatever it was, the run must not count as disturbed
        world.problems.append(f"the disturbance failed: {error!r}")


def _restart_valkey(world: World, over: threading.Event, rng: random.Random) -> None:
    while not over.wait(rng.uniform(1.0, 3.0)):
        world.restart_valkey(rng.uniform(0.0, 0.8))


def _cut_connections(world: World, over: threading.Event, rng: random.Random) -> None:
    assert world.proxy is not None
    while not over.wait(rng.uniform(0.1, 0.8)):
        match rng.randrange(3):
            case 0:
                world.proxy.cut()
            case 1:
                world.proxy.forget_clients()
            case _:
                with suppress(redis.ConnectionError):
                    world.client.client_kill_filter(_type="normal", skipme=True)


def _break_storage(world: World, over: threading.Event, rng: random.Random) -> None:
    storage = world.supabase
    assert storage is not None
    while not over.wait(rng.uniform(0.3, 1.2)):
        match rng.randrange(6):
            case 0:
                storage.database_down = True
            case 1:
                storage.fault = Reply(0, close=True)
            case 2:
                # Longer than the workers wait for an answer here.
                storage.fault = Reply(200, b"{}", delay=1.5)
            case 3:
                storage.fault = Reply.text(503, "no healthy upstream", retry_after="1")
            case 4:
                storage.loses_replies = True
            case _:
                storage.stop()
                over.wait(rng.uniform(0.2, 1.0))
                storage.start()
        over.wait(rng.uniform(0.3, 1.5))
        storage.database_down = storage.loses_replies = False
        storage.fault = None


def _break_receiver(world: World, over: threading.Event, rng: random.Random) -> None:
    def as_always(_callback: object) -> Answer:
        return Answer()

    faults = [
        Answer(close=True),
        Answer(close=True, keep=True),
        Answer(500),
        # Longer than the workers wait for an answer here.
        Answer(200, delay=1.5),
        Answer(200, delay=0.4),
        Answer(429, {"Retry-After": "1"}),
        Answer(400, body=b'{"error":"the database is away"}'),
    ]
    while not over.wait(rng.uniform(0.2, 1.0)):
        fault = rng.choice(faults)
        world.answers = lambda _callback, fault=fault: fault  # type: ignore[misc]
        over.wait(rng.uniform(0.3, 1.5))
        world.answers = as_always


def _stop_workers(world: World, over: threading.Event, rng: random.Random) -> None:
    while not over.wait(rng.uniform(0.5, 1.5)):
        world.kill(signal.SIGSTOP)


def _sweep_twice(world: World, over: threading.Event, _rng: random.Random) -> None:
    """Two workers that do nothing but renew and sweep, both at the very same moment."""
    together = threading.Barrier(2)

    def sweep() -> None:
        connections = RedisConnections(f"redis://127.0.0.1:{world.valkey_port}", BLOCK_S)
        settings = QueueSettings(lease_s=LEASE_S, grace_s=1.5 * HEARTBEAT_S, leftovers_every_s=0.2)
        queue = WorkQueue(connections, QUEUE, settings)
        queue.register()
        while not over.wait(0.02):
            with suppress(threading.BrokenBarrierError):
                together.wait(1.0)
            if not queue.beat().alive:
                queue.register()
        together.abort()
        queue.leave()

    sweepers = [threading.Thread(target=sweep, daemon=True) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    for sweeper in sweepers:
        sweeper.join()


def _move_clock(world: World, over: threading.Event, rng: random.Random) -> None:
    while not over.wait(rng.uniform(0.5, 2.0)):
        world.client.set("test:offset", rng.randint(-3_600_000, 3_600_000))
    # What was stamped while the clock was ahead is due only now.
    world.client.set("test:offset", 3 * 3_600_000)


def _push_repeats(world: World) -> None:
    (job_id,) = world.push_some()
    if world.random.random() < 0.3:
        world.push_twin(job_id)
    world.push_again(world.random.choice(list(world.pushed)))


def _push_row(world: World) -> None:
    world.push_some(world.random.randint(1, 6))


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("kills"),
        Scenario("terminations", signals=(signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)),
        Scenario("valkey-restart", Traits(append_only=True), _restart_valkey),
        Scenario("connections-cut", Traits(proxied=True, lost_replies=0.01), _cut_connections),
        Scenario("storage-faults", Traits(supabase=True), _break_storage),
        Scenario("callback-faults", disturb=_break_receiver),
        Scenario("sigstop", Traits(environment={"CHAOS_STOP_SHARE": "0.03"}), _stop_workers),
        Scenario("two-sweepers", disturb=_sweep_twice),
        Scenario("clock-jump", Traits(environment={"CHAOS_CLOCK": "1"}), _move_clock),
        Scenario("merged", Traits(alike=True, environment={"MAX_BATCH_IMAGES": "6"}), push=_push_row),
        Scenario("duplicate-ids", Traits(spellings=("object", "object", "array")), push=_push_repeats),
    )
}
