from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from support.gateway import CALLBACK_SECRET, USER_ID, authorization, gateway_settings
from support.gateway_jobs import CALLBACK_PATH, StoredJob, deliver

from gateway.callbacks.authentication import authenticate
from gateway.database import Database
from gateway.errors import ApiError
from gateway.settings import GatewaySettings
from shared.webhook import SIGNATURE_TOLERANCE_S, CallbackTarget, signature_headers

NOW = 1_764_000_000.0
BODY = b'{"job_id":"job-1","status":"processing"}'
SERVICE_KEY = "sb_secret_of-the-service"
TOKEN = "a-token-of-the-workers"


@pytest.fixture
def all_ways(tmp_path: Path) -> GatewaySettings:
    """All three ways are configured."""
    return configured(tmp_path)


def configured(folder: Path, **changes: Any) -> GatewaySettings:
    keys = {"SUPABASE_SERVICE_KEY": SERVICE_KEY, "CALLBACK_TOKEN": TOKEN}
    return gateway_settings("redis://127.0.0.1:1", "sqlite:///gateway.db", folder, **(keys | changes))


def accepted(
    settings: GatewaySettings, headers: dict[str, str], body: bytes = BODY, now: float = NOW
) -> bool:
    try:
        authenticate(settings, {name.lower(): value for name, value in headers.items()}, body, now)
    except ApiError as error:
        return error.status != 401
    return True


def signed(secret: str = CALLBACK_SECRET, body: bytes = BODY, at: float = NOW) -> dict[str, str]:
    return signature_headers(SecretStr(secret), "msg_1", at, body)


def test_a_signed_callback_is_taken(all_ways: GatewaySettings) -> None:
    assert accepted(all_ways, signed())


def test_a_signature_covers_the_bytes_as_they_came_in(all_ways: GatewaySettings) -> None:
    assert not accepted(all_ways, signed(), BODY + b" ")
    assert not accepted(all_ways, signed(secret="another secret"))
    assert not accepted(all_ways, signed() | {"webhook-id": "msg_2"})
    assert not accepted(all_ways, signed() | {"X-Callback-Signature": "sha256=" + "0" * 64})


def test_an_old_or_early_signature_is_refused(all_ways: GatewaySettings) -> None:
    for distance in (-SIGNATURE_TOLERANCE_S, SIGNATURE_TOLERANCE_S):
        assert accepted(all_ways, signed(at=NOW + distance))
        assert not accepted(all_ways, signed(at=NOW + distance * 1.01))


def test_every_way_in_which_a_worker_shows_who_it_is_is_known(all_ways: GatewaySettings) -> None:
    url = "https://project.example/functions/v1/job-callback"
    jwt = authorization(USER_ID)["Authorization"].removeprefix("Bearer ")
    for own_host in (True, False):
        target = CallbackTarget(url, own_host, SecretStr(SERVICE_KEY), SecretStr(TOKEN))
        assert accepted(all_ways, target.headers())
    changed = all_ways.model_copy(update={"supabase_service_key": SecretStr(jwt)})
    target = CallbackTarget(url, True, SecretStr(jwt))
    assert set(target.headers()) == {"apikey", "Authorization"}
    for name, value in target.headers().items():
        assert accepted(changed, {name: value})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"apikey": ""},
        {"apikey": TOKEN},
        {"apikey": SERVICE_KEY[:-1]},
        {"apikey": f"{SERVICE_KEY}x"},
        {"apikey": "\xe9"},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {CALLBACK_SECRET}"},
        {"webhook-id": "msg_1", "webhook-timestamp": "x", "webhook-signature": "v1,x"},
    ],
)
def test_nobody_else_is_let_in(all_ways: GatewaySettings, headers: dict[str, str]) -> None:
    assert not accepted(all_ways, headers)


def test_what_is_not_configured_lets_nobody_in(tmp_path: Path) -> None:
    everything = {**signed(), "apikey": SERVICE_KEY, "Authorization": f"Bearer {TOKEN}"}
    nothing = {"job_callback_secret": None, "supabase_service_key": None, "callback_token": None}
    unconfigured = configured(tmp_path).model_copy(update=nothing)
    assert not accepted(unconfigured, everything)
    empty = {"supabase_service_key": SecretStr(""), "callback_token": SecretStr("")}
    assert not accepted(unconfigured.model_copy(update=empty), {"apikey": "", "Authorization": "Bearer "})


def test_a_user_cannot_send_callbacks(client: TestClient, database: Database) -> None:
    job = StoredJob(database)
    answer = client.post(CALLBACK_PATH, json={"job_id": job.id, "status": "failed"})
    assert (answer.status_code, job.row.status) == (401, "queued")
    assert "retry" not in answer.json()


def test_time_is_the_gateways_own(client: TestClient, database: Database) -> None:
    job = StoredJob(database)
    body = job.processing()
    old = signed(body=body, at=time.time() - 2 * SIGNATURE_TOLERANCE_S)
    headers = {"Content-Type": "application/json", **old}
    assert client.post(CALLBACK_PATH, content=body, headers=headers).status_code == 401
    assert deliver(client, body).status_code == 200
