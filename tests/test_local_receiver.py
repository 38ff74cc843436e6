"""The local receiver: the rule that every receiver should keep, and its scripts for tests."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from shared.webhook import WebhookSender, signature_headers, webhook_id
from workers.local_receiver import TERMINAL, Answer, LocalReceiver, Received


@pytest.fixture
def receiver() -> Iterator[LocalReceiver]:
    with LocalReceiver() as receiver:
        yield receiver


def callback(job_id: str, status: str) -> bytes:
    return json.dumps({"job_id": job_id, "status": status, "assets": []}).encode()


def post(receiver: LocalReceiver, job_id: str, status: str, sequence: int = 0) -> str:
    sender = WebhookSender(receiver.url, own_host=False)
    try:
        return sender.send(callback(job_id, status), webhook_id(job_id, status, sequence)).outcome
    finally:
        sender.close()


def accepted(receiver: LocalReceiver, job_id: str = "j1") -> list[str]:
    return [callback.status for callback in receiver.accepted.get(job_id, ())]


def test_callbacks_of_a_job_are_kept_in_their_order(receiver: LocalReceiver) -> None:
    assert post(receiver, "j1", "processing") == "accepted"
    assert post(receiver, "j1", "completed") == "accepted"
    assert accepted(receiver) == ["processing", "completed"]


def test_a_repeated_callback_is_answered_well_and_dropped(receiver: LocalReceiver) -> None:
    for _ in range(3):
        assert post(receiver, "j1", "processing") == "accepted"
    assert accepted(receiver) == ["processing"]
    assert [callback.repeated for callback in receiver.received] == [False, True, True]


@pytest.mark.parametrize("terminal", sorted(TERMINAL))
@pytest.mark.parametrize("late", ["processing", "completed", "failed"])
def test_whatever_comes_after_a_terminal_status_is_dropped(
    receiver: LocalReceiver, terminal: str, late: str
) -> None:
    post(receiver, "j1", terminal)
    post(receiver, "j1", late, sequence=1)
    assert accepted(receiver) == [terminal]


def test_jobs_do_not_disturb_each_other(receiver: LocalReceiver) -> None:
    post(receiver, "j1", "completed")
    post(receiver, "j2", "processing")
    assert accepted(receiver, "j2") == ["processing"]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"), st.sampled_from(["processing", "completed", "failed"]), st.integers(0, 2)
        )
    )
)
def test_after_the_rule_a_job_has_at_most_one_terminal_status_and_it_is_last(
    deliveries: list[tuple[str, str, int]],
) -> None:
    # Without the network: the rule is the same, and a thousand deliveries take a moment.
    with LocalReceiver() as receiver:
        for job_id, status, sequence in deliveries:
            headers = {"webhook-id": webhook_id(job_id, status, sequence)}
            receiver._answer(headers, callback(job_id, status))
        assert len(receiver.received) == len(deliveries)
        for callbacks in receiver.accepted.values():
            assert not any(callback.status in TERMINAL for callback in callbacks[:-1])
            assert len({callback.webhook_id for callback in callbacks}) == len(callbacks)


def test_a_delivery_keeps_its_headers_and_its_bytes(receiver: LocalReceiver) -> None:
    post(receiver, "j1", "processing")
    (received,) = receiver.received
    assert received.body == callback("j1", "processing")
    assert received.headers["content-type"] == "application/json"
    assert received.document["assets"] == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"job_id": 1, "status": "x"}', b'{"job_id": "j"}']
)
def test_what_is_no_callback_is_refused_for_good(receiver: LocalReceiver, body: bytes) -> None:
    sender = WebhookSender(receiver.url, own_host=False)
    assert sender.send(body, "msg_1").outcome == "refused"
    assert receiver.received == ()
    assert receiver.rejected == ((400, body),)


def test_a_callback_without_an_id_is_refused(receiver: LocalReceiver) -> None:
    response = httpx.post(receiver.url, content=callback("j1", "completed"), trust_env=False)
    assert response.status_code == 400
    assert receiver.accepted == {}


SECRET = SecretStr("s3cret")


def test_a_receiver_with_a_secret_takes_signed_callbacks_only() -> None:
    with LocalReceiver(secret=SECRET) as receiver:
        unsigned = WebhookSender(receiver.url, own_host=False)
        wrongly = WebhookSender(receiver.url, own_host=False, secret=SecretStr("other"))
        rightly = WebhookSender(receiver.url, own_host=False, secret=SECRET)
        statuses = [s.send(callback("j1", "completed"), "msg_1").status for s in (unsigned, wrongly, rightly)]
        assert statuses == [401, 401, 200]
        assert len(receiver.received) == 1
        assert len(receiver.rejected) == 2


def test_an_old_signature_is_refused() -> None:
    with LocalReceiver(secret=SECRET, clock=lambda: 10_000.0) as receiver:
        body = callback("j1", "completed")
        headers = signature_headers(SECRET, "msg_1", 10_000.0 - 301, body)
        assert httpx.post(receiver.url, content=body, headers=headers, trust_env=False).status_code == 401


def test_a_callback_that_was_not_answered_well_counts_only_when_it_comes_again() -> None:
    answers = iter([Answer(500), Answer(429, {"Retry-After": "7"}), Answer()])
    with LocalReceiver(answers=lambda callback: next(answers)) as receiver:
        outcomes = [post(receiver, "j1", "completed") for _ in range(3)]
        assert outcomes == ["retry", "retry", "accepted"]
        assert [callback.repeated for callback in receiver.received] == [False, False, False]
        assert accepted(receiver) == ["completed"]


def test_a_lost_answer_leads_to_a_repeat_that_is_dropped() -> None:
    answers = iter([Answer(close=True, keep=True), Answer()])
    with LocalReceiver(answers=lambda callback: next(answers)) as receiver:
        assert [post(receiver, "j1", "completed") for _ in range(2)] == ["retry", "accepted"]
        assert [callback.repeated for callback in receiver.received] == [False, True]
        assert accepted(receiver) == ["completed"]


def test_a_script_sees_the_callback_that_it_answers() -> None:
    def refuse_processing(callback: Received) -> Answer:
        return Answer(503 if callback.status == "processing" else 200)

    with LocalReceiver(answers=refuse_processing) as receiver:
        assert post(receiver, "j1", "processing") == "retry"
        assert post(receiver, "j1", "completed") == "accepted"


def test_closing_ends_a_slow_answer() -> None:
    receiver = LocalReceiver(answers=lambda callback: Answer(delay=3600.0))
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(post, receiver, "j1", "completed")
        receiver.wait_for("j1", "completed", 10.0)
        receiver.close()
        assert outcome.result(10.0) == "accepted"


def test_waiting_ends_with_the_callback(receiver: LocalReceiver) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receiver.wait_for, "j1", TERMINAL, 10.0)
        post(receiver, "j1", "processing")
        post(receiver, "j1", "failed")
        assert waiting.result(10.0).status == "failed"


def test_waiting_in_vain_says_what_came_instead(receiver: LocalReceiver) -> None:
    post(receiver, "j1", "processing")
    with pytest.raises(TimeoutError, match=r"completed in 0\.01 s, but \['processing'\]"):
        receiver.wait_for("j1", "completed", 0.01)


def test_many_senders_at_once_lose_nothing(receiver: LocalReceiver) -> None:
    jobs = [f"job{number}" for number in range(40)]
    sender = WebhookSender(receiver.url, own_host=False)

    def send(job_id: str) -> str:
        return sender.send(callback(job_id, "completed"), webhook_id(job_id, "completed")).outcome

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, jobs * 2)) == {"accepted"}
    assert {job_id: len(callbacks) for job_id, callbacks in receiver.accepted.items()} == dict.fromkeys(
        jobs, 1
    )
    sender.close()


def test_a_body_beyond_the_limit_is_not_read(receiver: LocalReceiver) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", httpx.URL(receiver.url).port, timeout=10.0)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_closing_leaves_no_listener_thread() -> None:
    started = time.monotonic()
    with LocalReceiver():
        assert any(thread.name == "callback-receiver" for thread in threading.enumerate())
    assert not any(thread.name == "callback-receiver" for thread in threading.enumerate())
    assert time.monotonic() - started < 10.0
