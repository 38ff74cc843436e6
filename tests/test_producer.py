from __future__ import annotations

from typing import Any

import pytest
from support.queues import Fleet

from shared.errors import ServiceMisconfigured, ServiceUnavailable
from shared.producer import Producer, Pushed
from shared.queue import Keys, QueueSettings, RedisConnections

QUEUE = "sdxl_queue"


@pytest.fixture
def producer(redis_url: str) -> Producer:
    return Producer(RedisConnections(redis_url, 1).commands)


def test_what_is_pushed_first_is_taken_first_on_either_side(redis_url: str, client: Any) -> None:
    for pop in ("right", "left"):
        client.flushall()
        fleet = Fleet(redis_url, QueueSettings(pop=pop))
        producer = Producer(RedisConnections(redis_url, 1).commands, pop)
        lengths = [producer.push(QUEUE, name, name.encode()).length for name in ("a", "b", "c")]
        worker = fleet.worker()
        taken = [worker.take(0) for _ in range(3)]
        assert [lease.raw for lease in taken if lease] == [b"a", b"b", b"c"]
        assert lengths == [1, 2, 3]


def test_a_repeated_push_changes_nothing(producer: Producer, client: Any) -> None:
    assert producer.push(QUEUE, "job-1", b"element") == Pushed(fresh=True, length=1)
    assert producer.push(QUEUE, "job-1", b"element") == Pushed(fresh=False, length=1)
    assert client.lrange(QUEUE, 0, -1) == [b"element"]


def test_a_repeat_is_known_after_a_worker_took_the_element(
    producer: Producer, redis_url: str, client: Any
) -> None:
    producer.push(QUEUE, "job-1", b"element")
    assert Fleet(redis_url).worker().take(0)
    assert producer.push(QUEUE, "job-1", b"element") == Pushed(fresh=False, length=0)


def test_the_mark_does_not_stay_for_ever(producer: Producer, client: Any) -> None:
    producer.push(QUEUE, "job-1", b"element")
    assert 0 < client.ttl(Keys(QUEUE).pushed("job-1")) <= 7 * 24 * 3600


def test_a_push_that_is_refused_leaves_no_mark(producer: Producer, client: Any) -> None:
    client.set(QUEUE, "no list")
    with pytest.raises(ServiceMisconfigured):
        producer.push(QUEUE, "job-1", b"element")
    client.delete(QUEUE)
    assert producer.push(QUEUE, "job-1", b"element").fresh


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    producer = Producer(RedisConnections("redis://127.0.0.1:1", 1).commands)
    with pytest.raises(ServiceUnavailable):
        producer.push(QUEUE, "job-1", b"element")
