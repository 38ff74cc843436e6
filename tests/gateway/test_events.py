"""Tickets and streams of events, over HTTP."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from support.gateway import OTHER_USER_ID, USER_ID, authorization, gateway_settings
from support.harness import until
from support.rows import add_job
from support.serving import serving

from gateway.app import create_app
from gateway.database import Database
from gateway.live import LiveSettings
from gateway.tables import jobs
from shared.errors import ServiceUnavailable


def ticket_for(client: TestClient | httpx.Client, job_id: str) -> str:
    answer = client.post(f"/jobs/{job_id}/events/ticket")
    assert answer.status_code == 201, answer.text
    assert answer.json()["expires_in"] == 30
    return str(answer.json()["ticket"])


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream as a browser reads them; comments are none."""
    told = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if lines:
            told.append((lines["event"], json.loads(lines["data"])))
    return told


def test_the_stream_of_an_ended_job_tells_its_last_state_and_ends(
    client: TestClient, database: Database
) -> None:
    job_id = add_job(database, status="failed", error_code="out_of_memory", error_message="Too large.")
    answer = client.get(f"/jobs/{job_id}/events", params={"ticket": ticket_for(client, job_id)})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "no-" in answer.headers["cache-control"]
    assert events_of(answer.text) == [
        (
            "state",
            {
                "status": "failed",
                "progress": None,
                "error_code": "out_of_memory",
                "error_message": "Too large.",
            },
        ),
        ("bye", {"reason": "ended"}),
    ]


def test_a_ticket_opens_one_stream_of_its_own_job(client: TestClient, database: Database) -> None:
    job_id, other_id = (add_job(database, status="completed") for _ in range(2))
    ticket = ticket_for(client, job_id)
    assert client.get(f"/jobs/{job_id}/events", params={"ticket": ticket}).status_code == 200
    again = client.get(f"/jobs/{job_id}/events", params={"ticket": ticket})
    assert (again.status_code, again.json()["code"]) == (401, "invalid_ticket")
    strange = client.get(f"/jobs/{other_id}/events", params={"ticket": ticket_for(client, job_id)})
    assert (strange.status_code, strange.json()["code"]) == (401, "invalid_ticket")


def test_a_stream_needs_a_ticket_and_no_token_opens_it(client: TestClient, database: Database) -> None:
    job_id = add_job(database, status="completed")
    assert client.get(f"/jobs/{job_id}/events").status_code == 400
    for ticket, status in (("x", 400), ("x" * 43, 401), ("%ED%A0%80", 400), ("a%00b", 400)):
        assert client.get(f"/jobs/{job_id}/events?ticket={ticket}").status_code == status


def test_a_ticket_is_forgotten_after_half_a_minute_and_tells_nothing_of_a_token(
    client: TestClient, database: Database, valkey: Any
) -> None:
    job_id = add_job(database, status="queued")
    ticket_for(client, job_id)
    (key,) = valkey.keys("gateway:ticket:*")
    assert 20 < valkey.ttl(key) <= 30
    assert valkey.get(key) == f"{USER_ID} {job_id}"


@pytest.mark.parametrize("job_id", ["job-1", "../health", "x" * 36, "E202BD11-FC9C-424E-AE5D-F2854F4466BD"])
def test_what_is_no_id_of_a_job_gets_no_ticket(client: TestClient, job_id: str) -> None:
    assert client.post(f"/jobs/{job_id}/events/ticket").status_code in {400, 404}


def test_only_the_owner_gets_a_ticket(client: TestClient, database: Database) -> None:
    job_id = add_job(database, status="queued")
    theirs = client.post(f"/jobs/{job_id}/events/ticket", headers=authorization(OTHER_USER_ID))
    unknown = client.post(f"/jobs/{uuid.uuid4()}/events/ticket")
    assert theirs.status_code == unknown.status_code == 404
    assert theirs.json() == unknown.json()
    assert client.post(f"/jobs/{job_id}/events/ticket", headers={"Authorization": ""}).status_code == 401


def test_without_redis_there_is_no_ticket_now(database_url: str, database: Database, tmp_path: Path) -> None:
    job_id = add_job(database, status="queued")
    settings = gateway_settings("redis://127.0.0.1:1", database_url, tmp_path)
    with TestClient(create_app(settings), headers=authorization(USER_ID)) as client:
        answer = client.post(f"/jobs/{job_id}/events/ticket")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0


class Reader:
    """Reads a stream event by event."""

    def __init__(self, client: httpx.Client, job_id: str) -> None:
        parameters = {"ticket": ticket_for(client, job_id)}
        self._context = client.stream("GET", f"/jobs/{job_id}/events", params=parameters)
        self.response = self._context.__enter__()
        assert self.response.status_code == 200
        self._lines = self.response.iter_lines()

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        event = ""
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "event":
                event = value
            elif name == "data":
                yield event, json.loads(value)

    def close(self) -> None:
        self._context.__exit__(None, None, None)


def test_a_watcher_sees_the_steps_and_the_end_while_they_happen(
    app: FastAPI, database: Database, valkey: Any
) -> None:
    app.state.parts.live._settings = replace(LiveSettings(), poll_s=0.02)
    job_id = add_job(database, status="queued")

    def change(**values: Any) -> None:
        with database.write() as connection:
            connection.execute(jobs.update().where(jobs.c.id == job_id).values(**values))

    with serving(app) as gateway, httpx.Client(base_url=gateway.url, headers=authorization()) as client:
        told = iter(Reader(client, job_id))
        assert next(told)[1]["status"] == "queued"
        valkey.set(f"{{sdxl_queue}}:progress:{job_id}", "3/25 1")
        change(status="processing")
        seen = next(told)[1]
        while seen["progress"] is None or seen["status"] == "queued":
            seen = next(told)[1]
        assert seen["status"] == "processing"
        assert seen["progress"] == {"step": 3, "steps": 25, "attempt": 1}
        change(status="completed")
        assert [event for event, _ in told][-2:] == ["state", "bye"]


def test_the_end_of_the_gateway_ends_open_streams_at_once(app: FastAPI, database: Database) -> None:
    job_id = add_job(database, status="queued")
    with serving(app) as gateway, httpx.Client(base_url=gateway.url, headers=authorization()) as client:
        told = iter(Reader(client, job_id))
        next(told)
        gateway.stop()
        assert list(told) == [("bye", {"reason": "shutdown"})]


def test_a_user_has_so_many_streams_at_a_time_and_one_that_was_left_makes_room(
    app: FastAPI, database: Database
) -> None:
    live = app.state.parts.live
    live._settings = replace(LiveSettings(), streams_of_one_user=2)
    job_id = add_job(database, status="queued")
    with serving(app) as gateway, httpx.Client(base_url=gateway.url, headers=authorization()) as client:
        readers = [Reader(client, job_id) for _ in range(2)]
        for reader in readers:
            next(iter(reader))
        full = client.get(f"/jobs/{job_id}/events", params={"ticket": ticket_for(client, job_id)})
        assert (full.status_code, full.json()["code"]) == (429, "too_many_streams")
        assert int(full.headers["Retry-After"]) > 0
        readers[0].close()
        until(lambda: len(live._streams) == 1)
        Reader(client, job_id).close()
        readers[1].close()


def test_too_many_streams_of_all_users_is_a_service_that_is_busy(
    app: FastAPI, client: TestClient, database: Database
) -> None:
    app.state.parts.live._settings = replace(LiveSettings(), streams=0)
    job_id = add_job(database, status="queued")
    answer = client.get(f"/jobs/{job_id}/events", params={"ticket": ticket_for(client, job_id)})
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0


def test_a_watched_job_that_cannot_be_looked_up_is_not_taken_for_deleted(
    app: FastAPI, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = add_job(database, status="queued")
    live, look = app.state.parts.live, app.state.parts.live._look
    failures = iter([ServiceUnavailable("the database cannot be used now")] * 2)

    def failing_at_first(job_ids: frozenset[str]) -> Any:
        error = next(failures, None)
        if error is not None:
            raise error
        return look(job_ids)

    monkeypatch.setattr(live, "_look", failing_at_first)
    monkeypatch.setattr(live, "_settings", replace(LiveSettings(), poll_s=0.01))
    with serving(app) as gateway, httpx.Client(base_url=gateway.url, headers=authorization()) as client:
        reader = Reader(client, job_id)
        assert next(iter(reader))[1]["status"] == "queued"
        reader.close()
