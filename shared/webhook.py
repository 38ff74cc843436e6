"""Sending one callback body, and checking the signature of one that was received.

Everything that must not stand in a queue is made here at sending time from the sender's own settings: the
address, the credentials and the signatures.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from shared.errors import SettingsError
from shared.storage import (
    is_header_value,
    is_loopback,
    retry_after_seconds,
    supabase_headers,
    without_secrets,
)

if TYPE_CHECKING:
    import httpx

Outcome = Literal["accepted", "retry", "refused"]

DAY_S: Final = 24 * 3600.0
LONGEST_SERVICE_PAUSE_S: Final = 5.0
ANSWER_LIMIT_S: Final = 5.0
HOUR_S: Final = 3600.0
MAX_BACKOFF_S: Final = 300.0
MAX_ANSWER_BYTES: Final = 64 * 1024
"""Of an answer no more is read than this: all that is looked for is one field."""

SIGNATURE_TOLERANCE_S: Final = 300.0
"""The age in seconds at which the Standard Webhooks libraries refuse a signature."""

_WAITING: Final = frozenset({408, 425, 429})
_CREDENTIALS: Final = frozenset({401, 403})
_DOUBTFUL: Final = frozenset({400, 404, 422})
_WHSEC: Final = "whsec_"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one attempt. `detail` may be logged: it quotes no address, no body and no secret.

    `retry_within`: seconds since the callback's first attempt in which it may be tried again, 0 where it must
    not be. `retry_after`: the pause in seconds that the receiver asked for. `status`: the HTTP status, None
    where there was no answer. `loud`: a person has to mend the credentials.
    """

    outcome: Outcome
    retry_within: float
    retry_after: float | None
    status: int | None
    loud: bool
    detail: str


@dataclass(frozen=True, slots=True)
class CallbackTarget:
    """Where callbacks go and how the sender shows who it is.

    `own_host`: the address is Supabase's own, see `same_origin`. Only there the service key is shown; any
    other receiver gets `token` as its bearer. The address is kept out of the representation, because it may
    hold a password.
    """

    url: str = field(repr=False)
    own_host: bool
    service_key: SecretStr | None = None
    token: SecretStr | None = None

    def __post_init__(self) -> None:
        problems = []
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            problems.append("CALLBACK_URL: set an address that begins with https:// and names a host")
        for name, secret in (("SUPABASE_SERVICE_KEY", self.service_key), ("CALLBACK_TOKEN", self.token)):
            if secret is not None and not is_header_value(secret.get_secret_value()):
                problems.append(f"{name}: set one line without spaces or quotes")
        if problems:
            raise SettingsError(problems)

    def headers(self) -> dict[str, str]:
        if self.own_host and self.service_key is not None:
            return supabase_headers(self.service_key)
        if self.token is not None:
            return {"Authorization": f"Bearer {self.token.get_secret_value()}"}
        return {}


class WebhookSender:
    """Posts callback bodies. Safe for threads: they share one pool of connections.

    Redirects are not followed, because credentials and body must go to no host but the one that is set.
    Proxies and certificate authorities of the environment (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE) are used, as
    some pods reach the outside only through them; a receiver on this machine is always reached directly.
    """

    def __init__(
        self,
        url: str,
        *,
        own_host: bool,
        service_key: SecretStr | None = None,
        token: SecretStr | None = None,
        secret: SecretStr | None = None,
        timeout: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`timeout` in seconds bounds each wait for the network; `clock` tells the Unix time in seconds.

        Raises `SettingsError` naming each setting that cannot be used.
        """
        import httpx

        self._target = CallbackTarget(url, own_host, service_key, token)
        self._secret = secret
        self._clock = clock
        if secret is not None:
            _standard_key(secret)
        self._http: httpx.Client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            limits=httpx.Limits(max_connections=8, keepalive_expiry=30.0),
            trust_env=not is_loopback(url),
            follow_redirects=False,
        )

    def close(self) -> None:
        self._http.close()

    def send(self, body: bytes, webhook_id: str) -> Delivery:
        """Post `body` once. Faults of the network and of the receiver are results, not exceptions.

        Raises ValueError for an id that cannot stand in a header; `webhook_id()` makes one that can.
        """
        import httpx

        if not is_header_value(webhook_id):
            raise ValueError("a webhook-id must be printable ASCII without spaces")
        try:
            with self._http.stream(
                "POST", self._target.url, content=body, headers=self._headers(body, webhook_id)
            ) as response:
                return self._judged(response)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict) as error:
            reason = without_secrets(str(error)).replace(self._target.url, "the address")
            return Delivery("retry", DAY_S, None, None, False, f"{type(error).__name__}: {reason}")

    def _headers(self, body: bytes, webhook_id: str) -> dict[str, str]:
        return {
            "Content-Type": "application/json",
            # An answer is cut after some bytes, so that it must not come compressed.
            "Accept-Encoding": "identity",
            **self._target.headers(),
            **signature_headers(self._secret, webhook_id, self._clock(), body),
        }

    def _judged(self, response: httpx.Response) -> Delivery:
        status = response.status_code
        answer = _beginning(response)
        if 200 <= status < 300:
            return Delivery("accepted", 0.0, None, status, False, f"{status}")
        retry_within, loud, detail = _rule(status, answer)
        if not retry_within:
            return Delivery("refused", 0.0, None, status, loud, detail)
        pause = retry_after_seconds(response.headers.get("Retry-After"), self._clock())
        return Delivery("retry", retry_within, pause, status, loud, detail)


def _rule(status: int, answer: bytes) -> tuple[float, bool, str]:
    """For a status that is no success: seconds in which to retry (0: never), whether loudly, and why."""
    if status in _CREDENTIALS:
        return (
            DAY_S,
            True,
            f"{status}: the receiver refuses the credentials; check SUPABASE_SERVICE_KEY, CALLBACK_TOKEN and"
            " JOB_CALLBACK_SECRET; with a key that begins with sb_, deploy the function with verify_jwt off",
        )
    if status in _WAITING or status >= 500:
        return DAY_S, False, f"{status}: the receiver cannot take it now"
    if status in _DOUBTFUL:
        if _says_no_retry(answer):
            return 0.0, False, f"{status}: the receiver refuses it and asks for no retry"
        return HOUR_S, False, f"{status}: the receiver refuses it, which may be a fault of its own"
    if 300 <= status < 400:
        return (
            0.0,
            False,
            f"{status}: the receiver redirects, which is not followed; set CALLBACK_URL to its end",
        )
    return 0.0, False, f"{status}: the receiver refuses it"


def _says_no_retry(answer: bytes) -> bool:
    try:
        document: Any = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("retry") is False


def _beginning(response: httpx.Response) -> bytes:
    """The first bytes of an answer. An answer that breaks off later has still given its status."""
    import httpx

    answer = bytearray()
    deadline = time.monotonic() + ANSWER_LIMIT_S
    try:
        for chunk in response.iter_raw():
            answer += chunk
            # A receiver that drips its answer holds nobody up: the status is known.
            if len(answer) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                break
    except httpx.TransportError:
        return b""
    return bytes(answer)


def same_origin(url: str, other: str) -> bool:
    """Whether two addresses have scheme, host and port in common, so that they may see the same key."""
    return _origin(url) == _origin(other)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def webhook_id(job_id: str, status: str, sequence: int = 0) -> str:
    """The id of a callback: always the same for the same job, status and sequence, and fit for a header."""
    identity = json.dumps([job_id, status, sequence]).encode()
    return f"msg_{hashlib.sha256(identity).hexdigest()[:32]}"


def backoff_seconds(attempt: int, random_number: Callable[[], float]) -> float:
    """The pause after failed attempt number `attempt` (from 1): exponential, with full jitter.

    `random_number` gives numbers in 0…1. The bound doubles from one second up to `MAX_BACKOFF_S`; why the
    whole span is random: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """
    if attempt < 1:
        raise ValueError(f"attempts are counted from 1, not {attempt}")
    doublings = min(attempt - 1, 16)
    return random_number() * min(MAX_BACKOFF_S, 2.0**doublings)


def service_pause_s(attempt: int) -> float:
    """The pause in seconds after failed attempt number `attempt` (from 1) of a service the worker needs.

    Redis and the storage are asked again soon, because finished jobs wait for them.
    """
    return min(LONGEST_SERVICE_PAUSE_S, backoff_seconds(attempt, random.random))


def signature_headers(
    secret: SecretStr | None, webhook_id: str, timestamp: float, body: bytes
) -> dict[str, str]:
    """`webhook-id`, and with a secret the signatures over exactly these bytes.

    `X-Callback-Signature` is keyed with the secret as it is written in the settings. `webhook-signature`
    follows the Standard Webhooks specification (https://www.standardwebhooks.com): a secret `whsec_<base64>`
    stands for the decoded bytes; any other is taken as it is written.
    """
    if secret is None:
        return {"webhook-id": webhook_id}
    seconds = str(int(timestamp))
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": seconds,
        "webhook-signature": _standard_signature(secret, webhook_id, seconds, body),
        "X-Callback-Signature": _callback_signature(secret, body),
    }


def verify_signature(
    secret: SecretStr,
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    tolerance_s: float = SIGNATURE_TOLERANCE_S,
) -> bool:
    """Whether a request was signed with `secret` at most `tolerance_s` seconds before or after `now`.

    The Standard Webhooks signature is required, since it alone covers id and time; where
    `X-Callback-Signature` is there, it must be right too.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    identity, seconds = lowered.get("webhook-id", ""), lowered.get("webhook-timestamp", "")
    if not identity or not (seconds.isascii() and seconds.isdecimal() and len(seconds) <= 12):
        return False
    if abs(now - int(seconds)) > tolerance_s:
        return False
    simple = lowered.get("x-callback-signature")
    if simple is not None and not _same(simple, _callback_signature(secret, body)):
        return False
    expected = _standard_signature(secret, identity, seconds, body)
    return any(_same(given, expected) for given in lowered.get("webhook-signature", "").split())


def _callback_signature(secret: SecretStr, body: bytes) -> str:
    return f"sha256={hmac.new(secret.get_secret_value().encode(), body, hashlib.sha256).hexdigest()}"


def _standard_signature(secret: SecretStr, webhook_id: str, seconds: str, body: bytes) -> str:
    signed = b".".join((webhook_id.encode(), seconds.encode(), body))
    digest = hmac.new(_standard_key(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _standard_key(secret: SecretStr) -> bytes:
    """The bytes of a Standard Webhooks secret. Raises `SettingsError`."""
    value = secret.get_secret_value()
    if not value:
        raise SettingsError(["JOB_CALLBACK_SECRET: it is empty; set a long random text, or leave it out"])
    if not value.startswith(_WHSEC):
        return value.encode()
    encoded = value.removeprefix(_WHSEC)
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        key = b""
    if not key:
        raise SettingsError(
            ["JOB_CALLBACK_SECRET: what follows whsec_ must be base64, as in a generated secret"]
        )
    return key


def _same(given: str, expected: str) -> bool:
    """Compare in constant time, so that a signature cannot be found byte by byte."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
