"""Rows of jobs, for tests of what is done with them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from support.gateway import USER_ID

from gateway.database import Database
from gateway.tables import jobs
from shared.presets import PRESETS


def add_job(database: Database, *, job_type: str = "sdxl_image_fast", **values: Any) -> str:
    """Store a job of USER_ID and return its id; `values` replace its columns."""
    preset = PRESETS[job_type]
    row: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "user_id": USER_ID,
        "job_type": job_type,
        "format": preset.medium,
        "quality": preset.quality,
        "model_type": preset.family.name,
        "status": "queued",
        "queue": f"{preset.family.name}_queue",
        "payload": "{}",
        "metadata": {},
        "credits": 1,
        "created_at": datetime.now(UTC),
    }
    with database.write() as connection:
        connection.execute(jobs.insert().values(row | values))
    return str((row | values)["id"])
