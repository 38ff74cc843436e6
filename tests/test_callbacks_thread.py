from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.harness import until
from support.plans import planned
from support.queues import Fleet

import workers.callbacks
from shared.callback import WorkerFacts
from shared.errors import ServiceUnavailable
from shared.outbox import Outbox
from shared.queue import WorkQueue
from shared.webhook import Delivery, webhook_id
from workers.callbacks import Callbacks
from workers.held import Held

WAIT_S = 20.0
ACCEPTED = Delivery("accepted", 0.0, None, 200, False, "200")
LATER = Delivery("retry", 3600.0, None, 503, False, "503")
REFUSED = Delivery("refused", 0.0, None, 410, False, "410")


class ScriptedSender:
    """Answers as told and remembers the order in which requests began. A gate holds one request up."""

    def __init__(self) -> None:
        self.began: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.gates: dict[tuple[str, str], threading.Event] = {}
        self.answers: dict[tuple[str, str], list[Delivery | Exception]] = {}
        self._changed = threading.Condition()

    def send(self, body: bytes, webhook_id: str) -> Delivery:
        document = json.loads(body)
        what = (document["job_id"], document["status"])
        with self._changed:
            self.began.append(what)
            self.ids.append(webhook_id)
            self._changed.notify_all()
        if what in self.gates:
            assert self.gates[what].wait(WAIT_S)
        answer = self.answers[what].pop(0) if self.answers.get(what) else ACCEPTED
        if isinstance(answer, Exception):
            raise answer
        return answer

    def hold(self, job_id: str, status: str) -> threading.Event:
        return self.gates.setdefault((job_id, status), threading.Event())

    def wait_for(self, *wanted: tuple[str, str], times: int = 1) -> None:
        def there() -> bool:
            return all(self.began.count(what) >= times for what in wanted)

        with self._changed:
            assert self._changed.wait_for(there, WAIT_S), self.began


class Desk:
    """A worker's callbacks and the jobs it holds, on a real Valkey."""

    def __init__(self, fleet: Fleet, threads: int) -> None:
        self.fleet = fleet
        self.queue: WorkQueue = fleet.worker()
        self.sender = ScriptedSender()
        outbox = Outbox(self.queue.scripts, self.queue.keys, self.sender, random_number=lambda: 0.0)
        self.callbacks = Callbacks(
            outbox, self.queue, self.sender, lambda: WorkerFacts("w", "gpu", "v"), threads=threads
        )

    def take(self, job_id: str) -> Held:
        self.fleet.push(json.dumps({"id": job_id}).encode())
        lease = self.queue.take(0)
        assert lease is not None
        return Held(lease, job_id)

    def announce(self, held: Held) -> None:
        self.callbacks.processing(held, planned(held.job_id or ""))

    def commit(self, held: Held, *, tell: bool = True) -> None:
        """As the pipeline does it: first in Redis, then the held job, then the senders."""
        job_id = held.job_id
        assert job_id is not None
        body = json.dumps({"job_id": job_id, "status": "completed", "metadata": {}}).encode()
        self.queue.finish(held.lease, job_id, body)
        held.ended = True
        if tell:
            self.callbacks.committed()

    def outbox_is_empty(self) -> bool:
        return not self.fleet.client.exists(self.queue.keys.outbox)

    def is_claimed(self, job_id: str) -> bool:
        due = self.fleet.client.zscore(self.queue.keys.outbox, job_id)
        return due is not None and due > self.fleet.now_ms


MakeDesk = Callable[[int], Desk]


@pytest.fixture
def make_desk(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeDesk]:
    monkeypatch.setattr(workers.callbacks, "backoff_seconds", lambda *_: 0.0)
    monkeypatch.setattr(workers.callbacks, "SERVICE_PAUSE_S", 0.0)
    desks: list[Desk] = []

    def make(threads: int) -> Desk:
        desks.append(Desk(Fleet(redis_url), threads))
        return desks[-1]

    yield make
    for desk in desks:
        for gate in desk.sender.gates.values():
            gate.set()
        desk.callbacks.close()
        for thread in desk.callbacks._threads:
            if thread.ident is not None:
                thread.join(WAIT_S)
                assert not thread.is_alive()


def test_a_terminal_callback_does_not_overtake_the_processing_that_is_being_sent(make_desk: MakeDesk) -> None:
    desk = make_desk(2)
    gate = desk.sender.hold("a", "processing")
    desk.callbacks.start()
    held = desk.take("a")
    desk.announce(held)
    desk.sender.wait_for(("a", "processing"))
    desk.commit(held)
    until(lambda: desk.is_claimed("a"), WAIT_S)
    assert desk.sender.began == [("a", "processing")]
    gate.set()
    desk.sender.wait_for(("a", "completed"))
    assert desk.sender.began == [("a", "processing"), ("a", "completed")]


def test_a_processing_that_was_not_sent_when_its_job_ended_is_dropped(make_desk: MakeDesk) -> None:
    desk = make_desk(1)
    gate = desk.sender.hold("slow", "completed")
    desk.callbacks.start()
    desk.commit(desk.take("slow"))
    desk.sender.wait_for(("slow", "completed"))
    held = desk.take("a")
    desk.announce(held)
    desk.commit(held)
    gate.set()
    desk.sender.wait_for(("a", "completed"))
    desk.callbacks.flush(WAIT_S)
    assert desk.sender.began == [("slow", "completed"), ("a", "completed")]


def test_a_processing_whose_retry_waits_is_dropped_when_its_job_ends(make_desk: MakeDesk) -> None:
    desk = make_desk(1)
    gate = desk.sender.hold("a", "processing")
    desk.sender.answers[("a", "processing")] = [LATER]
    desk.callbacks.start()
    held = desk.take("a")
    desk.announce(held)
    desk.sender.wait_for(("a", "processing"))
    desk.commit(held)
    gate.set()
    desk.sender.wait_for(("a", "completed"))
    desk.callbacks.flush(WAIT_S)
    assert desk.sender.began == [("a", "processing"), ("a", "completed")]


def test_a_job_that_was_lost_is_not_announced(make_desk: MakeDesk) -> None:
    desk = make_desk(1)
    held = desk.take("a")
    desk.queue.leave()
    desk.announce(held)
    desk.callbacks.start()
    other = desk.fleet.worker()
    taken = other.take(0)
    assert taken is not None
    other.finish(taken, "a", b'{"job_id":"a","status":"completed"}')
    desk.callbacks.committed()
    desk.sender.wait_for(("a", "completed"))
    assert desk.sender.began == [("a", "completed")]


def test_a_slow_receiver_holds_up_one_thread_only(make_desk: MakeDesk) -> None:
    desk = make_desk(2)
    gate = desk.sender.hold("a", "completed")
    jobs = [desk.take(name) for name in ("a", "b", "c")]
    for held in jobs:
        desk.commit(held, tell=False)
        desk.fleet.advance(0.001)
    desk.callbacks.start()
    desk.sender.wait_for(("a", "completed"), ("b", "completed"), ("c", "completed"))
    assert not gate.is_set()
    gate.set()
    until(desk.outbox_is_empty, WAIT_S)


def test_a_terminal_callback_is_sent_again_under_the_same_id_until_it_is_accepted(
    make_desk: MakeDesk,
) -> None:
    desk = make_desk(2)
    desk.sender.answers[("a", "completed")] = [LATER, LATER]
    desk.callbacks.start()
    desk.commit(desk.take("a"))
    desk.sender.wait_for(("a", "completed"), times=3)
    until(desk.outbox_is_empty, WAIT_S)
    assert set(desk.sender.ids) == {webhook_id("a", "completed")}
    assert len(desk.sender.began) == 3


def test_a_processing_callback_is_sent_again_while_its_job_runs(make_desk: MakeDesk) -> None:
    desk = make_desk(1)
    desk.sender.answers[("a", "processing")] = [LATER]
    desk.callbacks.start()
    desk.announce(desk.take("a"))
    desk.sender.wait_for(("a", "processing"), times=2)
    desk.callbacks.flush(WAIT_S)
    assert set(desk.sender.ids) == {webhook_id("a", "processing", 1)}


def test_a_refused_processing_callback_is_not_sent_again(make_desk: MakeDesk) -> None:
    desk = make_desk(1)
    desk.sender.answers[("a", "processing")] = [REFUSED]
    desk.callbacks.start()
    held = desk.take("a")
    desk.announce(held)
    desk.sender.wait_for(("a", "processing"))
    desk.callbacks.flush(WAIT_S)
    desk.commit(held)
    desk.sender.wait_for(("a", "completed"))
    assert desk.sender.began.count(("a", "processing")) == 1


@pytest.mark.parametrize("status", ["processing", "completed"])
def test_an_unforeseen_error_ends_no_sender_thread(make_desk: MakeDesk, status: str) -> None:
    desk = make_desk(1)
    desk.sender.answers[("a", status)] = [ZeroDivisionError("unforeseen")]
    desk.callbacks.start()
    held = desk.take("a")
    if status == "processing":
        desk.announce(held)
    else:
        desk.commit(held)
    desk.sender.wait_for(("a", status))
    desk.commit(desk.take("b"))
    desk.sender.wait_for(("b", "completed"))


@pytest.mark.parametrize("status", ["processing", "completed"])
def test_a_service_that_does_not_answer_for_a_moment_costs_no_callback(
    make_desk: MakeDesk, status: str
) -> None:
    desk = make_desk(1)
    desk.sender.answers[("a", status)] = [ServiceUnavailable("Redis cannot be reached")]
    desk.callbacks.start()
    held = desk.take("a")
    if status == "processing":
        desk.announce(held)
    else:
        desk.commit(held)
    desk.sender.wait_for(("a", status))
    desk.fleet.advance(61)
    desk.callbacks.due_in(0.0)
    desk.sender.wait_for(("a", status), times=2)


def test_a_flush_waits_for_what_is_being_sent(make_desk: MakeDesk) -> None:
    desk = make_desk(2)
    gate = desk.sender.hold("a", "completed")
    desk.callbacks.start()
    desk.commit(desk.take("a"))
    desk.sender.wait_for(("a", "completed"))
    desk.callbacks.flush(0.0)
    assert not desk.outbox_is_empty()
    flushed: list[Any] = []

    def flush() -> None:
        desk.callbacks.flush(WAIT_S)
        flushed.append(desk.outbox_is_empty())

    thread = threading.Thread(target=flush)
    thread.start()
    gate.set()
    thread.join(WAIT_S)
    assert flushed == [True]


def test_a_flush_does_not_wait_for_the_announcement_of_a_job_that_has_ended(
    make_desk: MakeDesk, caplog: pytest.LogCaptureFixture
) -> None:
    desk = make_desk(0)  # no sender comes round to drop it
    desk.callbacks._outbox_due = None
    desk.callbacks.start()
    held = desk.take("a")
    desk.announce(held)
    until(lambda: bool(desk.callbacks._announcements), WAIT_S)
    desk.callbacks.flush(0.0)
    assert "callbacks are left" in caplog.text
    caplog.clear()
    held.ended = True
    desk.callbacks.flush(0.0)
    assert caplog.text == ""


def test_announcing_a_job_waits_for_no_sender(make_desk: MakeDesk) -> None:
    desk = make_desk(1)
    desk.callbacks.start()
    held = desk.take("a")
    with desk.callbacks._changed:  # what a sender that has no CPU at the moment may hold
        announcing = threading.Thread(target=lambda: desk.announce(held))
        announcing.start()
        announcing.join(WAIT_S)
        assert not announcing.is_alive()
    desk.sender.wait_for(("a", "processing"))


def test_a_callback_that_is_due_later_is_sent_while_the_sender_that_waited_for_it_is_busy(
    make_desk: MakeDesk,
) -> None:
    desk = make_desk(2)
    gate = desk.sender.hold("a", "processing")
    desk.callbacks.start()
    desk.callbacks.flush(WAIT_S)  # the first look into the outbox
    desk.commit(desk.take("later"), tell=False)
    desk.callbacks.due_in(0.2)
    desk.announce(desk.take("a"))
    desk.sender.wait_for(("a", "processing"))
    desk.sender.wait_for(("later", "completed"))
    gate.set()
