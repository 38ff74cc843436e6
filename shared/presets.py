"""The ten job types and the two model families as tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Medium = Literal["image", "video"]
Quality = Literal["fast", "high"]

SAFETY_NEGATIVES = ("child", "minor")
"""Terms that stand in every negative prompt of SDXL: appended when absent, never cut."""


@dataclass(frozen=True, slots=True)
class Family:
    """What a model can be asked for. Sizes are pixels."""

    name: Literal["sdxl", "wan"]
    model_variant: str
    default_width: int
    default_height: int
    size_multiple: int
    max_area: int
    max_area_text: str
    safety_negatives: bool


SDXL = Family(
    name="sdxl",
    model_variant="lustify_sdxl",
    default_width=1024,
    default_height=1024,
    size_multiple=8,
    max_area=2_000_000,
    max_area_text="2 megapixels (2,000,000 pixels)",
    safety_negatives=True,
)
WAN = Family(
    name="wan",
    model_variant="wan_2_1_1_3b",
    default_width=480,
    default_height=832,
    size_multiple=16,
    max_area=1280 * 720,
    max_area_text="the area of 1280x720",
    safety_negatives=False,
)


@dataclass(frozen=True, slots=True)
class Preset:
    """A job type: where its files go and what is executed where the payload states nothing.

    `expected_seconds` is the time a customer is told to expect.
    """

    job_type: str
    family: Family
    medium: Medium
    quality: Quality
    enhanced: bool
    num_inference_steps: int
    guidance_scale: float
    expected_seconds: int

    @property
    def bucket(self) -> str:
        """Every job type has a bucket of its own name."""
        return self.job_type

    @property
    def num_frames(self) -> int:
        return 83 if self.medium == "video" else 1


def _preset(
    job_type: str, family: Family, medium: Medium, quality: Quality, enhanced: bool, expected_seconds: int
) -> Preset:
    steps, guidance = {"fast": (25, 6.5), "high": (50, 7.5)}[quality]
    return Preset(job_type, family, medium, quality, enhanced, steps, guidance, expected_seconds)


PRESETS: dict[str, Preset] = {
    preset.job_type: preset
    for preset in (
        _preset("sdxl_image_fast", SDXL, "image", "fast", False, 25),
        _preset("sdxl_image_high", SDXL, "image", "high", False, 40),
        _preset("image_fast", WAN, "image", "fast", False, 25),
        _preset("image_high", WAN, "image", "high", False, 40),
        _preset("video_fast", WAN, "video", "fast", False, 135),
        _preset("video_high", WAN, "video", "high", False, 180),
        _preset("image7b_fast_enhanced", WAN, "image", "fast", True, 85),
        _preset("image7b_high_enhanced", WAN, "image", "high", True, 100),
        _preset("video7b_fast_enhanced", WAN, "video", "fast", True, 195),
        _preset("video7b_high_enhanced", WAN, "video", "high", True, 240),
    )
}

SAMPLE_SHIFT = 5.0
FRAMES_PER_SECOND = 16.0
"""The rate that WAN 2.1 was trained at."""
