"""A request's way into the queue, from top to bottom."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.negative import generate_negative_prompt
from gateway.parts import Parts
from gateway.prices import price_of
from gateway.submit.models import JobMetadata, QueueJobRequest
from gateway.submit.payload import Identity, Limits, make_order
from gateway.submit.store import Allowance, Attempt, job_row, store
from gateway.tables import QUEUED
from shared.presets import PRESETS, SDXL, Preset
from shared.screen import ScreenInput


@dataclass(frozen=True, slots=True)
class Submitted:
    """A row of `jobs`; `queue_length` is None where the queue did not answer or was not asked.

    `replayed`: the job is that of an earlier request with the same key.
    """

    job: Mapping[str, Any]
    filled_in: tuple[str, ...]
    queue_length: int | None
    replayed: bool = False


def submit(parts: Parts, user_id: str, request: QueueJobRequest, idempotency_key: str | None) -> Submitted:
    """Screen, price, store and queue one job.

    Raises `ApiError` where it is refused, then nothing was stored; `ServiceUnavailable` where the database
    does not answer. A queue that does not answer fails nothing: the relay pushes the job later.
    """
    preset = PRESETS[request.job_type]
    identity = _identity(parts, user_id, request, preset)
    _screen(parts, request.metadata, identity)
    credits = price_of(preset, request.metadata.num_images or 1, parts.settings.credit_prices)
    order = make_order(
        request,
        identity,
        negative_prompt=_negative_prompt(parts, request.metadata, preset),
        credits=credits,
        limits=_limits(parts, preset),
    )
    attempt = Attempt(request, order, credits, idempotency_key, _hash(request))
    allowance = Allowance(parts.settings.max_waiting_jobs, parts.settings.credits_granted)
    with parts.database.write() as connection:
        earlier = store(parts.database, connection, attempt, allowance)
    if earlier is not None:
        return Submitted(dict(earlier), order.filled_in, None, replayed=True)
    pushed = parts.relay.push(identity.job_id, identity.queue, order.element)
    job = job_row(attempt)
    if pushed is None:
        return Submitted(job, order.filled_in, None)
    return Submitted(job | {"status": QUEUED}, order.filled_in, pushed.length)


def _identity(parts: Parts, user_id: str, request: QueueJobRequest, preset: Preset) -> Identity:
    """Ids are the server's; only a result's row may have one that the client knows already."""
    is_video = preset.medium == "video"
    image_ids = [] if is_video else [_new_id() for _ in range(request.metadata.num_images or 1)]
    if image_ids and request.image_id is not None:
        image_ids[0] = request.image_id
    return Identity(
        job_id=_new_id(),
        user_id=user_id,
        queue=parts.settings.queue_of(preset.family),
        image_ids=tuple(image_ids),
        video_id=(request.video_id or _new_id()) if is_video else None,
        created_at=parts.clock(),
    )


def _new_id() -> str:
    return str(uuid.uuid4())


def _screen(parts: Parts, asked: JobMetadata, identity: Identity) -> None:
    def drawn(name: str) -> str | None:
        text = asked.further.get(name)
        return text if isinstance(text, str) else None

    parts.screening.refuse_unless_allowed(
        ScreenInput(asked.prompt, asked.negative_prompt, drawn("compel_weights"), drawn("enhanced_prompt")),
        asked.further_texts(),
        job_id=identity.job_id,
        user_id=identity.user_id,
        queue=identity.queue,
    )


def _negative_prompt(parts: Parts, asked: JobMetadata, preset: Preset) -> str | None:
    """SDXL's is made here; the WAN worker has a default of its own for a job that states none."""
    if preset.family is not SDXL:
        return asked.negative_prompt
    return generate_negative_prompt(asked.prompt, parts.sdxl_window, asked.negative_prompt).text


def _limits(parts: Parts, preset: Preset) -> Limits:
    settings = parts.settings
    size = settings.demo_size if preset.family is SDXL else settings.demo_wan_size
    return Limits(
        settings.output_buckets,
        size if settings.demo else None,
        settings.demo_frames if settings.demo else None,
    )


def _hash(request: QueueJobRequest) -> str:
    """Two requests that mean the same have the same, however their JSON is written."""
    document = json.dumps(request.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()
