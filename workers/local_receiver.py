"""A callback receiver on this machine, for demonstrations and tests.

It keeps the rule that every receiver should: a callback is dropped when its webhook-id came before, and so is
whatever comes after a job's terminal status.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final

from pydantic import SecretStr

from shared.webhook import verify_signature

TERMINAL: Final = frozenset({"completed", "failed"})
MAX_BODY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Received:
    """One delivery as it came in. Header names are lower case; the text of `document` is the callback's."""

    webhook_id: str
    job_id: str
    status: str
    headers: Mapping[str, str]
    body: bytes
    document: Mapping[str, Any]
    repeated: bool
    """Whether the rule dropped it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How to answer one request.

    `delay` is a pause in seconds before the answer, which closing the receiver ends. `close` cuts the
    connection instead of answering. `keep` decides whether the delivery counts; unless stated it does where
    the answer is a 2xx. A delivery that is kept and then cut off is an answer that was lost.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"success":true}'
    delay: float = 0.0
    close: bool = False
    keep: bool | None = None

    @property
    def keeps(self) -> bool:
        return 200 <= self.status < 300 and not self.close if self.keep is None else self.keep


Answers = Callable[[Received], Answer]


class LocalReceiver:
    """Listens on 127.0.0.1 from its construction until `close`; port 0 takes any free one.

    With a `secret` an unsigned or wrongly signed delivery is answered 401 and only kept in `rejected`.
    `clock` tells the Unix time in seconds that signatures are compared with.
    """

    def __init__(
        self,
        *,
        secret: SecretStr | None = None,
        answers: Answers | None = None,
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._secret = secret
        self._answers = answers
        self._clock = clock
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._received: list[Received] = []
        self._rejected: list[tuple[int, bytes]] = []
        self._accepted: dict[str, list[Received]] = defaultdict(list)
        self._seen: set[str] = set()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self._thread = threading.Thread(
            # The poll interval in seconds bounds how long `close` takes.
            target=lambda: self._server.serve_forever(0.05),
            name="callback-receiver",
            daemon=True,
        )
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/functions/v1/job-callback"

    @property
    def received(self) -> tuple[Received, ...]:
        """Every well-formed delivery in the order of arrival, repeats and unkept ones too."""
        with self._changed:
            return tuple(self._received)

    @property
    def rejected(self) -> tuple[tuple[int, bytes], ...]:
        """Status and body of each request that was no callback or wrongly signed."""
        with self._changed:
            return tuple(self._rejected)

    @property
    def accepted(self) -> dict[str, tuple[Received, ...]]:
        """By job: what is left after the rule."""
        with self._changed:
            return {job_id: tuple(callbacks) for job_id, callbacks in self._accepted.items()}

    def wait_for(self, job_id: str, status: str | Collection[str], timeout: float) -> Received:
        """The accepted callback of a job with this status (or one of them), as soon as it is there.

        Raises TimeoutError after `timeout` seconds, naming what came instead.
        """
        wanted = {status} if isinstance(status, str) else set(status)

        def found() -> Received | None:
            return next((c for c in self._accepted.get(job_id, ()) if c.status in wanted), None)

        with self._changed:
            callback = self._changed.wait_for(found, timeout)
            if callback is None:
                seen = [c.status for c in self._accepted.get(job_id, ())]
                raise TimeoutError(
                    f"job {job_id} got no callback {' or '.join(sorted(wanted))} in {timeout} s, but {seen}"
                )
            return callback

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> LocalReceiver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _answer(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Take one request in and decide its answer."""
        if self._secret is not None and not verify_signature(self._secret, headers, body, self._clock()):
            return self._reject(401, body, "the signature is missing or wrong")
        callback = _parsed(headers, body)
        if callback is None:
            return self._reject(
                400, body, "a callback is a JSON object with job_id and status and a webhook-id"
            )
        answer = self._answers(callback) if self._answers else Answer()
        with self._changed:
            repeated = callback.webhook_id in self._seen or any(
                earlier.status in TERMINAL for earlier in self._accepted.get(callback.job_id, ())
            )
            callback = replace(callback, repeated=repeated)
            self._received.append(callback)
            if answer.keeps:
                self._seen.add(callback.webhook_id)
                if not repeated:
                    self._accepted[callback.job_id].append(callback)
            self._changed.notify_all()
        if answer.delay:
            self._closing.wait(answer.delay)
        return answer

    def _reject(self, status: int, body: bytes, reason: str) -> Answer:
        with self._changed:
            self._rejected.append((status, body))
            self._changed.notify_all()
        return Answer(status, body=json.dumps({"error": reason, "retry": False}).encode())


def _parsed(headers: Mapping[str, str], body: bytes) -> Received | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    job_id, status, webhook_id = document.get("job_id"), document.get("status"), headers.get("webhook-id")
    if not (isinstance(job_id, str) and isinstance(status, str) and webhook_id):
        return None
    return Received(webhook_id, job_id, status, headers, body, document, repeated=False)


class _Server(ThreadingHTTPServer):
    # A connection that a sender keeps open must not hold up `close`.
    daemon_threads = True
    # Many senders may connect at the same moment.
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that went away is a matter of its own; any other error is printed as usual."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _handler(receiver: LocalReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Seconds after which a silent connection is given up.
        timeout = 60.0

        def do_POST(self) -> None:  # the name is http.server's
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
                self.close_connection = True
                self._send(Answer(413, body=b""))
                return
            body = self.rfile.read(int(length))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = receiver._answer(headers, body)
            if answer.close:
                self.close_connection = True
            else:
                self._send(answer)

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing is logged: a demonstration prints what it has to say itself."""

    return Handler
