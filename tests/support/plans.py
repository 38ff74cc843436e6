"""Plans as the intake makes them, from a payload."""

from __future__ import annotations

from typing import Any

from support.jobs import element, payload

from shared.job import Envelope, Job
from shared.plan import Enhancement, Plan, PlanDefaults, make_plan
from shared.presets import PRESETS
from workers.engines.fake import WordWindow


def planned(
    job_id: str = "job-1",
    job_type: str = "sdxl_image_fast",
    enhancement: Enhancement | None = None,
    **changes: Any,
) -> Plan:
    envelope = Envelope.decode(element(payload(job_id, job_type, **changes)))
    job = Job.parse(envelope, PRESETS[job_type].family)
    return make_plan(job, WordWindow(), PlanDefaults("blurry"), enhancement)
