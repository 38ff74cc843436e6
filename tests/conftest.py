"""What many tests use: a real Valkey, emptied before each test."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import settings
from pydantic import SecretStr
from support.harness import SECRET, Installation

from shared.local_valkey import local_valkey
from workers.local_receiver import LocalReceiver

# The same examples at every run, and no time limit that a busy machine could break.
# HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Any]:
    with local_valkey() as server:
        yield server


@pytest.fixture
def redis_url(valkey_server: Any) -> str:
    url = f"redis://127.0.0.1:{valkey_server.port}"
    redis.Redis.from_url(url).flushall()
    return url


@pytest.fixture
def client(redis_url: str) -> Any:
    return redis.Redis.from_url(redis_url)


@pytest.fixture
def receiver() -> Iterator[LocalReceiver]:
    with LocalReceiver(secret=SecretStr(SECRET)) as receiver:
        yield receiver


@pytest.fixture
def installation(redis_url: str, receiver: LocalReceiver, tmp_path: Path) -> Installation:
    """An SDXL installation with a fake engine."""
    return Installation(redis_url, tmp_path / "storage", receiver)


@pytest.fixture
def wan_installation(redis_url: str, receiver: LocalReceiver, tmp_path: Path) -> Installation:
    return Installation(redis_url, tmp_path / "storage", receiver, kind_name="wan")


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
