"""The health port: whether the process turns, whether it takes jobs, and what it is doing.

It tells no setting and nothing of a job but its id and step, so that whoever reaches it learns no secret.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal

from shared.errors import SettingsError
from workers.progress import Snapshot

if TYPE_CHECKING:
    from workers.build import Built

log = logging.getLogger(__name__)

LIVE_WITHIN_S: Final = 180.0
"""The keeper turns once a second; one turn waits for a Redis that does not answer, which with the client's
own retries takes less than half of this."""
REQUEST_LIMIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class HealthState:
    """`not_ready` holds the reasons why no job is taken. `last_success` is Unix time in seconds."""

    state: Literal["loading", "idle", "generating", "stopping"]
    live: bool
    not_ready: tuple[str, ...]
    queue: str
    worker_id: str | None = None
    job: Snapshot | None = None
    last_success: float | None = None
    callbacks_waiting: int = 0
    engine: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        last = self.last_success
        return {
            "state": self.state,
            "live": self.live,
            "ready": not self.not_ready,
            "reasons": list(self.not_ready),
            "queue": self.queue,
            "worker_id": self.worker_id,
            "job": asdict(self.job) if self.job else None,
            "last_success": None if last is None else datetime.fromtimestamp(last, UTC).isoformat(),
            "callbacks_waiting": self.callbacks_waiting,
            "engine": self.engine,
        }


class Health:
    """What is known of this process: first only its queue, then the worker itself."""

    def __init__(self, queue: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue = queue
        self._clock = clock
        self.built: Built | None = None

    def state(self) -> HealthState:
        built = self.built
        if built is None or not built.queue.worker:
            return HealthState("loading", True, ("loading: the worker is not set up yet",), self._queue)
        keeper, running = built.worker.keeper, built.progress.snapshot()
        stopping = built.worker.stopping.is_set()
        live = self._clock() - keeper.turned_at < LIVE_WITHIN_S
        reasons = {
            "the process does not turn": not live,
            "Redis cannot be reached": not keeper.redis_reachable,
            "a service is misconfigured, see the log": built.pipeline.standing.misconfigured,
            "stopping": stopping,
        }
        return HealthState(
            state="stopping" if stopping else "generating" if running else "idle",
            live=live,
            not_ready=tuple(reason for reason, holds in reasons.items() if holds),
            queue=self._queue,
            worker_id=built.queue.worker,
            job=running,
            last_success=built.pipeline.standing.last_success,
            callbacks_waiting=keeper.callbacks_waiting,
            engine=built.info.measures(),
        )


class HealthServer:
    """Answers `/live`, `/ready` and `/` from a thread of its own until it is closed; port 0 takes a free one.

    Raises `SettingsError` where the address cannot be listened on.
    """

    def __init__(self, host: str, port: int, state: Callable[[], HealthState]) -> None:
        try:
            self._server = _Server((host, port), _handler(state))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise SettingsError(
                [f"HEALTH_PORT: {host}:{port} cannot be listened on ({why}); set another, or leave it out."]
            ) from error
        # The poll interval in seconds bounds how long `close` takes.
        self._thread = threading.Thread(
            target=lambda: self._server.serve_forever(0.1), name="health", daemon=True
        )
        self._thread.start()
        log.info("health port is open", extra={"health_port": self.port})

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> HealthServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    # A probe that keeps its connection open must not hold up `close`.
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Logged instead of printed; a probe that went away is its own affair."""
        if not isinstance(sys.exc_info()[1], OSError):
            log.error("a health request failed", exc_info=True)


def _handler(state: Callable[[], HealthState]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_LIMIT_S
        server_version = "worker"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            now = state()
            if path == "/live":
                self._answer(200 if now.live else 503, {"live": now.live})
            elif path == "/ready":
                reasons = list(now.not_ready)
                self._answer(503 if reasons else 200, {"ready": not reasons, "reasons": reasons})
            elif path == "/":
                self._answer(200, now.as_json())
            else:
                self._answer(404, {"error": "there are /live, /ready and /"})

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Probes come every few seconds and are no events."""

    return Handler
