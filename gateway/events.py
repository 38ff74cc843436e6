"""`/jobs/{id}/events`: what happens to a job, as server-sent events.

A browser's EventSource sends no headers, and an access token does not belong into an address. So the stream
is opened by a ticket: for one job, used once, gone after half a minute.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal, cast

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field

from gateway.errors import ApiError, not_found, responses, too_many
from gateway.live import Reason, Stream, TooManyStreams
from gateway.parts import CurrentUser, GivenParts, JobId
from gateway.states import JobState
from gateway.tables import jobs
from shared.errors import ServiceUnavailable
from shared.progress import StepProgress
from shared.queue import translated_redis_errors

router = APIRouter(tags=["jobs"])

TICKET_S: Final = 30
RETRY_AFTER_S: Final = 10.0
_TICKET_BYTES: Final = 32

Ticket = Annotated[
    str, Query(pattern=r"^[A-Za-z0-9_-]{43}$", description="from /jobs/{job_id}/events/ticket")
]


class IssuedTicket(BaseModel):
    success: Literal[True] = True
    ticket: str
    expires_in: int = Field(description="seconds")


class StateEvent(BaseModel):
    """The data of an event `state`."""

    status: str
    progress: StepProgress | None
    error_code: str | None
    error_message: str | None

    @classmethod
    def of(cls, state: JobState) -> StateEvent:
        return cls(
            status=state.status,
            progress=state.progress,
            error_code=state.error_code,
            error_message=state.error_message,
        )


class ByeEvent(BaseModel):
    """The data of an event `bye`, the last one of a stream."""

    reason: Reason


@router.post(
    "/jobs/{job_id}/events/ticket",
    status_code=201,
    responses=responses(400, 401, 403, 404, 429, 503),
)
def issue_ticket(job_id: JobId, parts: GivenParts, user: CurrentUser) -> IssuedTicket:
    """A ticket that opens the stream of events of one of the user's jobs, once."""
    parts.pace.take(user.id)
    own = sa.select(jobs.c.id).where(jobs.c.id == job_id, jobs.c.user_id == user.id)
    with parts.database.read() as connection:
        if connection.execute(own).first() is None:
            raise not_found("job")
    ticket = secrets.token_urlsafe(_TICKET_BYTES)
    with translated_redis_errors():
        parts.redis.set(_key(ticket), f"{user.id} {job_id}", ex=TICKET_S)
    return IssuedTicket(ticket=ticket, expires_in=TICKET_S)


def _redeemed(job_id: JobId, ticket: Ticket, parts: GivenParts) -> str:
    """The user whom the ticket was issued to. It is used up whatever it was for."""
    with translated_redis_errors():
        issued = cast(bytes | None, parts.redis.getdel(_key(ticket)))
    user_id, _, watched = (issued or b"").decode().partition(" ")
    if watched != job_id:
        raise ApiError(401, "invalid_ticket", "The ticket was used, has expired or is for another job.")
    return user_id


async def _opened(
    job_id: JobId, user_id: Annotated[str, Depends(_redeemed)], parts: GivenParts
) -> AsyncIterator[Stream]:
    try:
        with parts.live.watching(user_id, job_id) as stream:
            yield stream
    except TooManyStreams as error:
        if error.whose == "user":
            raise too_many("too_many_streams", "Too many streams are open.", RETRY_AFTER_S) from error
        raise ServiceUnavailable("too many streams are open") from error


_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Events `state` (a `StateEvent`) whenever something changed, and at last one `bye`"
        " (a `ByeEvent`): `ended` after the job's last state, `time` and `shutdown` where the stream may be"
        " opened again with another ticket, `gone` where the job was deleted."
    }
}


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventSourceResponse,
    responses={**_STREAM, **responses(400, 401, 429, 503)},
)
async def events(stream: Annotated[Stream, Depends(_opened)]) -> AsyncIterator[ServerSentEvent]:
    """What happens to a job, from its present state to its last."""
    async for told in stream.told():
        if isinstance(told, JobState):
            yield ServerSentEvent(event="state", data=StateEvent.of(told))
        else:
            yield ServerSentEvent(event="bye", data=ByeEvent(reason=told))


def _key(ticket: str) -> str:
    return f"gateway:ticket:{ticket}"
