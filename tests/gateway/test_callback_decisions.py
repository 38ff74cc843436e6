"""What a callback makes of a job, with the bodies that the workers make. No database."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.gateway import OTHER_USER_ID
from support.gateway_jobs import PROMPT, QueuedJob, changed

from gateway.callbacks.decide import decide
from gateway.callbacks.models import Callback
from gateway.callbacks.types import Ended
from shared.errors import Abandoned, Cancelled, ContentRefused, JobError
from shared.plan import Enhancement
from shared.presets import PRESETS

FILM = "video_fast"
NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)


def ended(job: QueuedJob, body: bytes) -> Ended:
    change = decide(job.record(), Callback.model_validate(json.loads(body)), NOW)
    assert isinstance(change, Ended)
    return change


def completed(job: QueuedJob, body: bytes) -> Ended:
    change = ended(job, body)
    assert (change.status, change.error_code, change.error_message) == ("completed", None, None)
    assert not change.returns_credits
    return change


# --- what a completed job looks like


@pytest.mark.parametrize("num_images", [1, 3, 6])
def test_every_picture_has_its_file_seed_and_title(num_images: int) -> None:
    job = QueuedJob(num_images=num_images)
    change = completed(job, job.completed(seed=0))
    numbers = range(1, num_images + 1)
    stem = f"{job.user_id}/{job.id}"
    assert [row["image_url"] for row in change.images] == [f"{stem}_{n}.png" for n in numbers]
    assert [row["thumbnail_url"] for row in change.images] == [f"{stem}_{n}.thumb.webp" for n in numbers]
    assert [row["seed"] for row in change.images] == list(range(num_images))
    titles = [PROMPT] if num_images == 1 else [f"{PROMPT} ({n})" for n in numbers]
    assert [row["title"] for row in change.images] == titles
    assert change.video is None


def test_a_pictures_metadata_tells_the_job_and_its_place_in_it() -> None:
    job = QueuedJob(num_images=3)
    change = completed(job, job.completed(seed=7))
    about = change.images[2]["metadata"]
    assert (about["image_index"], about["total_images"], about["seed"]) == (2, 3, 9)
    assert (about["model_type"], about["is_sdxl"], about["is_enhanced"]) == ("sdxl", True, False)
    assert (about["original_job_id"], about["job_type"]) == (job.id, "sdxl_image_fast")
    assert about["negative_prompt"].endswith("child, minor")
    assert about["generation_time"] == 3.5
    assert about["callback_processed_at"] == NOW.isoformat()
    assert about["callback_debug"] == {
        "job_type": "sdxl_image_fast",
        "primary_asset": change.images[0]["image_url"],
        "received_assets": [row["image_url"] for row in change.images],
        "processing_timestamp": NOW.isoformat(),
    }


def test_what_was_executed_stands_beside_what_was_asked() -> None:
    asked = {"prompt": PROMPT, "credits": 6, "user_id": "kept", "project_id": "kept"}
    job = QueuedJob(num_images=3, metadata=asked)
    about = completed(job, job.completed(seed=5)).metadata
    assert {name: about[name] for name in asked} == asked
    assert (about["seed"], about["seeds"], about["num_images"]) == (5, [5, 6, 7], 3)
    assert (about["generation_time"], about["timings"]["upload"]) == (3.5, 0.3)
    assert (about["width"], about["height"], about["num_inference_steps"]) == (64, 64, 2)
    assert about["primary_asset"] == about["all_assets"][0]


def test_a_worker_cannot_change_what_the_producer_stated() -> None:
    job = QueuedJob()
    said = {"prompt": "another", "credits": 0, "user_id": OTHER_USER_ID, "queue": "mine", "job_type": FILM}
    about = completed(job, changed(job.completed(), metadata=said)).metadata
    assert about["prompt"] == PROMPT
    assert not {"credits", "user_id", "queue", "job_type"} & set(about)


def test_null_means_absent() -> None:
    job = QueuedJob(metadata={"prompt": PROMPT, "negative_prompt": "fog"})
    silent = changed(job.completed(), error_message=None, metadata={"negative_prompt": None})
    assert completed(job, silent).metadata["negative_prompt"] == "fog"


def test_pictures_of_a_worker_that_tells_the_first_seed_only_count_up_from_it() -> None:
    job = QueuedJob(num_images=3)
    change = completed(job, changed(job.completed(), metadata={"seed": 40, "seeds": None}))
    assert [row["seed"] for row in change.images] == [40, 41, 42]


def test_a_picture_whose_seed_nobody_tells_has_none() -> None:
    job = QueuedJob()
    change = completed(job, changed(job.completed(), metadata={"seed": None, "seeds": None}))
    assert change.images[0]["seed"] is None


def test_a_video_has_its_path_thumbnail_length_and_expiry() -> None:
    job = QueuedJob(FILM)
    film = completed(job, job.completed()).video
    assert film is not None
    path = f"{job.user_id}/{job.id}.mp4"
    assert (film["title"], film["video_url"], film["signed_url"]) == (PROMPT, path, path)
    assert film["thumbnail_url"] == f"{job.user_id}/{job.id}.thumb.webp"
    assert film["duration"] == 1.0625
    assert (film["signed_url_expires_at"] - NOW).total_seconds() == 24 * 3600
    about = film["metadata"]
    assert (about["stored_path"], about["bucket"], about["prompt"]) == (path, FILM, PROMPT)
    assert (about["thumbnail_placeholder"], about["path_consistency_fixed"]) == (False, True)
    assert (about["model_type"], about["is_enhanced"]) == ("wan", False)


def test_a_video_without_a_thumbnail_gets_the_placeholder() -> None:
    job = QueuedJob(FILM)
    film = completed(job, job.completed(thumbnails=False)).video
    assert film is not None
    assert film["thumbnail_url"] == "system_assets/video-placeholder-thumbnail.png"
    assert film["metadata"]["thumbnail_placeholder"] is True


def test_a_picture_without_a_thumbnail_is_its_own() -> None:
    job = QueuedJob()
    (picture,) = completed(job, job.completed(thumbnails=False)).images
    assert picture["thumbnail_url"] == picture["image_url"]


@pytest.mark.parametrize("job_type", sorted(PRESETS))
def test_every_job_type_ends_in_a_row_of_its_medium(job_type: str) -> None:
    job = QueuedJob(job_type)
    change = completed(job, job.completed())
    rows = [*change.images, *([] if change.video is None else [change.video])]
    preset = PRESETS[job_type]
    assert len(rows) == 1
    assert ("video_url" in rows[0]) == (preset.medium == "video")
    assert rows[0]["metadata"]["is_enhanced"] is preset.enhanced


@pytest.mark.parametrize("job_type", ["image_high", "image7b_fast_enhanced", "video7b_high_enhanced"])
def test_an_enhanced_prompt_is_kept_for_every_job_that_has_one(job_type: str) -> None:
    job = QueuedJob(job_type)
    enhanced = f"{PROMPT}, soft morning light"
    about = completed(job, job.completed(enhancement=Enhancement("rules", PROMPT, enhanced))).metadata
    assert (about["enhanced_prompt"], about["prompt"]) == (enhanced, PROMPT)


@pytest.mark.parametrize(
    ("metadata", "title"),
    [
        ({"prompt": "x" * 60}, "x" * 60),
        ({"prompt": "x" * 61}, "x" * 60 + "..."),
        ({"prompt": "\N{GRINNING FACE}" * 61}, "\N{GRINNING FACE}" * 60 + "..."),
        ({"original_prompt": "a lake"}, "a lake"),
        ({}, "Untitled Image"),
    ],
)
def test_a_title_is_the_beginning_of_the_prompt(metadata: dict[str, Any], title: str) -> None:
    job = QueuedJob(metadata=metadata)
    assert completed(job, job.completed()).images[0]["title"] == title


def test_a_video_without_a_prompt_is_untitled() -> None:
    job = QueuedJob(FILM, metadata={})
    film = completed(job, job.completed()).video
    assert film is not None
    assert film["title"] == "Untitled Video"


# --- how files may be named


@pytest.mark.parametrize("callback_format", ["seed", "objects"])
@pytest.mark.parametrize("reference", ["path", "public", "signed"])
@pytest.mark.parametrize("job_type", ["sdxl_image_high", FILM])
def test_however_a_worker_names_its_files_their_paths_are_kept(
    callback_format: str, reference: str, job_type: str
) -> None:
    job = QueuedJob(job_type, 1 if job_type == FILM else 3)
    named = job.completed(callback_format=callback_format, reference=reference)
    assert completed(job, named) == completed(job, job.completed())


def test_a_local_folders_addresses_name_its_files(tmp_path: Path) -> None:
    job = QueuedJob()
    address = (tmp_path / job.bucket / job.user_id / f"{job.id}_1.png").as_uri()
    named = changed(job.completed(), assets=[address])
    assert completed(job, named) == completed(job, job.completed())


OWN = [f"{{user}}/{{job}}_{number}.png" for number in (1, 2, 3)]
FOREIGN: dict[str, dict[str, Any]] = {
    "another user's": {"assets": [OWN[0].replace("{user}", OTHER_USER_ID), *OWN[1:]]},
    "another job's": {"assets": [OWN[0].replace("{job}", "another"), *OWN[1:]]},
    "another order": {"assets": [OWN[1], OWN[0], OWN[2]]},
    "one twice": {"assets": [OWN[0], OWN[0], OWN[2]]},
    "one missing": {"assets": OWN[:2]},
    "one too many": {"assets": [*OWN, OWN[0]]},
    "none": {"assets": []},
    "another bucket": {"assets": OWN, "metadata": {"bucket": "video_high"}},
    "another bucket's address": {"assets": [f"https://x.example/object/public/video_high/{p}" for p in OWN]},
    "a path that climbs": {"assets": ["{user}/../" + OWN[0], *OWN[1:]]},
    "a path with its bucket": {"assets": ["sdxl_image_fast/" + OWN[0], *OWN[1:]]},
    "a thumbnail": {"assets": ["{user}/{job}_1.thumb.webp", *OWN[1:]]},
    "no address": {"assets": ["http://[", *OWN[1:]]},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_result_that_is_not_the_jobs_own_files_ends_it_as_failed(name: str) -> None:
    job = QueuedJob(num_images=3)
    fields = json.loads(json.dumps(FOREIGN[name]).replace("{user}", job.user_id).replace("{job}", job.id))
    change = ended(job, changed(job.completed(), **fields))
    assert (change.status, change.error_code) == ("failed", "generation_failed")
    assert change.refused
    assert change.returns_credits
    assert len(change.images) == 3
    assert all("image_url" not in row for row in change.images)
    # What it says of its run may be another user's.
    assert not {"final_prompt", "seeds", "worker_id"} & set(change.metadata)


def test_a_job_without_rows_takes_no_result() -> None:
    job = QueuedJob(num_images=0)
    body = changed(QueuedJob(id=job.id).completed(), assets=[])
    assert ended(job, body).refused


def test_a_thumbnail_that_is_not_the_jobs_own_is_left_out() -> None:
    job = QueuedJob(num_images=3)
    own = f"{job.user_id}/{job.id}_3.thumb.webp"
    thumbnails = [None, f"{OTHER_USER_ID}/{job.id}_2.thumb.webp", own]
    change = completed(job, changed(job.completed(), metadata={"thumbnails": thumbnails}))
    pictures = [row["image_url"] for row in change.images]
    assert [row["thumbnail_url"] for row in change.images] == [*pictures[:2], own]
    assert change.metadata["thumbnails"] == [None, None, own]


def test_files_in_a_bucket_that_the_operator_allowed_are_the_jobs_own() -> None:
    job = QueuedJob(bucket="archive")
    completed(job, changed(job.completed(), metadata={"bucket": "archive"}))


# --- ends without a result


@pytest.mark.parametrize("job_type", ["sdxl_image_fast", FILM])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ContentRefused("The request was refused."), "failed"),
        (Abandoned("The job was given up."), "failed"),
        (Cancelled("The job was cancelled."), "cancelled"),
    ],
)
def test_a_job_without_a_result_says_why_in_all_its_rows(error: JobError, status: str, job_type: str) -> None:
    job = QueuedJob(job_type)
    change = ended(job, job.failed(error))
    assert (change.status, change.error_code, change.error_message) == (status, error.code, str(error))
    assert change.returns_credits
    assert change.metadata["retryable"] is error.retryable
    rows = [*change.images, *([] if change.video is None else [change.video])]
    assert [(row["status"], row["metadata"]["error_message"]) for row in rows] == [(status, str(error))]


def test_a_failure_without_words_says_something() -> None:
    job = QueuedJob()
    change = ended(job, json.dumps({"job_id": job.id, "status": "failed"}).encode())
    assert (change.error_code, change.error_message) == ("generation_failed", "The job failed.")


def test_letters_that_no_database_takes_do_not_hold_up_a_job() -> None:
    job = QueuedJob()
    body = changed(job.failed(), error_message="a \0 and a \ud83d", metadata={"applied": {"\0": "\udead"}})
    change = ended(job, body)
    assert change.error_message == "a \ufffd and a \ufffd"
    assert change.metadata["applied"] == {"\ufffd": "\ufffd"}
