from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from support.gateway import OTHER_USER_ID, USER_ID, authorization, gateway_settings, on_sqlite, request

from gateway.app import create_app
from gateway.database import Database
from gateway.fields import JobType
from gateway.settings import GatewaySettings
from gateway.tables import images, jobs, usage_logs, videos
from shared.job import Envelope, Job
from shared.plan import make_plan
from shared.presets import PRESETS, SDXL
from shared.queue import RedisConnections, WorkQueue
from workers.engines.fake import WordWindow

PATH = "/functions/v1/queue-job"
QUEUES = ("sdxl_queue", "wan_queue")
LOCAL = ("127.0.0.1", 50000)


def submit(client: TestClient, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    answer = client.post(PATH, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def rows(database: Database, table: sa.Table) -> list[dict[str, Any]]:
    with database.read() as connection:
        return [dict(row) for row in connection.execute(sa.select(table)).mappings()]


def queued(valkey: Any) -> list[dict[str, Any]]:
    """What waits in both queues, the next one to be taken first."""
    return [json.loads(each) for name in QUEUES for each in reversed(valkey.lrange(name, 0, -1))]


def nothing_happened(database: Database, valkey: Any) -> bool:
    return not any(rows(database, table) for table in (jobs, images, videos, usage_logs)) and not queued(
        valkey
    )


# --- the ten job types


def test_every_job_type_of_the_workers_can_be_asked_for() -> None:
    assert set(JobType.__args__) == set(PRESETS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("job_type", PRESETS)
def test_a_job_of_each_type_is_stored_and_queued_for_its_worker(
    job_type: str, client: TestClient, database: Database, valkey: Any
) -> None:
    preset = PRESETS[job_type]
    answer = submit(client, request(job_type))

    (job,) = rows(database, jobs)
    (element,) = queued(valkey)
    own_queue = "sdxl_queue" if preset.family is SDXL else "wan_queue"
    assert valkey.lrange(own_queue, 0, -1) == [job["payload"]]
    assert answer["job"]["id"] == job["id"] == element["id"]
    assert answer["job"]["status"] == job["status"] == "queued"
    assert job["queued_at"] is not None
    assert (job["format"], job["quality"]) == (preset.medium, preset.quality)
    assert (answer["queue"], answer["modelVariant"]) == (own_queue, preset.family.model_variant)
    assert answer["isSDXL"] is (preset.family is SDXL)
    assert answer["queueLength"] == 1
    results = rows(database, videos if preset.medium == "video" else images)
    assert [(row["job_id"], row["user_id"], row["bucket"]) for row in results] == [
        (job["id"], USER_ID, job_type)
    ]
    (usage,) = rows(database, usage_logs)
    assert (usage["job_id"], usage["action"], usage["credits_consumed"]) == (
        job["id"],
        "generate",
        job["credits"],
    )


@on_sqlite
@pytest.mark.parametrize("job_type", PRESETS)
def test_the_worker_executes_what_was_asked_without_adjusting_anything_but_the_frames(
    job_type: str, client: TestClient, valkey: Any
) -> None:
    """The seed's payload asks for 83 frames, and WAN makes 4k+1."""
    preset = PRESETS[job_type]
    submit(client, request(job_type, seed=0))
    (raw,) = [each for name in QUEUES for each in valkey.lrange(name, 0, -1)]
    plan = make_plan(Job.parse(Envelope.decode(raw.encode()), preset.family), WordWindow(200))
    expected = (1024, 1024) if preset.family is SDXL else (480, 832)
    assert (plan.width, plan.height) == expected
    assert (plan.num_inference_steps, plan.guidance_scale) == (
        preset.num_inference_steps,
        preset.guidance_scale,
    )
    assert plan.seeds == (0,)
    assert plan.num_frames == (81 if preset.medium == "video" else 1)
    assert [each.field for each in plan.adjustments] == (["frame_num"] if preset.medium == "video" else [])


def test_the_payload_and_the_metadata_have_the_fields_that_workers_and_callbacks_know(
    client: TestClient, valkey: Any
) -> None:
    answer = submit(client, request("sdxl_image_high", num_images=3, seed=5) | {"projectId": OTHER_USER_ID})
    (payload,) = queued(valkey)
    metadata = payload["metadata"]
    assert set(payload) == {
        *("id", "type", "prompt", "config", "user_id", "created_at", "negative_prompt", "video_id"),
        *("image_id", "character_id", "model_variant", "bucket", "metadata"),
    }
    assert payload["config"] == {
        "size": "1024*1024",
        "sample_steps": 50,
        "sample_guide_scale": 7.5,
        "sample_solver": "euler",
        "sample_shift": 5.0,
        "frame_num": 1,
        "enhance_prompt": False,
        "seed": 5,
        "expected_time": 40,
        "content_type": "image",
        "file_extension": "png",
        "num_images": 3,
    }
    assert payload["negative_prompt"] == metadata["negative_prompt"]
    assert payload["created_at"].endswith("Z")
    assert answer["job"]["metadata"] == metadata
    assert {
        "model_variant": "lustify_sdxl",
        "queue": "sdxl_queue",
        "dual_worker_routing": True,
        "negative_prompt_supported": True,
        "negative_prompt_generation_error": None,
        "prompt_length": 29,
        "prompt_word_count": 7,
        "edge_function_version": "2.1.0",
        "expected_generation_time": 40,
        "sample_steps": 50,
        "sample_guide_scale": 7.5,
        "sample_solver": "euler",
        "sample_shift": 5.0,
        "num_images": 3,
        "batch_count": 1,
        "content_type": "image",
        "file_extension": "png",
        "user_id": USER_ID,
        "project_id": OTHER_USER_ID,
        "video_id": None,
        "character_id": None,
    }.items() <= metadata.items()
    assert set(answer) == {
        *("success", "job", "queueLength", "modelVariant", "jobType", "queue", "isSDXL"),
        *("negativePromptSupported", "fixes_applied", "debug"),
    }
    assert answer["debug"]["metadataFields"] == len(metadata)


def test_every_picture_gets_a_row_of_its_own(client: TestClient, database: Database) -> None:
    first = "0d6f3c1a-7f0e-4b6e-9d59-3a2b1c0d9e8f"
    submit(client, request(num_images=6) | {"imageId": first.upper()})
    made = rows(database, images)
    assert sorted(row["image_index"] for row in made) == [0, 1, 2, 3, 4, 5]
    assert next(row["id"] for row in made if row["image_index"] == 0) == first
    assert rows(database, jobs)[0]["image_id"] == first


def test_a_video_keeps_the_id_that_the_client_gave_its_row(client: TestClient, database: Database) -> None:
    own = "0d6f3c1a-7f0e-4b6e-9d59-3a2b1c0d9e8f"
    submit(client, request("video_fast") | {"videoId": own})
    assert rows(database, videos)[0]["id"] == rows(database, jobs)[0]["video_id"] == own


@pytest.mark.parametrize(("job_type", "field"), [("image_fast", "imageId"), ("video_fast", "videoId")])
def test_a_row_of_somebody_else_is_never_taken(
    job_type: str, field: str, client: TestClient, database: Database, valkey: Any
) -> None:
    taken = request(job_type) | {field: "0d6f3c1a-7f0e-4b6e-9d59-3a2b1c0d9e8f"}
    submit(client, taken)
    answer = client.post(PATH, json=taken, headers=authorization(OTHER_USER_ID))
    assert (answer.status_code, answer.json()["code"]) == (409, "id_taken")
    assert len(rows(database, jobs)) == len(queued(valkey)) == 1


# --- what is passed on


@on_sqlite
def test_seed_0_is_a_seed_and_no_seed_is_none(client: TestClient, valkey: Any) -> None:
    submit(client, request(seed=0))
    submit(client, request())
    assert [payload["config"].get("seed") for payload in queued(valkey)] == [0, None]


@on_sqlite
def test_a_negative_prompt_stands_before_the_lists_and_is_kept_as_it_was_asked(
    client: TestClient, valkey: Any
) -> None:
    submit(client, request(negative_prompt="a red sail"))
    (payload,) = queued(valkey)
    assert payload["negative_prompt"].startswith("a red sail, bad anatomy")
    assert payload["negative_prompt"].endswith("child, minor")
    assert payload["metadata"]["requested_negative_prompt"] == "a red sail"


@on_sqlite
def test_wan_gets_the_negative_prompt_that_was_asked_for_and_none_otherwise(
    client: TestClient, valkey: Any
) -> None:
    submit(client, request("image_fast", negative_prompt="a red sail"))
    submit(client, request("image_fast"))
    assert [payload.get("negative_prompt") for payload in queued(valkey)] == ["a red sail", None]


@on_sqlite
def test_references_are_passed_on(client: TestClient, valkey: Any) -> None:
    link = "https://project.example/storage/v1/object/sign/reference_images/u/r.png?token=abc"
    submit(
        client,
        request(
            reference_image_url=link,
            reference_type="composition",
            reference_strength=0.7,
            references=[{"url": link, "type": "style", "strength": 0.4}],
        ),
    )
    (raw,) = valkey.lrange("sdxl_queue", 0, -1)
    job = Job.parse(Envelope.decode(raw.encode()), SDXL)
    assert [(each.url, each.role, each.strength) for each in job.references] == [
        (link, "composition", 0.7),
        (link, "style", 0.4),
    ]


@on_sqlite
@pytest.mark.parametrize(
    ("asked", "config"),
    [
        ({"size": "640*512"}, {"size": "640*512"}),
        ({"width": 640, "height": 512}, {"width": 640, "height": 512}),
        ({}, {"size": "1024*1024"}),
    ],
)
def test_a_stated_size_is_passed_on(
    asked: dict[str, Any], config: dict[str, Any], client: TestClient, valkey: Any
) -> None:
    submit(client, request(**asked))
    (payload,) = queued(valkey)
    assert {name: payload["config"][name] for name in config} == config


def test_fields_that_nobody_reads_here_are_kept(client: TestClient, valkey: Any) -> None:
    submit(client, request(session={"tab": ["left", 1, None]}))
    assert queued(valkey)[0]["metadata"]["session"] == {"tab": ["left", 1, None]}


def test_where_workers_pop_on_the_left_jobs_are_pushed_on_the_right(
    sqlite_url: str, redis_url: str, valkey: Any, tmp_path: Path
) -> None:
    settings = gateway_settings(redis_url, sqlite_url, tmp_path, QUEUE_POP="left", SDXL_QUEUE="other")
    with TestClient(create_app(settings), headers=authorization()) as client:
        ids = [submit(client, request())["job"]["id"] for _ in range(2)]
    assert [json.loads(each)["id"] for each in valkey.lrange("other", 0, -1)] == ids


def test_the_demo_makes_small_pictures_and_short_videos(
    sqlite_url: str, redis_url: str, valkey: Any, tmp_path: Path
) -> None:
    small: dict[str, Any] = {"DEMO_SIZE": 96, "DEMO_WAN_SIZE": 80, "DEMO_FRAMES": 9}
    settings = gateway_settings(redis_url, sqlite_url, tmp_path, DEMO=True, **small)
    with TestClient(create_app(settings), base_url="http://localhost", client=LOCAL) as client:
        submit(client, request("video_fast"))
        submit(client, request("sdxl_image_fast", size="128*128"))
        submit(client, request("sdxl_image_fast"))
    shown = [(payload["config"]["size"], payload["config"]["frame_num"]) for payload in queued(valkey)]
    assert shown == [("128*128", 1), ("96*96", 1), ("80*80", 9)]


# --- what is refused


@on_sqlite
@pytest.mark.parametrize(
    "metadata",
    [
        {"prompt": ""},
        {"prompt": "  \n "},
        {"prompt": None},
        {"prompt": 7},
        {"prompt": "a" * 10_001},
        {"prompt": "a\x00b"},
        {"num_images": 2},
        {"num_images": 0},
        {"num_images": True},
        {"num_images": "3"},
        {"seed": -1},
        {"seed": 2**53},
        {"seed": 1.5},
        {"seed": "7"},
        {"seed": True},
        {"size": "big"},
        {"size": "32*64"},
        {"size": "2048*2048"},
        {"width": 512},
        {"frame_num": 9},
        {"reference_type": "mood"},
        {"reference_strength": 0.05},
        {"reference_image_url": "a" * 4097},
        {"bucket": "somebody_elses"},
        {"references": "none"},
        {"further": {"deep": [[[[[[[[[1]]]]]]]]]}},
        {"further": "a" * 20_000},
        {"further": "a\x00b"},
        {"further": 2**60},
    ],
)
def test_a_wrong_request_is_refused_with_a_sentence_and_changes_nothing(
    metadata: dict[str, Any], client: TestClient, database: Database, valkey: Any
) -> None:
    answer = client.post(PATH, json=request(**metadata))
    body = answer.json()
    assert (answer.status_code, body["code"], body["success"]) == (400, "invalid_request", False)
    assert body["error"].endswith(".")
    assert nothing_happened(database, valkey)


@on_sqlite
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"jobType": "sdxl_image_fast"}',
        b'{"jobType": "nothing", "metadata": {"prompt": "a boat"}}',
        b'{"jobType": "sdxl_image_fast", "metadata": {"prompt": "\\ud800"}}',
        b'{"jobType": "sdxl_image_fast", "metadata": {"prompt": "a boat", "further": "\\ud800"}}',
        b'{"jobType": "sdxl_image_fast", "metadata": {"prompt": "a boat", "further": NaN}}',
        b'{"jobType": "sdxl_image_fast", "metadata": {"prompt": "a boat", "\\ud800": 1}}',
        b'{"jobType": "sdxl_image_fast", "metadata": {"prompt": "a boat"}, "imageId": "7"}',
        b'{"jobType": "sdxl_image_fast", "metadata": {"prompt": "a boat", "further": ' + b"[" * 2000,
    ],
)
def test_bytes_that_are_no_request_are_refused(
    body: bytes, client: TestClient, database: Database, valkey: Any
) -> None:
    answer = client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert nothing_happened(database, valkey)


@on_sqlite
def test_a_video_job_makes_one_video(client: TestClient) -> None:
    answer = client.post(PATH, json=request("video_fast", num_images=3))
    assert answer.status_code == 400
    assert "num_images is 3, but has to be 1 for a video" in answer.json()["error"]


@on_sqlite
def test_a_body_beyond_the_limit_is_not_read(client: TestClient) -> None:
    answer = client.post(PATH, content=b" " * (1 << 20) + b"{}", headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


@on_sqlite
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sample_steps", 30),
        ("guidance_scale", 1.0),
        ("scheduler", "unipc"),
        ("credits", 0),
        ("queue", "other"),
    ],
)
def test_a_client_that_states_what_the_server_decides_has_to_state_the_same(
    field: str, value: Any, client: TestClient, database: Database, valkey: Any
) -> None:
    answer = client.post(PATH, json=request(**{field: value}))
    assert answer.status_code == 400
    assert field in answer.json()["error"]
    assert nothing_happened(database, valkey)


@on_sqlite
def test_what_the_server_decides_may_be_stated_as_it_is(client: TestClient) -> None:
    submit(client, request(sample_steps=25, sample_guide_scale=6.5, scheduler="euler", credits=1))


@on_sqlite
@pytest.mark.parametrize(
    "metadata",
    [
        {"prompt": "a 12 year old on a boat"},
        {"enhanced_prompt": "a 12 year old on a boat"},
        {"compel_weights": "(a 12 year old:1.3)"},
        {"original": {"texts": ["a 12 year old on a boat"]}},
        {"prompt": "a sailing boat, a 12", "enhanced_prompt": "year old on a boat"},
    ],
)
def test_every_text_is_screened_before_anything_is_stored(
    metadata: dict[str, Any], client: TestClient, database: Database, valkey: Any
) -> None:
    answer = client.post(PATH, json=request(**metadata))
    body = answer.json()
    assert (answer.status_code, body["code"], body["retry"]) == (422, "content_refused", False)
    assert "12" not in body["error"]
    assert nothing_happened(database, valkey)
    ((_, note),) = valkey.xrange("{sdxl_queue}:moderation")
    assert note["user"] == USER_ID
    assert "boat" not in str(note)


# --- the same request again


def test_a_key_queues_once_and_answers_the_same_job(
    client: TestClient, database: Database, valkey: Any
) -> None:
    body = request(seed=7)
    first = client.post(PATH, json=body, headers={"Idempotency-Key": "one"})
    again = client.post(PATH, json=body, headers={"Idempotency-Key": "one"})
    assert first.json()["job"] == again.json()["job"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(queued(valkey)) == len(rows(database, jobs)) == len(rows(database, usage_logs)) == 1


def test_a_key_means_one_request_and_one_user(client: TestClient, database: Database) -> None:
    submit(client, request(seed=7), **{"Idempotency-Key": "one"})
    other = client.post(PATH, json=request(seed=8), headers={"Idempotency-Key": "one"})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    submit(client, request(seed=8), **{"Idempotency-Key": "two"})
    submit(client, request(seed=8), **{"Idempotency-Key": "one"} | authorization(OTHER_USER_ID))
    assert len(rows(database, jobs)) == 3


@on_sqlite
@pytest.mark.parametrize("key", ["", "a b", "a" * 256, "\u00e9".encode()])
def test_a_key_is_printable_ascii(key: Any, client: TestClient) -> None:
    assert client.post(PATH, json=request(), headers={"Idempotency-Key": key}).status_code == 400


# --- what a user may have


def test_so_many_jobs_of_a_user_may_wait_and_no_more(
    redis_url: str, database_url: str, database: Database, valkey: Any, tmp_path: Path
) -> None:
    settings = gateway_settings(redis_url, database_url, tmp_path, MAX_WAITING_JOBS=2)
    with TestClient(create_app(settings), headers=authorization()) as client:
        kept = [submit(client, request(), **{"Idempotency-Key": str(n)})["job"]["id"] for n in range(2)]
        over = client.post(PATH, json=request())
        assert (over.status_code, over.json()["code"]) == (429, "too_many_waiting_jobs")
        assert int(over.headers["Retry-After"]) > 0
        # A repeat is no further job, and another user has an own limit.
        submit(client, request(), **{"Idempotency-Key": "1"})
        submit(client, request(), **authorization(OTHER_USER_ID))
        with database.write() as connection:
            connection.execute(sa.update(jobs).where(jobs.c.id == kept[0]).values(status="processing"))
        submit(client, request())
    assert len(rows(database, jobs)) == len(rows(database, images)) == len(queued(valkey)) == 4


def test_credits_are_spent_and_end(
    redis_url: str, database_url: str, database: Database, valkey: Any, tmp_path: Path
) -> None:
    settings = gateway_settings(
        redis_url, database_url, tmp_path, CREDITS_GRANTED=7, CREDIT_PRICES="sdxl_image_fast=2"
    )
    with TestClient(create_app(settings), headers=authorization()) as client:
        submit(client, request(num_images=3, credits=6))
        over = client.post(PATH, json=request())
        assert (over.status_code, over.json()["code"]) == (402, "no_credits")
        assert "costs 2 credits, and you have 1 left" in over.json()["error"]
        submit(client, request("image_fast"))
        assert client.post(PATH, json=request("image_fast")).status_code == 402
    assert [row["credits_consumed"] for row in rows(database, usage_logs)] == [6, 1]
    assert len(rows(database, jobs)) == len(queued(valkey)) == 2


def test_requests_come_at_a_limited_pace(redis_url: str, sqlite_url: str, tmp_path: Path) -> None:
    settings = gateway_settings(redis_url, sqlite_url, tmp_path, RATE_LIMIT="3/hour")
    with TestClient(create_app(settings), headers=authorization()) as client:
        for _ in range(3):
            submit(client, request())
        over = client.post(PATH, json=request())
        assert (over.status_code, over.json()["code"]) == (429, "rate_limited")
        assert int(over.headers["Retry-After"]) > 0
        submit(client, request(), **authorization(OTHER_USER_ID))


# --- services that do not answer


def test_without_redis_a_job_is_taken_and_pending_and_the_pace_is_counted_here(
    sqlite_url: str, tmp_path: Path, settings_of_sqlite: GatewaySettings
) -> None:
    settings = gateway_settings("redis://127.0.0.1:1", sqlite_url, tmp_path, RATE_LIMIT="2/hour")
    with TestClient(create_app(settings), headers=authorization()) as client:
        answer = submit(client, request())
        assert (answer["job"]["status"], answer["queueLength"]) == ("pending", None)
        submit(client, request())
        assert client.post(PATH, json=request()).status_code == 429
    # The next gateway that reaches Redis queues it.
    app = create_app(settings_of_sqlite)
    assert app.state.parts.relay.run_once() == 2
    (first, _) = rows(app.state.parts.database, jobs)
    assert first["status"] == "queued"


@pytest.fixture
def settings_of_sqlite(redis_url: str, sqlite_url: str, tmp_path: Path) -> GatewaySettings:
    return gateway_settings(redis_url, sqlite_url, tmp_path)


def test_without_the_database_nothing_is_queued(redis_url: str, valkey: Any, tmp_path: Path) -> None:
    url = f"postgresql://nobody@/nothing?host={tmp_path}"
    with TestClient(
        create_app(gateway_settings(redis_url, url, tmp_path)), headers=authorization()
    ) as client:
        answer = client.post(PATH, json=request())
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert not queued(valkey)


@on_sqlite
def test_a_worker_takes_what_the_gateway_queued(client: TestClient, redis_url: str) -> None:
    job_id = submit(client, request())["job"]["id"]
    queue = WorkQueue(RedisConnections(redis_url, 1), "sdxl_queue")
    queue.register()
    lease = queue.take(0)
    assert lease is not None
    assert Envelope.decode(lease.raw).job_id == job_id


def test_the_time_of_a_job_is_the_clocks(settings: GatewaySettings, database: Database) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
    with TestClient(create_app(settings, clock=lambda: moment), headers=authorization()) as client:
        answer = submit(client, request())
    assert answer["job"]["metadata"]["generation_timestamp"] == "2026-01-02T03:04:05.678Z"
    assert rows(database, jobs)[0]["created_at"] == moment
