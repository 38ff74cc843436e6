"""A gateway that serves HTTP on a free port of this machine, as `python -m gateway` does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI
from support.harness import until

from gateway.__main__ import server


@dataclass(frozen=True, slots=True)
class Serving:
    """`url` is the gateway's address without a slash at its end."""

    url: str
    server: uvicorn.Server
    thread: threading.Thread

    def stop(self) -> None:
        """As SIGTERM does: open connections may end."""
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextmanager
def serving(app: FastAPI) -> Iterator[Serving]:
    gateway = server(app, "127.0.0.1", 0)
    thread = threading.Thread(target=gateway.run, name="gateway")
    thread.start()
    try:
        until(lambda: gateway.started or not thread.is_alive())
        port = gateway.servers[0].sockets[0].getsockname()[1]
        running = Serving(f"http://127.0.0.1:{port}", gateway, thread)
        yield running
    finally:
        gateway.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
