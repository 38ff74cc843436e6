"""`GET /health`: whether the gateway can do its work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from gateway.parts import GivenParts, Parts
from shared.errors import ServiceError
from shared.queue import translated_redis_errors

router = APIRouter()


class Health(BaseModel):
    """`degraded`: jobs are taken and queued as soon as Redis answers; `down`: nothing can be stored."""

    status: Literal["ok", "degraded", "down"]
    database: bool
    redis: bool


@router.get("/health", responses={503: {"model": Health}})
def health(parts: GivenParts, response: Response) -> Health:
    database, redis = _answers(parts.database.check), _answers(lambda: _ping(parts))
    response.headers["Cache-Control"] = "no-store"
    if not database:
        response.status_code = 503
        return Health(status="down", database=False, redis=redis)
    return Health(status="ok" if redis else "degraded", database=True, redis=redis)


def _ping(parts: Parts) -> None:
    with translated_redis_errors():
        parts.redis.ping()


def _answers(ask: Callable[[], None]) -> bool:
    try:
        ask()
    except ServiceError:
        return False
    return True
