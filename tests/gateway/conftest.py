"""A gateway on a real database, SQLite and PostgreSQL in turn, and a real Valkey.

`client` speaks HTTP with the gateway as USER_ID; `client.headers` or `authorization(OTHER_USER_ID)` change
that. `valkey` looks at the queues, `database` at the rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.testclient import TestClient
from support.gateway import USER_ID, authorization, gateway_settings, make_token
from support.postgres import local_postgres, postgres_programs

from gateway.app import create_app
from gateway.database import Database
from gateway.migrations import migrate
from gateway.settings import GatewaySettings, database_address
from gateway.tables import metadata


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no .env of this machine is read."""
    monkeypatch.chdir(tmp_path)
    for field in GatewaySettings.model_fields.values():
        for name in field.validation_alias.choices:  # type: ignore[union-attr]
            monkeypatch.delenv(str(name), raising=False)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    with local_postgres(programs) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sqlite") / "gateway.db"
    _migrated(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: str) -> str:
    _migrated(postgres_server)
    return postgres_server


def _migrated(url: str) -> None:
    database = _database(url)
    migrate(database)
    database.close()


def _database(url: str) -> Database:
    return Database(database_address(url))


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    """An empty database of its own, with all tables."""
    shutil.copy(migrated_sqlite, tmp_path / "gateway.db")
    return f"sqlite:///{tmp_path / 'gateway.db'}"


@pytest.fixture
def postgres_url(migrated_postgres: str) -> str:
    database = _database(migrated_postgres)
    with database.write() as connection:
        connection.execute(sa.text("TRUNCATE " + ", ".join(metadata.tables)))
    database.close()
    return migrated_postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(name))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The database of the gateway under test, for looking at its rows."""
    database = _database(database_url)
    yield database
    database.close()


@pytest.fixture
def valkey(redis_url: str) -> Any:
    return redis.Redis.from_url(redis_url, decode_responses=True)


@pytest.fixture
def settings(redis_url: str, database_url: str, tmp_path: Path) -> GatewaySettings:
    return gateway_settings(redis_url, database_url, tmp_path)


@pytest.fixture
def app(settings: GatewaySettings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """An HTTP client, signed in as USER_ID. What the gateway does not foresee is answered, not raised."""
    with TestClient(app, headers=authorization(USER_ID), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def sqlite_client(redis_url: str, sqlite_url: str, tmp_path: Path) -> Iterator[TestClient]:
    """As `client`, for what has nothing to do with the database."""
    app = create_app(gateway_settings(redis_url, sqlite_url, tmp_path))
    with TestClient(app, headers=authorization(USER_ID), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def token() -> Callable[..., str]:
    """Makes access tokens; see `support.gateway.make_token`."""
    return make_token
