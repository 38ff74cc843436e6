from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import workers.encode
from shared.assets import asset_key, thumbnail_key
from shared.errors import JobError
from shared.plan import Plan
from workers.encode import EncodingFailed, Marking, encode_sample
from workers.encode.png import encode_png
from workers.encode.types import MediaFault
from workers.encode.verify import verify_png
from workers.encode.webp import LONGEST_SIDE, thumbnail_size
from workers.engines.base import Sample

PlanMaker = Callable[..., Plan]
Gradient = Callable[[int, int, int], NDArray[np.uint8]]
IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


@pytest.fixture
def picture(moving_gradient: Gradient) -> Sample:
    return Sample(0, moving_gradient(1, 64, 64))


def info(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        image.load()
        return {str(key): value for key, value in image.info.items()}


def test_a_picture_is_described_as_it_was_read_back(
    make_plan: PlanMaker, moving_gradient: Gradient, marking: Marking, tmp_path: Path
) -> None:
    sample = Sample(2, moving_gradient(1, 48, 64))
    encoded = encode_sample(make_plan(width=64, height=48), sample, tmp_path, marking)
    assert (encoded.index, encoded.width, encoded.height, encoded.num_frames) == (2, 64, 48, 1)
    assert (encoded.fps, encoded.duration) == (None, None)
    assert (encoded.file.key, encoded.file.content_type) == ("user-1/job-1_3.png", "image/png")
    assert (encoded.thumbnail.key, encoded.thumbnail.content_type) == (
        "user-1/job-1_3.thumb.webp",
        "image/webp",
    )
    assert encoded.file.size == encoded.file.path.stat().st_size
    with Image.open(encoded.file.path) as image:
        assert np.array_equal(np.asarray(image), sample.frames[0])


@settings(max_examples=60, deadline=None)
@given(user_id=IDS, job_id=IDS, index=st.integers(0, 5), seed=st.integers(0, 2**53 - 1), width=st.just(128))
def test_keys_depend_on_the_job_and_the_index_alone(
    make_plan: PlanMaker, user_id: str, job_id: str, index: int, seed: int, width: int
) -> None:
    plan = make_plan(user_id=user_id, job_id=job_id)
    again = make_plan(user_id=user_id, job_id=job_id, seeds=(seed,), width=width, prompt="a cat")
    assert asset_key(plan, index) == asset_key(again, index) == f"{user_id}/{job_id}_{index + 1}.png"
    assert (
        thumbnail_key(plan, index)
        == thumbnail_key(again, index)
        == f"{user_id}/{job_id}_{index + 1}.thumb.webp"
    )


def test_a_videos_files_bear_the_jobs_name(make_plan: PlanMaker) -> None:
    plan = make_plan("video_fast")
    assert (asset_key(plan, 0), thumbnail_key(plan, 0)) == ("user-1/job-1.mp4", "user-1/job-1.thumb.webp")


def test_the_same_picture_gives_the_same_bytes(
    make_plan: PlanMaker, picture: Sample, marking: Marking, tmp_path: Path
) -> None:
    marking = replace(marking, embed_settings=True, embed_prompt=True)
    one, two = (encode_sample(make_plan(), picture, tmp_path, marking) for _ in range(2))
    assert one.file.path != two.file.path
    assert one.file.path.read_bytes() == two.file.path.read_bytes()
    assert one.thumbnail.path.read_bytes() == two.thumbnail.path.read_bytes()


@pytest.mark.parametrize(
    ("size", "thumbnail"),
    [((512, 256), (256, 128)), ((256, 768), (85, 256)), ((64, 96), (64, 96)), ((2048, 64), (256, 8))],
)
def test_a_thumbnails_longest_side_is_256_and_nothing_is_enlarged(
    make_plan: PlanMaker,
    moving_gradient: Gradient,
    marking: Marking,
    tmp_path: Path,
    size: tuple[int, int],
    thumbnail: tuple[int, int],
) -> None:
    width, height = size
    sample = Sample(0, moving_gradient(1, height, width))
    encoded = encode_sample(make_plan(width=width, height=height), sample, tmp_path, marking)
    with Image.open(encoded.thumbnail.path) as image:
        assert (image.format, image.size) == ("WEBP", thumbnail)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 2048), height=st.integers(1, 2048))
def test_a_thumbnail_keeps_the_proportions_to_half_a_pixel(width: int, height: int) -> None:
    small_width, small_height = thumbnail_size(width, height)
    scale = min(1, LONGEST_SIDE / max(width, height))
    assert max(small_width, small_height) == min(LONGEST_SIDE, max(width, height))
    for small, full in ((small_width, width), (small_height, height)):
        assert small >= 1
        assert abs(small - full * scale) <= 0.5 or (small == 1 and full * scale < 1)


def test_settings_and_prompt_are_written_only_where_each_is_asked_for(
    make_plan: PlanMaker, picture: Sample, marking: Marking, tmp_path: Path
) -> None:
    executed = {
        "seed": "8",
        "num_inference_steps": "25",
        "guidance_scale": "6.5",
        "size": "64x64",
        "scheduler": "euler",
    }
    prompt = {"prompt": "a boat on a lake"}
    second = replace(picture, index=1)

    def texts(embed_settings: bool, embed_prompt: bool) -> dict[str, Any]:
        asked = replace(marking, embed_settings=embed_settings, embed_prompt=embed_prompt)
        path = encode_sample(make_plan(), second, tmp_path, asked).file.path
        return {key: value for key, value in info(path).items() if key in executed | prompt}

    assert texts(False, False) == {}
    assert texts(True, False) == executed
    assert texts(False, True) == prompt
    assert texts(True, True) == executed | prompt


def test_no_prompt_stands_in_a_file_unless_asked_for(
    make_plan: PlanMaker, picture: Sample, marking: Marking, tmp_path: Path
) -> None:
    plan = make_plan(prompt="a very particular boat")
    encoded = encode_sample(plan, picture, tmp_path, replace(marking, embed_settings=True))
    for file in (encoded.file, encoded.thumbnail):
        assert b"particular" not in file.path.read_bytes()


def test_a_sample_of_another_shape_than_planned_fails_the_job_and_leaves_nothing(
    make_plan: PlanMaker, picture: Sample, marking: Marking, tmp_path: Path
) -> None:
    with pytest.raises(EncodingFailed, match="The finished image could not") as caught:
        encode_sample(make_plan(width=128), picture, tmp_path, marking)
    assert "planned was uint8 of shape (1, 64, 128, 3)" in str(caught.value.__cause__)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_fails_the_job_as_a_fault_of_the_node(
    make_plan: PlanMaker, picture: Sample, marking: Marking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(JobError) as caught:
        encode_sample(make_plan(), picture, tmp_path, marking)
    error = caught.value
    assert (error.code, error.retryable, error.node_fault) == ("generation_failed", True, True)
    assert str(tmp_path) not in str(error)


def test_a_picture_that_reads_back_differently_fails_the_job(
    make_plan: PlanMaker, picture: Sample, marking: Marking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        workers.encode, "encode_png", lambda pixels, texts: encode_png(pixels[:, ::-1], texts)
    )
    with pytest.raises(EncodingFailed) as caught:
        encode_sample(make_plan(), picture, tmp_path, marking)
    assert "does not decode to the picture" in str(caught.value.__cause__)
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_is_missing_is_refused_without_showing_it(tmp_path: Path) -> None:
    pixels, path = np.zeros((2, 2, 3), np.uint8), tmp_path / "picture"
    path.write_bytes(encode_png(pixels, {"prompt": "another boat"}))
    with pytest.raises(MediaFault, match="lacks its text 'prompt'") as caught:
        verify_png(path, pixels, {"prompt": "a planted boat"})
    assert "planted" not in str(caught.value)


def test_half_a_surrogate_pair_in_a_prompt_does_not_fail_the_job(
    make_plan: PlanMaker, picture: Sample, marking: Marking, tmp_path: Path
) -> None:
    asked = replace(marking, embed_prompt=True)
    path = encode_sample(make_plan(prompt="a boat \ud83d"), picture, tmp_path, asked).file.path
    assert info(path)["prompt"] == "a boat ?"


def test_importing_the_encoder_loads_no_signing_library() -> None:
    code = "import sys, workers.encode; sys.exit('c2pa' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
