"""Puts the parts of a worker together from its settings."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import TypeVar

from shared.callback import WorkerFacts, render
from shared.enhance import RuleEnhancer
from shared.errors import ServiceMisconfigured, ServiceUnavailable, SettingsError
from shared.moderation import moderation_sink
from shared.outbox import Outbox
from shared.plan import PlanDefaults
from shared.presets import PRESETS
from shared.queue import QueueSettings, RedisConnections, WorkQueue, translated_redis_errors
from shared.screen import Screen
from shared.settings import Settings
from shared.storage import Storage, open_storage
from shared.webhook import WebhookSender, backoff_seconds
from workers.callbacks import Callbacks
from workers.encode import C2paSigner, Marking, check_signer
from workers.engines.base import Engine, EngineInfo
from workers.engines.compiling import prepare_environment
from workers.engines.pin import check_pin
from workers.engines.warmup import passes_to_warm_up
from workers.held import Hands
from workers.image_screen import ClassifierOverHttp, HashBlocklist, ImageScreen, ScreenChain
from workers.intake import Rules
from workers.kind import Kind
from workers.loop import LoopSettings, Worker
from workers.merging import Merging
from workers.pipeline import Pipeline
from workers.progress import Progress
from workers.scratch import Scratch
from workers.startup import Timeline, problems_known, read_ahead

log = logging.getLogger(__name__)

GENERATOR = "gpu-generation-workers"
SENDER_TIMEOUT_S = 15.0
UPLOADS_PER_JOB = 6
WARMUP_ON_CARD_S = 300.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Built:
    worker: Worker
    queue: WorkQueue
    pipeline: Pipeline
    progress: Progress
    storage: Storage
    scratch: Scratch
    info: EngineInfo

    def close(self) -> None:
        self.scratch.remove()


def version() -> str:
    try:
        return metadata.version(GENERATOR)
    except metadata.PackageNotFoundError:
        return "unreleased"


def build(
    kind: Kind,
    settings: Settings,
    *,
    once: bool = False,
    on_node_fault: Callable[[], None] = lambda: None,
    on_success: Callable[[], None] = lambda: None,
    exit_now: Callable[[int], None] = os._exit,
    wrap_engine: Callable[[Engine], Engine] = lambda engine: engine,
) -> Built:
    """Connect, check the storage and load the model: everything that has to work before a job is taken.

    What waits for the network or the disk runs beside the imports and the model. Raises `SettingsError` for
    what a person has to mend; waits for services that do not answer yet.
    """
    timeline = Timeline()
    prepare_environment(settings.state_dir, settings.compile, os.environ)
    to_warm_up = passes_to_warm_up(kind.family, settings.warmup_sizes, settings.max_batch_images)
    with timeline.stage("clients"):
        storage, sender = _storage(settings), _sender(settings)
        assert settings.redis_url is not None
        connections = RedisConnections(settings.redis_url.get_secret_value(), settings.block_s)
        marking, image_screen = _marking(settings), _image_screen(settings)
    model = str(getattr(settings, kind.model_variable.lower()))
    # A file that cannot be read is a fault that loading the model tells of.
    timeline.beside("reading ahead", lambda: read_ahead(model))
    services = timeline.beside("services", lambda: _check_services(kind, settings, storage, connections))
    compiled = timeline.beside("screen", lambda: Screen.configured(settings.screen_rules))
    with timeline.stage("model libraries"):
        kind.import_libraries()
    # Told before any time goes into the model.
    if problems := problems_known(services, compiled):
        raise SettingsError(problems)
    if settings.model_sha256:
        with timeline.stage("checkpoint's SHA-256"):
            check_pin(model, settings.model_sha256)
    engine = wrap_engine(kind.make_engine(settings))
    with timeline.stage("model"):
        info = engine.load()
    log.info("model loaded", extra=info.applied)
    with timeline.stage("warm-up"):
        warmed = engine.warm_up(to_warm_up, _warmup_seconds(settings, info))
    applied = {**info.applied, "warmed_up": f"{len(warmed)} of {len(to_warm_up)} sizes"}
    with timeline.stage("waiting for screen and services"):
        screen = compiled.result()
        services.result()
    log.info("started", extra={"stages": timeline.told()})

    described = {
        "name": settings.worker_name,
        "kind": kind.name,
        "version": version(),
        "gpu": info.gpu_name,
        "pid": os.getpid(),
    }
    queue = WorkQueue(
        connections,
        kind.queue(settings),
        QueueSettings(pop=settings.queue_pop, lease_s=settings.lease_s, grace_s=1.5 * settings.heartbeat_s),
        info=lambda: described,
    )

    def facts() -> WorkerFacts:
        return WorkerFacts(queue.worker, info.gpu_name, kind.family.model_variant, applied)

    outbox = Outbox(
        queue.scripts,
        queue.keys,
        sender,
        render=partial(
            render,
            callback_format=settings.callback_format,
            reference=settings.asset_reference,
            link=storage.link,
        ),
    )
    hands, progress = Hands(), Progress(settings.prefetch_lead_s)
    callbacks = Callbacks(outbox, queue, sender, facts)
    scratch = Scratch(settings.scratch_dir)

    def exit_after_removal(code: int) -> None:
        scratch.remove()
        exit_now(code)

    pipeline = Pipeline(
        queue=queue,
        engine=engine,
        storage=storage,
        screen=screen,
        image_screen=image_screen,
        moderation=moderation_sink(settings, connections.commands, queue.keys, settings.worker_name),
        enhancer=RuleEnhancer(),
        announcer=callbacks,
        rules=Rules(
            family=kind.family,
            output_buckets=settings.output_buckets,
            defaults=PlanDefaults(settings.wan_negative_prompt if kind.name == "wan" else ""),
            max_deliveries=settings.max_deliveries,
            max_queue_age_s=settings.max_queue_age_s,
        ),
        merging=Merging(settings.max_batch_images, warmed),
        marking=marking,
        scratch=scratch.path,
        hands=hands,
        progress=progress,
        uploads=ThreadPoolExecutor(UPLOADS_PER_JOB * settings.publish_threads, thread_name_prefix="upload"),
        facts=facts,
    )
    worker = Worker(
        queue=queue,
        pipeline=pipeline,
        callbacks=callbacks,
        hands=hands,
        progress=progress,
        settings=LoopSettings(
            block_s=settings.block_s,
            drain_s=settings.drain_s,
            spool_bytes=settings.spool_mb << 20,
            max_callbacks_waiting=settings.max_callbacks_waiting,
            publish_threads=settings.publish_threads,
            once=once,
        ),
        heartbeat_s=settings.heartbeat_s,
        exit_now=exit_after_removal,
        on_node_fault=on_node_fault,
        on_success=on_success,
    )
    return Built(worker, queue, pipeline, progress, storage, scratch, info)


def _warmup_seconds(settings: Settings, info: EngineInfo) -> float:
    usual = WARMUP_ON_CARD_S if info.device.startswith("cuda") else 0.0
    seconds = usual if settings.warmup_s is None else settings.warmup_s
    if settings.compile and not seconds:
        raise SettingsError(
            ["COMPILE is on, but only what is warmed up is compiled: set WARMUP_S, e.g. to 300."]
        )
    if settings.max_batch_images > 1 and not seconds:
        log.warning(
            "MAX_BATCH_IMAGES has no effect without WARMUP_S: only sizes that were warmed up are merged"
        )
    return seconds


def _storage(settings: Settings) -> Storage:
    url = settings.resolved_storage_url
    assert url is not None
    return open_storage(
        url,
        settings.supabase_service_key,
        cache_seconds=settings.storage_cache_s,
        link_seconds=settings.signed_url_s,
    )


def _check_services(kind: Kind, settings: Settings, storage: Storage, connections: RedisConnections) -> None:
    _until_reachable(lambda: _check_storage(kind, settings, storage))
    _until_reachable(lambda: _check_redis(connections))


def _check_storage(kind: Kind, settings: Settings, storage: Storage) -> None:
    content_types = {"image": "image/png", "video": "video/mp4"}
    own = {
        preset.bucket: content_types[preset.medium]
        for preset in PRESETS.values()
        if preset.family is kind.family
    }
    # What an extra bucket will hold depends on the job; pictures are what all of them are used for.
    extra = dict.fromkeys(settings.output_buckets, "image/png")
    storage.check({**extra, **own}, public_links=settings.asset_reference == "public")


def _check_redis(connections: RedisConnections) -> None:
    with translated_redis_errors():
        connections.check()


def _until_reachable(check: Callable[[], T]) -> T:
    """Services may come up after the worker; what is configured wrongly will not come up by itself."""
    attempt = 1
    while True:
        try:
            return check()
        except ServiceMisconfigured as error:
            raise SettingsError([str(error)]) from error
        except ServiceUnavailable as error:
            pause = max(1.0, backoff_seconds(attempt, random.random))
            log.warning("%s; next try in %.0f s", error, pause)
            time.sleep(pause)
            attempt += 1


def _sender(settings: Settings) -> WebhookSender:
    url = settings.resolved_callback_url
    assert url is not None
    return WebhookSender(
        url,
        own_host=settings.callback_is_own_host,
        service_key=settings.supabase_service_key,
        token=settings.callback_token,
        secret=settings.job_callback_secret,
        timeout=SENDER_TIMEOUT_S,
    )


def _marking(settings: Settings) -> Marking:
    return Marking(
        generator=GENERATOR,
        version=version(),
        embed_settings=settings.embed_settings,
        embed_prompt=settings.embed_prompt,
        signer=_signer(settings),
    )


def _signer(settings: Settings) -> C2paSigner | None:
    if settings.c2pa_certificate is None or settings.c2pa_key is None:
        return None
    try:
        signer = C2paSigner(settings.c2pa_certificate.read_text(), settings.c2pa_key.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(["C2PA_CERTIFICATE and C2PA_KEY have to be readable PEM files."]) from error
    check_signer(signer)
    return signer


def _image_screen(settings: Settings) -> ImageScreen | None:
    screens: list[ImageScreen] = []
    if settings.image_blocklist is not None:
        screens.append(HashBlocklist(settings.image_blocklist))
    if settings.image_classifier_url is not None:
        screens.append(ClassifierOverHttp(settings.image_classifier_url, settings.image_classifier_token))
    return ScreenChain(screens) if screens else None
