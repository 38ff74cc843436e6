"""A worker in the style that is common for such services, as the thing to compare with.

One loop does everything in turn: RPOP, generate, PNG by Pillow, uploads one after the other, the
callbacks awaited; where nothing waits it sleeps two seconds. It is given what goes with the style:
connections are kept, no file is read back, no thumbnail is made, and it never sleeps while a job waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import httpx
import redis
from PIL import Image

from shared.errors import JobError
from shared.plan import Plan
from workers.engines.base import Engine, Pass

POLL_S = 2.0


def serve(
    engine: Engine,
    plan_of: Callable[[bytes], Plan],
    redis_url: str,
    queue: str,
    services_url: str,
    png_options: Mapping[str, Any],
) -> None:
    """For ever. `png_options` are Pillow's."""
    client: Any = redis.Redis.from_url(redis_url)
    with httpx.Client(base_url=services_url, timeout=60.0) as http:
        while True:
            raw = client.rpop(queue)
            if raw is None:
                time.sleep(POLL_S)
            else:
                _handle(engine, plan_of(raw), http, png_options)


def _handle(engine: Engine, plan: Plan, http: httpx.Client, png_options: Mapping[str, Any]) -> None:
    _call_back(http, plan, "processing", [])
    drawn = list(engine.generate(Pass.of(plan), lambda _step, _steps: None))
    assets = []
    for sample in (each.result for each in drawn):
        if isinstance(sample, JobError):
            raise sample
        picture = BytesIO()
        Image.fromarray(sample.frames[0]).save(picture, "PNG", **png_options)
        key = f"{plan.user_id}/{plan.job_id}_{sample.index + 1}.png"
        http.post(
            f"/storage/v1/object/{plan.bucket}/{key}",
            content=picture.getvalue(),
            headers={"content-type": "image/png", "x-upsert": "true"},
        ).raise_for_status()
        assets.append(key)
    _call_back(http, plan, "completed", assets)


def _call_back(http: httpx.Client, plan: Plan, status: str, assets: list[str]) -> None:
    body = {"job_id": plan.job_id, "status": status, "assets": assets, "error_message": None}
    http.post("/functions/v1/job-callback", json=body).raise_for_status()
