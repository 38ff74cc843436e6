"""What a job costs, in credits."""

from __future__ import annotations

from collections.abc import Mapping

from shared.presets import PRESETS, Preset

_CREDITS = {"image": {"fast": 1, "high": 2}, "video": {"fast": 5, "high": 10}}

PRICES: dict[str, int] = {name: _CREDITS[preset.medium][preset.quality] for name, preset in PRESETS.items()}
"""For one picture or one video of each job type; CREDIT_PRICES replaces single ones."""


def price_of(preset: Preset, num_images: int, replaced: Mapping[str, int]) -> int:
    return replaced.get(preset.job_type, PRICES[preset.job_type]) * num_images
