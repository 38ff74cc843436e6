"""All settings of the gateway, read from the environment and `.env` once, frozen, with every fault listed."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any

import limits
from pydantic import BeforeValidator, SecretStr
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from shared.configuration import (
    Names,
    OptionalSecret,
    OptionalText,
    Resolver,
    ServiceSettings,
    address_faults,
    empty_is_absent,
    is_public,
    missing_files,
    missing_redis,
    queue_faults,
    read_settings,
    redis_faults,
    resolve_host,
    service_faults,
    setting,
)
from shared.errors import SettingsError
from shared.presets import PRESETS, SDXL, Family

MIN_SECRET_BYTES = 32
"""RFC 7518, section 3.2: a key for HS256 has at least the length of its hash."""


def _prices(value: Any) -> Any:
    """`video_high=12,video_fast=6` as a table."""
    if not isinstance(value, str):
        return value
    pairs = (part.partition("=") for part in value.split(",") if part.strip())
    return {name.strip(): price.strip() for name, _, price in pairs}


class GatewaySettings(ServiceSettings):
    database_url: SecretStr = setting(
        "DATABASE_URL",
        SecretStr("sqlite:///gateway.db"),
        "sqlite:///file (default gateway.db) or postgresql://user:password@host/database",
    )
    gateway_host: str = setting("GATEWAY_HOST", "127.0.0.1", "address the gateway listens on")
    gateway_port: int = setting("GATEWAY_PORT", 8000, "port the gateway listens on", ge=0, le=65535)
    cors_origins: Names = setting(
        "CORS_ORIGINS", (), "origins whose pages may call the gateway, comma-separated (* for every one)"
    )
    demo: bool = setting(
        "DEMO", False, "one local user without a token, served on loopback only; small pictures and videos"
    )
    supabase_jwt_secret: OptionalSecret = setting(
        "SUPABASE_JWT_SECRET", None, "verifies users' tokens that are signed with HS256"
    )
    jwt_jwks_url: OptionalText = setting(
        "JWT_JWKS_URL",
        None,
        "keys of users' tokens signed with ES256 or RS256 (default Supabase's own)",
    )
    jwt_issuer: OptionalText = setting(
        "JWT_ISSUER", None, "issuer that users' tokens have to name (default SUPABASE_URL/auth/v1)"
    )
    jwt_audience: str = setting("JWT_AUDIENCE", "authenticated", "audience that users' tokens have to name")
    file_link_secret: OptionalSecret = setting(
        "FILE_LINK_SECRET", None, "signs the links to files of a local storage folder"
    )
    file_link_s: int = setting("FILE_LINK_S", 3600, "life of links to files, seconds", ge=60)
    rate_limit: str = setting("RATE_LIMIT", "120/minute", "requests of one user, e.g. 120/minute")
    max_waiting_jobs: int = setting(
        "MAX_WAITING_JOBS", 20, "jobs of one user that may wait for a worker at a time", ge=1
    )
    credits_granted: Annotated[int | None, BeforeValidator(empty_is_absent)] = setting(
        "CREDITS_GRANTED", None, "credits every user may spend in all (default: no limit)", ge=0
    )
    credit_prices: Annotated[dict[str, int], BeforeValidator(_prices)] = setting(
        "CREDIT_PRICES", {}, "credits for one picture or video where they differ, e.g. video_high=12"
    )
    relay_s: float = setting(
        "RELAY_S", 2.0, "seconds between two looks for jobs that are not in their queue yet", gt=0
    )

    @property
    def resolved_database_url(self) -> URL:
        return database_address(self.database_url.get_secret_value())

    @property
    def resolved_jwt_issuer(self) -> str | None:
        return self.jwt_issuer or self._supabase("/auth/v1")

    @property
    def resolved_jwks_url(self) -> str | None:
        return self.jwt_jwks_url or self._supabase("/auth/v1/.well-known/jwks.json")

    def queue_of(self, family: Family) -> str:
        return self.sdxl_queue if family is SDXL else self.wan_queue

    def addresses_with_passwords(self) -> list[str | None]:
        return [*super().addresses_with_passwords(), self.database_url.get_secret_value()]

    def _supabase(self, path: str) -> str | None:
        return self.supabase_url.rstrip("/") + path if self.supabase_url else None


def database_address(url: str) -> URL:
    """An address with the driver that is installed. Raises `ArgumentError` or `ValueError` for none."""
    address = make_url(url)
    if address.drivername in {"postgres", "postgresql"}:
        return address.set(drivername="postgresql+psycopg")
    return address


def load_gateway_settings(*, resolve: Resolver | None = None, **overrides: Any) -> GatewaySettings:
    """Read and check everything the gateway needs. Raises `SettingsError` that lists every fault at once."""
    settings = read_settings(GatewaySettings, overrides)
    resolve = resolve or resolve_host
    problems = [
        *missing_redis(settings),
        *_missing(settings),
        *_database_faults(settings, resolve),
        *_user_faults(settings),
        *_number_faults(settings),
        *queue_faults(settings),
        *address_faults(settings, "SUPABASE_URL", "JWT_JWKS_URL"),
        *missing_files(settings, "SCREEN_RULES", "MODERATION_PUBLIC_KEY"),
        *redis_faults(settings, resolve),
        *service_faults(settings, resolve, "SUPABASE_URL", "STORAGE_URL", "JWT_JWKS_URL"),
    ]
    if problems:
        raise SettingsError(problems)
    return settings


def _missing(settings: GatewaySettings) -> list[str]:
    problems = []
    storage = settings.resolved_storage_url
    if storage is None:
        problems.append("SUPABASE_URL is missing: set it, or STORAGE_URL=file:///folder for a local folder.")
    elif not storage.startswith("file:") and settings.supabase_service_key is None:
        problems.append("SUPABASE_SERVICE_KEY is missing: links to files are signed with it.")
    elif storage.startswith("file:") and settings.file_link_secret is None and not settings.demo:
        problems.append("FILE_LINK_SECRET is missing: links to files of a local folder are signed with it.")
    if not (settings.job_callback_secret or settings.supabase_service_key or settings.callback_token):
        problems.append(
            "JOB_CALLBACK_SECRET is missing: without it, SUPABASE_SERVICE_KEY or CALLBACK_TOKEN no callback"
            " of a worker could be told from anybody else's."
        )
    return problems


def _database_faults(settings: GatewaySettings, resolve: Resolver) -> list[str]:
    try:
        url = settings.resolved_database_url
    except (ArgumentError, ValueError):
        return ["DATABASE_URL is no address: characters of a password such as / : @ need percent signs."]
    if url.drivername == "sqlite":
        if url.database in {None, "", ":memory:"}:
            return ["DATABASE_URL names no file: write sqlite:///file, or sqlite:////folder/file."]
        folder = Path(str(url.database)).parent
        return [] if folder.is_dir() else ["DATABASE_URL: there is no such folder for the file."]
    if url.drivername != "postgresql+psycopg":
        return ["DATABASE_URL has to begin with sqlite:/// or postgresql://."]
    secure = url.query.get("sslmode") in {"require", "verify-ca", "verify-full"}
    if not secure and url.host and is_public(url.host, resolve):
        return [
            "DATABASE_URL goes to a public address without TLS, so that prompts could be read on the way:"
            " add ?sslmode=require (or verify-full)."
        ]
    return []


def _user_faults(settings: GatewaySettings) -> list[str]:
    if settings.demo:
        if not _is_loopback(settings.gateway_host):
            return ["GATEWAY_HOST has to be a loopback address with DEMO: its user needs no token."]
        return []
    problems = []
    secret = settings.supabase_jwt_secret
    if secret is None and settings.resolved_jwks_url is None:
        problems.append(
            "SUPABASE_JWT_SECRET is missing: set it, SUPABASE_URL or JWT_JWKS_URL, so that users' tokens can"
            " be verified, or DEMO=1 for one local user."
        )
    if secret is not None and len(secret.get_secret_value().encode()) < MIN_SECRET_BYTES:
        problems.append(f"SUPABASE_JWT_SECRET has to have {MIN_SECRET_BYTES} bytes or more.")
    if settings.resolved_jwt_issuer is None:
        problems.append("JWT_ISSUER is missing: set it, or SUPABASE_URL whose tokens are accepted.")
    return problems


def _number_faults(settings: GatewaySettings) -> list[str]:
    problems = []
    try:
        limits.parse(settings.rate_limit)
    except ValueError:
        problems.append("RATE_LIMIT has to be written like 120/minute or 2000/hour.")
    unknown = sorted(set(settings.credit_prices) - set(PRESETS))
    if unknown:
        problems.append(f"CREDIT_PRICES: there is no job type {', '.join(unknown)}.")
    if any(price < 0 for price in settings.credit_prices.values()):
        problems.append("CREDIT_PRICES: a price may not be negative.")
    return problems


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
