"""The four tables, one schema for SQLite and PostgreSQL. `migrations/` makes them; a test compares both."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator

PENDING: Final = "pending"
QUEUED: Final = "queued"
PROCESSING: Final = "processing"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
STATUSES: Final = (PENDING, QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED)
TERMINAL: Final = (COMPLETED, FAILED, CANCELLED)
"""A job in one of these never changes its status again."""


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no zone, so that it is taken off and put on again here."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _id(name: str, *further: Any, **options: Any) -> Column[str]:
    return Column(name, String(36), *further, **options)


def _document(name: str = "metadata") -> Column[Any]:
    return Column(name, JSON().with_variant(JSONB(), "postgresql"), nullable=False)


def _status() -> list[Any]:
    allowed = ", ".join(f"'{status}'" for status in STATUSES)
    return [
        Column("status", String(16), nullable=False),
        CheckConstraint(f"status IN ({allowed})", name="status"),
    ]


metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

jobs: Final = Table(
    "jobs",
    metadata,
    _id("id", primary_key=True),
    _id("user_id", nullable=False),
    Column("job_type", String(40), nullable=False),
    Column("format", String(8), nullable=False),
    Column("quality", String(8), nullable=False),
    Column("model_type", String(40), nullable=False),
    *_status(),
    Column("queue", Text, nullable=False),
    # The element of the queue, byte for byte: pushed again it is the same element.
    Column("payload", Text, nullable=False),
    _document(),
    _id("project_id"),
    _id("image_id"),
    _id("video_id"),
    _id("character_id"),
    Column("credits", Integer, nullable=False),
    Column("error_code", String(40)),
    Column("error_message", Text),
    Column("idempotency_key", String(255)),
    Column("request_hash", String(64)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("queued_at", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("completed_at", UtcDateTime),
    UniqueConstraint("user_id", "idempotency_key"),
)
Index("ix_jobs_user_id_created_at", jobs.c.user_id, jobs.c.created_at)
Index("ix_jobs_status_created_at", jobs.c.status, jobs.c.created_at)
WAITS: Final = text("status IN ('pending', 'queued')")
Index("ix_jobs_waiting", jobs.c.user_id, sqlite_where=WAITS, postgresql_where=WAITS)

images: Final = Table(
    "images",
    metadata,
    _id("id", primary_key=True),
    _id("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("image_index", Integer, nullable=False),
    _id("user_id", nullable=False),
    Column("title", Text),
    Column("prompt", Text, nullable=False),
    Column("image_url", Text),
    Column("thumbnail_url", Text),
    Column("seed", BigInteger),
    Column("bucket", Text, nullable=False),
    *_status(),
    _document(),
    Column("created_at", UtcDateTime, nullable=False),
    Column("completed_at", UtcDateTime),
    UniqueConstraint("job_id", "image_index"),
)

videos: Final = Table(
    "videos",
    metadata,
    _id("id", primary_key=True),
    _id("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    _id("user_id", nullable=False),
    Column("title", Text),
    Column("prompt", Text, nullable=False),
    Column("video_url", Text),
    Column("thumbnail_url", Text),
    Column("signed_url", Text),
    Column("signed_url_expires_at", UtcDateTime),
    # Seconds.
    Column("duration", Float),
    Column("bucket", Text, nullable=False),
    *_status(),
    _document(),
    Column("created_at", UtcDateTime, nullable=False),
    Column("completed_at", UtcDateTime),
    UniqueConstraint("job_id"),
)

GENERATE: Final = "generate"
REFUND: Final = "refund"

# What was spent stays known after its job is deleted, so that `job_id` refers to nothing.
usage_logs: Final = Table(
    "usage_logs",
    metadata,
    _id("id", primary_key=True),
    _id("user_id", nullable=False),
    _id("job_id", nullable=False),
    Column("action", String(16), nullable=False),
    Column("format", String(8), nullable=False),
    Column("quality", String(8), nullable=False),
    Column("credits_consumed", Integer, nullable=False),
    _document(),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("job_id", "action"),
    CheckConstraint("action IN ('generate', 'refund')", name="action"),
)
Index("ix_usage_logs_user_id", usage_logs.c.user_id, usage_logs.c.credits_consumed)
