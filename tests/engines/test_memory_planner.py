"""What stays on the card, as a table of the cards that people rent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engines.memory import (
    GIB,
    RESIDENCIES,
    PartSizes,
    Residency,
    decode_bytes,
    denoise_bytes,
    plan_memory,
)

BF16 = 2
WAN_1_3B = PartSizes(
    text_encoder=5_680_910_336 * BF16, transformer=1_418_996_800 * BF16, vae=126_892_531 * BF16
)
VIDEO = (480, 832, 81)


@pytest.mark.parametrize(
    ("card_gib", "residency", "in_tiles", "fits"),
    [
        (79.1, "all", False, True),  # H100 80 GB
        (44.5, "all", False, True),  # L40S 48 GB
        (23.6, "all", False, True),  # RTX 4090 24 GB
        (19.6, "all", False, True),  # RTX 4000 Ada 20 GB
        (15.7, "offload_text", False, True),  # RTX 4080 16 GB
        (11.6, "offload_text", False, True),  # RTX 3060 12 GB
        (7.6, "offload_text", True, True),  # RTX 4060 8 GB
        (5.6, "offload_text", True, False),  # 6 GB: tried, with a warning
    ],
)
def test_each_card_gets_the_most_that_fits(
    card_gib: float, residency: Residency, in_tiles: bool, fits: bool
) -> None:
    plan = plan_memory(int(card_gib * GIB), WAN_1_3B, BF16)
    assert (plan.residency, plan.wants_tiles(*VIDEO), plan.fits) == (residency, in_tiles, fits)


def test_a_shared_card_is_planned_by_the_share() -> None:
    assert plan_memory(12 * GIB, WAN_1_3B, BF16).residency == "offload_text"


def test_without_a_limit_everything_stays_and_nothing_is_tiled() -> None:
    plan = plan_memory(None, WAN_1_3B, BF16)
    assert plan.residency == "all"
    assert plan.fits
    assert not plan.wants_tiles(1280, 720, 161)


@pytest.mark.parametrize("wanted", RESIDENCIES)
def test_the_operator_overrides_the_choice_but_not_the_arithmetic(wanted: Residency) -> None:
    plan = plan_memory(8 * GIB, WAN_1_3B, BF16, wanted)
    assert plan.residency == wanted
    assert plan.fits == (wanted == "offload_text")


def test_the_plan_tells_what_it_chose() -> None:
    text = str(plan_memory(12 * GIB, WAN_1_3B, BF16))
    assert "offload_text" in text
    assert "12.0 GiB" in text


def test_a_sample_no_larger_than_a_tile_is_never_tiled() -> None:
    assert not plan_memory(GIB, WAN_1_3B, BF16).wants_tiles(256, 256, 161)


def test_a_larger_job_is_tiled_where_the_usual_one_is_not() -> None:
    plan = plan_memory(12 * GIB, WAN_1_3B, BF16)
    assert not plan.wants_tiles(*VIDEO)
    assert plan.wants_tiles(1280, 720, 81)


def test_decoding_does_not_grow_with_the_length_of_a_video() -> None:
    assert decode_bytes(480, 832, 5, BF16) == decode_bytes(480, 832, 161, BF16)
    assert decode_bytes(480, 832, 1, BF16) < decode_bytes(480, 832, 5, BF16)


@pytest.mark.parametrize(
    ("shape", "batch", "measured_gib"),
    [
        ((480, 832, 81), 1, 1.71),
        ((480, 832, 1), 6, 0.65),
        ((480, 832, 161), 1, 3.13),
        ((1280, 720, 81), 1, 3.67),
        ((1280, 720, 161), 1, 6.96),
    ],
)
def test_the_denoising_estimate_lies_within_10_percent_of_the_counted_peak(
    shape: tuple[int, int, int], batch: int, measured_gib: float
) -> None:
    assert denoise_bytes(*shape, BF16, batch) / GIB == pytest.approx(measured_gib, rel=0.1)


@pytest.mark.parametrize(
    ("shape", "number_bytes", "measured_gib"),
    [
        ((480, 832, 1), 2, 1.29),
        ((480, 832, 21), 2, 3.77),
        ((480, 832, 21), 4, 7.26),
        ((1280, 720, 9), 2, 8.71),
        ((1280, 720, 1), 4, 5.94),
        ((256, 256, 21), 2, 0.62),
    ],
)
def test_the_decoding_estimate_lies_within_10_percent_of_the_counted_peak(
    shape: tuple[int, int, int], number_bytes: int, measured_gib: float
) -> None:
    assert decode_bytes(*shape, number_bytes) / GIB == pytest.approx(measured_gib, rel=0.1)


@given(st.integers(1, 100 * GIB), st.integers(1, 100 * GIB))
def test_more_memory_never_means_less_on_the_card(one: int, other: int) -> None:
    small, large = (plan_memory(budget, WAN_1_3B, BF16) for budget in sorted((one, other)))
    assert small.resident_bytes <= large.resident_bytes
    assert small.fits <= large.fits


@given(st.integers(1, 100 * GIB), st.integers(16, 1280), st.integers(16, 1280), st.integers(0, 40))
def test_what_is_decoded_whole_is_expected_to_fit(budget: int, width: int, height: int, groups: int) -> None:
    frames = 4 * groups + 1
    plan = plan_memory(budget, WAN_1_3B, BF16)
    if max(width, height) > 256 and not plan.wants_tiles(width, height, frames):
        assert plan.resident_bytes + decode_bytes(width, height, frames, BF16) <= budget
