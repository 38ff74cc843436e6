"""Watching and scripting connections."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore

# An audit hook cannot be removed, so one stays installed and reports to whoever watches at the moment.
_watcher: Callable[[str, object], None] | None = None
_installed = False
_EVENTS = frozenset(
    {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"}
)


class ConnectionAttempted(BaseException):
    """Raised out of the interpreter's own socket calls; no handler of ordinary errors can hide it."""


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watcher is not None and event in _EVENTS:
        _watcher(event, arguments[0] if event.startswith("socket.get") else arguments[1])


@contextmanager
def no_connection_except(*allowed: tuple[str, int]) -> Iterator[list[object]]:
    """Every look-up and every connection other than to `allowed` raises. Yields the connections made."""
    global _watcher, _installed
    let_through: list[object] = []

    def watch(event: str, target: object) -> None:
        if event == "socket.connect" and target in allowed:
            let_through.append(target)
        # Connecting to an address passes it through getaddrinfo, which looks nothing up for it.
        elif event != "socket.getaddrinfo" or target not in [host for host, _ in allowed]:
            raise ConnectionAttempted(f"{event} {target}")

    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    _watcher = watch
    try:
        yield let_through
    finally:
        _watcher = None


class Detour(httpcore.NetworkBackend):
    """Stands in for the internet: whatever address is connected to, one loopback server answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._real = httpcore.SyncBackend()
        self.connected: list[tuple[str, int]] = []

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        self.connected.append((host, port))
        return self._real.connect_tcp("127.0.0.1", self._port, timeout)


class ScriptedNetwork(httpcore.NetworkBackend):
    """No network at all: each connection is answered with the next of `answers`; an exception is raised.

    `tick` is called before every read, which is how time passes on a slow wire.
    """

    def __init__(
        self, *answers: bytes | Exception, piece: int = 65_536, tick: Callable[[], None] | None = None
    ) -> None:
        self._answers = list(answers)
        self._piece = piece
        self._tick = tick
        self.connected: list[tuple[str, int]] = []
        self.requests: list[bytearray] = []
        self.timeouts: list[float] = []
        self.bytes_read = 0

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        assert timeout is not None
        assert timeout > 0
        self.timeouts.append(timeout)
        self.connected.append((host, port))
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.requests.append(bytearray())
        return _ScriptedStream(self, answer, self.requests[-1])

    def take(self, answer: bytes, max_bytes: int) -> bytes:
        if self._tick is not None:
            self._tick()
        taken = answer[: min(max_bytes, self._piece)]
        self.bytes_read += len(taken)
        return taken


class _ScriptedStream(httpcore.NetworkStream):
    def __init__(self, network: ScriptedNetwork, answer: bytes, request: bytearray) -> None:
        self._network = network
        self._answer = answer
        self._request = request

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        assert timeout is not None
        self._network.timeouts.append(timeout)
        taken = self._network.take(self._answer, max_bytes)
        self._answer = self._answer[len(taken) :]
        return taken

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        assert timeout is not None
        self._network.timeouts.append(timeout)
        self._request += buffer

    def close(self) -> None:
        self._answer = b""

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return self


def http_answer(
    body: bytes = b"", status: int = 200, headers: Iterable[tuple[str, str]] = (), length: int | None = None
) -> bytes:
    """The bytes of an HTTP answer; `length` is what it claims where that is not the truth."""
    claimed = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {claimed}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
