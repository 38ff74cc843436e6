"""What every endpoint works with, made once by `create_app`, and the dependencies that hand it to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

import redis
from fastapi import Depends, Path, Request
from fastapi.security import HTTPBearer

from gateway.database import Database
from gateway.enhance.orchestrator import Orchestrator
from gateway.limits import Pace
from gateway.links import FileLinks
from gateway.live import Live
from gateway.relay import Relay
from gateway.screening import Screening
from gateway.settings import GatewaySettings
from gateway.users import User, Users
from shared.plan import PromptWindow
from shared.storage import Storage


@dataclass(frozen=True, slots=True)
class Parts:
    """`redis` takes commands that do not block. `sdxl_window` counts tokens as the workers' encoders do.
    `clock` tells the time in UTC."""

    settings: GatewaySettings
    database: Database
    redis: redis.Redis
    relay: Relay
    screening: Screening
    users: Users
    pace: Pace
    live: Live
    sdxl_window: PromptWindow
    enhancer: Orchestrator
    storage: Storage
    file_links: FileLinks
    clock: Callable[[], datetime]


BEARER: Final = HTTPBearer(auto_error=False)
"""For the description: who has to show a token in which header."""


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def _given_parts(request: Request) -> Parts:
    return _parts(request)


async def _current_user(request: Request, _shown: Annotated[object, Depends(BEARER)]) -> User:
    return await _parts(request).users.of(request)


# Both are coroutines so that they run on the loop: a plain function would cost a change of threads each.
GivenParts = Annotated[Parts, Depends(_given_parts)]
CurrentUser = Annotated[User, Depends(_current_user)]
JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
