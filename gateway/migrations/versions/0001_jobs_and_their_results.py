"""Jobs, their pictures and videos, and what was spent."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

_STATUSES = "status IN ('pending', 'queued', 'processing', 'completed', 'failed', 'cancelled')"
_WAITS = sa.text("status IN ('pending', 'queued')")


def _document() -> sa.Column[Any]:
    kind = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    return sa.Column("metadata", kind, nullable=False)


def _id(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.String(36), nullable=nullable)


def _moment(name: str, *, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "jobs",
        _id("id"),
        _id("user_id"),
        sa.Column("job_type", sa.String(40), nullable=False),
        sa.Column("format", sa.String(8), nullable=False),
        sa.Column("quality", sa.String(8), nullable=False),
        sa.Column("model_type", sa.String(40), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        _document(),
        _id("project_id", nullable=True),
        _id("image_id", nullable=True),
        _id("video_id", nullable=True),
        _id("character_id", nullable=True),
        sa.Column("credits", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(40)),
        sa.Column("error_message", sa.Text()),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("request_hash", sa.String(64)),
        _moment("created_at", nullable=False),
        _moment("queued_at"),
        _moment("started_at"),
        _moment("completed_at"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("user_id", "idempotency_key", name="uq_jobs_user_id"),
        sa.CheckConstraint(_STATUSES, name=op.f("ck_jobs_status")),
    )
    op.create_index("ix_jobs_user_id_created_at", "jobs", ["user_id", "created_at"])
    op.create_index("ix_jobs_status_created_at", "jobs", ["status", "created_at"])
    op.create_index("ix_jobs_waiting", "jobs", ["user_id"], sqlite_where=_WAITS, postgresql_where=_WAITS)
    op.create_table(
        "images",
        _id("id"),
        _id("job_id"),
        sa.Column("image_index", sa.Integer(), nullable=False),
        _id("user_id"),
        sa.Column("title", sa.Text()),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("image_url", sa.Text()),
        sa.Column("thumbnail_url", sa.Text()),
        sa.Column("seed", sa.BigInteger()),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        _document(),
        _moment("created_at", nullable=False),
        _moment("completed_at"),
        sa.PrimaryKeyConstraint("id", name="pk_images"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_images_job_id", ondelete="CASCADE"),
        sa.UniqueConstraint("job_id", "image_index", name="uq_images_job_id"),
        sa.CheckConstraint(_STATUSES, name=op.f("ck_images_status")),
    )
    op.create_table(
        "videos",
        _id("id"),
        _id("job_id"),
        _id("user_id"),
        sa.Column("title", sa.Text()),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("video_url", sa.Text()),
        sa.Column("thumbnail_url", sa.Text()),
        sa.Column("signed_url", sa.Text()),
        _moment("signed_url_expires_at"),
        sa.Column("duration", sa.Float()),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        _document(),
        _moment("created_at", nullable=False),
        _moment("completed_at"),
        sa.PrimaryKeyConstraint("id", name="pk_videos"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_videos_job_id", ondelete="CASCADE"),
        sa.UniqueConstraint("job_id", name="uq_videos_job_id"),
        sa.CheckConstraint(_STATUSES, name=op.f("ck_videos_status")),
    )
    op.create_table(
        "usage_logs",
        _id("id"),
        _id("user_id"),
        _id("job_id"),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("format", sa.String(8), nullable=False),
        sa.Column("quality", sa.String(8), nullable=False),
        sa.Column("credits_consumed", sa.Integer(), nullable=False),
        _document(),
        _moment("created_at", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_usage_logs"),
        sa.UniqueConstraint("job_id", "action", name="uq_usage_logs_job_id"),
        sa.CheckConstraint("action IN ('generate', 'refund')", name=op.f("ck_usage_logs_action")),
    )
    op.create_index("ix_usage_logs_user_id", "usage_logs", ["user_id", "credits_consumed"])
    if op.get_context().dialect.name == "postgresql":
        # Supabase serves every table of the schema `public` to whoever has the public key, unless row level
        # security is on. The gateway owns the tables and passes; with no policy nobody else does.
        for table in ("jobs", "images", "videos", "usage_logs", "alembic_version"):
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")


def downgrade() -> None:
    for table in ("usage_logs", "videos", "images", "jobs"):
        op.drop_table(table)
