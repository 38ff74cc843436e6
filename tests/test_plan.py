from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.jobs import element, payload

from shared.errors import Unsupported
from shared.job import Envelope, Job
from shared.plan import Plan, PlanDefaults, derived_seed, fit_terms, make_plan
from shared.presets import PRESETS
from workers.engines.fake import WordWindow

WINDOW = WordWindow()
DEFAULTS = PlanDefaults()
TERMS = st.lists(st.text("abc d", min_size=1, max_size=12), max_size=60).map(", ".join)


def plan(document: dict[str, Any], window: WordWindow = WINDOW, defaults: PlanDefaults = DEFAULTS) -> Plan:
    envelope = Envelope.decode(element(document))
    return make_plan(Job.parse(envelope, PRESETS[document["type"]].family), window, defaults)


def sdxl(config: dict[str, Any] | None = None, **more: Any) -> Plan:
    return plan(payload(config=config, **more))


def video(config: dict[str, Any] | None = None, **more: Any) -> Plan:
    return plan(payload(job_type="video_fast", config=config, **more))


def adjusted(made: Plan) -> dict[str, tuple[Any, Any]]:
    return {item.field: (item.requested, item.used) for item in made.adjustments}


def test_where_the_payload_says_nothing_the_job_type_decides() -> None:
    made = sdxl(None)
    assert (made.width, made.height) == (1024, 1024)
    assert (made.num_inference_steps, made.guidance_scale, made.num_images) == (25, 6.5, 1)
    high = plan(payload(job_type="video_high", config=None))
    assert (high.width, high.height, high.num_frames, high.fps, high.shift) == (480, 832, 81, 16.0, 5.0)
    assert (high.num_inference_steps, high.guidance_scale) == (50, 7.5)


def test_what_the_payload_states_is_what_is_planned() -> None:
    made = sdxl({"size": "640*512", "steps": 7, "guidance_scale": 0, "num_images": 6, "seed": 0})
    assert (made.width, made.height, made.num_inference_steps, made.guidance_scale) == (640, 512, 7, 0.0)
    assert made.seeds == (0, 1, 2, 3, 4, 5)


def test_values_that_cannot_be_executed_literally_are_adjusted_and_recorded() -> None:
    made = sdxl({"size": "641*519", "scheduler": "unipc"}, negative_prompt="child, minor")
    assert adjusted(made) == {"width": (641, 640), "height": (519, 512), "scheduler": ("unipc", "euler")}
    moving = video({"size": "481*833", "frame_num": 83})
    assert adjusted(moving) == {"width": (481, 480), "height": (833, 832), "frame_num": (83, 81)}


@given(st.integers(1, 161))
def test_planned_frames_are_always_4k_plus_1_and_never_more_than_asked(frames: int) -> None:
    made = video({"frame_num": frames})
    assert made.num_frames % 4 == 1
    assert frames - 4 < made.num_frames <= frames
    assert ("frame_num" in adjusted(made)) == (made.num_frames != frames)


@given(st.integers(64, 1414), st.integers(64, 1414))
def test_planned_sizes_fit_the_model_and_never_exceed_what_was_asked(width: int, height: int) -> None:
    made = sdxl({"width": width, "height": height})
    assert made.width % 8 == made.height % 8 == 0
    assert width - 8 < made.width <= width
    assert height - 8 < made.height <= height


def test_a_seed_is_derived_from_the_job_where_none_is_stated() -> None:
    made = sdxl({})
    assert made.seeds == (derived_seed("job-1"),)
    assert sdxl({}) == made


@given(st.text(min_size=1))
def test_a_derived_seed_is_a_positive_32_bit_number(job_id: str) -> None:
    assert 1 <= derived_seed(job_id) <= 2**32 - 1


@pytest.mark.parametrize(
    ("given_negative", "used"),
    [
        (None, "child, minor"),
        ("", "child, minor"),
        (" , ", "child, minor"),
        ("lowres", "lowres, child, minor"),
        ("lowres,", "lowres, child, minor"),
        ("Child, lowres", "Child, lowres, minor"),
        ("childish, minority", "childish, minority, child, minor"),
        ("child, minor", "child, minor"),
    ],
)
def test_the_safety_negatives_stand_in_every_negative_prompt_of_sdxl(given_negative: Any, used: str) -> None:
    assert sdxl({}, negative_prompt=given_negative).negative_prompt == used


@given(TERMS, st.integers(3, 40))
def test_the_safety_negatives_are_never_cut(negative: str, limit: int) -> None:
    made = plan(payload(negative_prompt=negative), WordWindow(limit))
    terms = {term.strip().casefold() for term in made.negative_prompt.split(",")}
    assert {"child", "minor"} <= terms
    assert WINDOW.count(made.negative_prompt) <= limit or terms == {"child", "minor"}


@given(TERMS, st.integers(1, 40))
def test_a_cut_text_fits_and_begins_like_the_whole(text: str, limit: int) -> None:
    window = WordWindow(limit)
    fitted = fit_terms(text, window)
    assert window.count(fitted) <= limit
    normalised = ", ".join(term.strip() for term in text.split(",") if term.strip())
    assert fitted == text or normalised.startswith(fitted)


@given(TERMS)
def test_a_text_that_fits_is_left_as_it_is(text: str) -> None:
    assert fit_terms(text, WordWindow(10_000)) == text


def test_a_text_is_cut_at_a_whole_term() -> None:
    assert fit_terms("a red boat, on a lake, at noon", WordWindow(8)) == "a red boat, on a lake"
    assert fit_terms("one two three four", WordWindow(3)) == "one two three"


def test_a_cut_prompt_is_recorded() -> None:
    made = plan(payload(prompt="a boat, a lake, a hill"), WordWindow(5))
    assert made.prompt == "a boat, a lake"
    assert made.original_prompt == "a boat, a lake, a hill"
    assert adjusted(made)["prompt"] == ("a boat, a lake, a hill", "a boat, a lake")


def test_a_wan_job_without_a_negative_prompt_gets_the_operators_and_an_empty_one_stays_empty() -> None:
    defaults = PlanDefaults(negative_prompt="blurry")
    document = payload(job_type="video_fast")
    assert plan(document, defaults=defaults).negative_prompt == "blurry"
    assert plan({**document, "negative_prompt": ""}, defaults=defaults).negative_prompt == ""
    assert plan({**document, "negative_prompt": "grain"}, defaults=defaults).negative_prompt == "grain"


@pytest.mark.parametrize(
    "wish",
    [
        {"metadata": {"reference_image_url": "https://x/r.png"}},
        {"compel_weights": "(a:1.2)"},
        {"config": {"enhance_prompt": True}},
    ],
)
def test_what_this_version_cannot_do_is_said_and_never_ignored(wish: dict[str, Any]) -> None:
    with pytest.raises(Unsupported):
        plan(payload(**wish))
