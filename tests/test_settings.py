from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.configuration import help_text
from shared.errors import SettingsError
from shared.settings import Settings, load_console_settings, load_settings

SECRETS = {
    "REDIS_URL": "redis://default:planted-redis-password@redis.example:6379",
    "SUPABASE_SERVICE_KEY": "sb_secret_planted-service-key",
    "CALLBACK_TOKEN": "planted-callback-token",
    "JOB_CALLBACK_SECRET": "planted-callback-secret",
    "IMAGE_CLASSIFIER_TOKEN": "planted-classifier-token",
    "MODERATION_KEY": "planted-moderation-key",
}
COMPLETE = SECRETS | {
    "SUPABASE_URL": "https://project.supabase.co",
    "SDXL_MODEL": "/models/sdxl.safetensors",
}


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no .env of this machine is read."""
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        for name in field.validation_alias.choices:  # type: ignore[union-attr]
            monkeypatch.delenv(str(name), raising=False)


def load(resolve: Any = lambda _host: ["10.0.0.5"], **values: Any) -> Settings:
    return load_settings("SDXL_MODEL", resolve=resolve, **values)


def problems(**values: Any) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        load(**values)
    return raised.value.problems


def names(found: list[str]) -> list[str]:
    return sorted(problem.split()[0].rstrip(":") for problem in found)


def test_every_missing_setting_is_listed_at_once() -> None:
    assert names(problems()) == ["CALLBACK_URL", "REDIS_URL", "SDXL_MODEL", "SUPABASE_URL"]


def test_every_wrong_setting_is_listed_at_once_and_told_what_it_means() -> None:
    found = problems(**COMPLETE | {"LEASE_S": "long", "QUEUE_POP": "middle", "MAX_DELIVERIES": "0"})
    assert names(found) == ["LEASE_S", "MAX_DELIVERIES", "QUEUE_POP"]
    assert any("the side jobs are taken from" in problem for problem in found)


def test_every_inconsistent_setting_is_listed_at_once() -> None:
    found = problems(
        **COMPLETE
        | {
            "LEASE_S": "50",
            "CALLBACK_URL": "receiver.example/callback",
            "STORAGE_URL": "ftp://files.example",
            "SDXL_QUEUE": "one{list}",
            "WAN_QUEUE": "one{list}",
            "C2PA_KEY": "/no/such/key.pem",
            "SCREEN_RULES": "/no/such/rules.toml",
        }
    )
    assert names(found) == [
        *("C2PA_CERTIFICATE", "C2PA_KEY", "CALLBACK_URL", "LEASE_S"),
        *("SCREEN_RULES", "SDXL_QUEUE", "SDXL_QUEUE", "STORAGE_URL", "WAN_QUEUE"),
    ]


@pytest.mark.parametrize(
    "faults",
    [
        {"LEASE_S": "planted-nonsense", "BLOCK_S": "planted-nonsense", "HEALTH_PORT": "planted-nonsense"},
        {"LEASE_S": "1", "SDXL_MODEL": ""},
        {"REDIS_URL": "https://default:planted-redis-password@redis.example"},
        {"REDIS_URL": "redis://default:planted-[redis-password@redis.example"},
        {"REDIS_URL": "redis://default:planted/redis-password@redis.example"},
        {"CALLBACK_URL": "ftp://planted:password@host", "SUPABASE_URL": "planted.supabase.co"},
        {"CALLBACK_URL": "https://host:planted/x"},
    ],
)
def test_no_fault_shows_a_value(faults: dict[str, str]) -> None:
    found = problems(**COMPLETE | faults)
    assert {name.split("_URL")[0] for name in names(found)} <= {name.split("_URL")[0] for name in faults}
    assert "planted" not in "\n".join(found)


def test_settings_show_no_secret_when_printed() -> None:
    assert "planted" not in repr(load(**COMPLETE)) + str(load(**COMPLETE))


def test_with_upstashs_rest_variables_alone_the_way_to_the_redis_address_is_told() -> None:
    (found,) = problems(**COMPLETE | {"REDIS_URL": "", "UPSTASH_REDIS_REST_URL": "https://eu1.upstash.io"})
    assert found.startswith("REDIS_URL is missing")
    assert "rediss://" in found
    assert "Upstash" in found
    assert "eu1" not in found


@pytest.mark.parametrize(("lease", "allowed"), [("50", False), ("51", True)])
def test_a_lease_is_longer_than_a_blocking_take_and_a_heartbeat(lease: str, allowed: bool) -> None:
    values = COMPLETE | {"LEASE_S": lease, "BLOCK_S": "30", "HEARTBEAT_S": "20"}
    if allowed:
        assert load(**values).lease_s == 51
    else:
        (found,) = problems(**values)
        assert found.startswith("LEASE_S has to be longer than BLOCK_S + HEARTBEAT_S")


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888"])
def test_redis_without_tls_at_a_public_address_is_refused(address: str) -> None:
    (found,) = problems(resolve=lambda _host: ["10.0.0.5", address], **COMPLETE)
    assert "REDIS_ALLOW_PLAINTEXT" in found
    assert "rediss://" in found
    load(resolve=lambda _host: [address], **COMPLETE, REDIS_ALLOW_PLAINTEXT="1")
    tls = COMPLETE | {"REDIS_URL": "rediss://default:x@redis.example:6379"}
    load(resolve=lambda _host: [address], **tls)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "::1", "fe80::1%eth0", "100.64.0.1"])
def test_redis_without_tls_in_a_private_network_is_allowed(address: str) -> None:
    asked: list[str] = []
    load(resolve=lambda host: [asked.append(host) or address], **COMPLETE)  # type: ignore[func-returns-value]
    assert asked == ["redis.example"]


def test_the_other_name_of_the_service_key_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {name: value for name, value in COMPLETE.items() if name != "SUPABASE_SERVICE_KEY"}
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "from-the-other-name")
    key = load(**values).supabase_service_key
    assert key is not None
    assert key.get_secret_value() == "from-the-other-name"


def test_the_environment_wins_over_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{name}={value}" for name, value in COMPLETE.items()]
    (tmp_path / ".env").write_text("\n".join([*lines, "DRAIN_S=9", "PUBLISH_THREADS=7", "UNKNOWN=1"]))
    monkeypatch.setenv("DRAIN_S", "3")
    settings = load()
    assert (settings.drain_s, settings.publish_threads) == (3.0, 7)
    assert settings.sdxl_model == "/models/sdxl.safetensors"


def test_settings_do_not_change_after_the_start() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(**COMPLETE).drain_s = 1.0


def test_lists_are_written_with_commas() -> None:
    settings = load(**COMPLETE, OUTPUT_BUCKETS=" one, two ,", REFERENCE_BUCKETS="")
    assert settings.output_buckets == ("one", "two")
    assert settings.reference_buckets == ()


def test_an_empty_optional_variable_counts_as_absent() -> None:
    settings = load(**COMPLETE, HEALTH_PORT="", MAX_QUEUE_AGE_S="", SCREEN_RULES="", CALLBACK_URL="")
    assert (settings.health_port, settings.max_queue_age_s, settings.screen_rules) == (None, None, None)


@pytest.mark.parametrize("project", ["https://project.supabase.co", "https://project.supabase.co/"])
def test_callbacks_go_to_supabases_function_unless_told_otherwise(project: str) -> None:
    settings = load(**COMPLETE | {"SUPABASE_URL": project})
    assert settings.resolved_callback_url == "https://project.supabase.co/functions/v1/job-callback"
    assert settings.callback_is_own_host
    assert load(**COMPLETE, CALLBACK_URL="https://other.example/in").resolved_callback_url == (
        "https://other.example/in"
    )


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("https://project.supabase.co/in", True),
        ("https://PROJECT.supabase.co:443/in", True),
        ("http://project.supabase.co/in", False),
        ("https://project.supabase.co:8443/in", False),
        ("https://project.supabase.co.example/in", False),
        ("https://project.supabase.co@other.example/in", False),
        ("https://other.example/project.supabase.co", False),
    ],
)
def test_only_supabases_own_origin_counts_as_own_host(url: str, own: bool) -> None:
    assert load(**COMPLETE, CALLBACK_URL=url).callback_is_own_host is own


def test_without_supabase_no_receiver_is_its_own_host() -> None:
    settings = load(
        REDIS_URL="redis://127.0.0.1",
        STORAGE_URL="file:///srv/files",
        CALLBACK_URL="https://receiver.example/in",
        SDXL_MODEL="x",
    )
    assert not settings.callback_is_own_host


def test_a_local_folder_needs_no_service_key_and_a_remote_storage_does() -> None:
    values = {"REDIS_URL": "redis://127.0.0.1", "CALLBACK_URL": "https://receiver.example", "SDXL_MODEL": "x"}
    load(**values, STORAGE_URL="file:///srv/files")
    assert names(problems(**values, STORAGE_URL="https://files.example")) == ["SUPABASE_SERVICE_KEY"]


def test_a_port_outside_the_range_is_refused() -> None:
    assert names(problems(**COMPLETE, HEALTH_PORT="70000")) == ["HEALTH_PORT"]


def test_the_console_needs_redis_alone() -> None:
    assert load_console_settings(REDIS_URL="redis://127.0.0.1").sdxl_queue == "sdxl_queue"
    with pytest.raises(SettingsError) as raised:
        load_console_settings()
    assert names(raised.value.problems) == ["REDIS_URL"]
    with pytest.raises(SettingsError, match="without TLS"):
        load_console_settings(resolve=lambda _host: ["8.8.8.8"], REDIS_URL="redis://redis.example")


def test_what_no_log_may_hold_includes_passwords_inside_addresses_as_they_are_sent() -> None:
    url = "rediss://default:p%40ss-word@redis.example:6379"
    secrets = load(
        **COMPLETE | {"REDIS_URL": url, "CALLBACK_URL": "https://me:callback-pass@host/in"}
    ).secrets()
    assert {url, "p%40ss-word", "p@ss-word", "callback-pass"} <= set(secrets)
    assert {value for name, value in SECRETS.items() if name != "REDIS_URL"} <= set(secrets)


def test_the_help_lists_every_setting_with_its_meaning_and_no_value_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUPABASE_SERVICE_KEY", "planted-service-key")
    text = help_text("usage: worker", Settings)
    assert text.startswith("usage: worker")
    assert "planted" not in text
    lines = text.split("\n")
    for field in Settings.model_fields.values():
        name = str(field.validation_alias.choices[0])  # type: ignore[union-attr]
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert field.description
        assert field.description in line
    assert "also SUPABASE_SERVICE_ROLE_KEY" in text


@pytest.mark.parametrize("name", ["SUPABASE_URL", "STORAGE_URL", "CALLBACK_URL"])
def test_a_service_at_a_public_address_is_refused_without_tls(name: str) -> None:
    variables: dict[str, Any] = {
        "_env_file": None,
        "REDIS_URL": "redis://127.0.0.1:6379",
        "SUPABASE_URL": "https://project.supabase.co",
        "SUPABASE_SERVICE_KEY": "k" * 40,
        "SDXL_MODEL": "model",
        name: "http://storage.example",
    }
    with pytest.raises(SettingsError, match=f"{name} goes to a public address without TLS"):
        load_settings("SDXL_MODEL", resolve=lambda host: ["93.184.216.34"], **variables)
    load_settings("SDXL_MODEL", resolve=lambda host: ["10.0.0.7"], **variables)


def test_an_address_of_redis_may_not_override_the_clients_time_limits() -> None:
    variables: dict[str, Any] = {
        "_env_file": None,
        "REDIS_URL": "rediss://host:6379/0?socket_timeout=5&decode_responses=true",
        "STORAGE_URL": "file:///tmp",
        "CALLBACK_URL": "http://127.0.0.1:1",
        "SDXL_MODEL": "model",
    }
    with pytest.raises(SettingsError, match="remove decode_responses, socket_timeout"):
        load_settings("SDXL_MODEL", **variables)
