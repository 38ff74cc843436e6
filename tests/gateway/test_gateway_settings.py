from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.gateway import gateway_settings

from gateway.__main__ import EXIT_SETTINGS, EXIT_UNAVAILABLE, main
from gateway.prices import PRICES, price_of
from gateway.settings import GatewaySettings, load_gateway_settings
from shared.errors import SettingsError
from shared.presets import PRESETS

PUBLIC, PRIVATE = ["93.184.216.34"], ["10.0.0.7"]


def problems(tmp_path: Path, addresses: list[str] = PRIVATE, **changes: Any) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        gateway_settings(
            "redis://10.0.0.5",
            changes.pop("DATABASE_URL", "sqlite:///gateway.db"),
            tmp_path,
            resolve=lambda _host: addresses,
            **changes,
        )
    return raised.value.problems


def names(found: list[str]) -> list[str]:
    return sorted(problem.split()[0].rstrip(":") for problem in found)


def test_every_missing_setting_is_listed_at_once() -> None:
    with pytest.raises(SettingsError) as raised:
        load_gateway_settings(_env_file=None)
    assert names(raised.value.problems) == [
        "JOB_CALLBACK_SECRET",
        "JWT_ISSUER",
        "REDIS_URL",
        "SUPABASE_JWT_SECRET",
        "SUPABASE_URL",
    ]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"DATABASE_URL": "nonsense"}, "DATABASE_URL"),
        ({"DATABASE_URL": "mysql://host/database"}, "DATABASE_URL"),
        ({"DATABASE_URL": "sqlite://"}, "DATABASE_URL"),
        ({"DATABASE_URL": "sqlite:////no/such/folder/gateway.db"}, "DATABASE_URL"),
        ({"RATE_LIMIT": "many"}, "RATE_LIMIT"),
        ({"CREDIT_PRICES": "sdxl_image_fast=cheap"}, "CREDIT_PRICES"),
        ({"CREDIT_PRICES": "nothing=1"}, "CREDIT_PRICES"),
        ({"CREDIT_PRICES": "video_fast=-1"}, "CREDIT_PRICES"),
        ({"SUPABASE_JWT_SECRET": "short"}, "SUPABASE_JWT_SECRET"),
        ({"JWT_JWKS_URL": "ftp://host/keys"}, "JWT_JWKS_URL"),
        ({"DEMO": True, "GATEWAY_HOST": "0.0.0.0"}, "GATEWAY_HOST"),
        ({"SDXL_QUEUE": "one", "WAN_QUEUE": "one"}, "SDXL_QUEUE"),
        ({"FILE_LINK_SECRET": None}, "FILE_LINK_SECRET"),
        ({"JOB_CALLBACK_SECRET": None}, "JOB_CALLBACK_SECRET"),
        ({"MAX_WAITING_JOBS": "0"}, "MAX_WAITING_JOBS"),
        ({"SCREEN_RULES": "/no/such/file"}, "SCREEN_RULES"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], name: str, tmp_path: Path) -> None:
    assert names(problems(tmp_path, **changes)) == [name]


@pytest.mark.parametrize("name", ["DATABASE_URL", "JWT_JWKS_URL"])
def test_nothing_goes_over_a_public_network_without_tls(name: str, tmp_path: Path) -> None:
    plain = {
        "DATABASE_URL": "postgresql://user:password@db.example/database",
        "JWT_JWKS_URL": "http://db.example",
    }
    secure = {
        "DATABASE_URL": "postgresql://user:password@db.example/database?sslmode=require",
        "JWT_JWKS_URL": "https://db.example",
    }

    def load(value: str) -> list[str]:
        try:
            gateway_settings(
                "unix:///socket",
                value if name == "DATABASE_URL" else "sqlite:///gateway.db",
                tmp_path,
                resolve=lambda _host: PUBLIC,
                **({} if name == "DATABASE_URL" else {name: value}),
            )
        except SettingsError as error:
            return names(error.problems)
        return []

    assert load(plain[name]) == [name]
    assert load(secure[name]) == []


def test_addresses_of_postgresql_get_the_driver_that_is_installed(tmp_path: Path) -> None:
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        settings = gateway_settings("redis://10.0.0.5", f"{scheme}://user@10.0.0.6/database", tmp_path)
        assert settings.resolved_database_url.drivername == "postgresql+psycopg"


def test_no_secret_is_shown(tmp_path: Path) -> None:
    settings = gateway_settings(
        "redis://:planted-redis@10.0.0.5", "postgresql://user:planted-database@10.0.0.6/database", tmp_path
    )
    assert {"planted-redis", "planted-database"} <= set(settings.secrets())
    shown = repr(settings)
    assert "planted-redis" not in shown
    assert str(settings.supabase_jwt_secret) == "**********"


def test_every_job_type_has_a_price_and_an_operator_may_set_another() -> None:
    assert set(PRICES) == set(PRESETS)
    assert price_of(PRESETS["sdxl_image_high"], 3, {}) == 3 * PRICES["sdxl_image_high"]
    assert price_of(PRESETS["video_fast"], 1, {"video_fast": 12}) == 12


# --- the command line


def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **changes: str) -> None:
    values = {
        "REDIS_URL": "redis://127.0.0.1:1",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'new.db'}",
        "STORAGE_URL": tmp_path.as_uri(),
        "JOB_CALLBACK_SECRET": "planted-callback-secret",
        "DEMO": "1",
    }
    for name, value in (values | changes).items():
        monkeypatch.setenv(name, value)


def test_the_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for field in GatewaySettings.model_fields.values():
        assert str(field.validation_alias.choices[0]) in shown  # type: ignore[union-attr]


def test_missing_settings_end_the_start_with_78(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == EXIT_SETTINGS
    assert "REDIS_URL is missing" in capsys.readouterr().err


@pytest.mark.usefixtures("restored_logging")
def test_migrating_makes_the_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment(monkeypatch, tmp_path)
    assert main(["migrate"]) == 0
    assert main(["migrate"]) == 0


@pytest.mark.usefixtures("restored_logging")
def test_tables_of_somebody_else_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "new.db") as theirs:
        theirs.execute("CREATE TABLE jobs (id TEXT)")
    theirs.close()
    environment(monkeypatch, tmp_path)
    assert main(["migrate"]) == EXIT_SETTINGS
    assert "tables that the gateway did not make (jobs)" in capsys.readouterr().err


@pytest.mark.usefixtures("restored_logging")
def test_a_database_that_does_not_answer_ends_the_start_with_69_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"postgresql://user:planted-password@/database?host={tmp_path}"
    environment(monkeypatch, tmp_path, DATABASE_URL=url)
    assert main([]) == EXIT_UNAVAILABLE
    told = capsys.readouterr().err
    assert "No such file or directory" in told
    assert "planted-password" not in told


@pytest.mark.usefixtures("restored_logging")
def test_rules_that_cannot_be_read_end_the_start_with_78(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rules.toml").write_text("this is no TOML")
    environment(monkeypatch, tmp_path, SCREEN_RULES=str(tmp_path / "rules.toml"))
    assert main([]) == EXIT_SETTINGS
    assert "SCREEN_RULES" in capsys.readouterr().err
