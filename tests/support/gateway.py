"""Settings and users of a gateway under test."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from gateway.settings import GatewaySettings, load_gateway_settings

USER_ID = "3f8a0f6e-5a0f-4a44-9a1c-1f2b3c4d5e6f"
OTHER_USER_ID = "9b1d5c2e-7a3f-4e8b-8c6d-0a1b2c3d4e5f"
JWT_SECRET = "a-secret-of-tests-that-has-the-64-bytes-which-the-largest-hash-asks-for"
ISSUER = "https://project.example/auth/v1"
CALLBACK_SECRET = "a-callback-secret-of-tests"

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For a rule that no database has a part in: it need not be shown on both."""


def gateway_settings(redis_url: str, database_url: str, folder: Path, **changes: Any) -> GatewaySettings:
    """Settings by the variables' names. `folder` holds the storage."""
    storage = folder / "storage"
    storage.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "STORAGE_URL": storage.as_uri(),
        "FILE_LINK_SECRET": "a-link-secret-of-tests-with-32-bytes",
        "JOB_CALLBACK_SECRET": CALLBACK_SECRET,
        "SUPABASE_JWT_SECRET": JWT_SECRET,
        "JWT_ISSUER": ISSUER,
        "RATE_LIMIT": "100000/minute",
        "_env_file": None,
    }
    return load_gateway_settings(**values | changes)


def make_token(
    user_id: str = USER_ID,
    *,
    key: Any = JWT_SECRET,
    algorithm: str = "HS256",
    headers: dict[str, str] | None = None,
    **claims: Any,
) -> str:
    """A user's access token; `claims` replace its own, None leaves one out."""
    now = int(time.time())
    own: dict[str, Any] = {
        "sub": user_id,
        "aud": "authenticated",
        "iss": ISSUER,
        "role": "authenticated",
        "iat": now,
        "exp": now + 3600,
    }
    present = {name: value for name, value in (own | claims).items() if value is not None}
    return jwt.encode(present, key, algorithm, headers)


def authorization(user_id: str = USER_ID, **claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {make_token(user_id, **claims)}"}


def request(job_type: str = "sdxl_image_fast", **metadata: Any) -> dict[str, Any]:
    """A request of queue-job; None leaves a field of the metadata out."""
    given = {"prompt": "a sailing boat on a calm lake", **metadata}
    return {
        "jobType": job_type,
        "metadata": {name: value for name, value in given.items() if value is not None},
    }
