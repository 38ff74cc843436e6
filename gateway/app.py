"""Puts the gateway together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Final

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from gateway import enhance_prompt, errors, events, files, health, page
from gateway.callbacks import router as callbacks
from gateway.database import Database
from gateway.enhance.orchestrator import Orchestrator
from gateway.jobs import router as jobs
from gateway.limits import Pace
from gateway.links import FileLinks, file_link_secret
from gateway.live import Live
from gateway.openapi import openapi
from gateway.parts import Parts
from gateway.relay import Relay
from gateway.repeating import repeating
from gateway.screening import Screening
from gateway.settings import GatewaySettings, load_gateway_settings
from gateway.states import job_states
from gateway.submit import router as submit
from gateway.tokens import sdxl_window, wan_window
from gateway.users import Users
from shared.job import MAX_ELEMENT_BYTES
from shared.moderation import moderation_sink
from shared.presets import SDXL, WAN
from shared.producer import Producer
from shared.queue import Keys, RedisConnections
from shared.screen import Screen
from shared.storage import open_storage

ROUTERS: Final = (
    health.router,
    submit.router,
    enhance_prompt.router,
    callbacks.router,
    jobs.router,
    events.router,
    files.router,
    page.router,
)

FLUSH_S: Final = 1.0
"""So much of what was committed to SQLite a power cut may take away."""

COMMAND_TIMEOUT_S: Final = 2.0
"""A request waits for Redis; a job that could not be pushed by then is pushed later."""


def utc_now() -> datetime:
    return datetime.now(UTC)


def create_app(
    settings: GatewaySettings | None = None, *, clock: Callable[[], datetime] = utc_now
) -> FastAPI:
    """The gateway as an ASGI application; its database has to be migrated.

    Without `settings` they are read from the environment. Raises `SettingsError`.
    """
    settings = settings or load_gateway_settings()
    parts = make_parts(settings, clock)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        poller = asyncio.create_task(parts.live.run())
        try:
            with (
                repeating("relay", parts.relay.round, settings.relay_s),
                repeating("flush", parts.database.flush, FLUSH_S),
            ):
                yield
        finally:
            parts.live.close()
            poller.cancel()
            await asyncio.wait([poller])
            parts.redis.close()
            parts.database.close()

    app = FastAPI(
        title="Generation gateway",
        description="Takes jobs for the SDXL and WAN workers, receives their callbacks, enhances prompts.",
        lifespan=lifespan,
        redirect_slashes=False,
        max_body_size=MAX_ELEMENT_BYTES,
    )
    app.state.parts = parts
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    errors.install(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "apikey", "x-client-info"],
            expose_headers=["Retry-After"],
        )
    for router in ROUTERS:
        app.include_router(router)
    return app


def make_parts(settings: GatewaySettings, clock: Callable[[], datetime]) -> Parts:
    """Raises `SettingsError` for a file that a setting names and that cannot be used. Asks no service yet."""
    assert settings.redis_url is not None
    screen = Screen.configured(settings.screen_rules)
    clip = sdxl_window(settings.sdxl_model, settings.sdxl_config)
    database = Database(settings.resolved_database_url)
    url = settings.redis_url.get_secret_value()
    redis = RedisConnections(url, block_s=0, command_timeout_s=COMMAND_TIMEOUT_S).commands
    queues = (settings.sdxl_queue, settings.wan_queue)
    return Parts(
        settings=settings,
        database=database,
        redis=redis,
        relay=Relay(database, Producer(redis, settings.queue_pop), clock, settings.relay_s),
        screening=Screening(
            screen,
            {queue: moderation_sink(settings, redis, Keys(queue), "gateway") for queue in queues},
        ),
        users=Users(settings),
        pace=Pace(settings.rate_limit, redis),
        live=Live(partial(job_states, database, redis)),
        sdxl_window=clip,
        enhancer=Orchestrator(screen, {SDXL.name: clip, WAN.name: wan_window(settings.wan_model)}),
        storage=open_storage(
            settings.resolved_storage_url or "",
            settings.supabase_service_key,
            link_seconds=settings.file_link_s,
        ),
        file_links=FileLinks(file_link_secret(settings), settings.file_link_s),
        clock=clock,
    )
