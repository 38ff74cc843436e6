from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.plan import Plan
from workers.encode import EncodedSample, Marking, encode_sample
from workers.encode.mark import TRAINED_ALGORITHMIC_MEDIA, xmp_packet
from workers.engines.base import Sample

PlanMaker = Callable[..., Plan]
Gradient = Callable[[int, int, int], NDArray[np.uint8]]
EXIFTOOL = shutil.which("exiftool")
needs_exiftool = pytest.mark.skipif(
    EXIFTOOL is None, reason="exiftool is not installed (Debian: libimage-exiftool-perl)"
)


@pytest.fixture
def encoded(
    make_plan: PlanMaker, moving_gradient: Gradient, marking: Marking, tmp_path: Path
) -> dict[str, EncodedSample]:
    video = make_plan("video_fast", 64, 48, 5)
    return {
        "picture": encode_sample(make_plan(), Sample(0, moving_gradient(1, 64, 64)), tmp_path, marking),
        "video": encode_sample(video, Sample(0, moving_gradient(5, 48, 64)), tmp_path, marking),
    }


def read_by_exiftool(path: Path) -> dict[str, Any]:
    assert EXIFTOOL is not None
    command = [EXIFTOOL, "-json", "-all", "-validate", str(path)]
    return dict(json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0])


@needs_exiftool
@pytest.mark.parametrize(
    ("sample", "part", "kind"),
    [
        ("picture", "file", "PNG"),
        ("picture", "thumbnail", "WEBP"),
        ("video", "file", "MP4"),
        ("video", "thumbnail", "WEBP"),
    ],
)
def test_another_projects_reader_finds_the_mark(
    encoded: dict[str, EncodedSample], sample: str, part: str, kind: str
) -> None:
    tags = read_by_exiftool(getattr(encoded[sample], part).path)
    assert kind in tags["FileType"]
    assert tags["DigitalSourceType"] == TRAINED_ALGORITHMIC_MEDIA
    assert tags["CreatorTool"] == "gpu-generation-workers 1.2.3"
    assert "Warning" not in tags


@needs_exiftool
def test_another_projects_reader_finds_the_settings(
    make_plan: PlanMaker, moving_gradient: Gradient, marking: Marking, tmp_path: Path
) -> None:
    asked = replace(marking, embed_settings=True, embed_prompt=True)
    plan = make_plan(prompt="Ein Boot auf dem See, 湖上の船")
    path = encode_sample(plan, Sample(0, moving_gradient(1, 64, 64)), tmp_path, asked).file.path
    tags = read_by_exiftool(path)
    assert (str(tags["Seed"]), tags["Scheduler"], tags["Prompt"]) == ("7", "euler", plan.prompt)


def test_a_videos_mark_is_the_last_box_of_the_file(
    encoded: dict[str, EncodedSample], marking: Marking
) -> None:
    content = encoded["video"].file.path.read_bytes()
    packet = xmp_packet(marking.generator, marking.version).encode()
    assert content.endswith(bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + packet)


def test_no_file_holds_a_time(encoded: dict[str, EncodedSample]) -> None:
    assert b"tIME" not in encoded["picture"].file.path.read_bytes()
    content = encoded["video"].file.path.read_bytes()
    for box in (b"mvhd", b"tkhd", b"mdhd"):
        start = content.index(box) + 8
        assert content[start : start + 8] == bytes(8), "creation and modification times are zero"


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=32, exclude_categories=["C"])), st.sampled_from(["1", "2<3>&\"'"]))
def test_any_name_gives_well_formed_xmp(generator: str, version: str) -> None:
    root = ElementTree.fromstring(xmp_packet(generator, version))
    description = root.find(".//{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert description is not None
    extension = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
    assert description.get("{http://ns.adobe.com/xap/1.0/}CreatorTool") == f"{generator} {version}"
    assert description.get(f"{extension}DigitalSourceType") == TRAINED_ALGORITHMIC_MEDIA
    assert description.get(f"{extension}AISystemUsed") == generator
    assert description.get(f"{extension}AISystemVersionUsed") == version
