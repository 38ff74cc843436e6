"""All settings of the workers, read from the environment and `.env` once, frozen, with every fault listed.

A field's alias is the variable's name; its description is what `--help` prints and what a fault points to.
"""

from __future__ import annotations

import ipaddress
import socket
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import SettingsError
from shared.webhook import same_origin

QUALITY_NEGATIVES = (
    "blurry, low quality, worst quality, jpeg artifacts, distorted, deformed, bad anatomy, extra limbs,"
    " fused fingers, flickering, jitter, static, subtitles, text, watermark"
)
"""What a WAN job without a negative prompt is told to avoid, unless WAN_NEGATIVE_PROMPT says otherwise."""


def _comma_separated(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _empty_is_absent(value: Any) -> Any:
    return None if value == "" else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]
OptionalText = Annotated[str | None, BeforeValidator(_empty_is_absent)]
OptionalSecret = Annotated[SecretStr | None, BeforeValidator(_empty_is_absent)]
OptionalNumber = Annotated[float | None, BeforeValidator(_empty_is_absent)]
OptionalPath = Annotated[Path | None, BeforeValidator(_empty_is_absent)]


def _field(name: str, default: Any, description: str, *aliases: str, **limits: Any) -> Any:
    return Field(default, validation_alias=AliasChoices(name, *aliases), description=description, **limits)


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True)

    redis_url: OptionalSecret = _field(
        "REDIS_URL", None, "Redis or Valkey 6.2+, e.g. rediss://default:password@host:6379"
    )
    redis_allow_plaintext: bool = _field(
        "REDIS_ALLOW_PLAINTEXT", False, "permit redis:// without TLS to a public address"
    )
    upstash_redis_rest_url: OptionalSecret = _field(
        "UPSTASH_REDIS_REST_URL", None, "not used: its REST interface cannot block; see REDIS_URL"
    )
    supabase_url: OptionalText = _field("SUPABASE_URL", None, "the project's address, https://….supabase.co")
    supabase_service_key: OptionalSecret = _field(
        "SUPABASE_SERVICE_KEY", None, "the project's service key", "SUPABASE_SERVICE_ROLE_KEY"
    )
    storage_url: OptionalText = _field(
        "STORAGE_URL", None, "where files go: file:///folder or a Supabase address (default SUPABASE_URL)"
    )
    storage_cache_s: int = _field("STORAGE_CACHE_S", 3600, "cache-control of uploaded files, seconds", ge=0)
    signed_url_s: int = _field("SIGNED_URL_S", 86400, "life of signed URLs, seconds", ge=60)
    callback_url: OptionalText = _field(
        "CALLBACK_URL", None, "where callbacks go (default SUPABASE_URL/functions/v1/job-callback)"
    )
    callback_token: OptionalSecret = _field(
        "CALLBACK_TOKEN", None, "bearer token for a CALLBACK_URL on another host than Supabase's"
    )
    job_callback_secret: OptionalSecret = _field(
        "JOB_CALLBACK_SECRET", None, "callbacks are signed with it (HMAC-SHA256)"
    )
    callback_format: Literal["seed", "objects"] = _field(
        "CALLBACK_FORMAT", "seed", "assets as paths (seed) or as objects with url and metadata (objects)"
    )
    asset_reference: Literal["path", "public", "signed"] = _field(
        "ASSET_REFERENCE", "path", "how the callback names files: path in the bucket, public or signed URL"
    )
    output_buckets: Names = _field(
        "OUTPUT_BUCKETS", (), "buckets a payload may name beside its job type's own, comma-separated"
    )

    sdxl_model: OptionalText = _field(
        "SDXL_MODEL", None, "SDXL checkpoint: a .safetensors file, a diffusers folder or a hub id"
    )
    sdxl_config: OptionalPath = _field(
        "SDXL_CONFIG",
        None,
        "diffusers folder with the configuration of a .safetensors file (default SDXL base's)",
    )
    wan_model: OptionalText = _field("WAN_MODEL", None, "WAN 2.1 T2V 1.3B: a diffusers folder or a hub id")
    wan_negative_prompt: str = _field(
        "WAN_NEGATIVE_PROMPT", QUALITY_NEGATIVES, "negative prompt of WAN jobs that state none"
    )
    model_sha256: OptionalText = _field(
        "MODEL_SHA256", None, "SHA-256 of the checkpoint file, checked before it is loaded"
    )
    device: str = _field("DEVICE", "auto", "auto, cpu, cuda or cuda:N")
    dtype: str = _field("DTYPE", "auto", "auto, float32, float16 or bfloat16")
    gpu_memory_gb: OptionalNumber = _field(
        "GPU_MEMORY_GB", None, "share of the card's memory in GB (default: all of it)", gt=0
    )
    wan_residency: str = _field(
        "WAN_RESIDENCY", "auto", "what stays on the card; auto lets the planner choose"
    )

    sdxl_queue: str = _field("SDXL_QUEUE", "sdxl_queue", "Redis list of the SDXL worker")
    wan_queue: str = _field("WAN_QUEUE", "wan_queue", "Redis list of the WAN worker")
    queue_pop: Literal["left", "right"] = _field(
        "QUEUE_POP", "right", "the side jobs are taken from: right where the producer LPUSHes"
    )
    block_s: float = _field("BLOCK_S", 30.0, "seconds one blocking take waits", gt=0, le=600)
    lease_s: float = _field("LEASE_S", 90.0, "seconds after which a silent worker counts as dead", gt=0)
    heartbeat_s: float = _field("HEARTBEAT_S", 20.0, "seconds between two renewals of the lease", gt=0)
    max_deliveries: int = _field(
        "MAX_DELIVERIES", 3, "deaths of its workers after which a job is given up", ge=1
    )
    max_queue_age_s: OptionalNumber = _field(
        "MAX_QUEUE_AGE_S", None, "jobs that waited longer fail with `expired` (default: never)", gt=0
    )
    prefetch_lead_s: float = _field(
        "PREFETCH_LEAD_S", 2.0, "take the next job when the running one has fewer seconds left", ge=0
    )
    drain_s: float = _field("DRAIN_S", 5.0, "seconds a stopping worker may use to finish", ge=0)
    publish_threads: int = _field("PUBLISH_THREADS", 2, "jobs that are uploaded side by side", ge=1, le=32)
    spool_mb: int = _field(
        "SPOOL_MB", 2048, "finished files that may wait for the storage before no job is taken", ge=1
    )
    max_callbacks_waiting: int = _field(
        "MAX_CALLBACKS_WAITING", 100_000, "undelivered callbacks at which no more jobs are taken", ge=1
    )
    scratch_dir: OptionalPath = _field(
        "SCRATCH_DIR", None, "folder for finished files (default: a private one)"
    )
    state_dir: Path = _field("STATE_DIR", Path("/tmp/gpu-workers"), "remembers failed starts across restarts")  # noqa: S108

    screen_rules: OptionalPath = _field(
        "SCREEN_RULES", None, "TOML file with the operator's own rules, added to the content screen"
    )
    moderation_key: OptionalSecret = _field(
        "MODERATION_KEY", None, "keys the hash of refused prompts in the moderation stream"
    )
    moderation_public_key: OptionalPath = _field(
        "MODERATION_PUBLIC_KEY", None, "PEM public key; refused prompts are kept, encrypted to it"
    )
    reference_policy: Literal["refuse", "screened", "trusted"] = _field(
        "REFERENCE_POLICY", "refuse", "what is done with reference images"
    )
    reference_hosts: Names = _field(
        "REFERENCE_HOSTS", (), "hosts references are fetched from (default Supabase's)"
    )
    reference_buckets: Names = _field(
        "REFERENCE_BUCKETS", ("reference_images", "workspace_assets"), "buckets references are fetched from"
    )
    image_blocklist: OptionalPath = _field(
        "IMAGE_BLOCKLIST", None, "file of exact and perceptual hashes of pictures to refuse"
    )
    image_classifier_url: OptionalText = _field(
        "IMAGE_CLASSIFIER_URL", None, "classifier that has to allow every generated picture"
    )
    image_classifier_token: OptionalSecret = _field(
        "IMAGE_CLASSIFIER_TOKEN", None, "bearer token of the classifier"
    )

    embed_settings: bool = _field("EMBED_SETTINGS", False, "write seed and settings into the files")
    embed_prompt: bool = _field("EMBED_PROMPT", False, "write the prompt into the files as well")
    c2pa_certificate: OptionalPath = _field("C2PA_CERTIFICATE", None, "PEM chain; files are signed with it")
    c2pa_key: OptionalPath = _field("C2PA_KEY", None, "PEM private key of C2PA_CERTIFICATE")

    health_port: Annotated[int | None, BeforeValidator(_empty_is_absent)] = _field(
        "HEALTH_PORT", None, "port of /live and /ready (default: off)", ge=0, le=65535
    )
    health_host: str = _field("HEALTH_HOST", "127.0.0.1", "address the health port listens on")
    log_format: Literal["json", "console"] = _field("LOG_FORMAT", "json", "json or console")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = _field(
        "LOG_LEVEL", "INFO", "least level logged"
    )
    worker_name: str = _field("WORKER_NAME", socket.gethostname(), "shown beside the worker's id")

    demo_size: int = _field("DEMO_SIZE", 128, "side of the demo's pictures, pixels", ge=64, le=1024)
    demo_frames: int = _field("DEMO_FRAMES", 17, "frames of the demo's video", ge=1, le=161)

    @property
    def resolved_storage_url(self) -> str | None:
        return self.storage_url or self.supabase_url

    @property
    def resolved_callback_url(self) -> str | None:
        if self.callback_url or not self.supabase_url:
            return self.callback_url
        return self.supabase_url.rstrip("/") + "/functions/v1/job-callback"

    @property
    def callback_is_own_host(self) -> bool:
        """Whether callbacks go to Supabase itself, which alone may see the service key."""
        return bool(self.supabase_url) and same_origin(
            self.resolved_callback_url or "", self.supabase_url or ""
        )

    def secrets(self) -> list[str]:
        """Every secret value, and the password inside REDIS_URL: what no log may hold."""
        values = [value.get_secret_value() for _, value in self if isinstance(value, SecretStr)]
        addresses = [self.redis_url.get_secret_value() if self.redis_url else None, self.callback_url]
        passwords = [urlsplit(address).password for address in addresses if address]
        # In an address a password may be written with percent signs; its user sends it without.
        return [text for value in [*values, *passwords] if value for text in {value, unquote(value)}]


Resolver = Callable[[str], list[str]]


def load_settings(
    model_variable: str | None, *, resolve: Resolver | None = None, **overrides: Any
) -> Settings:
    """Read and check everything a worker needs to start.

    `model_variable` is the variable that names this worker's checkpoint (SDXL_MODEL or WAN_MODEL).
    Raises `SettingsError` that lists every fault at once; no fault shows a value.
    """
    settings = _read(overrides)
    problems = [
        *_missing_redis(settings),
        *_missing(settings, model_variable),
        *_inconsistent(settings),
        *_redis_faults(settings, resolve or _resolve),
        *_service_faults(settings, resolve or _resolve),
    ]
    if problems:
        raise SettingsError(problems)
    return settings


def load_console_settings(*, resolve: Resolver | None = None, **overrides: Any) -> Settings:
    """Read what a look at the queues needs: Redis and the queues' names. Raises `SettingsError`."""
    settings = _read(overrides)
    problems = [*_missing_redis(settings), *_redis_faults(settings, resolve or _resolve)]
    if problems:
        raise SettingsError(problems)
    return settings


def _read(overrides: dict[str, Any]) -> Settings:
    try:
        return Settings(**overrides)
    except ValidationError as error:
        problems = []
        for fault in error.errors(include_input=False, include_url=False, include_context=False):
            name = str(fault["loc"][0])
            problems.append(f"{name}: {fault['msg'].lower()}; {_description(name)}")
        raise SettingsError(problems) from None


def help_text(usage: str) -> str:
    """`usage` and one line for every setting with its default and meaning."""
    lines = [usage.rstrip(), "", "Settings (environment variables or .env):"]
    for field in Settings.model_fields.values():
        names = field.validation_alias.choices  # type: ignore[union-attr]
        default = field.default
        shown = ",".join(default) if isinstance(default, tuple) else default
        shown = "" if shown is None or shown == "" else f" [{textwrap.shorten(str(shown), 60)}]"
        also = f" (also {', '.join(map(str, names[1:]))})" if len(names) > 1 else ""
        lines.append(f"  {names[0]!s:<24} {field.description}{also}{shown}")
    return "\n".join(lines)


def _description(name: str) -> str:
    for field in Settings.model_fields.values():
        if name in field.validation_alias.choices:  # type: ignore[union-attr]
            return str(field.description)
    return "see --help"


def _missing_redis(settings: Settings) -> list[str]:
    if settings.redis_url is not None:
        return []
    if settings.upstash_redis_rest_url is not None:
        return [
            "REDIS_URL is missing: Upstash's REST interface cannot block on a list. Open the database in"
            " Upstash's console, choose 'Connect' and 'TCP', and set REDIS_URL to the rediss:// address."
        ]
    return [f"REDIS_URL is missing: {_description('REDIS_URL')}."]


def _missing(settings: Settings, model_variable: str | None) -> list[str]:
    problems = []
    if settings.resolved_storage_url is None:
        problems.append("SUPABASE_URL is missing: set it, or STORAGE_URL=file:///folder for a local folder.")
    elif not settings.resolved_storage_url.startswith("file:") and settings.supabase_service_key is None:
        problems.append("SUPABASE_SERVICE_KEY is missing: the storage takes files only with the service key.")
    if settings.resolved_callback_url is None:
        problems.append(
            "CALLBACK_URL is missing: set it, or SUPABASE_URL whose job-callback function is used."
        )
    if model_variable and not getattr(settings, model_variable.lower()):
        problems.append(f"{model_variable} is missing: {_description(model_variable)}.")
    return problems


def _inconsistent(settings: Settings) -> list[str]:
    problems = []
    if settings.block_s + settings.heartbeat_s >= settings.lease_s:
        problems.append(
            "LEASE_S has to be longer than BLOCK_S + HEARTBEAT_S"
            f" (now {settings.lease_s:g} against {settings.block_s:g} + {settings.heartbeat_s:g}):"
            " a worker that waits for a job would lose its lease."
        )
    for name in ("SUPABASE_URL", "CALLBACK_URL", "IMAGE_CLASSIFIER_URL"):
        value = getattr(settings, name.lower())
        if value and _scheme(value) not in {"http", "https"}:
            problems.append(f"{name} has to be an address that begins with https://.")
    storage = settings.storage_url
    if storage and _scheme(storage) not in {"http", "https", "file"}:
        problems.append("STORAGE_URL has to be an address that begins with https:// or file:///.")
    if settings.sdxl_queue == settings.wan_queue:
        problems.append("SDXL_QUEUE and WAN_QUEUE are the same list: each worker needs its own.")
    problems += [
        f"{name} may not hold braces: they mark the cluster slot of the keys beside it."
        for name in ("SDXL_QUEUE", "WAN_QUEUE")
        if set("{}") & set(getattr(settings, name.lower()))
    ]
    if (settings.c2pa_certificate is None) != (settings.c2pa_key is None):
        problems.append("C2PA_CERTIFICATE and C2PA_KEY have to be set together.")
    for name in ("SCREEN_RULES", "IMAGE_BLOCKLIST", "C2PA_CERTIFICATE", "C2PA_KEY", "MODERATION_PUBLIC_KEY"):
        path = getattr(settings, name.lower())
        if path is not None and not path.is_file():
            problems.append(f"{name}: there is no such file.")
    return problems


def _redis_faults(settings: Settings, resolve: Resolver) -> list[str]:
    if settings.redis_url is None:
        return []
    url = settings.redis_url.get_secret_value()
    scheme = _scheme(url)
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
    if _is_public(urlsplit(url).hostname, resolve):
        return [
            "REDIS_URL goes to a public address without TLS, so the password and every prompt could be read"
            " on the way: use rediss://, or set REDIS_ALLOW_PLAINTEXT=1 if a tunnel protects it."
        ]
    return []


def _service_faults(settings: Settings, resolve: Resolver) -> list[str]:
    """Keys and prompts go over a public network in TLS only."""
    return [
        f"{name} goes to a public address without TLS, so that keys and prompts could be read on the way:"
        " use https://."
        for name in ("SUPABASE_URL", "STORAGE_URL", "CALLBACK_URL")
        if (url := getattr(settings, name.lower()))
        and _scheme(url) == "http"
        and _is_public(urlsplit(url).hostname, resolve)
    ]


def _is_public(host: str | None, resolve: Resolver) -> bool:
    addresses = resolve(host or "localhost")
    return any(ipaddress.ip_address(address.split("%")[0]).is_global for address in addresses)


def _resolve(host: str) -> list[str]:
    """The host's addresses; none if it has none now: connecting will say so."""
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None)})
    except OSError:
        return []


def _scheme(url: str) -> str | None:
    """The scheme of an address; None where it is none, e.g. with a port that is no number."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts.scheme
