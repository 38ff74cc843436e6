"""The delivery protocol against a model: the real scripts on a real Valkey, with a clock that the test moves.

Two workers, a sweeper and a sender take their steps in any order. A worker that is stopped simply takes none
while the clock runs; one that died is replaced by a fresh one that knows nothing. The model is what DESIGN
promises, told in Python; mutants of the scripts show that the machine would notice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.queues import TEST_CLOCK

from shared.errors import OwnershipLost
from shared.queue import _BLAME, Keys, Lease, QueueSettings, RedisConnections, WorkQueue, member_of

LEASE_S, GRACE_S, CLAIM_S = 90, 30, 60
JOBS = ("a", "b")
MAX_PUSHED = 6
START_MS = 1_700_000_000_000

Mutation = tuple[str, str, str]
"""Script, text in it, and what stands there instead."""


LOOK = """
local lists, jobs = tonumber(ARGV[1]), tonumber(ARGV[2])
local state = {
  redis.call('LRANGE', KEYS[1], 0, -1), redis.call('ZRANGE', KEYS[2], 0, -1),
  redis.call('ZRANGE', KEYS[3], 0, -1), redis.call('HGETALL', KEYS[4]), redis.call('ZRANGE', KEYS[5], 0, -1),
  redis.call('HGETALL', KEYS[6]), {}, {},
}
for job = lists + 1, lists + jobs do table.insert(state[7], redis.call('GET', KEYS[job]) or '') end
for worker = lists + jobs + 1, #KEYS do
  for _, raw in ipairs(redis.call('LRANGE', KEYS[worker], 0, -1)) do table.insert(state[8], raw) end
end
return state
"""
"""All that the model describes, in one round trip."""


class Bench:
    """Connections that all examples share, and how to make a worker of a mutated protocol on them."""

    def __init__(self, url: str, mutation: Mutation | None = None) -> None:
        self._connections = [RedisConnections(url, 1) for _ in range(3)]
        self.client = self._connections[0].commands
        self._mutation = mutation
        self._look = self.client.register_script(LOOK)

    def look(self, names: list[str], jobs: list[str], held_by: list[str]) -> list[Any]:
        state: Any = self._look(keys=[*names, *jobs, *held_by], args=[len(names), len(jobs)])
        for hashed in (3, 5):
            state[hashed] = dict(zip(state[hashed][::2], state[hashed][1::2], strict=True))
        return list(state)

    def worker(self, place: int, new_id: Callable[[], str]) -> WorkQueue:
        queue = WorkQueue(
            self._connections[place],
            "sdxl_queue",
            # The server's own clock ends this pause, which no example may notice: the rules end it.
            QueueSettings(lease_s=LEASE_S, grace_s=GRACE_S, leftovers_every_s=24 * 3600),
            clock=TEST_CLOCK,
            new_id=new_id,
        )
        if self._mutation is not None:
            name, original, mutated = self._mutation
            script = resources.files("shared").joinpath(f"lua/{name}.lua").read_text()
            assert script.count(original) == 1, f"{name}.lua does not have the line that the mutant changes"
            queue.scripts._registered[name] = self.client.register_script(
                TEST_CLOCK + _BLAME + script.replace(original, mutated)
            )
        queue.register()
        return queue

    def close(self) -> None:
        for connections in self._connections:
            connections.blocking.close()
            connections.commands.close()


@dataclass
class Taken:
    """A lease that some worker once had, whatever became of it, and the callback it would commit."""

    lease: Lease
    job: str
    queue: WorkQueue
    body: bytes


@dataclass
class Model:
    """What should be true. `blame` holds the counted deaths of each element that came back from a death."""

    pushed: Counter[bytes] = field(default_factory=Counter)
    ended: Counter[bytes] = field(default_factory=Counter)
    done: dict[str, bytes] = field(default_factory=dict)
    waiting: dict[str, bytes] = field(default_factory=dict)
    blame: dict[bytes, int] = field(default_factory=dict)
    publishing: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Job → worker and run that write its files."""

    def died(self, held: list[bytes]) -> None:
        before = dict(self.blame)
        for raw in held:
            self.blame.setdefault(raw, 0)
        if len(held) == 1 and held[0] in before:
            self.blame[held[0]] += 1

    def end(self, raw: bytes) -> None:
        self.ended[raw] += 1
        self.blame.pop(raw, None)


class Protocol(RuleBasedStateMachine):
    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench
        self.client: Any = bench.client
        self.client.flushdb()
        self.keys = Keys("sdxl_queue")
        self.now_ms = START_MS
        self.client.set("test:now", self.now_ms)
        self.last_id = 0
        self.bodies = count(1)
        self.workers = [bench.worker(place, self.new_id) for place in range(2)]
        self.sweeper = bench.worker(2, self.new_id)
        self.model = Model()
        self.taken: list[Taken] = []
        self.claims: list[tuple[bytes, bytes]] = []

    def new_id(self) -> str:
        self.last_id += 1
        return f"w{self.last_id}"

    # --- the producer and the clock

    @precondition(lambda self: self.model.pushed.total() < MAX_PUSHED)
    @rule(job=st.sampled_from(JOBS), variant=st.sampled_from([0, 0, 1]))
    def push(self, job: str, variant: int) -> None:
        raw = json.dumps({"id": job, "variant": variant}).encode()
        self.client.lpush(self.keys.queue, raw)
        self.model.pushed[raw] += 1

    @rule(seconds=st.sampled_from([1, GRACE_S + 1, LEASE_S + 1, -120]))
    def move_clock(self, seconds: int) -> None:
        self.now_ms += seconds * 1000
        self.client.set("test:now", self.now_ms)

    # --- the workers

    @rule(place=st.integers(0, 1))
    def take(self, place: int) -> None:
        queue = self.workers[place]
        waiting = self.client.lrange(self.keys.queue, 0, -1)
        lease = queue.take(0)
        assert (lease.raw if lease else None) == (waiting[-1] if waiting else None)
        if lease is not None:
            self.note_taken(queue, lease)

    def note_taken(self, queue: WorkQueue, lease: Lease) -> None:
        job = json.loads(lease.raw)["id"]
        body = json.dumps({"job_id": job, "by": queue.worker, "number": next(self.bodies)}).encode()
        self.taken.append(Taken(lease, job, queue, body))

    @rule(place=st.integers(0, 1), count=st.integers(1, 3), overtaken=st.booleans())
    def take_several(self, place: int, count: int, overtaken: bool) -> None:
        """What was looked at, while it is still next, and none that came back from a death.

        Another worker may take one between the look and the take.
        """
        queue = self.workers[place]
        waiting = self.client.lrange(self.keys.queue, 0, -1)[::-1]
        seen = queue.peek(count)
        assert seen == waiting[:count]
        if overtaken:
            self.take(1 - place)
            waiting = waiting[1:]
        expected = []
        for raw, next_one in zip(seen, waiting, strict=False):
            if raw != next_one or raw in self.model.blame or self.swept(queue.worker):
                break
            expected.append(raw)
        leases = queue.take_expected(seen) if seen else []
        assert [lease.raw for lease in leases] == expected
        for lease in leases:
            self.note_taken(queue, lease)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        taken = self.pick(data)
        if self.swept(taken.lease.worker):
            with pytest.raises(OwnershipLost):
                taken.queue.begin(taken.lease, taken.job)
            return
        begun = taken.queue.begin(taken.lease, taken.job)
        blame = self.model.blame.get(taken.lease.raw)
        assert (begun.marked, begun.deaths) == (blame is not None, blame or 0)
        assert begun.done == (taken.job in self.model.done)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def claim_publish(self, data: st.DataObject) -> None:
        """Of several runs of one job only one at a time may write its files."""
        taken = self.pick(data)
        mine = taken.lease.worker, taken.body.hex()
        holder = self.model.publishing.get(taken.job, mine)
        if self.swept(taken.lease.worker):
            expected = "lost"
        elif taken.job in self.model.done:
            expected = "done"
        elif holder != mine and (self.client.zscore(self.keys.leases, holder[0]) or 0) > self.now_ms:
            expected = "wait"
        else:
            expected = "go"
            self.model.publishing[taken.job] = mine
        try:
            answer: str = taken.queue.claim_publish(taken.lease, taken.job, mine[1])
        except OwnershipLost:
            answer = "lost"
        assert answer == expected

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), buried=st.booleans())
    def commit(self, data: st.DataObject, buried: bool) -> None:
        taken = self.pick(data)
        self.finish(taken, taken.body, "abandoned" if buried else None)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        self.finish(self.pick(data), b"", None)

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), blamed=st.booleans())
    def give_back(self, data: st.DataObject, blamed: bool) -> None:
        self.given_back(self.pick(data), blamed)

    def given_back(self, taken: Taken, blamed: bool) -> None:
        held = self.held(taken.lease.worker)
        ours = taken.lease.raw in held
        assert taken.queue.give_back(taken.lease, blamed=blamed) == ours
        if ours and blamed:
            self.model.died(held if len(held) == 1 else [taken.lease.raw, b""])
            self.model.blame.pop(b"", None)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def hang(self, data: st.DataObject) -> None:
        """The heartbeat gives a job back for its silence, and then its thread comes to and commits."""
        taken = self.pick(data)
        self.given_back(taken, blamed=True)
        self.finish(taken, taken.body, None)

    @rule(place=st.integers(0, 1))
    def beat(self, place: int) -> None:
        """A worker that learns that it was swept goes on under a new id; what it held it may still touch."""
        queue = self.workers[place]
        with self.watched_sweeps():
            swept = self.swept(queue.worker)
            alive = queue.beat().alive
        assert alive == (not swept), f"the worker was told {alive} and is swept: {swept}"
        assert not self.swept(queue.worker)

    @rule(place=st.integers(0, 1))
    def die(self, place: int) -> None:
        self.workers[place] = self.bench.worker(place, self.new_id)

    @rule(place=st.integers(0, 1))
    def leave(self, place: int) -> None:
        self.workers[place].leave()
        self.workers[place] = self.bench.worker(place, self.new_id)

    # --- the sweeper

    @rule(look_at_old_lists=st.booleans())
    def sweep(self, look_at_old_lists: bool) -> None:
        if look_at_old_lists:
            self.client.delete(self.keys.sweeper)
        with self.watched_sweeps():
            self.sweeper.beat()

    @rule(place=st.integers(0, 1), takes=st.booleans())
    def stop_for_long(self, place: int, takes: bool) -> None:
        """One worker stands still until it was swept; the others go on. Its take may be on the way."""
        for seconds in (LEASE_S + 1, GRACE_S + 1):
            self.move_clock(seconds)
            self.sweep(False)
            self.beat(1 - place)
            self.sweep(False)
        if takes:
            if not self.client.llen(self.keys.queue) and self.model.pushed.total() < MAX_PUSHED:
                self.push(JOBS[place], 0)
            self.take(place)

    # --- the sender

    @rule()
    def claim(self) -> None:
        claimed = self.sweeper.scripts.run(
            "outbox_claim",
            [self.keys.outbox, self.keys.outbox_bodies, self.keys.outbox_state],
            [CLAIM_S * 1000],
        )
        if len(claimed) > 1:
            member, body = claimed[:2]
            assert self.model.waiting[member.decode()] == body
            self.claims.append((member, body))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), verdict=st.sampled_from(["accepted", "retry"]))
    def settle(self, data: st.DataObject, verdict: str) -> None:
        member, body = self.claims.pop(data.draw(st.integers(0, len(self.claims) - 1)))
        self.settled(member, body, verdict)

    # --- what always holds

    @invariant()
    def the_state_is_what_was_promised(self) -> None:
        names = self.keys
        held_by = [names.processing(f"w{number}") for number in range(1, self.last_id + 1)]
        queue, leases, tombstones, bodies, due, records, done, held = self.bench.look(
            [
                names.queue,
                names.leases,
                names.tombstones,
                names.outbox_bodies,
                names.outbox,
                names.deliveries,
            ],
            [names.done(job) for job in JOBS],
            held_by,
        )
        every_element_is_somewhere_exactly_once = Counter(queue + held)
        assert every_element_is_somewhere_exactly_once == self.model.pushed - self.model.ended
        the_first_commit_of_a_job_stands = {
            job: body for job, body in zip(JOBS, done, strict=True) if body != b""
        }
        assert the_first_commit_of_a_job_stands == self.model.done
        a_committed_callback_waits_until_it_was_accepted = {
            name.decode(): body for name, body in bodies.items()
        }
        assert a_committed_callback_waits_until_it_was_accepted == self.model.waiting
        assert {name.decode() for name in due} == set(self.model.waiting)
        swept_workers_with_a_lease = set(leases) & set(tombstones)
        assert not swept_workers_with_a_lease
        deaths = {name: int(record.partition(b":")[2]) for name, record in records.items()}
        blamed_only_for_deaths_that_it_saw = {
            Lease(raw, "").sha.encode(): number for raw, number in self.model.blame.items()
        }
        assert deaths == blamed_only_for_deaths_that_it_saw

    def teardown(self) -> None:
        """Whatever happened, one worker that stays alive brings everything to its end."""
        try:
            self.bring_to_an_end()
        finally:
            for queue in [*self.workers, self.sweeper]:
                queue._held.clear()

    def bring_to_an_end(self) -> None:
        for _ in range(3):
            # The clock may have been ahead when a lease was given.
            self.move_clock(1000)
            self.sweep(True)
        last = self.bench.worker(2, self.new_id)
        while (lease := last.take(0)) is not None:
            job = json.loads(lease.raw)["id"]
            body = b"" if last.begin(lease, job).done else json.dumps({"job_id": job}).encode()
            self.finish(Taken(lease, job, last, body), body, None)
        assert self.client.keys("*:processing:*") == []
        assert set(self.model.done) == {json.loads(raw)["id"] for raw in self.model.pushed}
        self.claims.clear()
        while self.model.waiting:
            self.move_clock(1000)
            self.claim()
            assert self.claims, "a callback waits but is never due"
            self.settled(*self.claims.pop(), "accepted")
        assert self.client.zcard(self.keys.outbox) == 0

    # --- inside

    def pick(self, data: st.DataObject) -> Taken:
        return self.taken[data.draw(st.integers(0, len(self.taken) - 1))]

    def finish(self, taken: Taken, body: bytes, dead_reason: str | None) -> None:
        model, raw = self.model, taken.lease.raw
        held, swept = self.held(taken.lease.worker), self.swept(taken.lease.worker)
        stored = model.done.get(taken.job)
        try:
            outcome: str = taken.queue.finish(taken.lease, taken.job, body, dead_reason)
        except OwnershipLost:
            outcome = "lost"
        if swept or (stored is None and not body and dead_reason is None):
            expected = "lost"
        elif raw not in held:
            # Only who asks for a second time, because the answer was lost, is told that it did happen.
            expected = "committed" if body and body == stored else "lost"
        else:
            expected = "committed" if stored is None else "duplicate"
            model.end(raw)
            model.publishing.pop(taken.job, None)
            model.done.setdefault(taken.job, body)
            model.waiting[taken.job] = model.done[taken.job]
        assert outcome == expected

    def settled(self, member: bytes, body: bytes, verdict: str) -> None:
        keys = self.keys
        current = self.model.waiting.get(member.decode()) == body
        settled = self.sweeper.scripts.run(
            "outbox_settle",
            [keys.outbox, keys.outbox_bodies, keys.outbox_state, keys.outbox_dead],
            [member, body, verdict, 1000, "", 10, 1000],
        )
        assert settled == int(current)
        if current and verdict == "accepted":
            del self.model.waiting[member.decode()]

    def held(self, worker: str) -> list[bytes]:
        return list(self.client.lrange(self.keys.processing(worker), 0, -1))

    def swept(self, worker: str) -> bool:
        return self.client.zscore(self.keys.tombstones, worker) is not None

    def watched_sweeps(self) -> Any:
        """Tells the model which workers were taken for dead meanwhile, and what they held."""
        return _WatchedSweeps(self)


class _WatchedSweeps:
    def __init__(self, machine: Protocol) -> None:
        self._machine = machine
        self._held: dict[str, list[bytes]] = {}
        self._before: set[bytes] = set()

    def __enter__(self) -> None:
        machine = self._machine
        self._before = set(machine.client.zrange(machine.keys.tombstones, 0, -1))
        for key in machine.client.keys("*:processing:*"):
            self._held[key.decode().rpartition(":")[2]] = machine.client.lrange(key, 0, -1)

    def __exit__(self, *_: object) -> None:
        machine = self._machine
        after = set(machine.client.zrange(machine.keys.tombstones, 0, -1))
        for worker in after - self._before:
            machine.model.died(self._held.get(worker.decode(), []))


@pytest.fixture
def bench(redis_url: str) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(mutation: Mutation | None = None) -> Bench:
        made.append(Bench(redis_url, mutation))
        return made[-1]

    yield make
    for one in made:
        one.close()


def run(bench: Bench, *, examples: int, steps: int, phases: tuple[Phase, ...]) -> None:
    run_state_machine_as_test(
        lambda: Protocol(bench),  # type: ignore[arg-type]  # any factory will do
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            deadline=None,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_protocol_keeps_its_promises_in_any_order_of_its_steps(bench: Callable[..., Bench]) -> None:
    run(bench(), examples=40, steps=30, phases=(Phase.generate, Phase.shrink))


MUTANTS: dict[str, Mutation] = {
    "a renewal that ignores the tombstone": (
        "beat",
        "if redis.call('ZSCORE', KEYS[3], ARGV[1]) then return {0, {}, {}, -1, 0} end",
        "",
    ),
    "a commit that ignores whether it removed the element": (
        "finish",
        "if removed == 0 then",
        "if false then",
    ),
    "a sweep that forgets the list of a worker that woke up": (
        "beat",
        "leftovers = redis.call('ZRANGE', KEYS[3], 0, -1)",
        "leftovers = {}",
    ),
    "a take of several that moves whatever comes next": (
        "take_expected",
        "local expected = redis.call('LINDEX', KEYS[2], next_one) == ARGV[i]",
        "local expected = redis.call('LLEN', KEYS[2]) > 0",
    ),
    "a take of several that takes marked elements along": (
        "take_expected",
        "not expected or redis.call('HEXISTS', KEYS[4], redis.sha1hex(ARGV[i])) == 1",
        "not expected",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_model_finds(bench: Callable[..., Bench], mutant: str) -> None:
    with pytest.raises(AssertionError):
        run(bench(MUTANTS[mutant]), examples=400, steps=20, phases=(Phase.generate,))


def test_an_id_of_the_model_is_its_own_member() -> None:
    """The model compares members of the outbox with ids."""
    assert [member_of(job) for job in JOBS] == list(JOBS)
