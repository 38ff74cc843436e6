"""Durable callbacks: terminal callbacks wait in Redis until their receiver took them.

`WorkQueue.finish` puts a callback in; any live worker's `Outbox.deliver_next` takes it out. An entry holds
the body and the job alone: address, headers, signatures and signed links are made when it is sent, from the
sender's own settings, so that whoever can write to Redis cannot send a key anywhere.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shared.errors import ServiceMisconfigured, ServiceRefused, ServiceUnavailable
from shared.queue import Keys, Scripts
from shared.webhook import DAY_S, Delivery, backoff_seconds, webhook_id

log = logging.getLogger(__name__)


class Sender(Protocol):
    def send(self, body: bytes, webhook_id: str) -> Delivery: ...


@dataclass(frozen=True, slots=True)
class OutboxSettings:
    """Times in seconds. `claim_s` has to be longer than the sender's own time limit."""

    claim_s: float = 120.0
    dead_count: int = 10_000
    dead_ttl_s: float = 30 * 24 * 3600.0


class Outbox:
    """The sending side. Thread-safe."""

    def __init__(
        self,
        scripts: Scripts,
        keys: Keys,
        sender: Sender,
        *,
        render: Callable[[bytes], bytes] = bytes,
        settings: OutboxSettings = OutboxSettings(),
        random_number: Callable[[], float] = random.random,
    ) -> None:
        self._scripts = scripts
        self._keys = keys
        self._sender = sender
        self._render = render
        self._settings = settings
        self._random = random_number

    def deliver_next(self, before: Callable[[str], None] = lambda _job_id: None) -> float | None:
        """Send the callback that is due longest; `before` is called with its job id first.

        Returns the seconds until the next one is due: 0.0 right after one was sent, None where none waits.
        """
        k = self._keys
        claimed = self._scripts.run(
            "outbox_claim",
            [k.outbox, k.outbox_bodies, k.outbox_state],
            [round(self._settings.claim_s * 1000)],
        )
        if not claimed:
            return None
        if len(claimed) == 1:
            return max(0.0, int(claimed[0]) / 1000)
        member, body, attempts, first_ms, patience_ms, now_ms = claimed
        age_s = (int(now_ms) - int(first_ms)) / 1000
        short_age_s = (int(now_ms) - int(patience_ms)) / 1000 if int(patience_ms) else 0.0
        self._send(member, body, int(attempts), age_s, short_age_s, before)
        return 0.0

    def _send(
        self,
        member: bytes,
        body: bytes,
        attempts: int,
        age_s: float,
        short_age_s: float,
        before: Callable[[str], None],
    ) -> None:
        job_id = member.decode()
        try:
            document = json.loads(body)
            job_id, status = document["job_id"], document["status"]
            before(job_id)
            delivery = self._sender.send(self._render(body), webhook_id(job_id, status))
        except (ServiceUnavailable, ServiceMisconfigured) as error:
            # The storage makes the links; while it cannot, the callback waits like for its own receiver.
            loud = isinstance(error, ServiceMisconfigured)
            delivery = Delivery("retry", DAY_S, None, None, loud, f"links cannot be made: {error}")
        except (ServiceRefused, ValueError, KeyError, TypeError) as error:
            delivery = Delivery(
                "refused", 0.0, None, None, False, f"cannot be rendered ({type(error).__name__})"
            )
        about = {"job_id": job_id, "http_status": delivery.status}
        short = delivery.retry_within < DAY_S
        if delivery.outcome == "accepted":
            log.info("callback delivered", extra=about)
            self._settle(member, body, "accepted")
        elif delivery.outcome == "retry" and (short_age_s if short else age_s) < delivery.retry_within:
            pause = max(backoff_seconds(attempts + 1, self._random), delivery.retry_after or 0.0)
            level = logging.ERROR if delivery.loud else logging.WARNING
            log.log(level, "callback not accepted (%s); again in %.1f s", delivery.detail, pause, extra=about)
            self._settle(member, body, "retry-shortly" if short else "retry", delay_s=pause)
        else:
            log.error(
                "callback given up (%s); it is in the callback dead letters", delivery.detail, extra=about
            )
            self._settle(member, body, "dead", reason=delivery.detail)

    def _settle(
        self, member: bytes, body: bytes, verdict: str, *, delay_s: float = 0.0, reason: str = ""
    ) -> None:
        k = self._keys
        self._scripts.run(
            "outbox_settle",
            [k.outbox, k.outbox_bodies, k.outbox_state, k.outbox_dead],
            [
                *(member, body, verdict, round(delay_s * 1000), reason),
                *(self._settings.dead_count, round(self._settings.dead_ttl_s * 1000)),
            ],
        )
