from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from support.plans import planned

from shared.callback import (
    Produced,
    Timings,
    WorkerFacts,
    completed_body,
    failed_body,
    processing_body,
    render,
)
from shared.errors import Abandoned, InvalidJob, JobError
from shared.plan import Adjustment, Enhancement, Plan

FACTS = WorkerFacts("worker-1", "NVIDIA H100", "lustify_sdxl", {"attention": "sdpa"})
TIMINGS = Timings(queue_wait=1.25, prepare=0.01, generate=3.123456, encode=0.2, upload=0.3)

ALWAYS = {"job_type", "model_variant", "worker_id", "bucket", "attempt", "gpu_name"}
ON_COMPLETION = ALWAYS | {
    *("seed", "seeds", "num_images", "generation_time", "timings", "width", "height", "num_inference_steps"),
    *("guidance_scale", "scheduler", "negative_prompt", "original_prompt", "final_prompt", "thumbnails"),
    *("adjustments", "reference_mode"),
}


def picture(number: int, thumbnail: bool = True) -> Produced:
    key = f"user-1/job-1_{number}"
    return Produced(f"{key}.png", f"{key}.thumb.webp" if thumbnail else None, 64, 96, 1, None, None)


VIDEO = Produced("user-1/job-1.mp4", "user-1/job-1.thumb.webp", 64, 64, 17, 16.0, 1.0625)


def pictures_plan(num_images: int = 3, **changes: Any) -> Plan:
    return planned(
        config={"size": "66*100", "sample_steps": 4, "num_images": num_images, "seed": 0}, **changes
    )


def completed(plan: Plan, *produced: Produced, adjustments: tuple[Adjustment, ...] = ()) -> dict[str, Any]:
    body = completed_body(plan, produced, adjustments, TIMINGS, FACTS, 2)
    document: dict[str, Any] = json.loads(body)
    return document


def link(bucket: str, path: str, kind: Literal["public", "signed"]) -> str:
    return f"https://files.example/{kind}/{bucket}/{path}"


def test_the_processing_callback_says_who_works_on_what() -> None:
    document = json.loads(processing_body(pictures_plan(), FACTS, 2))
    metadata = document.pop("metadata")
    assert document == {"job_id": "job-1", "status": "processing", "assets": [], "error_message": None}
    assert metadata == {
        "job_type": "sdxl_image_fast",
        "model_variant": "lustify_sdxl",
        "worker_id": "worker-1",
        "bucket": "sdxl_image_fast",
        "attempt": 2,
        "gpu_name": "NVIDIA H100",
    }


def test_a_completed_picture_job_has_every_listed_field() -> None:
    document = completed(pictures_plan(), *(picture(n) for n in (1, 2, 3)))
    assert document["status"] == "completed"
    assert document["error_message"] is None
    assert document["assets"] == ["user-1/job-1_1.png", "user-1/job-1_2.png", "user-1/job-1_3.png"]
    assert "enhancedPrompt" not in document
    assert set(document["metadata"]) >= ON_COMPLETION
    assert not {"frame_num", "fps", "duration", "error_code", "retryable"} & set(document["metadata"])


def test_a_completed_callback_describes_what_was_executed() -> None:
    plan = pictures_plan(negative_prompt="fog")
    split = Adjustment("num_images", 3, 2, "memory")
    metadata = completed(plan, *(picture(n) for n in (1, 2, 3)), adjustments=(*plan.adjustments, split))[
        "metadata"
    ]
    assert (metadata["seed"], metadata["seeds"], metadata["num_images"]) == (0, [0, 1, 2], 3)
    assert (metadata["width"], metadata["height"]) == (64, 96)
    assert (metadata["num_inference_steps"], metadata["guidance_scale"]) == (4, 6.5)
    assert metadata["scheduler"] == "euler"
    assert metadata["negative_prompt"] == "fog, child, minor"
    assert metadata["original_prompt"] == metadata["final_prompt"] == plan.prompt
    assert metadata["thumbnails"] == [f"user-1/job-1_{n}.thumb.webp" for n in (1, 2, 3)]
    assert metadata["reference_mode"] == "none"
    assert [item["field"] for item in metadata["adjustments"]] == [
        *("width", "height", "negative_prompt", "num_images")
    ]
    assert set(metadata["adjustments"][0]) == {"field", "requested", "used", "reason"}


def test_generation_time_is_the_gpu_stage_alone_and_timings_are_seconds_by_stage() -> None:
    metadata = completed(pictures_plan(1), picture(1))["metadata"]
    assert metadata["generation_time"] == 3.1235
    assert metadata["timings"] == {
        "queue_wait": 1.25,
        "prepare": 0.01,
        "generate": 3.1235,
        "encode": 0.2,
        "upload": 0.3,
    }


def test_a_wait_that_nobody_knows_is_null() -> None:
    assert Timings(None, 0.1).as_json()["queue_wait"] is None


def test_a_completed_video_tells_the_files_frames_rate_and_length() -> None:
    plan = planned(job_type="video_fast", config={"size": "64*64", "sample_steps": 2, "frame_num": 19})
    metadata = completed(plan, VIDEO)["metadata"]
    assert set(metadata) >= ON_COMPLETION | {"frame_num", "fps", "duration", "sample_shift"}
    assert (metadata["frame_num"], metadata["fps"], metadata["duration"]) == (17, 16.0, 1.0625)


def test_an_enhanced_job_tells_the_prompt_and_how_it_was_made() -> None:
    enhancement = Enhancement("rules", "a cat", "a cat on a boat, soft light")
    plan = planned(job_type="image7b_fast_enhanced", prompt="a cat", enhancement=enhancement)
    document = completed(plan, picture(1))
    assert document["enhancedPrompt"] == "a cat on a boat, soft light"
    metadata = document["metadata"]
    assert metadata["original_prompt"] == "a cat"
    assert metadata["final_prompt"] == "a cat on a boat, soft light"
    assert metadata["enhancement_strategy"] == "rules"
    assert metadata["expansion_percentage"] == pytest.approx(440.0)


def test_an_enhancement_that_failed_is_told_and_sends_no_enhanced_prompt() -> None:
    enhancement = Enhancement("none", "a cat", "a cat", "the enhancer timed out")
    plan = planned(job_type="image7b_fast_enhanced", prompt="a cat", enhancement=enhancement)
    document = completed(plan, picture(1))
    assert "enhancedPrompt" not in document
    assert document["metadata"]["enhancement_note"] == "the enhancer timed out"


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [(InvalidJob("steps is 0."), "invalid_job", False), (Abandoned("Given up."), "abandoned", True)],
)
def test_a_failed_callback_has_a_sentence_a_code_and_no_assets(
    error: JobError, code: str, retryable: bool
) -> None:
    document = json.loads(failed_body("job-1", "sdxl_image_fast", "sdxl_image_fast", FACTS, 3, error))
    assert document["status"] == "failed"
    assert document["assets"] == []
    assert document["error_message"] == str(error)
    assert set(document["metadata"]) == ALWAYS | {"error_code", "retryable"}
    assert (document["metadata"]["error_code"], document["metadata"]["retryable"]) == (code, retryable)


def test_a_failed_callback_is_possible_where_type_and_bucket_are_unknown() -> None:
    metadata = json.loads(failed_body("job-1", None, None, FACTS, 1, InvalidJob("type is missing.")))[
        "metadata"
    ]
    assert (metadata["job_type"], metadata["bucket"]) == (None, None)


# --- rendering for the receiver ----------------------------------------------------------------------


def rendered(
    body: bytes,
    reference: Literal["path", "public", "signed"],
    callback_format: Literal["seed", "objects"] = "seed",
) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        render(body, callback_format=callback_format, reference=reference, link=link)
    )
    return document


def body_of(plan: Plan, *produced: Produced) -> bytes:
    return completed_body(plan, produced, (), TIMINGS, FACTS, 1)


def test_the_seeds_format_with_paths_is_sent_byte_for_byte() -> None:
    body = body_of(pictures_plan(1), picture(1))
    assert render(body, callback_format="seed", reference="path", link=link) == body


@pytest.mark.parametrize("reference", ["public", "signed"])
def test_assets_and_thumbnails_can_be_sent_as_addresses(reference: Literal["public", "signed"]) -> None:
    body = body_of(pictures_plan(3), picture(1), picture(2, thumbnail=False), picture(3))
    document = rendered(body, reference)
    start = f"https://files.example/{reference}/sdxl_image_fast/user-1/job-1"
    assert document["assets"] == [f"{start}_{n}.png" for n in (1, 2, 3)]
    assert document["metadata"]["thumbnails"] == [f"{start}_1.thumb.webp", None, f"{start}_3.thumb.webp"]


def test_assets_can_be_sent_as_objects_with_their_own_seed() -> None:
    body = body_of(pictures_plan(3), picture(1), picture(2, thumbnail=False), picture(3))
    assets = rendered(body, "path", "objects")["assets"]
    assert assets[0] == {
        "type": "image",
        "url": "user-1/job-1_1.png",
        "thumbnail_url": "user-1/job-1_1.thumb.webp",
        "metadata": {"seed": 0, "width": 64, "height": 96},
    }
    assert [asset["metadata"]["seed"] for asset in assets] == [0, 1, 2]
    assert assets[1]["thumbnail_url"] is None


def test_a_video_is_sent_as_an_object_of_its_kind() -> None:
    plan = planned(job_type="video_fast", config={"size": "64*64", "sample_steps": 2, "frame_num": 17})
    (asset,) = rendered(body_of(plan, VIDEO), "signed", "objects")["assets"]
    assert asset["type"] == "video"
    assert asset["url"] == "https://files.example/signed/video_fast/user-1/job-1.mp4"
    assert asset["thumbnail_url"].endswith("/user-1/job-1.thumb.webp")


@pytest.mark.parametrize("callback_format", ["seed", "objects"])
@pytest.mark.parametrize("reference", ["path", "public", "signed"])
def test_a_failed_callback_reads_the_same_in_every_form(
    callback_format: Literal["seed", "objects"], reference: Literal["path", "public", "signed"]
) -> None:
    body = failed_body("job-1", None, None, FACTS, 1, InvalidJob("type is missing."))
    assert rendered(body, reference, callback_format) == json.loads(body)
