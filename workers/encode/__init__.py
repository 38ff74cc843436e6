"""Samples → verified files: PNG, MP4 and WebP thumbnails that carry the mark of their origin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from shared.assets import asset_key, thumbnail_key
from shared.plan import Plan
from workers.encode.boxes import VideoFacts
from workers.encode.c2pa import check_signer, sign_file
from workers.encode.mark import xmp_packet
from workers.encode.mp4 import frame_rate, write_mp4
from workers.encode.png import encode_png
from workers.encode.types import C2paSigner, EncodedSample, EncodingFailed, Marking, MediaFault, MediaFile
from workers.encode.verify import verify_mp4, verify_png, verify_thumbnail
from workers.encode.webp import encode_thumbnail, thumbnail_size
from workers.engines.base import Sample

__all__ = [
    "C2paSigner",
    "EncodedSample",
    "EncodingFailed",
    "Marking",
    "MediaFile",
    "check_signer",
    "encode_sample",
]

PNG = "image/png"
MP4 = "video/mp4"
WEBP = "image/webp"


def encode_sample(plan: Plan, sample: Sample, scratch: Path, marking: Marking) -> EncodedSample:
    """Write the sample and its thumbnail into `scratch`, read both back and compare them with the plan.

    The caller removes the files; their names in `scratch` are random, so that jobs cannot meet there.
    Raises `EncodingFailed` and leaves nothing behind where a file cannot be made or is not as planned.
    """
    path, thumbnail = scratch / uuid4().hex, scratch / uuid4().hex
    xmp = xmp_packet(marking.generator, marking.version)
    with _sound_files(plan, path, thumbnail):
        _check_sample(plan, sample)
        facts: VideoFacts | None = None
        if plan.medium == "video":
            facts = _video(path, plan, sample.frames, xmp, marking)
        else:
            _picture(path, sample.frames[0], _texts(plan, sample.index, xmp, marking), marking)
        _thumbnail(thumbnail, sample.frames[len(sample.frames) // 2], xmp)
        return EncodedSample(
            index=sample.index,
            file=_media_file(path, asset_key(plan, sample.index), MP4 if facts else PNG),
            thumbnail=_media_file(thumbnail, thumbnail_key(plan, sample.index), WEBP),
            width=plan.width,
            height=plan.height,
            num_frames=len(sample.frames),
            fps=float(facts.fps) if facts else None,
            duration=float(facts.duration) if facts else None,
        )


def _picture(path: Path, pixels: NDArray[np.uint8], texts: Mapping[str, str], marking: Marking) -> None:
    path.write_bytes(encode_png(pixels, texts))
    _sign(path, PNG, marking)
    verify_png(path, pixels, texts)


def _video(path: Path, plan: Plan, frames: NDArray[np.uint8], xmp: str, marking: Marking) -> VideoFacts:
    write_mp4(path, frames, plan.fps, xmp)
    _sign(path, MP4, marking)
    return verify_mp4(path, plan.width, plan.height, plan.num_frames, frame_rate(plan.fps), xmp)


def _thumbnail(path: Path, pixels: NDArray[np.uint8], xmp: str) -> None:
    height, width, _ = pixels.shape
    path.write_bytes(encode_thumbnail(pixels, xmp))
    verify_thumbnail(path, *thumbnail_size(width, height), xmp)


def _sign(path: Path, content_type: str, marking: Marking) -> None:
    if marking.signer is not None:
        sign_file(path, content_type, marking.signer, marking.generator, marking.version)


def _texts(plan: Plan, index: int, xmp: str, marking: Marking) -> dict[str, str]:
    """A picture's text chunks by keyword."""
    texts = {"XML:com.adobe.xmp": xmp, "Software": f"{marking.generator} {marking.version}"}
    if marking.embed_settings:
        texts |= {
            "seed": str(plan.seeds[index]),
            "num_inference_steps": str(plan.num_inference_steps),
            "guidance_scale": str(plan.guidance_scale),
            "size": f"{plan.width}x{plan.height}",
            "scheduler": plan.scheduler,
        }
    if marking.embed_prompt:
        # JSON can hold halves of surrogate pairs, which no encoding of text can.
        texts["prompt"] = plan.prompt.encode(errors="replace").decode()
    return texts


def _check_sample(plan: Plan, sample: Sample) -> None:
    planned = (plan.num_frames, plan.height, plan.width, 3)
    if sample.frames.shape != planned or sample.frames.dtype != np.uint8:
        found = f"{sample.frames.dtype} of shape {sample.frames.shape}"
        raise MediaFault(f"the engine delivered {found}, planned was uint8 of shape {planned}")


def _media_file(path: Path, key: str, content_type: str) -> MediaFile:
    return MediaFile(path, key, content_type, path.stat().st_size)


@contextmanager
def _sound_files(plan: Plan, *paths: Path) -> Iterator[None]:
    """Remove the files and raise `EncodingFailed` where one cannot be made or is unsound."""
    try:
        yield
    except BaseException as error:
        for path in paths:
            path.unlink(missing_ok=True)
        if isinstance(error, (MediaFault, OSError)):
            sentence = f"The finished {plan.medium} could not be made into a file; submit the job again."
            raise EncodingFailed(sentence) from error
        raise
