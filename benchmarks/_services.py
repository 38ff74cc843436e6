"""A storage and a callback receiver behind a network: `python -m benchmarks._services`, a process of its own.

Every answer comes `--delay` seconds after its request was read, by a timer, so that many may wait at once and
none costs CPU. Bodies are read and dropped. Prints its port, then one JSON line for each callback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from shared.presets import PRESETS

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BUCKET_DATE = "2026-01-01T00:00:00.000Z"


class Services:
    """An ASGI application: as much of Supabase as a worker calls."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        is_callback = scope["path"].startswith("/functions/")
        body = await _body(receive, keep=is_callback or scope["method"] == "DELETE")
        if is_callback:
            _tell(json.loads(body))
        await asyncio.sleep(self._delay_s)
        answer = json.dumps(_answer(scope["method"], scope["path"], body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


def _answer(method: str, path: str, body: bytes) -> Any:
    if path.startswith("/functions/"):
        return {"success": True}
    _, _, place = path.partition("/storage/v1/")
    if place.rstrip("/") == "bucket":
        return [_bucket(preset.bucket) for preset in PRESETS.values()]
    if method == "DELETE":
        return [{"name": name} for name in json.loads(body)["prefixes"]]
    return {"Key": place.removeprefix("object/"), "Id": "00000000-0000-4000-8000-000000000000"}


def _bucket(name: str) -> dict[str, Any]:
    limits = {"file_size_limit": None, "allowed_mime_types": None}
    dates = {"created_at": BUCKET_DATE, "updated_at": BUCKET_DATE}
    return {"id": name, "name": name, "owner": "", "public": True, **limits, **dates}


async def _body(receive: Receive, *, keep: bool) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if keep:
            parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _tell(callback: dict[str, Any]) -> None:
    line = {"job_id": callback["job_id"], "status": callback["status"], "at": time.monotonic()}
    sys.stdout.write(json.dumps(line | {"error": callback.get("error_message")}) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    services: Any = Services(parser.parse_args().delay)
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(services, log_level="warning", access_log=False, lifespan="off")).run(
        sockets=[listener]
    )


if __name__ == "__main__":
    main()
