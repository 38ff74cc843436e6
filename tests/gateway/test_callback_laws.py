"""The rule of order and repetition, for any sequence of callbacks and any number at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gateway_jobs import StoredJob, changed, deliver

from gateway.callbacks.decide import decide
from gateway.callbacks.models import Callback
from gateway.callbacks.store import job_record, store
from gateway.database import Database
from gateway.settings import database_address
from shared.errors import Cancelled

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
ENDS = {
    "completed": "completed",
    "completed with another seed": "completed",
    "completed with a picture too few": "failed",
    "failed": "failed",
    "cancelled": "cancelled",
}
KINDS = ("processing", *ENDS)


def bodies(job: StoredJob) -> dict[str, bytes]:
    completed = job.completed()
    return {
        "processing": job.processing(),
        "completed": completed,
        "completed with another seed": job.completed(seed=41),
        "completed with a picture too few": changed(completed, assets=json.loads(completed)["assets"][:-1]),
        "failed": job.failed(),
        "cancelled": job.failed(Cancelled("The job was cancelled.")),
    }


def take(job: StoredJob, body: bytes, now: datetime = NOW) -> bool:
    """What the endpoint does with one callback. Whether it changed something."""
    with job.database.write() as connection:
        record = job_record(connection, job.id, hold=True)
        assert record is not None
        return store(connection, record, decide(record, Callback.model_validate(json.loads(body)), now), now)


def assert_ended_as(job: StoredJob, kind: str) -> None:
    """One set of rows that belong together, and the credits right."""
    status = ENDS[kind]
    assert job.row.status == status
    assert [row.status for row in job.images] == [status] * job.num_images
    if status == "completed":
        first = {"completed": 0, "completed with another seed": 41}[kind]
        assert [row.seed for row in job.images] == list(range(first, first + job.num_images))
        assert job.row.metadata["seed"] == first
        assert job.usage() == {"generate": job.credits}
    else:
        assert [row.image_url for row in job.images] == [None] * job.num_images
        assert job.usage() == {"generate": job.credits, "refund": -job.credits}


@pytest.fixture(scope="module")
def one_database(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    file = shutil.copy(migrated_sqlite, tmp_path_factory.mktemp("laws"))
    database = Database(database_address(f"sqlite:///{file}"))
    yield database
    database.close()


@settings(max_examples=50)
@given(sequence=st.lists(st.sampled_from(KINDS), max_size=8), before=st.sampled_from(["pending", "queued"]))
def test_the_first_terminal_callback_decides_whatever_comes_before_and_after(
    one_database: Database, sequence: Sequence[str], before: str
) -> None:
    job = StoredJob(one_database, num_images=3, status=before)
    told = bodies(job)
    first = next((kind for kind in sequence if kind != "processing"), None)
    seen = None
    for minute, kind in enumerate(sequence):
        stored = take(job, told[kind], NOW + timedelta(minutes=minute))
        if seen is not None:
            assert not stored
            assert job.everything() == seen
        elif kind == first:
            assert stored
            seen = job.everything()
    if first is not None:
        assert_ended_as(job, first)
    else:
        assert job.row.status == ("processing" if sequence else before)
        assert job.usage() == {"generate": job.credits}


@dataclass(frozen=True, slots=True)
class Delivery:
    kind: str
    status: int
    job_status: str
    stored: bool


def test_a_hundred_callbacks_of_one_job_at_once_leave_one_set_of_rows(
    client: TestClient, database: Database
) -> None:
    job = StoredJob(database, num_images=6)
    told = bodies(job)
    order = [*KINDS] * 17
    Random(9).shuffle(order)

    def one(kind: str) -> Delivery:
        answer = deliver(client, told[kind])
        document = answer.json()
        status = document["debug"]["jobStatus"] if answer.status_code == 200 else "failed"
        stored = "successfully" in document["message"] if answer.status_code == 200 else True
        return Delivery(kind, answer.status_code, status, stored)

    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(one, order))
    # A result that was refused is the only answer that is no success.
    assert {answer.status for answer in answers} <= {200, 422}
    winners = [answer for answer in answers if answer.stored and answer.kind != "processing"]
    assert len(winners) == 1
    assert_ended_as(job, winners[0].kind)
    assert {answer.job_status for answer in answers if answer.kind != "processing"} == {job.row.status}


def test_the_same_result_delivered_a_hundred_times_at_once_counts_once(
    client: TestClient, database: Database
) -> None:
    done, lost = StoredJob(database, num_images=3), StoredJob(database, num_images=3)
    work = [done.completed(), lost.failed()] * 50
    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(lambda body: deliver(client, body), work))
    assert {answer.status_code for answer in answers} == {200}
    assert sum("successfully" in answer.json()["message"] for answer in answers) == 2
    assert_ended_as(done, "completed")
    assert_ended_as(lost, "failed")
