"""Network backends for httpcore: the address that was checked is the one connected to, and time is bounded.

httpcore opens sockets through a `NetworkBackend`, and nothing above it looks at a name again: TLS is started
for the host name on the stream that the backend returns. So a check here cannot be got round by a redirect, a
retry or a second answer of the name server. httpcore reads no proxy settings, keeps no cookies and follows
nothing.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import httpcore

from shared.errors import ReferenceRefused
from workers.inputs.addresses import Address, parse_address

# More addresses than any real host announces only stretch the time until the failure is reported.
_MAX_ADDRESSES_TRIED = 4
_WRITE_PIECE_BYTES = 64 * 1024


class Resolver(Protocol):
    """A name service."""

    def resolve(self, host: str, port: int, timeout_s: float) -> Sequence[str]:
        """The addresses of `host`, as text. Raises OSError where `timeout_s` seconds bring no answer."""
        ...


class SystemResolver:
    """The operating system's name service (getaddrinfo)."""

    def resolve(self, host: str, port: int, timeout_s: float) -> Sequence[str]:
        # getaddrinfo cannot be interrupted, so it runs in a thread that is abandoned when it takes too long.
        answers: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

        def look_up() -> None:
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                answers.put(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
            except OSError as error:
                answers.put(error)
            except UnicodeError:
                answers.put(socket.gaierror("not a host name"))

        threading.Thread(target=look_up, name="resolve", daemon=True).start()
        try:
            answer = answers.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            raise TimeoutError("the name service did not answer in time") from None
        if isinstance(answer, OSError):
            raise answer
        return answer


class Deadline:
    """A point in time that a whole exchange has to end by. Seconds of `clock`."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def remaining(self) -> float:
        """Seconds left, negative when it has passed."""
        return self._end - self._clock()

    def cap(self, timeout: float | None) -> float:
        """`timeout` cut to what is left. Raises httpcore.ReadTimeout when nothing is."""
        remaining = self.remaining()
        if remaining <= 0:
            raise httpcore.ReadTimeout("the time for the whole exchange is over")
        return remaining if timeout is None else min(timeout, remaining)


class DeadlineBackend(httpcore.NetworkBackend):
    """Bounds the sum of all waits. httpcore's own timeouts bound each wait only, which a slow drip never
    meets."""

    def __init__(self, inner: httpcore.NetworkBackend, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        capped = self._deadline.cap(timeout)
        stream = self._inner.connect_tcp(host, port, capped, local_address, socket_options)
        return _DeadlineStream(stream, self._deadline)


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.cap(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_PIECE_BYTES):
            self._inner.write(buffer[start : start + _WRITE_PIECE_BYTES], self._deadline.cap(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._inner.start_tls(ssl_context, server_hostname, self._deadline.cap(timeout))
        return _DeadlineStream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class PinnedBackend(httpcore.NetworkBackend):
    """Resolves a host once, refuses it unless every answer is accepted, and connects to an answer, not to a
    name.

    One bad answer among good ones refuses the host: an honest host has none, and picking the good ones would
    let whoever controls the name probe the rule.
    """

    def __init__(
        self,
        resolver: Resolver,
        accepts: Callable[[Address], bool],
        inner: httpcore.NetworkBackend,
        deadline: Deadline,
    ) -> None:
        self._resolver = resolver
        self._accepts = accepts
        self._inner = inner
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Raises ReferenceRefused for an address that is not accepted, httpcore's errors for the rest."""
        failure: Exception = httpcore.ConnectError("the host has no address")
        for address in self._checked_addresses(host, port, timeout)[:_MAX_ADDRESSES_TRIED]:
            try:
                return self._inner.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def _checked_addresses(self, host: str, port: int, timeout: float | None) -> list[Address]:
        try:
            answers = self._resolver.resolve(host.strip("[]"), port, self._deadline.cap(timeout))
        except OSError:
            raise httpcore.ConnectError("the host's name could not be resolved") from None
        addresses = []
        for answer in answers:
            address = parse_address(answer)
            if address is None or not self._accepts(address):
                raise ReferenceRefused("The reference's host is at a network address that is not accepted.")
            addresses.append(address)
        return addresses
