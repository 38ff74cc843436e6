"""Jobs in a gateway's database, and the callbacks that workers send for them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from fastapi.testclient import TestClient
from pydantic import SecretStr
from support.gateway import CALLBACK_SECRET, USER_ID
from support.plans import planned
from support.rows import add_job

from gateway.callbacks.types import JobRecord
from gateway.database import Database
from gateway.tables import PENDING, QUEUED, images, jobs, usage_logs, videos
from shared.assets import asset_key, thumbnail_key
from shared.callback import (
    Produced,
    Timings,
    WorkerFacts,
    completed_body,
    failed_body,
    processing_body,
    render,
)
from shared.errors import GenerationFailed, JobError
from shared.plan import Enhancement, Plan
from shared.presets import PRESETS
from shared.webhook import signature_headers

MORNING = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
PROMPT = "a red circle on a white background"
PRICE = 2
CALLBACK_PATH = "/functions/v1/job-callback"


@dataclass
class QueuedJob:
    """A job and what its worker says of it."""

    job_type: str = "sdxl_image_fast"
    num_images: int = 1
    user_id: str = USER_ID
    bucket: str = ""
    metadata: dict[str, Any] = field(default_factory=lambda: {"prompt": PROMPT})
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def __post_init__(self) -> None:
        self.preset = PRESETS[self.job_type]
        self.bucket = self.bucket or self.preset.bucket
        self.queue = f"{self.preset.family.name}_queue"
        self.credits = PRICE * self.num_images

    def record(self) -> JobRecord:
        queued = (self.id, self.user_id, self.job_type, QUEUED, self.queue)
        return JobRecord(*queued, self.metadata, self.bucket, self.num_images)

    def plan(self, seed: int = 0, enhancement: Enhancement | None = None) -> Plan:
        config = {"size": "64*64", "sample_steps": 2, "num_images": self.num_images, "seed": seed}
        return planned(self.id, self.job_type, enhancement, user_id=self.user_id, config=config)

    def processing(self) -> bytes:
        return processing_body(self.plan(), FACTS, 1)

    def completed(
        self,
        *,
        seed: int = 0,
        thumbnails: bool = True,
        enhancement: Enhancement | None = None,
        callback_format: Any = "seed",
        reference: Any = "path",
    ) -> bytes:
        plan = self.plan(seed, enhancement)
        film = plan.medium == "video"
        produced = [
            Produced(
                asset_key(plan, index),
                thumbnail_key(plan, index) if thumbnails else None,
                *(64, 64, 17 if film else 1),
                *((16.0, 1.0625) if film else (None, None)),
            )
            for index in range(plan.num_images)
        ]
        body = completed_body(plan, produced, plan.adjustments, TIMINGS, FACTS, 1)
        return render(body, callback_format=callback_format, reference=reference, link=_address)

    def failed(self, error: JobError | None = None) -> bytes:
        error = error or GenerationFailed("The device failed.")
        return failed_body(self.id, self.job_type, self.bucket, FACTS, 1, error)


class StoredJob(QueuedJob):
    """A queued job as queue-job leaves it in the database; other arguments are `QueuedJob`'s."""

    def __init__(
        self,
        database: Database,
        job_type: str = "sdxl_image_fast",
        num_images: int = 1,
        *,
        status: str = QUEUED,
        age_s: float = 0.0,
        **about: Any,
    ) -> None:
        super().__init__(job_type, num_images, **about)
        self.database = database
        created = MORNING - timedelta(seconds=age_s)
        if status == PENDING:
            # The gateway's relay would push what was created until now.
            created = datetime.now(UTC) + timedelta(days=1)
        common = {"user_id": self.user_id, "created_at": created}
        row = {
            "job_id": self.id,
            "prompt": PROMPT,
            "bucket": self.bucket,
            "status": "pending",
            "metadata": {},
        }
        add_job(
            database,
            job_type=job_type,
            **common,
            id=self.id,
            status=status,
            metadata=self.metadata,
            credits=self.credits,
        )
        with database.write() as connection:
            if self.preset.medium == "video":
                connection.execute(sa.insert(videos).values(**common, **row, id=str(uuid.uuid4())))
            else:
                for index in range(self.num_images):
                    values = {**common, **row, "id": str(uuid.uuid4()), "image_index": index}
                    connection.execute(sa.insert(images).values(values))
            connection.execute(
                sa.insert(usage_logs).values(
                    **common,
                    id=str(uuid.uuid4()),
                    job_id=self.id,
                    action="generate",
                    format=self.preset.medium,
                    quality=self.preset.quality,
                    credits_consumed=self.credits,
                    metadata={},
                )
            )

    # --- what stands in the database

    @property
    def row(self) -> Any:
        return self._rows(jobs, jobs.c.id)[0]

    @property
    def images(self) -> Sequence[Any]:
        return sorted(self._rows(images, images.c.job_id), key=lambda row: int(row.image_index))

    @property
    def video(self) -> Any:
        return self._rows(videos, videos.c.job_id)[0]

    def usage(self) -> dict[str, int]:
        """Credits by action. Two rows of one action would fail."""
        rows = self._rows(usage_logs, usage_logs.c.job_id)
        consumed = {str(row.action): int(row.credits_consumed) for row in rows}
        assert len(consumed) == len(rows)
        return consumed

    def everything(self) -> list[tuple[Any, ...]]:
        """Every row that knows the job, to compare with a later look."""
        rows = [
            *self._rows(jobs, jobs.c.id),
            *self.images,
            *self._rows(videos, videos.c.job_id),
            *self._rows(usage_logs, usage_logs.c.job_id),
        ]
        return sorted((tuple(row) for row in rows), key=repr)

    def _rows(self, table: sa.Table, column: sa.Column[Any]) -> Sequence[Any]:
        with self.database.read() as connection:
            return connection.execute(sa.select(table).where(column == self.id)).all()


FACTS = WorkerFacts("worker-1", "a device", "lustify_sdxl", {})
TIMINGS = Timings(queue_wait=1.0, prepare=0.01, generate=3.5, encode=0.2, upload=0.3)


def _address(bucket: str, path: str, kind: str) -> str:
    return f"https://project.example/storage/v1/object/{kind}/{bucket}/{path}?token=a-token"


def signed(body: bytes) -> dict[str, str]:
    """The headers with which a worker sends a body now."""
    return signature_headers(SecretStr(CALLBACK_SECRET), "msg_1", time.time(), body)


def deliver(client: TestClient, body: bytes) -> Any:
    """Send a callback as a worker does, without a user's token."""
    headers = {"Content-Type": "application/json", "Authorization": "", **signed(body)}
    return client.post(CALLBACK_PATH, content=body, headers=headers)


def changed(body: bytes, **fields: Any) -> bytes:
    """The callback with other fields; `metadata` is merged."""
    document = json.loads(body)
    metadata = {**document["metadata"], **fields.pop("metadata", {})}
    return json.dumps({**document, **fields, "metadata": metadata}).encode()
