from __future__ import annotations

from pathlib import Path

from fastapi.testclient import TestClient
from support.gateway import gateway_settings

from gateway.app import create_app


def test_a_gateway_whose_services_answer_is_ok(client: TestClient) -> None:
    answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "database": True, "redis": True})


def test_without_redis_jobs_can_still_be_taken(sqlite_url: str, tmp_path: Path) -> None:
    settings = gateway_settings("redis://127.0.0.1:1", sqlite_url, tmp_path)
    with TestClient(create_app(settings)) as client:
        answer = client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")


def test_without_the_database_the_gateway_is_down(redis_url: str, tmp_path: Path) -> None:
    url = f"postgresql://nobody@/nothing?host={tmp_path}"
    with TestClient(create_app(gateway_settings(redis_url, url, tmp_path))) as client:
        answer = client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "down")
