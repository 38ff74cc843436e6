"""Cancelling and deleting, on both databases and with a real worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from support.gateway import CALLBACK_SECRET, OTHER_USER_ID, authorization, gateway_settings
from support.gateway_jobs import CALLBACK_PATH, StoredJob, deliver
from support.harness import Installation
from support.jobs import payload
from support.serving import serving

from gateway.app import create_app
from gateway.database import Database
from shared.errors import Cancelled
from shared.queue import Keys

UNKNOWN = "00000000-0000-4000-8000-00000000ffff"
FILM = "video_fast"


def cancel(client: TestClient, job: StoredJob, **options: Any) -> tuple[int, Any]:
    answer = client.delete(f"/jobs/{job.id}", **options)
    return answer.status_code, answer.json().get("status")


def put_files(job: StoredJob, folder: Path) -> list[Path]:
    """The files that its worker uploaded, under the storage folder of the settings."""
    keys = [path for row in job.images for path in (row.image_url, row.thumbnail_url)]
    if job.preset.medium == "video":
        keys = [job.video.video_url, job.video.thumbnail_url]
    files = [folder / "storage" / job.bucket / key for key in keys]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"a file")
    return files


# --- cancelling


def test_a_job_that_is_not_in_its_queue_yet_is_cancelled_at_once_with_its_credits_back(
    client: TestClient, database: Database, valkey: Any
) -> None:
    job = StoredJob(database, num_images=3, status="pending")
    assert cancel(client, job) == (200, "cancelled")
    assert (job.row.status, job.row.error_code) == ("cancelled", "cancelled")
    assert {row.status for row in job.images} == {"cancelled"}
    assert job.usage() == {"generate": 6, "refund": -6}
    # Its push may be under way: the worker that takes it then finds it cancelled.
    assert valkey.exists(Keys("sdxl_queue").cancel(job.id))
    seen = job.everything()
    assert cancel(client, job) == (200, "cancelled")
    assert job.everything() == seen


@pytest.mark.parametrize("job_type", ["sdxl_image_fast", FILM])
def test_a_queued_or_running_job_is_cancelled_by_its_worker(
    client: TestClient, database: Database, valkey: Any, job_type: str
) -> None:
    job = StoredJob(database, job_type)
    key = Keys(job.queue).cancel(job.id)
    assert cancel(client, job) == (202, "queued")
    assert valkey.ttl(key) == pytest.approx(7 * 24 * 3600, abs=60)
    deliver(client, job.processing())
    assert cancel(client, job) == (202, "processing")
    assert job.usage() == {"generate": job.credits}
    deliver(client, job.failed(Cancelled("The job was cancelled.")))
    assert cancel(client, job) == (200, "cancelled")
    assert job.usage() == {"generate": job.credits, "refund": -job.credits}


def test_a_result_that_is_committed_before_the_worker_sees_the_wish_wins(
    client: TestClient, database: Database, valkey: Any
) -> None:
    job = StoredJob(database)
    assert cancel(client, job) == (202, "queued")
    deliver(client, job.completed())
    assert cancel(client, job) == (200, "completed")
    assert job.usage() == {"generate": job.credits}


def test_the_result_of_a_job_whose_callback_never_came_is_taken_from_the_workers(
    client: TestClient, database: Database, valkey: Any
) -> None:
    done, lost = StoredJob(database), StoredJob(database)
    for job, body in ((done, done.completed()), (lost, lost.failed())):
        valkey.set(Keys(job.queue).done(job.id), body)
    assert cancel(client, done) == (200, "completed")
    assert done.images[0].image_url == f"{done.user_id}/{done.id}_1.png"
    assert cancel(client, lost) == (200, "failed")
    assert lost.usage() == {"generate": lost.credits, "refund": -lost.credits}
    assert not valkey.exists(Keys(done.queue).cancel(done.id))


def test_without_redis_a_pending_job_is_cancelled_and_a_queued_one_is_not(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    pending, queued = StoredJob(database, status="pending"), StoredJob(database)
    away = gateway_settings("redis://127.0.0.1:1", database_url, tmp_path)
    with TestClient(create_app(away), headers=authorization()) as client:
        assert cancel(client, pending) == (200, "cancelled")
        answer = client.delete(f"/jobs/{queued.id}")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert queued.row.status == "queued"


def test_nobody_cancels_or_deletes_another_users_job(
    client: TestClient, database: Database, valkey: Any
) -> None:
    job = StoredJob(database, user_id=OTHER_USER_ID, status="pending")
    seen = job.everything()
    for path in (f"/jobs/{job.id}", f"/jobs/{job.id}/files", f"/jobs/{UNKNOWN}", f"/jobs/{UNKNOWN}/files"):
        assert client.delete(path).status_code == 404
        assert client.delete(path, headers={"Authorization": ""}).status_code == 401
    assert job.everything() == seen
    assert not valkey.exists(Keys(job.queue).cancel(job.id))


def test_a_real_worker_ends_the_job_that_was_cancelled_and_completes_the_other(
    app: FastAPI, client: TestClient, database: Database, installation: Installation
) -> None:
    wanted, unwanted = StoredJob(database), StoredJob(database)
    for job in (wanted, unwanted):
        installation.push(payload(job.id, user_id=job.user_id))
    assert cancel(client, unwanted) == (202, "queued")
    with serving(app) as gateway:
        installation.overrides |= {
            "CALLBACK_URL": gateway.url + CALLBACK_PATH,
            "JOB_CALLBACK_SECRET": CALLBACK_SECRET,
        }
        assert installation.run_once() == 0
    assert (wanted.row.status, unwanted.row.status) == ("completed", "cancelled")
    assert unwanted.usage() == {"generate": unwanted.credits, "refund": -unwanted.credits}
    # The worker's storage is the gateway's: the link shows the picture.
    picture = client.get(f"/jobs/{wanted.id}").json()["job"]["images"][0]
    assert client.get(picture["url"]).content.startswith(b"\x89PNG")
    assert client.get(picture["thumbnail_url"]).headers["Content-Type"] == "image/webp"


# --- deleting


@pytest.mark.parametrize(("job_type", "num_images"), [("sdxl_image_fast", 3), (FILM, 1)])
def test_deleting_removes_files_and_rows_and_keeps_what_was_spent(
    client: TestClient, database: Database, tmp_path: Path, job_type: str, num_images: int
) -> None:
    job, other = StoredJob(database, job_type, num_images), StoredJob(database, job_type, num_images)
    for one in (job, other):
        deliver(client, one.completed())
    files, kept = put_files(job, tmp_path), put_files(other, tmp_path)
    seen = other.everything()
    for _ in range(2):
        answer = client.delete(f"/jobs/{job.id}/files")
        assert (answer.status_code, answer.content) == (204, b"")
    assert [file.exists() for file in files] == [False] * len(files)
    assert [file.exists() for file in kept] == [True] * len(kept)
    assert job.usage() == {"generate": job.credits}
    assert len(job.everything()) == 1
    assert client.get(f"/jobs/{job.id}").status_code == 404
    assert other.everything() == seen
    assert deliver(client, job.completed()).status_code == 404


def test_a_failed_jobs_rests_are_deleted_too(client: TestClient, database: Database, tmp_path: Path) -> None:
    job = StoredJob(database, num_images=3)
    rest = tmp_path / "storage" / job.bucket / job.user_id / f"{job.id}_2.png"
    rest.parent.mkdir(parents=True)
    rest.write_bytes(b"uploaded before the job failed")
    deliver(client, job.failed())
    assert client.delete(f"/jobs/{job.id}/files").status_code == 204
    assert not rest.exists()
    assert job.usage() == {"generate": job.credits, "refund": -job.credits}


@pytest.mark.parametrize("status", ["pending", "queued", "processing"])
def test_a_job_that_has_not_ended_is_not_deleted(client: TestClient, database: Database, status: str) -> None:
    job = StoredJob(database, status=status)
    seen = job.everything()
    answer = client.delete(f"/jobs/{job.id}/files")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_finished")
    assert job.everything() == seen


def test_what_the_storage_could_not_remove_stays_known_and_can_be_deleted_later(
    client: TestClient, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = StoredJob(database)
    deliver(client, job.completed())
    put_files(job, tmp_path)

    def fail(self: Path, **options: object) -> None:
        raise OSError(5, "the disk says no")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", fail)
        assert client.delete(f"/jobs/{job.id}/files").status_code == 503
    assert job.row.status == "completed"
    assert client.delete(f"/jobs/{job.id}/files").status_code == 204
