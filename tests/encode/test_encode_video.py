from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import workers.encode
from shared.plan import Plan
from workers.encode import EncodedSample, EncodingFailed, Marking, encode_sample
from workers.encode.boxes import read_video_facts
from workers.encode.ffmpeg import run_ffmpeg
from workers.encode.mp4 import frame_rate, write_mp4
from workers.encode.types import MediaFault
from workers.encode.verify import verify_mp4
from workers.engines.base import Sample

PlanMaker = Callable[..., Plan]
Gradient = Callable[[int, int, int], NDArray[np.uint8]]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def encode(
    make_plan: PlanMaker, moving_gradient: Gradient, marking: Marking, tmp_path: Path
) -> Callable[..., EncodedSample]:
    def run(num_frames: int = 5, fps: float = 16.0, width: int = 64, height: int = 48) -> EncodedSample:
        plan = make_plan("video_fast", width, height, num_frames, fps)
        return encode_sample(plan, Sample(0, moving_gradient(num_frames, height, width)), tmp_path, marking)

    return run


def decoded(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    """All frames as RGB, converted as the file's own tags say."""
    exact = ("-vf", "scale=flags=accurate_rnd+full_chroma_int+full_chroma_inp")
    raw = run_ffmpeg(["-i", str(path), *exact, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"])
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


@pytest.mark.parametrize(
    ("num_frames", "width", "height", "fps"),
    [(1, 64, 48, 16.0), (5, 48, 64, 24.0), (17, 208, 112, 16.0), (81, 128, 64, 16.0), (5, 80, 80, 23.976)],
)
def test_a_video_has_exactly_the_frames_rate_and_duration_of_its_plan(
    encode: Callable[..., EncodedSample], num_frames: int, width: int, height: int, fps: float
) -> None:
    encoded = encode(num_frames, fps, width, height)
    assert (encoded.num_frames, encoded.width, encoded.height, encoded.fps) == (
        num_frames,
        width,
        height,
        fps,
    )
    assert encoded.duration == pytest.approx(num_frames / fps, abs=1e-4)
    assert (encoded.file.key, encoded.file.content_type) == ("user-1/job-1.mp4", "video/mp4")
    assert len(decoded(encoded.file.path, height, width)) == num_frames


def test_eighty_one_frames_at_sixteen_a_second_last_5062_and_a_half_milliseconds(
    encode: Callable[..., EncodedSample],
) -> None:
    facts = read_video_facts(encode(81).file.path)
    assert facts.duration * 1000 == facts.movie_duration * 1000 == 5062.5


@settings(max_examples=6, deadline=None)
@given(frames=st.integers(1, 9), fps=st.floats(1, 60), width=st.integers(1, 6), height=st.integers(1, 6))
def test_any_rate_from_1_to_60_is_kept_to_a_32000th(
    tmp_path_factory: pytest.TempPathFactory, frames: int, fps: float, width: int, height: int
) -> None:
    path = tmp_path_factory.mktemp("rate") / "video"
    write_mp4(path, np.zeros((frames, 16 * height, 16 * width, 3), np.uint8), fps, "")
    facts = verify_mp4(path, 16 * width, 16 * height, frames, frame_rate(fps), "")
    assert float(facts.fps) == pytest.approx(fps, abs=1 / 32_000)
    assert float(facts.duration) == pytest.approx(frames / fps, abs=1e-3)


@pytest.mark.parametrize("fps", [16.0, 23.976, 24000 / 1001, 29.97, 12.5, 60.0])
def test_whole_decimal_and_ntsc_rates_are_exact(fps: float) -> None:
    assert float(frame_rate(fps)) == fps


def test_a_player_can_start_before_the_whole_file_is_there(encode: Callable[..., EncodedSample]) -> None:
    order = read_video_facts(encode().file.path).order
    assert order.index("moov") < order.index("mdat")


def test_colours_come_back_as_they_were(tmp_path: Path) -> None:
    colours = [
        (255, 255, 255),
        (0, 0, 0),
        (128, 128, 128),
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (40, 90, 160),
    ]
    frames = np.zeros((5, 32, 32 * len(colours), 3), np.uint8)
    for index, colour in enumerate(colours):
        frames[:, :, 32 * index : 32 * (index + 1)] = colour
    write_mp4(tmp_path / "video", frames, 16.0, "")
    middles = decoded(tmp_path / "video", 32, frames.shape[2])[:, 16, 16::32].astype(int)
    assert np.abs(middles - np.array(colours)).max() <= 2


def test_a_players_question_about_the_colours_is_answered(encode: Callable[..., EncodedSample]) -> None:
    content = encode().file.path.read_bytes()
    # The nclx colour box: primaries 1, transfer 1, matrix 1 are BT.709; the last bit says limited range.
    assert b"colrnclx" + struct.pack(">HHHB", 1, 1, 1, 0) in content


def test_frames_come_back_in_their_order_and_close_to_what_they_were(
    encode: Callable[..., EncodedSample], moving_gradient: Gradient
) -> None:
    frames = moving_gradient(17, 64, 96).astype(int)
    result = decoded(encode(17, 16.0, 96, 64).file.path, 64, 96).astype(int)
    for index, frame in enumerate(result):
        errors = [np.abs(frame - original).mean() for original in frames]
        assert int(np.argmin(errors)) == index
        assert errors[index] < 3


def test_a_videos_thumbnail_is_its_middle_frame(
    make_plan: PlanMaker, marking: Marking, tmp_path: Path
) -> None:
    frames = np.zeros((5, 32, 32, 3), np.uint8)
    frames[2] = (200, 60, 120)
    encoded = encode_sample(make_plan("video_fast", 32, 32, 5), Sample(0, frames), tmp_path, marking)
    assert encoded.thumbnail.key == "user-1/job-1.thumb.webp"
    with Image.open(encoded.thumbnail.path) as image:
        assert np.abs(np.asarray(image).astype(int) - (200, 60, 120)).max() <= 6


def test_the_same_video_gives_the_same_bytes_on_any_number_of_cores(
    encode: Callable[..., EncodedSample],
) -> None:
    cores = os.sched_getaffinity(0)
    one = encode(17, 16.0, 208, 112)
    try:
        os.sched_setaffinity(0, {min(cores)})
        two = encode(17, 16.0, 208, 112)
    finally:
        os.sched_setaffinity(0, cores)
    assert one.file.path.read_bytes() == two.file.path.read_bytes()
    assert one.thumbnail.path.read_bytes() == two.thumbnail.path.read_bytes()


def test_frames_that_are_a_view_are_written_as_they_look(tmp_path: Path, moving_gradient: Gradient) -> None:
    view = moving_gradient(5, 64, 64).transpose(0, 2, 1, 3)[:, ::-1]
    write_mp4(tmp_path / "view", view, 16.0, "")
    write_mp4(tmp_path / "copy", view.copy(), 16.0, "")
    assert (tmp_path / "view").read_bytes() == (tmp_path / "copy").read_bytes()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"num_frames": 9}, "number of frames of video is 5, planned was 9"),
        ({"width": 80}, "width of video is 64, planned was 80"),
        ({"fps": 24.0}, "frame rate of video is 16, planned was 24"),
    ],
)
def test_a_video_that_is_not_as_planned_is_refused_with_what_was_found(
    tmp_path: Path, moving_gradient: Gradient, wrong: dict[str, float], sentence: str
) -> None:
    path = tmp_path / "video"
    write_mp4(path, moving_gradient(5, 48, 64), 16.0, "mark")
    planned: dict[str, float] = {"width": 64, "height": 48, "num_frames": 5, "fps": 16.0, **wrong}
    with pytest.raises(MediaFault, match=sentence):
        verify_mp4(
            path,
            int(planned["width"]),
            int(planned["height"]),
            int(planned["num_frames"]),
            frame_rate(planned["fps"]),
            "mark",
        )


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory, moving_gradient: Gradient) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "video"
    write_mp4(path, moving_gradient(5, 32, 32), 16.0, "mark")
    verify_mp4(path, 32, 32, 5, frame_rate(16.0), "mark")
    return path.read_bytes()


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, whole_file: bytes, share: float
) -> None:
    path = tmp_path_factory.mktemp("cut") / "video"
    path.write_bytes(whole_file[: int(share * len(whole_file))])
    with pytest.raises(MediaFault):
        verify_mp4(path, 32, 32, 5, frame_rate(16.0), "mark")


def test_a_video_without_its_mark_is_refused(tmp_path: Path, whole_file: bytes) -> None:
    path = tmp_path / "video"
    path.write_bytes(whole_file[: whole_file.rindex(b"uuid") - 4])
    with pytest.raises(MediaFault, match="video lacks its XMP packet"):
        verify_mp4(path, 32, 32, 5, frame_rate(16.0), "mark")


def test_a_video_whose_frames_do_not_decode_fails_the_job_and_leaves_nothing(
    make_plan: PlanMaker,
    moving_gradient: Gradient,
    marking: Marking,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def damaged(path: Path, frames: NDArray[np.uint8], fps: float, xmp: str) -> None:
        write_mp4(path, frames, fps, xmp)
        content = bytearray(path.read_bytes())
        start = content.index(b"mdat") + 4
        content[start + 900 : start + 1200] = bytes(300)
        path.write_bytes(content)

    monkeypatch.setattr(workers.encode, "write_mp4", damaged)
    noise = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    with pytest.raises(EncodingFailed, match="The finished video") as caught:
        encode_sample(make_plan("video_fast", 64, 64, 5), Sample(0, noise), tmp_path, marking)
    assert isinstance(caught.value.__cause__, MediaFault)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def impostor(tmp_path: Path) -> Callable[[str], str]:
    """An executable that takes ffmpeg's place and runs these shell commands."""

    def make(commands: str) -> str:
        path = tmp_path / "ffmpeg"
        path.write_text(f"#!/bin/sh\n{commands}\n")
        path.chmod(0o755)
        return str(path)

    return make


def endless_frames() -> NDArray[np.uint8]:
    return np.zeros((1000, 1 << 16), np.uint8)


def test_an_ffmpeg_that_hangs_is_killed(impostor: Callable[[str], str], tmp_path: Path) -> None:
    executable = impostor(f"echo $$ > {tmp_path}/pid; exec /bin/sleep 1000")
    frames = (frame.data for frame in endless_frames())
    with pytest.raises(MediaFault, match=r"no progress for 0\.2 s"):
        run_ffmpeg([], frames, stall_s=0.2, executable=executable)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_an_ffmpeg_that_fails_is_reported_with_the_end_of_its_message(
    impostor: Callable[[str], str],
) -> None:
    executable = impostor("echo 'no such encoder' >&2; exit 3")
    with pytest.raises(MediaFault, match="ended with 3: no such encoder"):
        run_ffmpeg([], (frame.data for frame in endless_frames()), executable=executable)


def test_an_ffmpeg_that_talks_without_end_does_not_block_the_frames(impostor: Callable[[str], str]) -> None:
    executable = impostor(
        "i=0; while [ $i -lt 20000 ]; do echo warning $i >&2; i=$((i+1)); done; cat | wc -c"
    )
    count = run_ffmpeg([], (frame.data for frame in endless_frames()), executable=executable)
    assert int(count) == endless_frames().nbytes


def test_ffmpeg_sees_nothing_of_our_environment(
    impostor: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPABASE_SERVICE_KEY", "planted-secret")
    assert b"planted" not in run_ffmpeg([], executable=impostor("/usr/bin/env"))


def test_an_interruption_while_frames_are_fed_ends_ffmpeg(
    impostor: Callable[[str], str], tmp_path: Path
) -> None:
    def frames() -> Iterator[bytes]:
        yield bytes(1 << 20)
        raise KeyboardInterrupt

    executable = impostor(f"echo $$ > {tmp_path}/pid; exec /bin/cat")
    with pytest.raises(KeyboardInterrupt):
        run_ffmpeg([], (memoryview(frame) for frame in frames()), executable=executable)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_encoding_a_video_takes_less_than_200_mb_beside_its_frames() -> None:
    command = [sys.executable, "-m", "benchmarks.encode", "--memory"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures = json.loads(result.stdout)
    assert figures["raw_bytes"] == 81 * 480 * 832 * 3
    assert figures["growth_bytes"] < 200e6
