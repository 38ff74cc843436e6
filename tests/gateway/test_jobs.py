"""Looking at jobs, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gateway import OTHER_USER_ID, authorization
from support.gateway_jobs import PROMPT, StoredJob, deliver

from gateway.database import Database
from gateway.jobs.cursor import PATTERN, Cursor
from shared.errors import OutOfMemory

UNKNOWN = "00000000-0000-4000-8000-00000000ffff"
FILM = "video_fast"


def seen(client: TestClient, job: StoredJob) -> Any:
    answer = client.get(f"/jobs/{job.id}")
    assert answer.status_code == 200
    return answer.json()["job"]


def test_a_waiting_job_is_shown_with_what_was_asked(client: TestClient, database: Database) -> None:
    asked = {"prompt": PROMPT, "negative_prompt": "fog, child, minor", "requested_negative_prompt": "fog"}
    job = seen(client, StoredJob(database, num_images=3, metadata=asked))
    assert (job["status"], job["prompt"], job["negative_prompt"]) == ("queued", PROMPT, "fog, child, minor")
    assert (job["requested_negative_prompt"], job["num_images"], job["credits"]) == ("fog", 3, 6)
    assert [picture["url"] for picture in job["images"]] == [None, None, None]
    assert job["width"] is job["seeds"] is job["video"] is job["progress"] is job["error_code"] is None


def test_a_finished_job_is_shown_with_what_was_executed(client: TestClient, database: Database) -> None:
    stored = StoredJob(database, num_images=3)
    deliver(client, stored.completed(seed=0))
    job = seen(client, stored)
    assert (job["status"], job["seed"], job["seeds"]) == ("completed", 0, [0, 1, 2])
    assert (job["width"], job["height"], job["num_inference_steps"]) == (64, 64, 2)
    assert (job["scheduler"], job["generation_time"]) == ("euler", 3.5)
    assert [adjustment["field"] for adjustment in job["adjustments"]] == ["negative_prompt"]
    for index, picture in enumerate(job["images"]):
        assert (picture["image_index"], picture["seed"]) == (index, index)
        assert (
            urlsplit(picture["url"]).path
            == f"/files/sdxl_image_fast/{stored.user_id}/{stored.id}_{index + 1}.png"
        )
        assert urlsplit(picture["thumbnail_url"]).path.endswith(f"_{index + 1}.thumb.webp")


def test_a_finished_video_is_shown_with_its_film(client: TestClient, database: Database) -> None:
    stored = StoredJob(database, FILM)
    deliver(client, stored.completed())
    job = seen(client, stored)
    assert (job["images"], job["frame_num"], job["fps"]) == ([], 17, 16.0)
    assert urlsplit(job["video"]["url"]).path == f"/files/video_fast/{stored.user_id}/{stored.id}.mp4"
    assert job["video"]["thumbnail_url"]
    assert job["video"]["duration"] == 1.0625


def test_a_video_without_a_thumbnail_links_to_none(client: TestClient, database: Database) -> None:
    stored = StoredJob(database, FILM)
    deliver(client, stored.completed(thumbnails=False))
    assert seen(client, stored)["video"]["thumbnail_url"] is None


def test_a_failed_job_is_shown_with_its_reason(client: TestClient, database: Database) -> None:
    stored = StoredJob(database)
    deliver(client, stored.failed(OutOfMemory("It did not fit.")))
    job = seen(client, stored)
    assert (job["error_code"], job["error_message"], job["retryable"]) == (
        "out_of_memory",
        "It did not fit.",
        True,
    )


def test_a_running_job_is_shown_with_its_steps(client: TestClient, database: Database, valkey: Any) -> None:
    stored = StoredJob(database)
    deliver(client, stored.processing())
    valkey.set(f"{{sdxl_queue}}:progress:{stored.id}", "7/25 2")
    assert seen(client, stored)["progress"] == {"step": 7, "steps": 25, "attempt": 2}
    deliver(client, stored.completed())
    assert seen(client, stored)["progress"] is None


def test_what_a_client_wrote_into_metadata_cannot_break_the_view(
    client: TestClient, database: Database
) -> None:
    asked = {"prompt": 5, "width": "wide", "seeds": "x", "adjustments": [1], "fps": None, "seed": [0]}
    job = seen(client, StoredJob(database, metadata=asked))
    assert [job[name] for name in asked] == [None] * len(asked)


def test_another_users_jobs_do_not_exist(client: TestClient, database: Database) -> None:
    job = StoredJob(database, user_id=OTHER_USER_ID)
    for path in (f"/jobs/{job.id}", f"/jobs/{UNKNOWN}"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert client.get("/jobs").json() == {"jobs": [], "next": None}
    assert seen_by_owner(client, job)["id"] == job.id


def seen_by_owner(client: TestClient, job: StoredJob) -> Any:
    return client.get(f"/jobs/{job.id}", headers=authorization(job.user_id)).json()["job"]


def test_nobody_sees_jobs_without_a_token(client: TestClient, database: Database) -> None:
    job = StoredJob(database)
    for path in ("/jobs", f"/jobs/{job.id}"):
        assert client.get(path, headers={"Authorization": ""}).status_code == 401


# --- pages


def pages(client: TestClient, limit: int) -> Iterator[list[str]]:
    before: dict[str, Any] = {}
    while True:
        page = client.get("/jobs", params={"limit": limit, **before}).json()
        yield [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            return
        before = {"before": page["next"]}


def test_pages_show_every_job_once_and_the_newest_first(client: TestClient, database: Database) -> None:
    # Two of the same moment, which only their ids tell apart.
    ages = [0.0, 1.0, 1.0, 1.5, 2.0]
    jobs = [StoredJob(database, age_s=age) for age in ages]
    StoredJob(database, user_id=OTHER_USER_ID)
    newest_first = [
        job.id for _, job in sorted(zip(ages, jobs, strict=True), key=lambda p: (-p[0], p[1].id))
    ][::-1]
    for limit in (1, 2, 5, 100):
        found = list(pages(client, limit))
        assert [job_id for page in found for job_id in page] == newest_first
        assert [len(page) for page in found[:-1]] == [limit] * (len(found) - 1)


def test_a_page_goes_on_where_it_ended_when_jobs_are_added(client: TestClient, database: Database) -> None:
    jobs = [StoredJob(database, age_s=age) for age in (1.0, 2.0, 3.0)]
    first = client.get("/jobs", params={"limit": 2}).json()
    StoredJob(database)
    second = client.get("/jobs", params={"limit": 2, "before": first["next"]}).json()
    assert [job["id"] for job in second["jobs"]] == [jobs[2].id]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=x", "before=", "before=%00", "before=abc", "before=MjAyNg", "before=é"],
)
def test_a_page_that_cannot_be_meant_is_refused(sqlite_client: TestClient, query: str) -> None:
    answer = sqlite_client.get(f"/jobs?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


@settings(max_examples=50)
@given(st.integers(0, 10**16 - 1), st.uuids())
def test_a_cursor_is_read_as_it_was_written(microseconds: int, job_id: Any) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    cursor = Cursor(moment, str(job_id))
    again = Cursor.decode(cursor.encode())
    assert (again.created_at, again.job_id) == (moment, str(job_id))


@pytest.mark.parametrize("text", ["", "1", f"x-{UNKNOWN}", f"1-{UNKNOWN}\n", f"-1-{UNKNOWN}", "1-2"])
def test_what_is_no_cursor_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="no cursor"):
        Cursor.decode(text)


@given(st.from_regex(PATTERN, fullmatch=True))
def test_every_text_of_a_cursors_form_can_be_read(text: str) -> None:
    assert Cursor.decode(text).job_id == text.partition("-")[2]
