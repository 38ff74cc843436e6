"""A TCP proxy in front of Redis that loses replies, cuts and silences connections, and counts round trips."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType


@dataclass(eq=False)
class _Pair:
    client: socket.socket
    server: socket.socket
    lose_next_reply: bool = False
    frozen: bool = False
    commands: list[bytes] = field(default_factory=list)


class RedisProxy:
    """Forwards 127.0.0.1:`port` to another port of this machine until `close`.

    `requests` counts what clients sent, one for each write: a command, or a pipeline, which is one round trip
    as well.
    """

    def __init__(self, upstream_port: int, *, lose: Callable[[bytes], bool] = lambda _request: False) -> None:
        """`lose` decides for each request whether its reply is lost and the connection breaks."""
        self._upstream = ("127.0.0.1", upstream_port)
        self._lose = lose
        self._pattern: bytes | None = None
        self.lost = threading.Event()
        self.requests = 0
        self.refusing = False
        self.refused = 0
        self._pairs: list[_Pair] = []
        self._forgotten: list[_Pair] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def lose_reply_to(self, pattern: bytes) -> None:
        """Lose the reply to the next request that contains `pattern`, and break its connection."""
        with self._lock:
            self.lost.clear()
            self._pattern = pattern

    def cut(self) -> int:
        """Break all connections on both sides; returns their number."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _shut(pair.client)
            _shut(pair.server)
        return len(pairs)

    def forget_clients(self) -> None:
        """Break the clients' sides only: the server goes on serving connections that nobody reads."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self._forgotten += pairs
        for pair in pairs:
            pair.frozen = True
            _shut(pair.client)

    def freeze(self) -> None:
        """Keep all present connections open, but forward nothing on them any more."""
        with self._lock:
            for pair in self._pairs:
                pair.frozen = True

    def close(self) -> None:
        _shut(self._listener)
        self._accepting.join()
        self.cut()
        for pair in self._forgotten:
            _shut(pair.server)

    def __enter__(self) -> RedisProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self.refusing:
                    self.refused += 1
                    raise ConnectionRefusedError
                server = socket.create_connection(self._upstream)
            except OSError:
                _shut(client)
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.append(pair)
            threading.Thread(target=self._upward, args=(pair,), daemon=True).start()
            threading.Thread(target=self._downward, args=(pair,), daemon=True).start()

    def _upward(self, pair: _Pair) -> None:
        while (request := _received(pair.client)) and not pair.frozen:
            with self._lock:
                self.requests += 1
                if self._pattern is not None and self._pattern in request:
                    self._pattern = None
                    pair.lose_next_reply = True
                elif self._lose(request):
                    pair.lose_next_reply = True
            with contextlib.suppress(OSError):
                pair.server.sendall(request)
        if not pair.frozen:
            self._drop(pair)

    def _downward(self, pair: _Pair) -> None:
        while reply := _received(pair.server):
            if pair.frozen:
                continue
            if pair.lose_next_reply:
                break
            with contextlib.suppress(OSError):
                pair.client.sendall(reply)
        self._drop(pair)
        if pair.lose_next_reply:
            self.lost.set()

    def _drop(self, pair: _Pair) -> None:
        with self._lock:
            if pair in self._pairs:
                self._pairs.remove(pair)
        _shut(pair.client)
        _shut(pair.server)


def _received(end: socket.socket) -> bytes:
    try:
        return end.recv(1 << 16)
    except OSError:
        return b""


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
