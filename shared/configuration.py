"""What the settings of every process have in common: how they are read, checked, listed and kept secret.

A field's alias is the variable's name; its description is what `--help` prints and what a fault points to.
"""

from __future__ import annotations

import ipaddress
import socket
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import SettingsError


def _comma_separated(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def empty_is_absent(value: Any) -> Any:
    return None if value == "" else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]
OptionalText = Annotated[str | None, BeforeValidator(empty_is_absent)]
OptionalSecret = Annotated[SecretStr | None, BeforeValidator(empty_is_absent)]
OptionalNumber = Annotated[float | None, BeforeValidator(empty_is_absent)]
OptionalPath = Annotated[Path | None, BeforeValidator(empty_is_absent)]


def setting(name: str, default: Any, description: str, *aliases: str, **limits: Any) -> Any:
    return Field(default, validation_alias=AliasChoices(name, *aliases), description=description, **limits)


class ServiceSettings(BaseSettings):
    """The settings that the workers and their producer have to agree on."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True)

    redis_url: OptionalSecret = setting(
        "REDIS_URL", None, "Redis or Valkey 6.2+, e.g. rediss://default:password@host:6379"
    )
    redis_allow_plaintext: bool = setting(
        "REDIS_ALLOW_PLAINTEXT", False, "permit redis:// without TLS to a public address"
    )
    upstash_redis_rest_url: OptionalSecret = setting(
        "UPSTASH_REDIS_REST_URL", None, "not used: its REST interface cannot block; see REDIS_URL"
    )
    supabase_url: OptionalText = setting("SUPABASE_URL", None, "the project's address, https://….supabase.co")
    supabase_service_key: OptionalSecret = setting(
        "SUPABASE_SERVICE_KEY", None, "the project's service key", "SUPABASE_SERVICE_ROLE_KEY"
    )
    storage_url: OptionalText = setting(
        "STORAGE_URL", None, "where files go: file:///folder or a Supabase address (default SUPABASE_URL)"
    )
    callback_token: OptionalSecret = setting(
        "CALLBACK_TOKEN", None, "bearer token for a CALLBACK_URL on another host than Supabase's"
    )
    job_callback_secret: OptionalSecret = setting(
        "JOB_CALLBACK_SECRET", None, "callbacks are signed with it (HMAC-SHA256)"
    )
    output_buckets: Names = setting(
        "OUTPUT_BUCKETS", (), "buckets a payload may name beside its job type's own, comma-separated"
    )
    sdxl_model: OptionalText = setting(
        "SDXL_MODEL", None, "SDXL checkpoint: a .safetensors file, a diffusers folder or a hub id"
    )
    sdxl_config: OptionalPath = setting(
        "SDXL_CONFIG",
        None,
        "diffusers folder with the configuration of a .safetensors file (default SDXL base's)",
    )
    wan_model: OptionalText = setting("WAN_MODEL", None, "WAN 2.1 T2V 1.3B: a diffusers folder or a hub id")
    sdxl_queue: str = setting("SDXL_QUEUE", "sdxl_queue", "Redis list of the SDXL worker")
    wan_queue: str = setting("WAN_QUEUE", "wan_queue", "Redis list of the WAN worker")
    queue_pop: Literal["left", "right"] = setting(
        "QUEUE_POP", "right", "the side jobs are taken from: right where the producer LPUSHes"
    )
    screen_rules: OptionalPath = setting(
        "SCREEN_RULES", None, "TOML file with the operator's own rules, added to the content screen"
    )
    moderation_key: OptionalSecret = setting(
        "MODERATION_KEY", None, "keys the hash of refused prompts in the moderation stream"
    )
    moderation_public_key: OptionalPath = setting(
        "MODERATION_PUBLIC_KEY", None, "PEM public key; refused prompts are kept, encrypted to it"
    )
    log_format: Literal["json", "console"] = setting("LOG_FORMAT", "json", "json or console")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = setting(
        "LOG_LEVEL", "INFO", "least level logged"
    )
    demo_size: int = setting("DEMO_SIZE", 128, "side of the demo's SDXL pictures, pixels", ge=64, le=1024)
    demo_wan_size: int = setting(
        "DEMO_WAN_SIZE", 64, "side of what the demo makes with WAN, pixels", ge=64, le=1024
    )
    demo_frames: int = setting("DEMO_FRAMES", 17, "frames of the demo's video", ge=1, le=161)

    @property
    def resolved_storage_url(self) -> str | None:
        return self.storage_url or self.supabase_url

    def addresses_with_passwords(self) -> Iterable[str | None]:
        return [self.redis_url.get_secret_value() if self.redis_url else None]

    def secrets(self) -> list[str]:
        """Every secret value, and the password inside every address: what no log may hold."""
        values = [value.get_secret_value() for _, value in self if isinstance(value, SecretStr)]
        passwords = [urlsplit(address).password for address in self.addresses_with_passwords() if address]
        # In an address a password may be written with percent signs; its user sends it without.
        return [text for value in [*values, *passwords] if value for text in {value, unquote(value)}]


S = TypeVar("S", bound=ServiceSettings)
Resolver = Callable[[str], list[str]]


def read_settings(kind: type[S], overrides: dict[str, Any]) -> S:
    """Read the environment and `.env`. Raises `SettingsError` that lists every value of a wrong form."""
    try:
        return kind(**overrides)
    except ValidationError as error:
        problems = []
        for fault in error.errors(include_input=False, include_url=False, include_context=False):
            name = str(fault["loc"][0])
            problems.append(f"{name}: {fault['msg'].lower()}; {description(kind, name)}")
        raise SettingsError(problems) from None


def help_text(usage: str, kind: type[ServiceSettings]) -> str:
    """`usage` and one line for every setting with its default and meaning."""
    lines = [usage.rstrip(), "", "Settings (environment variables or .env):"]
    for field in kind.model_fields.values():
        names = field.validation_alias.choices  # type: ignore[union-attr]
        default = field.default
        shown = ",".join(default) if isinstance(default, tuple) else default
        says_nothing = shown in (None, "", {}) or isinstance(shown, SecretStr)
        shown = "" if says_nothing else f" [{textwrap.shorten(str(shown), 60)}]"
        also = f" (also {', '.join(map(str, names[1:]))})" if len(names) > 1 else ""
        lines.append(f"  {names[0]!s:<24} {field.description}{also}{shown}")
    return "\n".join(lines)


def description(kind: type[ServiceSettings], name: str) -> str:
    for field in kind.model_fields.values():
        if name in field.validation_alias.choices:  # type: ignore[union-attr]
            return str(field.description)
    return "see --help"


def missing_redis(settings: ServiceSettings) -> list[str]:
    if settings.redis_url is not None:
        return []
    if settings.upstash_redis_rest_url is not None:
        return [
            "REDIS_URL is missing: Upstash's REST interface cannot block on a list. Open the database in"
            " Upstash's console, choose 'Connect' and 'TCP', and set REDIS_URL to the rediss:// address."
        ]
    return [f"REDIS_URL is missing: {description(type(settings), 'REDIS_URL')}."]


def queue_faults(settings: ServiceSettings) -> list[str]:
    problems = []
    if settings.sdxl_queue == settings.wan_queue:
        problems.append("SDXL_QUEUE and WAN_QUEUE are the same list: each worker needs its own.")
    problems += [
        f"{name} may not hold braces: they mark the cluster slot of the keys beside it."
        for name in ("SDXL_QUEUE", "WAN_QUEUE")
        if set("{}") & set(getattr(settings, name.lower()))
    ]
    return problems


def address_faults(settings: ServiceSettings, *names: str) -> list[str]:
    """The named addresses, and STORAGE_URL, have to be addresses of their kind."""
    problems = []
    for name in names:
        value = getattr(settings, name.lower())
        if value and scheme_of(value) not in {"http", "https"}:
            problems.append(f"{name} has to be an address that begins with https://.")
    storage = settings.storage_url
    if storage and scheme_of(storage) not in {"http", "https", "file"}:
        problems.append("STORAGE_URL has to be an address that begins with https:// or file:///.")
    return problems


def missing_files(settings: ServiceSettings, *names: str) -> list[str]:
    return [
        f"{name}: there is no such file."
        for name in names
        if (path := getattr(settings, name.lower())) is not None and not path.is_file()
    ]


def redis_faults(settings: ServiceSettings, resolve: Resolver) -> list[str]:
    if settings.redis_url is None:
        return []
    url = settings.redis_url.get_secret_value()
    scheme = scheme_of(url)
    if scheme not in {"redis", "rediss", "unix"}:
        return [
            "REDIS_URL has to be an address that begins with rediss:// (TLS), redis:// or unix://; characters"
            " of a password such as / : @ [ have to be written with percent signs."
        ]
    options = {name for name, _ in parse_qsl(urlsplit(url).query)}
    if foreign := sorted(name for name in options - {"db"} if not name.startswith("ssl_")):
        # redis-py lets an address override every option of the client, time limits of a blocking take too.
        return [f"REDIS_URL may carry no options but db and ssl_…: remove {', '.join(foreign)}."]
    if scheme != "redis" or settings.redis_allow_plaintext:
        return []
    if is_public(urlsplit(url).hostname, resolve):
        return [
            "REDIS_URL goes to a public address without TLS, so the password and every prompt could be read"
            " on the way: use rediss://, or set REDIS_ALLOW_PLAINTEXT=1 if a tunnel protects it."
        ]
    return []


def service_faults(settings: ServiceSettings, resolve: Resolver, *names: str) -> list[str]:
    """Keys and prompts go over a public network in TLS only."""
    return [
        f"{name} goes to a public address without TLS, so that keys and prompts could be read on the way:"
        " use https://."
        for name in names
        if (url := getattr(settings, name.lower()))
        and scheme_of(url) == "http"
        and is_public(urlsplit(url).hostname, resolve)
    ]


def is_public(host: str | None, resolve: Resolver) -> bool:
    addresses = resolve(host or "localhost")
    return any(ipaddress.ip_address(address.split("%")[0]).is_global for address in addresses)


def resolve_host(host: str) -> list[str]:
    """The host's addresses; none if it has none now: connecting will say so."""
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None)})
    except OSError:
        return []


def scheme_of(url: str) -> str | None:
    """The scheme of an address; None where it is none, e.g. with a port that is no number."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts.scheme
