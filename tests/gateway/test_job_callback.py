"""job-callback over HTTP on both databases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from support.gateway import gateway_settings
from support.gateway_jobs import StoredJob, changed, deliver

from gateway.app import create_app
from gateway.database import Database
from gateway.tables import usage_logs
from shared.errors import Cancelled

FILM = "video_fast"


def test_a_finished_job_is_stored_with_its_pictures(client: TestClient, database: Database) -> None:
    job = StoredJob(database, num_images=3)
    assert deliver(client, job.processing()).json()["debug"]["jobStatus"] == "processing"
    assert deliver(client, job.completed(seed=2**53 - 1)).status_code == 200
    row = job.row
    assert (row.status, row.error_code, row.error_message) == ("completed", None, None)
    assert row.started_at <= row.completed_at
    assert row.metadata["all_assets"] == [picture.image_url for picture in job.images]
    assert [picture.seed for picture in job.images] == [2**53 - 1, 2**53, 2**53 + 1]
    assert {(picture.status, picture.completed_at) for picture in job.images} == {
        ("completed", row.completed_at)
    }
    assert job.usage() == {"generate": job.credits}


def test_a_finished_job_is_stored_with_its_video(client: TestClient, database: Database) -> None:
    job = StoredJob(database, FILM)
    assert deliver(client, job.completed()).status_code == 200
    film = job.video
    assert (film.status, film.video_url, film.duration) == (
        "completed",
        f"{job.user_id}/{job.id}.mp4",
        1.0625,
    )


def test_the_answer_has_the_shape_that_callers_know(client: TestClient, database: Database) -> None:
    job = StoredJob(database, num_images=3)
    document = deliver(client, job.completed()).json()
    assert document["debug"].pop("processingTimestamp")
    assert document == {
        "success": True,
        "message": "Job callback processed successfully with standardized parameters",
        "debug": {
            "job_id": job.id,
            "jobStatus": "completed",
            "jobType": "sdxl_image_fast",
            "format": "image",
            "quality": "fast",
            "isSDXL": True,
            "isEnhanced": False,
            "assetsProcessed": 3,
        },
    }


@pytest.mark.parametrize("job_type", ["sdxl_image_fast", FILM])
def test_a_job_without_a_result_returns_its_credits(
    client: TestClient, database: Database, job_type: str
) -> None:
    job = StoredJob(database, job_type)
    assert deliver(client, job.failed()).json()["debug"]["jobStatus"] == "failed"
    assert (job.row.status, job.row.error_code) == ("failed", "generation_failed")
    assert [row.status for row in ([job.video] if job_type == FILM else job.images)] == ["failed"]
    assert job.usage() == {"generate": job.credits, "refund": -job.credits}


def test_a_refund_that_somebody_made_before_stays_the_only_one(
    client: TestClient, database: Database
) -> None:
    job = StoredJob(database)
    with database.write() as connection:
        spent = connection.execute(sa.select(usage_logs)).mappings().one()
        refund = {**spent, "id": "by-hand", "action": "refund", "credits_consumed": -1}
        connection.execute(sa.insert(usage_logs).values(refund))
    assert deliver(client, job.failed()).status_code == 200
    assert job.row.status == "failed"
    assert job.usage() == {"generate": job.credits, "refund": -1}


def test_another_jobs_files_end_a_job_as_failed_and_its_sender_is_told_to_stop(
    client: TestClient, database: Database
) -> None:
    job, other = StoredJob(database, num_images=3), StoredJob(database, num_images=3)
    seen = other.everything()
    body = changed(other.completed(), job_id=job.id)
    answer = deliver(client, body)
    assert (answer.status_code, answer.json()["code"], answer.json()["retry"]) == (422, "wrong_assets", False)
    assert [(row.status, row.image_url) for row in job.images] == [("failed", None)] * 3
    assert job.usage() == {"generate": 6, "refund": -6}
    assert other.everything() == seen
    # The job has ended: a repetition is one like any other.
    assert deliver(client, body).status_code == 200


# --- order and repetition


def test_processing_moves_a_waiting_job_and_nothing_else(client: TestClient, database: Database) -> None:
    for before in ("pending", "queued"):
        job = StoredJob(database, status=before)
        assert deliver(client, job.processing()).json()["debug"]["jobStatus"] == "processing"
    seen = job.everything()
    assert deliver(client, job.processing()).status_code == 200
    assert job.everything() == seen


def test_whatever_comes_after_a_terminal_status_changes_nothing_and_is_answered_well(
    client: TestClient, database: Database
) -> None:
    for first in ("completed", "failed", "cancelled"):
        job = StoredJob(database, num_images=3)
        bodies = {
            "processing": job.processing(),
            "completed": job.completed(seed=9),
            "failed": job.failed(),
            "cancelled": job.failed(Cancelled("The job was cancelled.")),
        }
        deliver(client, bodies[first])
        seen = job.everything()
        for late in bodies.values():
            answer = deliver(client, late)
            assert (answer.status_code, answer.json()["debug"]["jobStatus"]) == (200, first)
            assert answer.json()["debug"]["assetsProcessed"] == 0
            assert job.everything() == seen


# --- what is refused


def test_an_unknown_job_is_told_once(client: TestClient, database: Database) -> None:
    answer = deliver(client, changed(StoredJob(database).processing(), job_id="job-1"))
    assert (answer.status_code, answer.json()["retry"]) == (404, False)


OF_ANOTHER_FORM: list[dict[str, Any]] = [
    {"job_id": None},
    {"job_id": ""},
    {"job_id": "../x"},
    {"job_id": "\0"},
    {"status": "done"},
    {"assets": "one.png"},
    {"assets": [1]},
    {"assets": ["x"] * 17},
    {"metadata": {"seed": "7"}},
    {"metadata": {"seed": -1}},
    {"metadata": {"seed": 2**63}},
    {"metadata": {"generation_time": "fast"}},
    {"metadata": {"error_code": "x" * 41}},
]

NO_CALLBACKS = [
    b"",
    b"{",
    b"[]",
    b'"text"',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"job_id":"j","status":"failed","metadata":{"generation_time":NaN}}',
    b'{"job_id":"j","status":"failed","metadata":{"generation_time":1e999}}',
    b'{"job_id":"j","status":"failed","metadata":{"applied":' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}}",
    b'{"job_id":"j","status":"failed","metadata":{"seed":' + b"9" * 5000 + b"}}",
]


def test_what_is_no_callback_is_refused_for_good(client: TestClient, database: Database) -> None:
    job = StoredJob(database)
    bodies = [changed(job.failed(), **fields) for fields in OF_ANOTHER_FORM]
    for body in [*bodies, *NO_CALLBACKS]:
        answer = deliver(client, body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), body[:100]
        assert answer.json()["retry"] is False
    assert job.row.status == "queued"


def test_letters_that_no_database_takes_are_replaced(client: TestClient, database: Database) -> None:
    job = StoredJob(database)
    assert deliver(client, changed(job.failed(), error_message="a \0 and a \ud83d")).status_code == 200
    assert job.row.error_message == "a \ufffd and a \ufffd"


def test_a_body_over_the_limit_is_refused(client: TestClient, database: Database) -> None:
    body = changed(StoredJob(database).failed(), error_message="x" * (1 << 20))
    assert deliver(client, body).status_code == 413


def test_while_the_database_is_down_the_sender_is_asked_to_come_again(redis_url: str, tmp_path: Path) -> None:
    url = f"postgresql://nobody@/nothing?host={tmp_path}"
    with TestClient(create_app(gateway_settings(redis_url, url, tmp_path))) as client:
        answer = deliver(client, json.dumps({"job_id": "job-1", "status": "processing"}).encode())
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert "retry" not in answer.json()
