"""The rows of an order: all of them in one transaction, or none."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, RowMapping
from sqlalchemy.exc import IntegrityError

from gateway.database import Database
from gateway.errors import ApiError, too_many
from gateway.submit.models import QueueJobRequest
from gateway.submit.payload import Order, timestamp
from gateway.tables import GENERATE, PENDING, WAITS, images, jobs, usage_logs, videos

WAIT_S = 30
"""What a user with too many waiting jobs is told to wait, in seconds: about one fast job."""


# Built once: building and compiling a statement takes longer than running most of these.
_KEY: Final = (jobs.c.user_id, jobs.c.idempotency_key)
_INSERT_JOB: Final = {
    "sqlite": sqlite.insert(jobs).on_conflict_do_nothing(index_elements=_KEY).returning(jobs.c.id),
    "postgresql": postgresql.insert(jobs).on_conflict_do_nothing(index_elements=_KEY).returning(jobs.c.id),
}
_INSERT_IMAGES: Final = sa.insert(images)
_INSERT_VIDEO: Final = sa.insert(videos)
_INSERT_USAGE: Final = sa.insert(usage_logs)
_USER: Final[sa.BindParameter[str]] = sa.bindparam("user_id")
_JOB_OF_KEY: Final = sa.select(jobs).where(
    jobs.c.user_id == _USER, jobs.c.idempotency_key == sa.bindparam("idempotency_key")
)
_WAITING: Final = sa.select(sa.func.count()).select_from(jobs).where(jobs.c.user_id == _USER, WAITS)
_CONSUMED: Final = sa.select(sa.func.coalesce(sa.func.sum(usage_logs.c.credits_consumed), 0)).where(
    usage_logs.c.user_id == _USER
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """An order to be stored. The same `idempotency_key` of a user is stored once."""

    request: QueueJobRequest
    order: Order
    credits: int
    idempotency_key: str | None
    request_hash: str


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a user may have: jobs that wait at a time, and credits in all (None: any number)."""

    waiting_jobs: int
    credits: int | None


def store(
    database: Database, connection: Connection, attempt: Attempt, allowance: Allowance
) -> RowMapping | None:
    """Insert the rows of `attempt`, or return the job that its key was used for before.

    The rows come first and the limits are counted with them: by then other requests of this user wait for
    this transaction, so that no two of them can both be the last one. A refusal takes the rows back.
    Raises `ApiError` 402, 409 or 429.
    """
    order = attempt.order
    user_id = order.identity.user_id
    database.hold_user(connection, user_id)
    insert_job = _INSERT_JOB[connection.dialect.name]
    if connection.execute(insert_job, job_row(attempt)).first() is None:
        return _same_request(connection, user_id, attempt)
    _store_results(connection, order, attempt.request)
    connection.execute(_INSERT_USAGE, _usage_row(attempt))
    _check_waiting(connection, user_id, allowance.waiting_jobs)
    if allowance.credits is not None:
        _check_credits(connection, user_id, allowance.credits, attempt.credits)
    return None


def _same_request(connection: Connection, user_id: str, attempt: Attempt) -> RowMapping:
    key = {"user_id": user_id, "idempotency_key": attempt.idempotency_key}
    earlier = connection.execute(_JOB_OF_KEY, key).mappings().one()
    if earlier["request_hash"] != attempt.request_hash:
        raise ApiError(
            409,
            "idempotency_key_reused",
            "This Idempotency-Key was used with another request: use a key of its own for each request.",
            retry=False,
        )
    return earlier


def _store_results(connection: Connection, order: Order, request: QueueJobRequest) -> None:
    identity = order.identity
    common = {
        "job_id": identity.job_id,
        "user_id": identity.user_id,
        "prompt": order.job.prompt,
        "bucket": order.job.bucket,
        "status": PENDING,
        "metadata": {},
        "created_at": identity.created_at,
    }
    try:
        if identity.video_id is not None:
            connection.execute(_INSERT_VIDEO, {"id": identity.video_id, **common})
        else:
            rows = [
                {"id": image_id, "image_index": index, **common}
                for index, image_id in enumerate(identity.image_ids)
            ]
            connection.execute(_INSERT_IMAGES, rows)
    except IntegrityError:
        # The ids that the server makes are new; only one that the client stated can stand there already.
        name = "imageId" if identity.video_id is None else "videoId"
        if (request.image_id if identity.video_id is None else request.video_id) is None:
            raise
        message = f"{name} is taken: state another one, or none."
        raise ApiError(409, "id_taken", message, retry=False) from None


def _check_waiting(connection: Connection, user_id: str, allowed: int) -> None:
    if connection.execute(_WAITING, {"user_id": user_id}).scalar_one() > allowed:
        raise too_many(
            "too_many_waiting_jobs",
            f"{allowed} of your jobs are waiting already: wait until one has begun, or cancel one.",
            WAIT_S,
        )


def _check_credits(connection: Connection, user_id: str, granted: int, price: int) -> None:
    spent = connection.execute(_CONSUMED, {"user_id": user_id}).scalar_one()
    if spent > granted:
        raise ApiError(
            402,
            "no_credits",
            f"This job costs {price} credits, and you have {max(0, granted - spent + price)} left.",
            retry=False,
        )


def job_row(attempt: Attempt) -> dict[str, Any]:
    order, request = attempt.order, attempt.request
    identity, preset = order.identity, order.preset
    return {
        "id": identity.job_id,
        "user_id": identity.user_id,
        "job_type": preset.job_type,
        "format": preset.medium,
        "quality": preset.quality,
        "model_type": order.model_type,
        "status": PENDING,
        "queue": identity.queue,
        "payload": order.element,
        "metadata": order.metadata,
        "project_id": request.project_id,
        "image_id": identity.image_ids[0] if identity.image_ids else None,
        "video_id": identity.video_id,
        "character_id": request.character_id,
        "credits": attempt.credits,
        "idempotency_key": attempt.idempotency_key,
        "request_hash": attempt.request_hash,
        "created_at": identity.created_at,
    }


def _usage_row(attempt: Attempt) -> dict[str, Any]:
    order, identity = attempt.order, attempt.order.identity
    family = order.preset.family
    return {
        "id": str(uuid.uuid4()),
        "user_id": identity.user_id,
        "job_id": identity.job_id,
        "action": GENERATE,
        "format": order.preset.medium,
        "quality": order.preset.quality,
        "credits_consumed": attempt.credits,
        "metadata": {
            "job_id": identity.job_id,
            "project_id": attempt.request.project_id,
            "image_id": identity.image_ids[0] if identity.image_ids else None,
            "video_id": identity.video_id,
            "model_type": order.model_type,
            "model_variant": family.model_variant,
            "queue": identity.queue,
            "dual_worker_routing": True,
            "negative_prompt_supported": order.metadata["negative_prompt_supported"],
            "usage_timestamp": timestamp(identity.created_at),
        },
        "created_at": identity.created_at,
    }
