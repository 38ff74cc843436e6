from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.errors import ServiceUnavailable
from shared.log import JsonFormatter, Redactor, configure_logging, current_job

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2lnbmF0dXJl"
KNOWN = 'planted "sécret" \\ with quotes'
PLANTED = {
    "a known secret": KNOWN,
    "a JWT": f"key {JWT} refused",
    "a service key": "sb_secret_planted0123456789",
    "a signing secret": "whsec_planted/0123456789+ab=",
    "a bearer token": "Authorization: Bearer planted-token.0123",
    "a bearer token in quotes": "{'authorization': 'bearer planted-token'}",
    "a signed address": "GET https://p.supabase.co/storage/v1/object/sign/b/k.png?token=planted.abc&x=1",
    "an address with a key": "https://host/x?apikey=planted&access_token=planted&X-Amz-Signature=planted",
    "a password in an address": "rediss://default:planted@host:6379 and https://planted-user@host/",
}

LogFormat = Literal["json", "console"]
Lines = Callable[[], list[str]]


@pytest.fixture(params=["json", "console"])
def log_format(request: pytest.FixtureRequest) -> LogFormat:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def untouched_logging() -> Iterator[None]:
    """Puts back what `configure_logging` changes in the process."""
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(False)


@pytest.fixture
def lines(untouched_logging: None, log_format: LogFormat) -> Lines:
    stream = io.StringIO()
    configure_logging(
        log_format, secrets=[KNOWN, "short"], context={"worker": "pod-1", "queue": "q"}, stream=stream
    )
    return lambda: stream.getvalue().splitlines()


log = logging.getLogger("tests.log")


class ParserError(Exception):
    """A library's error, which quotes what it was given."""


def raise_own_with_foreign_cause() -> None:
    try:
        raise ParserError("a lake with boats")
    except ParserError as error:
        raise ServiceUnavailable(f"the storage failed with {PLANTED['a JWT']}") from error


def everything(found: list[str]) -> str:
    """The lines, and what their JSON says after it was read."""
    text = "\n".join(found)
    return text + "".join(str(json.loads(line)) for line in found if line.startswith("{"))


@pytest.mark.parametrize("what", PLANTED)
def test_secrets_are_taken_out_of_messages_and_extras(lines: Lines, what: str) -> None:
    log.warning(
        "message: %s", PLANTED[what], extra={"detail": PLANTED[what], "nested": {"a": [PLANTED[what]]}}
    )
    (line,) = lines()
    found = everything([line])
    assert "planted" not in found
    assert JWT not in found
    assert "message: " in found


def test_secrets_are_taken_out_of_tracebacks(lines: Lines) -> None:
    try:
        raise_own_with_foreign_cause()
    except ServiceUnavailable:
        log.exception("upload failed")
    found = everything(lines())
    assert "the storage failed" in found
    assert JWT not in found


def test_foreign_exceptions_are_named_but_not_quoted(lines: Lines) -> None:
    try:
        raise_own_with_foreign_cause()
    except ServiceUnavailable:
        log.exception("upload failed")
    found = everything(lines())
    assert "ParserError" in found
    assert "raise_own_with_foreign_cause" in found
    assert "lake" not in found


def test_source_lines_do_not_stand_in_tracebacks(lines: Lines) -> None:
    try:
        raise ParserError("x") if "a cat on a boat" else None  # type: ignore[misc]
    except ParserError:
        log.exception("it failed")
    assert "cat on a boat" not in everything(lines())


def test_unhandled_errors_of_threads_are_logged_without_their_message(lines: Lines) -> None:
    def fail() -> None:
        raise ParserError("a lake with boats")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    found = everything(lines())
    assert "unhandled error" in found
    assert "ParserError" in found
    assert "lake" not in found


@pytest.mark.parametrize("name", ["httpx", "httpcore.http11", "urllib3.connectionpool", "redis", "PIL.Image"])
def test_libraries_that_write_whole_addresses_are_silent_at_info(lines: Lines, name: str) -> None:
    logging.getLogger(name).info('HTTP Request: POST https://host/x?token=planted "HTTP/1.1 200 OK"')
    logging.getLogger(name).warning("retrying https://host/x?token=planted")
    assert lines() == []


def test_warnings_of_libraries_are_log_lines(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("an old option", stacklevel=1)
    assert "an old option" in everything(lines())


def test_one_event_is_one_line_whatever_it_holds(lines: Lines) -> None:
    forged = "x\n12:00:00 error   forged\r\x1b[2J\u2028\x85 end"
    log.warning("message %s", forged, extra={"detail": forged})
    (line,) = lines()
    assert "\x1b" not in line
    assert line.isascii()


def test_a_traceback_cannot_be_taken_for_another_event(lines: Lines) -> None:
    try:
        raise ServiceUnavailable("x\n12:00:00 error   forged")
    except ServiceUnavailable:
        log.exception("it failed")
    first, *rest = lines()
    assert "it failed" in first
    assert all(line.startswith("    ") for line in rest)


def test_lines_carry_the_job_in_hand(lines: Lines) -> None:
    token = current_job.set("job-7")
    try:
        log.info("generated")
    finally:
        current_job.reset(token)
    log.info("idle")
    first, second = lines()
    assert "job-7" in first
    assert "job" not in second


@pytest.mark.parametrize("log_format", ["json"], indirect=True)
def test_json_lines_tell_time_level_worker_and_queue(lines: Lines) -> None:
    log.error("it failed", extra={"seconds": 1.5, "path": threading})
    line: dict[str, Any] = json.loads(lines()[0])
    assert line["level"] == "error"
    assert line["message"] == "it failed"
    assert line["time"].endswith("+00:00")
    assert (line["worker"], line["queue"], line["seconds"]) == ("pod-1", "q", 1.5)


@pytest.mark.parametrize("log_format", ["json"], indirect=True)
def test_a_redacted_json_line_is_still_json(lines: Lines) -> None:
    log.warning('refused "Bearer planted" and "?token=planted"', extra={"q": '"Bearer planted"'})
    assert json.loads(lines()[0])["message"] == 'refused "Bearer <token>" and "?token=<redacted>"'


def test_ordinary_text_is_left_as_it_is() -> None:
    text = "job 4f2a: 25 steps in 3.2 s; https://p.supabase.co/storage/v1/bucket?x=1 mail me@host"
    assert Redactor(["planted"])(text) == text


@given(st.text(min_size=6))
def test_a_known_secret_stands_in_no_line_however_it_is_written(secret: str) -> None:
    assume(secret not in "refused: <redacted>.")
    record = logging.makeLogRecord({"msg": f"refused: {secret}.", "levelname": "INFO", "detail": [secret]})
    line = json.loads(JsonFormatter(Redactor([secret]), {}).format(record))
    assert (line["message"], line["detail"]) == ("refused: <redacted>.", ["<redacted>"])
