"""Requests of one user at the same time, over real connections."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from support.gateway import authorization, gateway_settings, request
from support.serving import serving

from gateway.app import create_app
from gateway.database import Database
from gateway.tables import jobs, usage_logs

AT_ONCE = 24


def answers(app: Any, bodies: list[dict[str, Any]], **headers: str) -> list[httpx.Response]:
    """Send all at once; the answers in their order."""
    with serving(app) as gateway, httpx.Client(headers=authorization() | headers, timeout=30) as client:

        def send(body: dict[str, Any]) -> httpx.Response:
            return client.post(f"{gateway.url}/functions/v1/queue-job", json=body)

        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(send, bodies))


def count(database: Database, table: sa.Table) -> int:
    with database.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def test_a_key_queues_once_however_many_requests_come_at_the_same_time(
    redis_url: str, database_url: str, database: Database, valkey: Any, tmp_path: Path
) -> None:
    app = create_app(gateway_settings(redis_url, database_url, tmp_path))
    got = answers(app, [request(seed=7)] * AT_ONCE, **{"Idempotency-Key": "one"})
    assert {answer.status_code for answer in got} == {200}
    assert len({answer.json()["job"]["id"] for answer in got}) == 1
    assert Counter(answer.headers.get("Idempotent-Replayed") for answer in got) == {
        None: 1,
        "true": AT_ONCE - 1,
    }
    assert count(database, jobs) == count(database, usage_logs) == valkey.llen("sdxl_queue") == 1


def test_requests_at_the_same_time_do_not_pass_the_limit_of_waiting_jobs(
    redis_url: str, database_url: str, database: Database, valkey: Any, tmp_path: Path
) -> None:
    app = create_app(gateway_settings(redis_url, database_url, tmp_path, MAX_WAITING_JOBS=5))
    got = answers(app, [request(seed=number) for number in range(AT_ONCE)])
    assert Counter(answer.status_code for answer in got) == {200: 5, 429: AT_ONCE - 5}
    assert count(database, jobs) == valkey.llen("sdxl_queue") == 5


def test_requests_at_the_same_time_do_not_spend_more_than_was_granted(
    redis_url: str, database_url: str, database: Database, valkey: Any, tmp_path: Path
) -> None:
    app = create_app(gateway_settings(redis_url, database_url, tmp_path, CREDITS_GRANTED=7))
    got = answers(app, [request("image_high", seed=number) for number in range(AT_ONCE)])
    assert Counter(answer.status_code for answer in got) == {200: 3, 402: AT_ONCE - 3}
    assert count(database, usage_logs) == valkey.llen("wan_queue") == 3
