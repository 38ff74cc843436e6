"""The WAN worker on its real parts: Valkey, diffusers, ffmpeg, files, HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.checkpoints import Loaded, wan_checkpoint
from support.harness import Installation
from support.jobs import payload

from shared.settings import QUALITY_NEGATIVES
from workers.engines.wan import WanEngine
from workers.local_receiver import Received

PAYLOADS = sorted(
    path for path in (Path(__file__).parent / "data" / "payloads").glob("*.json") if "sdxl" not in path.name
)


@pytest.fixture(scope="module")
def engine() -> Loaded:
    return Loaded(WanEngine(str(wan_checkpoint()), device="cpu", dtype="float32"))


@pytest.fixture
def wan(wan_installation: Installation, engine: Loaded) -> Installation:
    wan_installation.engine = engine
    return wan_installation


def frames(installation: Installation, callback: Received) -> NDArray[np.uint8]:
    """The decoded video, (F, H, W, 3)."""
    reader = imageio_ffmpeg.read_frames(str(installation.asset(callback)))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def video(job_id: str, job_type: str = "video_fast", **changes: Any) -> dict[str, Any]:
    config = {"size": "64*64", "sample_steps": 2, "frame_num": 5, "seed": 7, **changes.pop("config", {})}
    return payload(job_id, job_type, config=config, **changes)


@pytest.mark.parametrize("file", PAYLOADS, ids=lambda file: file.stem)
def test_every_captured_payload_goes_through_with_size_and_steps_reduced(
    wan: Installation, file: Path
) -> None:
    document = json.loads(file.read_text())
    document["config"] |= {"size": "64*64", "sample_steps": 2}
    (callback,) = wan.run_jobs(document)
    metadata = callback.document["metadata"]
    assert callback.status == "completed"
    assert metadata["bucket"] == document["type"]
    assert metadata["sample_shift"] == 5.0
    adjusted = {item["field"]: (item["requested"], item["used"]) for item in metadata["adjustments"]}
    assert adjusted["scheduler"] == ("unipc", "euler")
    if "video" in document["type"]:
        assert adjusted["frame_num"] == (83, 81)
        assert (metadata["frame_num"], metadata["fps"]) == (81, 16.0)
        assert metadata["duration"] == pytest.approx(81 / 16, abs=0.001)
        assert frames(wan, callback).shape == (81, 64, 64, 3)
    else:
        with Image.open(wan.asset(callback)) as image:
            assert image.size == (64, 64)
    if "enhanced" in document["type"]:
        assert metadata["enhancement_strategy"] == "rules"
        assert callback.document["enhancedPrompt"].startswith(document["prompt"])
        assert metadata["final_prompt"] == callback.document["enhancedPrompt"]
        assert metadata["expansion_percentage"] > 0
    else:
        assert "enhancedPrompt" not in callback.document


def test_a_picture_of_480_by_832_is_made_at_its_size(wan: Installation) -> None:
    (callback,) = wan.run_jobs(payload(job_type="image_fast", config={"size": "480*832", "sample_steps": 1}))
    with Image.open(wan.asset(callback)) as image:
        assert image.size == (480, 832)


def test_the_seed_the_negative_prompt_and_nothing_else_decide_the_frames(wan: Installation) -> None:
    same, again, other, negative = wan.run_jobs(
        video("same"),
        video("again"),
        video("other", config={"seed": 8}),
        video("negative", negative_prompt="blue"),
    )
    first = wan.asset(same).read_bytes()
    assert wan.asset(again).read_bytes() == first
    assert not np.array_equal(frames(wan, other), frames(wan, same))
    assert not np.array_equal(frames(wan, negative), frames(wan, same))
    assert negative.document["metadata"]["negative_prompt"] == "blue"
    assert same.document["metadata"]["negative_prompt"] == QUALITY_NEGATIVES


def test_several_pictures_differ_by_their_seeds(wan: Installation) -> None:
    batch, third = wan.run_jobs(
        payload(
            "batch", "image_fast", config={"size": "64*64", "sample_steps": 2, "seed": 3, "num_images": 3}
        ),
        payload("third", "image_fast", config={"size": "64*64", "sample_steps": 2, "seed": 5}),
    )
    with Image.open(wan.asset(batch, 2)) as one, Image.open(wan.asset(third)) as other:
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1
    assert batch.document["metadata"]["seeds"] == [3, 4, 5]


@pytest.mark.parametrize(
    ("document", "code", "sentence"),
    [
        (video("job-1", config={"num_images": 3}), "invalid_job", "num_images is 3, but has to be 1 for"),
        (video("job-1", config={"frame_num": 162}), "invalid_job", "frame_num is 162, but has"),
        (payload(), "invalid_job", "belongs to the sdxl worker"),
        (video("job-1", metadata={"first_frame": "https://x/a.png"}), "unsupported", "reference images"),
    ],
    ids=["three pictures of a video", "too many frames", "the other worker's type", "a first frame"],
)  # fmt: skip
def test_what_cannot_be_done_is_said(
    wan: Installation, document: dict[str, Any], code: str, sentence: str
) -> None:
    (callback,) = wan.run_jobs(document)
    assert callback.document["metadata"]["error_code"] == code
    assert sentence in callback.document["error_message"]


def test_an_odd_size_is_adjusted_and_recorded(wan: Installation) -> None:
    (callback,) = wan.run_jobs(payload(job_type="image_fast", config={"size": "73*89", "sample_steps": 1}))
    metadata = callback.document["metadata"]
    assert (metadata["width"], metadata["height"]) == (64, 80)
    assert {item["field"] for item in metadata["adjustments"]} == {"width", "height"}
