"""All settings of the workers, read from the environment and `.env` once, frozen, with every fault listed."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from shared.configuration import (
    Names,
    OptionalNumber,
    OptionalPath,
    OptionalSecret,
    OptionalText,
    Resolver,
    ServiceSettings,
    address_faults,
    description,
    empty_is_absent,
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
from shared.webhook import same_origin

QUALITY_NEGATIVES = (
    "blurry, low quality, worst quality, jpeg artifacts, distorted, deformed, bad anatomy, extra limbs,"
    " fused fingers, flickering, jitter, static, subtitles, text, watermark"
)
"""What a WAN job without a negative prompt is told to avoid, unless WAN_NEGATIVE_PROMPT says otherwise."""


class Settings(ServiceSettings):
    storage_cache_s: int = setting("STORAGE_CACHE_S", 3600, "cache-control of uploaded files, seconds", ge=0)
    signed_url_s: int = setting("SIGNED_URL_S", 86400, "life of signed URLs, seconds", ge=60)
    callback_url: OptionalText = setting(
        "CALLBACK_URL", None, "where callbacks go (default SUPABASE_URL/functions/v1/job-callback)"
    )
    callback_format: Literal["seed", "objects"] = setting(
        "CALLBACK_FORMAT", "seed", "assets as paths (seed) or as objects with url and metadata (objects)"
    )
    asset_reference: Literal["path", "public", "signed"] = setting(
        "ASSET_REFERENCE", "path", "how the callback names files: path in the bucket, public or signed URL"
    )

    wan_negative_prompt: str = setting(
        "WAN_NEGATIVE_PROMPT", QUALITY_NEGATIVES, "negative prompt of WAN jobs that state none"
    )
    model_sha256: OptionalText = setting(
        "MODEL_SHA256", None, "SHA-256 of the checkpoint file, checked before it is loaded"
    )
    device: str = setting("DEVICE", "auto", "auto, cpu, cuda or cuda:N")
    dtype: str = setting("DTYPE", "auto", "auto, float32, float16 or bfloat16")
    gpu_memory_gb: OptionalNumber = setting(
        "GPU_MEMORY_GB", None, "share of the card's memory in GB (default: all of it)", gt=0
    )
    wan_residency: str = setting(
        "WAN_RESIDENCY", "auto", "what stays on the card; auto lets the planner choose"
    )
    wan_attention: Literal["sdpa", "cudnn", "flash", "flash3"] = setting(
        "WAN_ATTENTION", "sdpa", "how WAN calculates attention; sdpa lets torch choose"
    )
    compile: bool = setting(
        "COMPILE",
        False,
        "torch.compile for the sizes that are warmed up (SDXL's UNet and decoder, WAN's blocks)",
    )
    warmup_s: OptionalNumber = setting(
        "WARMUP_S",
        None,
        "seconds to run what will be served before any job is taken (default: 300 on a card, else 0)",
        ge=0,
    )
    warmup_sizes: Names = setting(
        "WARMUP_SIZES", (), "sizes that are warmed up, e.g. 1024*1024 (default: the model's)"
    )

    block_s: float = setting("BLOCK_S", 30.0, "seconds one blocking take waits", gt=0, le=600)
    lease_s: float = setting("LEASE_S", 90.0, "seconds after which a silent worker counts as dead", gt=0)
    heartbeat_s: float = setting("HEARTBEAT_S", 20.0, "seconds between two renewals of the lease", gt=0)
    max_deliveries: int = setting(
        "MAX_DELIVERIES", 3, "deaths of its workers after which a job is given up", ge=1
    )
    max_queue_age_s: OptionalNumber = setting(
        "MAX_QUEUE_AGE_S", None, "jobs that waited longer fail with `expired` (default: never)", gt=0
    )
    prefetch_lead_s: float = setting(
        "PREFETCH_LEAD_S", 2.0, "take the next job when the running one has fewer seconds left", ge=0
    )
    max_batch_images: int = setting(
        "MAX_BATCH_IMAGES", 1, "pictures of waiting jobs that may run in one pass; 1: no merging", ge=1, le=32
    )
    drain_s: float = setting("DRAIN_S", 5.0, "seconds a stopping worker may use to finish", ge=0)
    publish_threads: int = setting("PUBLISH_THREADS", 2, "jobs that are uploaded side by side", ge=1, le=32)
    spool_mb: int = setting(
        "SPOOL_MB", 2048, "finished files that may wait for the storage before no job is taken", ge=1
    )
    max_callbacks_waiting: int = setting(
        "MAX_CALLBACKS_WAITING", 100_000, "undelivered callbacks at which no more jobs are taken", ge=1
    )
    scratch_dir: OptionalPath = setting(
        "SCRATCH_DIR", None, "folder for finished files (default: a private one)"
    )
    state_dir: Path = setting(
        "STATE_DIR",
        Path("/tmp/gpu-workers"),  # noqa: S108
        "remembers failed starts across restarts",
    )

    reference_policy: Literal["refuse", "screened", "trusted"] = setting(
        "REFERENCE_POLICY", "refuse", "what is done with reference images"
    )
    reference_hosts: Names = setting(
        "REFERENCE_HOSTS", (), "hosts references are fetched from (default Supabase's)"
    )
    reference_buckets: Names = setting(
        "REFERENCE_BUCKETS", ("reference_images", "workspace_assets"), "buckets references are fetched from"
    )
    image_blocklist: OptionalPath = setting(
        "IMAGE_BLOCKLIST", None, "file of exact and perceptual hashes of pictures to refuse"
    )
    image_classifier_url: OptionalText = setting(
        "IMAGE_CLASSIFIER_URL", None, "classifier that has to allow every generated picture"
    )
    image_classifier_token: OptionalSecret = setting(
        "IMAGE_CLASSIFIER_TOKEN", None, "bearer token of the classifier"
    )

    embed_settings: bool = setting("EMBED_SETTINGS", False, "write seed and settings into the files")
    embed_prompt: bool = setting("EMBED_PROMPT", False, "write the prompt into the files as well")
    c2pa_certificate: OptionalPath = setting("C2PA_CERTIFICATE", None, "PEM chain; files are signed with it")
    c2pa_key: OptionalPath = setting("C2PA_KEY", None, "PEM private key of C2PA_CERTIFICATE")

    health_port: Annotated[int | None, BeforeValidator(empty_is_absent)] = setting(
        "HEALTH_PORT", None, "port of /live and /ready (default: off)", ge=0, le=65535
    )
    health_host: str = setting("HEALTH_HOST", "127.0.0.1", "address the health port listens on")
    worker_name: str = setting("WORKER_NAME", socket.gethostname(), "shown beside the worker's id")

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

    def addresses_with_passwords(self) -> Iterable[str | None]:
        return [*super().addresses_with_passwords(), self.callback_url]


def load_settings(
    model_variable: str | None, *, resolve: Resolver | None = None, **overrides: Any
) -> Settings:
    """Read and check everything a worker needs to start.

    `model_variable` is the variable that names this worker's checkpoint (SDXL_MODEL or WAN_MODEL).
    Raises `SettingsError` that lists every fault at once; no fault shows a value.
    """
    settings = read_settings(Settings, overrides)
    resolve = resolve or resolve_host
    problems = [
        *missing_redis(settings),
        *_missing(settings, model_variable),
        *_inconsistent(settings),
        *redis_faults(settings, resolve),
        *service_faults(settings, resolve, "SUPABASE_URL", "STORAGE_URL", "CALLBACK_URL"),
    ]
    if problems:
        raise SettingsError(problems)
    return settings


def load_console_settings(*, resolve: Resolver | None = None, **overrides: Any) -> Settings:
    """Read what a look at the queues needs: Redis and the queues' names. Raises `SettingsError`."""
    settings = read_settings(Settings, overrides)
    problems = [*missing_redis(settings), *redis_faults(settings, resolve or resolve_host)]
    if problems:
        raise SettingsError(problems)
    return settings


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
        problems.append(f"{model_variable} is missing: {description(Settings, model_variable)}.")
    return problems


def _inconsistent(settings: Settings) -> list[str]:
    problems = []
    if settings.block_s + settings.heartbeat_s >= settings.lease_s:
        problems.append(
            "LEASE_S has to be longer than BLOCK_S + HEARTBEAT_S"
            f" (now {settings.lease_s:g} against {settings.block_s:g} + {settings.heartbeat_s:g}):"
            " a worker that waits for a job would lose its lease."
        )
    problems += address_faults(settings, "SUPABASE_URL", "CALLBACK_URL", "IMAGE_CLASSIFIER_URL")
    problems += queue_faults(settings)
    if (settings.c2pa_certificate is None) != (settings.c2pa_key is None):
        problems.append("C2PA_CERTIFICATE and C2PA_KEY have to be set together.")
    problems += missing_files(
        settings, "SCREEN_RULES", "IMAGE_BLOCKLIST", "C2PA_CERTIFICATE", "C2PA_KEY", "MODERATION_PUBLIC_KEY"
    )
    return problems
