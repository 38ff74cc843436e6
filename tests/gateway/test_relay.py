from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from support.gateway import on_sqlite
from support.rows import add_job

from gateway.database import Database
from gateway.relay import Relay
from gateway.tables import jobs
from shared.errors import ServiceUnavailable
from shared.producer import Producer, Pushed
from shared.queue import RedisConnections

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
QUEUE = "sdxl_queue"


class Switch:
    """A producer on a real Valkey that a test takes off the network, or whose replies it loses."""

    def __init__(self, redis_url: str) -> None:
        self._producer = Producer(RedisConnections(redis_url, 1).commands)
        self.reaches = self.answers = True
        self.calls = 0

    def push(self, queue: str, job_id: str, element: bytes) -> Pushed:
        self.calls += 1
        pushed = self._producer.push(queue, job_id, element) if self.reaches else None
        if pushed is None or not self.answers:
            raise ServiceUnavailable("Redis cannot be reached")
        return pushed


@pytest.fixture
def producer(redis_url: str) -> Switch:
    return Switch(redis_url)


def relay_of(database: Database, producer: Any, monotonic: Any = lambda: 0.0) -> Relay:
    return Relay(database, producer, lambda: NOW, 2.0, monotonic)


def pending(database: Database, *, age_s: float = 0.0, **changes: Any) -> str:
    return add_job(database, status="pending", created_at=NOW - timedelta(seconds=age_s), **changes)


def statuses(database: Database) -> dict[str, str]:
    with database.read() as connection:
        return {row.id: row.status for row in connection.execute(sa.select(jobs.c.id, jobs.c.status))}


def test_what_is_pending_is_pushed_the_oldest_first_and_noted(
    database: Database, producer: Switch, valkey: Any
) -> None:
    ids = [pending(database, age_s=age, payload=f"element-{age}") for age in (1, 3, 2)]
    assert relay_of(database, producer).run_once() == 3
    assert valkey.lrange(QUEUE, 0, -1) == ["element-1", "element-2", "element-3"]
    assert statuses(database) == dict.fromkeys(ids, "queued")


def test_what_waits_for_less_than_the_given_time_is_left_to_its_request(
    database: Database, producer: Switch, valkey: Any
) -> None:
    pending(database, age_s=1)
    assert relay_of(database, producer).run_once(older_than_s=2) == 0
    assert not valkey.exists(QUEUE)


@pytest.mark.parametrize("status", ["queued", "processing", "completed", "failed", "cancelled"])
def test_only_what_is_pending_is_pushed(
    status: str, database: Database, producer: Switch, valkey: Any
) -> None:
    job_id = add_job(database, status=status)
    assert relay_of(database, producer).run_once() == 0
    assert statuses(database) == {job_id: status}
    assert not valkey.exists(QUEUE)


def test_a_lost_reply_leaves_one_element_after_any_number_of_repeats(
    database: Database, producer: Switch, valkey: Any
) -> None:
    job_id = pending(database, payload="element")
    relay = relay_of(database, producer)
    producer.answers = False
    for _ in range(3):
        with pytest.raises(ServiceUnavailable):
            relay.run_once()
    assert statuses(database) == {job_id: "pending"}
    producer.answers = True
    assert relay.run_once() == 1
    assert valkey.lrange(QUEUE, 0, -1) == ["element"]
    assert statuses(database) == {job_id: "queued"}


def test_what_was_pushed_before_the_queue_stopped_answering_is_noted(
    database: Database, redis_url: str
) -> None:
    class Fails(Switch):
        def push(self, queue: str, job_id: str, element: bytes) -> Pushed:
            self.reaches = self.calls < 1
            return super().push(queue, job_id, element)

    older, newer = pending(database, age_s=2), pending(database, age_s=1)
    with pytest.raises(ServiceUnavailable):
        relay_of(database, Fails(redis_url)).run_once()
    assert statuses(database) == {older: "queued", newer: "pending"}


def test_a_job_that_a_worker_began_before_the_push_was_noted_stays_begun(
    database: Database, redis_url: str, valkey: Any
) -> None:
    class Overtaken(Switch):
        def push(self, queue: str, job_id: str, element: bytes) -> Pushed:
            pushed = super().push(queue, job_id, element)
            with database.write() as connection:
                connection.execute(sa.update(jobs).values(status="processing"))
            return pushed

    job_id = pending(database)
    relay_of(database, Overtaken(redis_url)).push(job_id, QUEUE, "element")
    assert statuses(database) == {job_id: "processing"}


def test_after_a_failed_push_requests_do_not_wait_for_a_dead_server(
    database: Database, producer: Switch
) -> None:
    moment = 0.0
    relay = relay_of(database, producer, lambda: moment)
    producer.reaches = False
    assert relay.push(pending(database), QUEUE, "element") is None
    assert relay.push(pending(database), QUEUE, "element") is None
    assert producer.calls == 1
    producer.reaches, moment = True, 2.0
    assert relay.push(pending(database), QUEUE, "element") == Pushed(fresh=True, length=1)


@on_sqlite
def test_more_than_fit_into_one_look_are_pushed_as_well(
    database: Database, producer: Switch, valkey: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.relay.BATCH", 3)
    for number in range(7):
        pending(database, payload=str(number))
    assert relay_of(database, producer).run_once() == valkey.llen(QUEUE) == 7


def test_gateways_that_relay_at_the_same_time_push_once(
    database: Database, redis_url: str, valkey: Any
) -> None:
    ids = [pending(database, payload=f"element-{number}") for number in range(20)]
    relays = [relay_of(database, Switch(redis_url)) for _ in range(4)]
    threads = [threading.Thread(target=relay.run_once) for relay in relays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(valkey.lrange(QUEUE, 0, -1)) == sorted(f"element-{number}" for number in range(20))
    assert statuses(database) == dict.fromkeys(ids, "queued")
