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
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.plan import Plan
from shared.presets import PRESETS
from workers.encode import Marking, encode_sample, mp4
from workers.encode.ffmpeg import run_ffmpeg
from workers.encode.mark import xmp_packet
from workers.encode.png import encode_png
from workers.encode.verify import verify_mp4, verify_png
from workers.encode.webp import encode_thumbnail
from workers.engines.base import Sample

Pixels = NDArray[np.uint8]
XMP = xmp_packet("benchmark", "0")
SIDE = 1024
FRAMES, HEIGHT, WIDTH, FPS = 81, 480, 832, 16.0
_STATUS = Path("/proc/self/status")


def photo_like(height: int = SIDE, width: int = SIDE, seed: int = 0) -> Pixels:
    """Noise whose amplitude falls with frequency as that of photographs does, with a little grain."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.standard_normal((height, width, 3)), axes=(0, 1))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0
    picture = np.fft.irfft2(spectrum / frequency[..., None] ** 1.6, s=(height, width), axes=(0, 1))
    picture = 0.35 * picture + 0.65 * np.sqrt(3) * picture.mean(axis=2, keepdims=True)
    picture = 120.0 + 50.0 * (picture - picture.mean()) / picture.std()
    picture += 1.5 * rng.standard_normal((height, width, 1))
    return as_pixels(picture)


def as_pixels(picture: NDArray[np.floating[Any]]) -> Pixels:
    pixels: Pixels = np.clip(picture, 0, 255).astype(np.uint8)
    return pixels


def flat_shapes(grain: float) -> Pixels:
    """Drawn shapes in even colours, as the demonstration's models draw them."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    picture = np.empty((SIDE, SIDE, 3))
    picture[:] = (90, 150, 220)
    picture[y > 0.6] = (40, 90, 160)
    picture[(x - 0.7) ** 2 + (y - 0.3) ** 2 < 0.02] = (250, 220, 80)
    return as_pixels(picture + grain * np.random.default_rng(0).standard_normal(picture.shape))


def moving_picture() -> Pixels:
    """A photo-like picture that moves past, with fresh grain in every frame."""
    rng = np.random.default_rng(1)
    scene = photo_like(HEIGHT + FRAMES, WIDTH + 2 * FRAMES).astype(np.int16)
    video = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for index, frame in enumerate(video):
        part = scene[index : index + HEIGHT, 2 * index : 2 * index + WIDTH]
        frame[:] = np.clip(part + rng.integers(-2, 3, (HEIGHT, WIDTH, 1)), 0, 255)
    return video


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


def compare_pictures(name: str, pixels: Pixels, scratch: Path) -> None:
    path = scratch / "picture"
    path.write_bytes(encode_png(pixels, {}))
    encoders: dict[str, Callable[[], bytes]] = {
        "Pillow, level 6": lambda: pillow_png(pixels, 6),
        "Pillow, level 1": lambda: pillow_png(pixels, 1),
        "Pillow, level 1, run lengths": lambda: pillow_png(pixels, 1, 3),
        "ours": lambda: encode_png(pixels, {}),
        "(WebP thumbnail)": lambda: encode_thumbnail(pixels, XMP),
    }
    seconds = take_turns({**encoders, "(ours read back)": lambda: verify_png(path, pixels, {})}, rounds=4)
    sizes = {key: len(encode()) for key, encode in encoders.items()}
    base = "Pillow, level 6"
    print(f"\nPNG, {SIDE}x{SIDE}, {name}")
    print(f"{'':<32}{'ms':>8}{'time':>9}{'size':>9}")
    for key, value in seconds.items():
        size = f"{sizes[key] / sizes[base]:>8.2f}x" if key in sizes else ""
        print(f"{key:<32}{1000 * value:>8.1f}{value / seconds[base]:>8.2f}x{size}")


def compare_videos(video: Pixels, scratch: Path) -> None:
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
    seconds = take_turns(candidates, rounds=3)
    base = (scratch / "medium").stat().st_size
    print(f"\nMP4, {FRAMES} frames of {WIDTH}x{HEIGHT}, x264 presets; ours is {mp4.PRESET}")
    print(f"{'':<32}{'ms':>8}{'time':>9}{'size':>9}{'PSNR':>9}")
    for key, value in seconds.items():
        row = f"{key:<32}{1000 * value:>8.0f}{value / seconds['medium']:>8.2f}x"
        if key in presets:
            row += f"{(scratch / key).stat().st_size / base:>8.2f}x{psnr(scratch / key, video):>6.1f} dB"
        print(row)


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
    before = _resident("VmRSS")
    encode_sample(video_plan(), Sample(0, video), scratch, Marking("benchmark", "0"))
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true", help="measure the memory only, print JSON")
    memory_only = parser.parse_args(arguments).memory
    video = moving_picture()
    with tempfile.TemporaryDirectory() as folder:
        growth = memory_growth(video, Path(folder))  # first, while the heap is small
        if memory_only:
            print(json.dumps({"raw_bytes": video.nbytes, "growth_bytes": growth}))
            return
        compare_pictures("photo-like", photo_like(), Path(folder))
        compare_pictures("flat shapes with grain", flat_shapes(0.8), Path(folder))
        compare_pictures("flat shapes", flat_shapes(0.0), Path(folder))
        compare_videos(video, Path(folder))
    raw = video.nbytes / 1e6
    print(f"\nmemory while encoding that video: {growth / 1e6:.0f} MB above {raw:.0f} MB of frames")


if __name__ == "__main__":
    main(sys.argv[1:])
