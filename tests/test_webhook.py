"""Sending callbacks: who may see which key, what is signed, and what is tried again."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from shared.errors import SettingsError
from shared.storage import MAX_RETRY_AFTER_S
from shared.webhook import (
    MAX_BACKOFF_S,
    CallbackTarget,
    Delivery,
    WebhookSender,
    backoff_seconds,
    same_origin,
    signature_headers,
    verify_signature,
    webhook_id,
)
from workers.local_receiver import Answer, LocalReceiver, Received

NOW = 1_800_000_000.0
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2lnbmF0dXJl"
NEW_KEY = "sb_secret_abcdefghijklmnop"
BODY = json.dumps({"job_id": "j1", "status": "completed", "assets": ["u1/j1_1.png"]}).encode()
DAY, HOUR = 86400.0, 3600.0


class Scripted:
    """A receiver with a script, and the senders that post to it."""

    def __init__(self) -> None:
        self.answer: Answer | Callable[[Received], Answer] = Answer()
        self.receiver = LocalReceiver(answers=self._decide)
        self.senders: list[WebhookSender] = []

    def _decide(self, callback: Received) -> Answer:
        return self.answer if isinstance(self.answer, Answer) else self.answer(callback)

    def sender(self, *, own_host: bool = True, **options: Any) -> WebhookSender:
        sender = WebhookSender(self.receiver.url, own_host=own_host, clock=lambda: NOW, **options)
        self.senders.append(sender)
        return sender

    def deliver(self, answer: Answer | None = None, **options: Any) -> Delivery:
        self.answer = answer or Answer()
        return self.sender(**options).send(BODY, "msg_1")

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.receiver.received[-1].headers)


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    for sender in scripted.senders:
        sender.close()
    scripted.receiver.close()


# Credentials.


def test_supabase_sees_a_jwt_as_apikey_and_bearer(scripted: Scripted) -> None:
    scripted.deliver(service_key=SecretStr(JWT), token=SecretStr("t0ken"))
    assert scripted.headers["apikey"] == JWT
    assert scripted.headers["authorization"] == f"Bearer {JWT}"


def test_supabase_never_sees_a_newer_key_as_bearer(scripted: Scripted) -> None:
    scripted.deliver(service_key=SecretStr(NEW_KEY))
    assert scripted.headers["apikey"] == NEW_KEY
    assert "authorization" not in scripted.headers


def test_another_host_never_sees_the_service_key(scripted: Scripted) -> None:
    scripted.deliver(own_host=False, service_key=SecretStr(JWT))
    assert "apikey" not in scripted.headers
    assert "authorization" not in scripted.headers
    assert JWT not in str(scripted.headers)


def test_another_host_sees_the_callback_token(scripted: Scripted) -> None:
    scripted.deliver(own_host=False, service_key=SecretStr(JWT), token=SecretStr("t0ken"))
    assert scripted.headers["authorization"] == "Bearer t0ken"
    assert "apikey" not in scripted.headers


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://p.supabase.co/functions/v1/job-callback", True),
        ("https://P.supabase.co:443/x", True),
        ("http://p.supabase.co/x", False),
        ("https://p.supabase.co:8443/x", False),
        ("https://p.supabase.co.evil.example/x", False),
        ("https://p.supabase.co@evil.example/x", False),
        ("https://evil.example/https://p.supabase.co", False),
    ],
)
def test_a_host_is_supabases_own_where_scheme_host_and_port_agree(url: str, same: bool) -> None:
    assert same_origin(url, "https://p.supabase.co") is same


@pytest.mark.parametrize("url", ["", "ftp://h/x", "job-callback", "https:///x"])
def test_an_address_that_cannot_be_posted_to_ends_the_start(url: str) -> None:
    with pytest.raises(SettingsError, match="CALLBACK_URL"):
        WebhookSender(url, own_host=False)


def test_every_credential_that_cannot_be_sent_is_named_without_its_value() -> None:
    with pytest.raises(SettingsError) as caught:
        CallbackTarget("nowhere", True, SecretStr("k3y with spaces"), SecretStr("t0ken\n"))
    assert len(caught.value.problems) == 3
    assert "k3y" not in str(caught.value)
    assert "t0ken" not in str(caught.value)


# Signatures.


def test_a_delivery_without_a_secret_carries_its_id_only(scripted: Scripted) -> None:
    scripted.deliver()
    assert scripted.headers["webhook-id"] == "msg_1"
    assert "webhook-signature" not in scripted.headers
    assert "x-callback-signature" not in scripted.headers


def test_a_delivery_is_signed_over_the_sent_bytes_at_the_time_of_sending(scripted: Scripted) -> None:
    secret = SecretStr("a shared secret")
    scripted.deliver(secret=secret)
    received = scripted.receiver.received[-1]
    assert received.body == BODY
    assert received.headers["webhook-timestamp"] == str(int(NOW))
    digest = hmac.new(b"a shared secret", BODY, hashlib.sha256).hexdigest()
    assert received.headers["x-callback-signature"] == f"sha256={digest}"
    assert verify_signature(secret, received.headers, received.body, NOW)


def test_the_signature_is_the_one_of_the_standard_webhooks_specification() -> None:
    """The example that the specification's libraries test themselves with."""
    secret = SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    headers = signature_headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330.9, body)
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_of_another_form_is_taken_as_it_is_written() -> None:
    plain = SecretStr("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    coded = SecretStr("whsec_" + base64.b64encode(plain.get_secret_value().encode()).decode())
    signatures = [signature_headers(s, "msg_1", NOW, BODY)["webhook-signature"] for s in (plain, coded)]
    assert signatures[0] == signatures[1]


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not base64", "whsec_abc"])
def test_a_secret_that_cannot_be_used_ends_the_start(secret: str) -> None:
    with pytest.raises(SettingsError, match="JOB_CALLBACK_SECRET"):
        WebhookSender("https://h/x", own_host=False, secret=SecretStr(secret))


@settings(deadline=None)
@given(st.binary(), st.text("abcdef0123456789_", min_size=1), st.integers(0, 2**32))
def test_what_was_signed_is_verified(body: bytes, identity: str, now: int) -> None:
    secret = SecretStr("s3cret")
    headers = signature_headers(secret, identity, now, body)
    assert verify_signature(secret, headers, body, now)
    assert verify_signature(secret, {k.upper(): v for k, v in headers.items()}, body, now)


SECRET = SecretStr("s3cret")
SIGNED = signature_headers(SECRET, "msg_1", NOW, BODY)


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-id": "msg_2"},
        {"webhook-id": ""},
        {"webhook-timestamp": str(int(NOW) + 1)},
        {"webhook-timestamp": "soon"},
        {"webhook-timestamp": "١٢"},
        {"webhook-timestamp": "9" * 400},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "ü"},
        {"webhook-signature": SIGNED["webhook-signature"].replace("v1,", "v1a,")},
        {"X-Callback-Signature": "sha256=0"},
    ],
)
def test_a_changed_header_breaks_the_signature(changed: dict[str, str]) -> None:
    assert not verify_signature(SECRET, SIGNED | changed, BODY, NOW)


def test_a_changed_body_or_another_secret_breaks_the_signature() -> None:
    assert not verify_signature(SECRET, SIGNED, BODY + b" ", NOW)
    assert not verify_signature(SecretStr("other"), SIGNED, BODY, NOW)
    assert not verify_signature(SECRET, {}, BODY, NOW)


def test_one_right_signature_among_several_is_enough() -> None:
    rotated = SIGNED | {"webhook-signature": f"v1,b2xk {SIGNED['webhook-signature']}"}
    assert verify_signature(SECRET, rotated, BODY, NOW)


@pytest.mark.parametrize(
    ("age", "fresh"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)]
)
def test_a_signature_is_fresh_for_five_minutes(age: int, fresh: bool) -> None:
    assert verify_signature(SECRET, SIGNED, BODY, NOW + age) is fresh


@settings(deadline=None)
@given(st.text(), st.sampled_from(["processing", "completed", "failed"]), st.integers(0, 10**6))
def test_an_id_is_fit_for_a_header_and_depends_on_job_status_and_sequence(
    job_id: str, status: str, sequence: int
) -> None:
    identity = webhook_id(job_id, status, sequence)
    assert identity == webhook_id(job_id, status, sequence)
    assert identity.isascii()
    assert "." not in identity
    assert identity not in {
        webhook_id(job_id + "x", status, sequence),
        webhook_id(job_id, status + "x", sequence),
        webhook_id(job_id, status, sequence + 1),
    }


def test_an_id_that_cannot_stand_in_a_header_is_a_mistake_of_the_caller(scripted: Scripted) -> None:
    with pytest.raises(ValueError, match="webhook-id"):
        scripted.sender().send(BODY, "two\nlines")


# What becomes of an attempt.


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_every_2xx_is_accepted(scripted: Scripted, status: int) -> None:
    body = b"" if status == 204 else b"fine"
    delivery = scripted.deliver(Answer(status, body=body))
    assert delivery == Delivery("accepted", 0.0, None, status, False, str(status))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 540, 546, 599])
def test_a_receiver_that_cannot_now_is_tried_for_a_day(scripted: Scripted, status: int) -> None:
    delivery = scripted.deliver(Answer(status, body=b'{"retry": false}'))
    assert (delivery.outcome, delivery.retry_within, delivery.loud) == ("retry", DAY, False)


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_tried_for_a_day_and_told_loudly(scripted: Scripted, status: int) -> None:
    delivery = scripted.deliver(Answer(status))
    assert (delivery.outcome, delivery.retry_within, delivery.loud) == ("retry", DAY, True)
    assert "SUPABASE_SERVICE_KEY" in delivery.detail


@pytest.mark.parametrize("status", [400, 404, 422])
@pytest.mark.parametrize(
    "body", [b"", b"{}", b"not json", b"[false]", b'{"retry": true}', b'{"retry": 0}', b"\xff", b"[" * 5000]
)
def test_a_doubtful_refusal_is_tried_for_an_hour(scripted: Scripted, status: int, body: bytes) -> None:
    delivery = scripted.deliver(Answer(status, body=body))
    assert (delivery.outcome, delivery.retry_within, delivery.loud) == ("retry", HOUR, False)


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_receiver_may_ask_for_no_retry(scripted: Scripted, status: int) -> None:
    delivery = scripted.deliver(Answer(status, body=b'{"error": "unknown job", "retry": false}'))
    assert (delivery.outcome, delivery.retry_within) == ("refused", 0.0)


@pytest.mark.parametrize("status", [300, 304, 402, 405, 406, 409, 410, 411, 413, 415, 418, 421, 431, 451])
def test_any_other_refusal_is_final(scripted: Scripted, status: int) -> None:
    delivery = scripted.deliver(Answer(status, body=b""))
    assert (delivery.outcome, delivery.retry_within, delivery.retry_after) == ("refused", 0.0, None)


@functools.cache
def _sender() -> WebhookSender:
    return WebhookSender("http://127.0.0.1:9/x", own_host=False, clock=lambda: NOW)


def judged(status: int, body: bytes = b"", retry_after: bytes | None = None) -> Delivery:
    """What the sender makes of an answer, without a network."""
    headers = [] if retry_after is None else [(b"Retry-After", retry_after)]
    return _sender()._judged(httpx.Response(status, headers=headers, stream=httpx.ByteStream(body)))


@settings(deadline=None)
@given(st.integers(200, 599), st.binary(max_size=50))
def test_every_status_has_one_clear_meaning(status: int, body: bytes) -> None:
    delivery = judged(status, body)
    assert (delivery.outcome == "accepted") == (status < 300)
    assert (delivery.retry_within > 0) == (delivery.outcome == "retry")
    assert delivery.status == status


def test_a_redirect_is_refused_and_not_followed(scripted: Scripted) -> None:
    with LocalReceiver() as elsewhere:
        delivery = scripted.deliver(Answer(307, {"Location": elsewhere.url}), service_key=SecretStr(JWT))
        assert delivery.outcome == "refused"
        assert elsewhere.received == ()


def test_a_receiver_that_is_down_is_tried_for_a_day() -> None:
    receiver = LocalReceiver()
    url = receiver.url
    receiver.close()
    delivery = WebhookSender(url, own_host=False).send(BODY, "msg_1")
    assert (delivery.outcome, delivery.retry_within, delivery.status) == ("retry", DAY, None)
    assert delivery.detail.startswith("ConnectError")


def test_a_receiver_that_is_too_slow_is_tried_for_a_day(scripted: Scripted) -> None:
    delivery = scripted.deliver(Answer(delay=30.0), timeout=0.05)
    assert (delivery.outcome, delivery.retry_within, delivery.status) == ("retry", DAY, None)
    assert delivery.detail.startswith("ReadTimeout")


def test_a_receiver_that_cuts_the_connection_is_tried_for_a_day(scripted: Scripted) -> None:
    delivery = scripted.deliver(Answer(close=True))
    assert (delivery.outcome, delivery.retry_within, delivery.status) == ("retry", DAY, None)


def _httpx_errors() -> list[Exception]:
    kinds = [kind for kind in vars(httpx).values() if isinstance(kind, type)]
    errors: list[Exception] = []
    for kind in kinds:
        if not issubclass(kind, Exception):
            continue
        if issubclass(kind, httpx.HTTPStatusError):
            request = httpx.Request("POST", "http://h")
            errors.append(kind("said", request=request, response=httpx.Response(500)))
        elif issubclass(kind, httpx.StreamError) and kind is not httpx.StreamError:
            errors.append(kind())  # type: ignore[call-arg]
        else:
            errors.append(kind("said"))
    return errors


@pytest.mark.parametrize("error", _httpx_errors(), ids=lambda error: type(error).__name__)
def test_no_error_of_the_http_library_leaves_the_sender(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    sender = WebhookSender("http://127.0.0.1:9/x", own_host=False)
    monkeypatch.setattr(sender._http, "stream", fail)
    assert sender.send(BODY, "msg_1").outcome == "retry"


# The pause that the receiver asks for.


@pytest.mark.parametrize(
    ("header", "pause"),
    [
        ("0", 0.0),
        ("17", 17.0),
        (" 17 ", 17.0),
        ("999999", MAX_RETRY_AFTER_S),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        (formatdate(NOW + 10 * DAY, usegmt=True), MAX_RETRY_AFTER_S),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("٣", None),
        ("9" * 400, None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
    ],
)
def test_retry_after_is_read_in_seconds_and_as_a_date_and_is_capped(header: str, pause: float | None) -> None:
    assert judged(429, retry_after=header.encode()).retry_after == pause


def test_retry_after_arrives_over_the_wire(scripted: Scripted) -> None:
    assert scripted.deliver(Answer(503, {"Retry-After": "42"})).retry_after == 42.0


@settings(deadline=None)
@given(st.text())
def test_any_retry_after_is_nothing_or_a_pause_within_the_cap(header: str) -> None:
    pause = judged(503, retry_after=header.encode("utf-8", "replace")).retry_after
    assert pause is None or 0.0 <= pause <= MAX_RETRY_AFTER_S


# Answers without end, and what may be said about them.


def test_no_more_of_an_answer_is_read_than_a_field_needs(scripted: Scripted) -> None:
    delivery = scripted.deliver(Answer(400, body=b'{"retry": false, "x": "' + b"x" * 5_000_000 + b'"}'))
    assert delivery.outcome == "retry"


def test_a_delivery_quotes_no_body_no_address_and_no_secret(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "shared")
    secrets = {"service_key": SecretStr(JWT), "secret": SecretStr("a shared secret")}
    echo = f'{{"error": "{JWT} lighthouse"}}'.encode()
    for status in (200, 307, 400, 401, 409, 500):
        said = repr(scripted.deliver(Answer(status, body=echo), **secrets)) + caplog.text
        assert JWT not in said
        assert "lighthouse" not in said
        assert scripted.receiver.url not in said


def test_the_target_shows_neither_its_address_nor_its_keys() -> None:
    target = CallbackTarget("https://user:pass@h/x?token=t0ken", True, SecretStr(JWT), SecretStr("t0ken"))
    assert JWT not in repr(target)
    assert "t0ken" not in repr(target)
    assert "pass" not in repr(target)


def test_a_fault_of_the_network_quotes_no_address() -> None:
    sender = WebhookSender("http://127.0.0.1:9/x?token=t0ken", own_host=False, service_key=SecretStr(JWT))
    delivery = sender.send(BODY, "msg_1")
    assert "t0ken" not in repr(delivery)


def test_a_settings_error_carries_no_secret_in_its_trace() -> None:
    with pytest.raises(SettingsError) as caught:
        WebhookSender("https://h/x", own_host=True, service_key=SecretStr("k3y\n"))
    assert "k3y" not in "".join(traceback.format_exception(caught.value)).replace('SecretStr("k3y\\n")', "")


def test_a_receiver_on_this_machine_is_reached_without_the_proxy_of_the_environment(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert scripted.deliver().outcome == "accepted"


# Pauses between attempts.


@settings(deadline=None)
@given(st.integers(1, 10**9), st.floats(0, 1))
def test_a_pause_stays_between_nothing_and_its_doubling_bound(attempt: int, chance: float) -> None:
    bound = min(MAX_BACKOFF_S, 2.0 ** min(attempt - 1, 1000))
    assert 0.0 <= backoff_seconds(attempt, lambda: chance) <= bound


@settings(deadline=None)
@given(st.integers(1, 100))
def test_the_longest_pause_doubles_until_five_minutes(attempt: int) -> None:
    longest = backoff_seconds(attempt, lambda: 1.0)
    assert backoff_seconds(attempt + 1, lambda: 1.0) == min(MAX_BACKOFF_S, 2 * longest)
    assert backoff_seconds(1, lambda: 1.0) == 1.0


@settings(deadline=None)
@given(st.integers(1, 100), st.floats(0, 1), st.floats(0, 1))
def test_the_jitter_spans_the_whole_bound(attempt: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert backoff_seconds(attempt, lambda: low) <= backoff_seconds(attempt, lambda: high)
    assert backoff_seconds(attempt, lambda: 0.0) == 0.0


def test_attempts_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="from 1"):
        backoff_seconds(0, lambda: 0.5)
