"""Fetching a reference without letting whoever wrote its URL reach anything else.

The rules on URLs stand in `links`, those on addresses in `addresses` and `network`; this module adds what
HTTP brings: redirects, sizes, encodings, retries, and links of our own storage that have expired.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpcore

from shared.errors import ReferenceRefused, ReferenceUnavailable
from workers.inputs.addresses import is_loopback, is_public
from workers.inputs.links import StorageLink, parse_link, parse_redirect
from workers.inputs.network import Deadline, DeadlineBackend, PinnedBackend, Resolver, SystemResolver
from workers.inputs.policy import FetchPolicy

__all__ = ["FetchPolicy", "ReferenceFetcher"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429})
# Supabase Storage says 400 for a link whose token has expired, as for every fault of a client.
_DENIED = frozenset({400, 401, 403})

_CONNECTION_FAULTS = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)


class _PassingFault(Exception):
    """A fault that another try may not meet. Its text is fit for a customer."""


@dataclass(frozen=True)
class _Answer:
    status: int
    location: str | None
    body: bytes


class ReferenceFetcher:
    """Fetches references within a policy. Safe to use from several threads.

    `sign(bucket, path)` makes a signed URL of our own storage; it is called for objects of the job's own user
    only, because it acts with the service's key. Without it such links are refused.
    """

    def __init__(
        self,
        policy: FetchPolicy,
        resolver: Resolver | None = None,
        sign: Callable[[str, str], str] | None = None,
        *,
        network: httpcore.NetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._policy = policy
        self._resolver = resolver or SystemResolver()
        self._sign = sign
        self._network = network or httpcore.SyncBackend()
        self._ssl_context = ssl_context or httpcore.default_ssl_context()
        self._clock = clock
        self._pause = pause

    def fetch(self, url: str, *, owner: str, timeout_s: float | None = None) -> bytes:
        """The bytes of the reference at `url`, for a job of the user `owner`.

        `timeout_s` shortens the policy's total time in seconds. Raises ReferenceRefused where a rule forbids
        the fetch, and ReferenceUnavailable where it was allowed but brought nothing.
        """
        link = parse_link(url, self._policy)
        total = self._policy.total_timeout_s
        deadline = Deadline(total if timeout_s is None else min(timeout_s, total), self._clock)
        for pause_s in (*self._policy.retry_pauses_s, None):
            try:
                return self._follow(link, owner, deadline)
            except _PassingFault as fault:
                if pause_s is None or pause_s >= deadline.remaining():
                    raise ReferenceUnavailable(str(fault)) from None
                self._pause(pause_s)
        raise AssertionError("the last try either returns or raises")

    def _follow(self, link: StorageLink, owner: str, deadline: Deadline) -> bytes:
        """One try: from the link to the picture's bytes, over redirects."""
        signed_afresh = link.access == "authenticated"
        if signed_afresh:
            link = self._signed(link, owner)
        redirects = 0
        while True:
            answer = self._get(link, deadline)
            if answer.status == 200:
                return answer.body
            if answer.status in _REDIRECTS:
                redirects += 1
                if redirects > self._policy.max_redirects or answer.location is None:
                    raise ReferenceRefused("The reference's link redirects too often or to nowhere.")
                link = parse_redirect(link, answer.location, self._policy)
            elif answer.status in _DENIED and not signed_afresh and self._may_sign(link, owner):
                signed_afresh = True
                link = self._signed(link, owner)
            else:
                raise ReferenceUnavailable(
                    f"The reference could not be fetched: the storage answered with status {answer.status}."
                )

    def _may_sign(self, link: StorageLink, owner: str) -> bool:
        return (
            self._sign is not None
            and link.access != "public"
            and link.authority == self._policy.storage_host
            and link.belongs_to(owner)
        )

    def _signed(self, link: StorageLink, owner: str) -> StorageLink:
        if self._sign is None or not self._may_sign(link, owner):
            raise ReferenceRefused(
                "The reference's link needs access rights that this job does not have; send a signed link."
            )
        return parse_link(self._sign(link.bucket, link.path), self._policy)

    def _get(self, link: StorageLink, deadline: Deadline) -> _Answer:
        """One request. Every error of httpcore is translated here and nowhere else."""
        bounded = DeadlineBackend(self._network, deadline)
        accepts = is_public if link.scheme == "https" else is_loopback
        # A pool for one request: no connection outlives the check that it was opened under.
        pool = httpcore.ConnectionPool(
            ssl_context=self._ssl_context,
            network_backend=PinnedBackend(self._resolver, accepts, bounded, deadline),
            max_connections=1,
            max_keepalive_connections=0,
        )
        try:
            with (
                pool,
                pool.stream(
                    "GET",
                    httpcore.URL(
                        scheme=link.scheme.encode("ascii"),
                        host=link.host.encode("ascii"),
                        port=link.port,
                        target=link.target,
                    ),
                    headers=_headers(link),
                    extensions={"timeout": self._timeouts()},
                ) as response,
            ):
                return self._read(response)
        except httpcore.TimeoutException:
            raise _PassingFault("The reference could not be fetched in time.") from None
        except _CONNECTION_FAULTS:
            raise _PassingFault("The reference could not be fetched: the connection failed.") from None

    def _read(self, response: httpcore.Response) -> _Answer:
        headers = {name.lower(): value for name, value in response.headers}
        if response.status in _PASSING or response.status >= 500:
            raise _PassingFault(
                f"The reference could not be fetched: the storage answered with status {response.status}."
            )
        if response.status != 200:
            location = headers.get(b"location")
            return _Answer(response.status, location.decode("latin-1") if location is not None else None, b"")
        # Nothing is ever unpacked, so a small answer cannot become a large one.
        if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            raise ReferenceRefused("The reference was sent compressed, which was not asked for.")
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._policy.max_bytes:
            raise self._too_large()
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > self._policy.max_bytes:
                raise self._too_large()
        if not body:
            raise ReferenceUnavailable("The reference is an empty file.")
        return _Answer(200, None, bytes(body))

    def _too_large(self) -> ReferenceRefused:
        return ReferenceRefused(f"The reference is larger than {self._policy.max_bytes} bytes.")

    def _timeouts(self) -> dict[str, float]:
        read = self._policy.read_timeout_s
        return {"connect": self._policy.connect_timeout_s, "read": read, "write": read, "pool": read}


def _headers(link: StorageLink) -> list[tuple[bytes, bytes]]:
    """No cookie, no authorization: the link is all that a reference's host gets to see."""
    return [
        (b"Host", link.authority.encode("ascii")),
        (b"Accept", b"image/png, image/jpeg, image/webp"),
        (b"Accept-Encoding", b"identity"),
        (b"Connection", b"close"),
        (b"User-Agent", b"gpu-generation-workers"),
    ]
