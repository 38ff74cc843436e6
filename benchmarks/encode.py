"""Times and sizes of encoding, and the memory that it takes: `python -m benchmarks.encode`.

All candidates of a table take turns in one process; compare them by their ratios. `--memory` measures only
the memory that encoding a video takes, and prints it as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from benchmarks._measure import status_bytes
from benchmarks._pictures import (
    FPS,
    FRAMES,
    HEIGHT,
    SIDE,
    WIDTH,
    Pixels,
    flat_shapes,
    moving_picture,
    photo_like,
)
from benchmarks._report import Figure, Section, at_most
from shared.plan import Plan
from shared.presets import PRESETS
from workers.encode import Marking, encode_sample, mp4
from workers.encode.ffmpeg import run_ffmpeg
from workers.encode.mark import xmp_packet
from workers.encode.png import encode_png
from workers.encode.verify import verify_mp4, verify_png
from workers.encode.webp import encode_thumbnail
from workers.engines.base import Sample

XMP = xmp_packet("benchmark", "0")
PHOTO, OURS, LEVEL_6 = "photo-like", "ours", "Pillow, level 6"


@dataclass(frozen=True, slots=True)
class Row:
    """Best time in seconds; time and size as a share of the first candidate's; PSNR in dB."""

    name: str
    seconds: float
    time: float
    size: float | None
    psnr_db: float | None = None

    def cells(self) -> tuple[str, ...]:
        size = "" if self.size is None else f"{self.size:.2f}x"
        psnr_db = "" if self.psnr_db is None else f"{self.psnr_db:.1f} dB"
        return self.name, f"{1000 * self.seconds:.1f}", f"{self.time:.2f}x", size, psnr_db


def take_turns(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The best of `rounds` times of each candidate, in seconds."""
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def pillow_png(pixels: Pixels, level: int, strategy: int = -1) -> bytes:
    data = BytesIO()
    Image.fromarray(pixels).save(data, "PNG", compress_level=level, compress_type=strategy)
    return data.getvalue()


def compare_pictures(name: str, pixels: Pixels, scratch: Path, rounds: int) -> list[Row]:
    path = scratch / "picture"
    path.write_bytes(encode_png(pixels, {}))
    encoders: dict[str, Callable[[], bytes]] = {
        LEVEL_6: lambda: pillow_png(pixels, 6),
        "Pillow, level 1": lambda: pillow_png(pixels, 1),
        "Pillow, level 1, run lengths": lambda: pillow_png(pixels, 1, 3),
        OURS: lambda: encode_png(pixels, {}),
        "(WebP thumbnail)": lambda: encode_thumbnail(pixels, XMP),
    }
    seconds = take_turns({**encoders, "(ours read back)": lambda: verify_png(path, pixels, {})}, rounds)
    sizes = {key: len(encode()) for key, encode in encoders.items()}
    return [
        Row(
            f"{name}: {key}",
            value,
            value / seconds[LEVEL_6],
            sizes[key] / sizes[LEVEL_6] if key in sizes else None,
        )
        for key, value in seconds.items()
    ]


def compare_videos(video: Pixels, scratch: Path, rounds: int) -> list[Row]:
    presets = ("medium", "fast", "faster", "veryfast", "superfast")

    def write(preset: str) -> Callable[[], None]:
        def run() -> None:
            with patch.object(mp4, "PRESET", preset):
                mp4.write_mp4(scratch / preset, video, FPS, XMP)

        return run

    ours = scratch / mp4.PRESET
    check = mp4.frame_rate(FPS)
    candidates: dict[str, Callable[[], object]] = {preset: write(preset) for preset in presets}
    candidates["(ours read back)"] = lambda: verify_mp4(ours, WIDTH, HEIGHT, FRAMES, check, XMP)
    seconds = take_turns(candidates, rounds)
    base = (scratch / "medium").stat().st_size
    return [
        Row(
            f"video: {'ours, ' if key == mp4.PRESET else ''}{key}",
            value,
            value / seconds["medium"],
            (scratch / key).stat().st_size / base if key in presets else None,
            psnr(scratch / key, video) if key in presets else None,
        )
        for key, value in seconds.items()
    ]


def psnr(path: Path, video: Pixels) -> float:
    """Peak signal to noise ratio in dB of every eighth frame, in RGB."""
    flags = ("-vf", "scale=flags=accurate_rnd+full_chroma_int+full_chroma_inp")
    output = ("-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1")
    raw = run_ffmpeg(["-i", str(path), *flags, *output])
    decoded = np.frombuffer(raw, np.uint8).reshape(video.shape)
    difference = decoded[::8].astype(np.float32) - video[::8]
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


def video_plan() -> Plan:
    preset = PRESETS["video_fast"]
    return Plan(
        job_id="benchmark",
        user_id="benchmark",
        job_type=preset.job_type,
        family=preset.family,
        medium=preset.medium,
        bucket=preset.bucket,
        prompt="a boat on a lake",
        original_prompt="a boat on a lake",
        negative_prompt="",
        width=WIDTH,
        height=HEIGHT,
        num_inference_steps=preset.num_inference_steps,
        guidance_scale=preset.guidance_scale,
        shift=5.0,
        num_frames=FRAMES,
        fps=FPS,
        seeds=(0,),
    )


def memory_growth(video: Pixels, scratch: Path) -> int:
    """Bytes by which this process grows at most while it encodes and verifies a video; ffmpeg apart."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = status_bytes("VmRSS")
    encode_sample(video_plan(), Sample(0, video), scratch, Marking("benchmark", "0"))
    return status_bytes("VmHWM") - before


def run(quick: bool) -> Section:
    rounds = 1 if quick else 4
    video = moving_picture()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        growth = memory_growth(video, scratch)  # first, while the heap is small
        photo = compare_pictures(PHOTO, photo_like(), scratch, rounds)
        rows = [
            *photo,
            *compare_pictures("flat shapes with grain", flat_shapes(0.8), scratch, rounds),
            *compare_pictures("flat shapes", flat_shapes(0.0), scratch, rounds),
            *compare_videos(video, scratch, max(1, rounds - 1)),
        ]
    (ours,) = [row for row in photo if row.name == f"{PHOTO}: {OURS}"]
    assert ours.size is not None
    return Section(
        title="Encoding",
        columns=("", "ms", "time", "size", "PSNR"),
        rows=tuple(row.cells() for row in rows),
        figures=(
            Figure("our PNG's time / level 6's, photo-like", ours.time),
            Figure("our PNG's size / level 6's, photo-like", ours.size, at_most(1.25)),
            Figure("memory beside a video's raw frames, MB", growth / 1e6, None, "{:.0f}"),
        ),
        notes=(
            f"PNG of {SIDE}x{SIDE} against Pillow's level 6; MP4 of {FRAMES} frames of {WIDTH}x{HEIGHT}"
            " against x264's preset medium. Candidates take turns, the best time counts.",
        ),
        data={"rows": [asdict(row) for row in rows], "memory_growth_bytes": growth},
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true", help="measure the memory only, print JSON")
    if not parser.parse_args(arguments).memory:
        print(run(quick=False))
        return
    video = moving_picture()
    with tempfile.TemporaryDirectory() as folder:
        growth = memory_growth(video, Path(folder))
    print(json.dumps({"raw_bytes": video.nbytes, "growth_bytes": growth}))


if __name__ == "__main__":
    main(sys.argv[1:])
