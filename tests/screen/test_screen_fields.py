from __future__ import annotations

import dataclasses
import subprocess
import sys
import time

import pytest
from support.hostile_texts import hostile_texts
from support.screen_corpora import BENIGN, lines

from shared.screen import Screen, ScreenInput, Verdict
from shared.screen.screen import MAX_CHARACTERS

SCREEN = Screen.standard()


def refused(
    prompt: str = "a boat",
    negative_prompt: str | None = None,
    compel_weights: str | None = None,
    enhanced_prompt: str | None = None,
) -> bool:
    given = ScreenInput(prompt, negative_prompt, compel_weights, enhanced_prompt)
    return not SCREEN.check(given).allowed


def test_a_verdict_of_refusal_names_its_rule_and_one_of_passing_names_none() -> None:
    assert SCREEN.check(ScreenInput("a boat")) == Verdict(True, None)
    assert SCREEN.check(ScreenInput("a teen")) == Verdict(False, "teens")


def test_every_drawn_field_is_read() -> None:
    assert refused("teen")
    assert refused(compel_weights="(teen:1.2)")
    assert refused(enhanced_prompt="a portrait of a teen")


@pytest.mark.parametrize(
    ("prompt", "weights", "enhanced"),
    [
        ("a te", "en", None),
        ("a boat, school", None, "girl on a pier"),
        ("a woman, 15", None, "years old"),
        ("very", "young woman", None),
        ("t e", "e", "n"),
        ("en", "te", None),
        ("a te" + " ." * 200, "en", None),
        ("a te&#101;", "n", None),
    ],
)
def test_a_term_split_over_fields_is_read(prompt: str, weights: str | None, enhanced: str | None) -> None:
    assert refused(prompt, None, weights, enhanced)


def test_a_compound_split_over_fields_is_not_allowed() -> None:
    assert refused("a baby", None, "blue")


def test_harmless_fields_stay_harmless_together() -> None:
    assert not refused("a wide shot", "child, minor", "(boat:1.2)", "a woman on a boat, 35mm")


@pytest.mark.parametrize(
    "text", ["child, minor", "teen, loli, 15 years old, school uniform", "blurry, extra fingers"]
)
def test_a_negative_prompt_keeps_words_of_childhood(text: str) -> None:
    assert not refused(negative_prompt=text)


@pytest.mark.parametrize(
    "text",
    [
        "adult",
        "mature woman",
        "grown-up",
        "woman aged 25",
        "woman, 30",
        "18+",
        "over 18",
        "25 years old",
        "thirty year old",
        "a.d.u.l.t",
        "аdult",
        "4dult",
        "ad(ult)",
        "взрослая женщина",
        "大人の女性",
        "成熟",
        "성인",
        "ผู้ใหญ่",
    ],
)
def test_a_negative_prompt_does_not_push_adulthood_away(text: str) -> None:
    assert refused(negative_prompt=text)


@pytest.mark.parametrize("text", ["(child:-1)", "(minor)-0.5", "child, (blurry: -2)"])
def test_a_negative_prompt_has_no_negative_weights(text: str) -> None:
    assert refused(negative_prompt=text)


@pytest.mark.parametrize(
    "text",
    [
        "(adult:0.3)",
        "a woman, [mature]",
        "adult--",
        "adult-, woman",
        "(adult)0.5 woman",
        "(adult woman)-",
        "((adult, lake:1.1):0.4)",
        "[[grown woman]]",
        "(4dult:0.2)",
        "(a d u l t:0.5)",
        "adult:0.2 AND boat:1",
        "(adult:-1)",
        "(adult:0)",
        "[adult woman",
        "(взрослая женщина:0.3)",
    ],
)
def test_a_weight_that_lowers_adulthood_is_refused(text: str) -> None:
    assert refused(text)
    assert refused(compel_weights=text)


@pytest.mark.parametrize(
    "text",
    [
        "(adult:1.3)",
        "((adult)) woman",
        "(adult)1.4",
        "adult++ woman",
        "adult woman, [boat]",
        "(lake:0.4), adult woman",
        "adult-oriented poster",
        "young adult - photo",
        "(adult woman, (lake:0.5):1.2)",
    ],
)
def test_a_weight_that_raises_adulthood_or_lowers_something_else_passes(text: str) -> None:
    assert not refused(text)


@pytest.mark.parametrize(
    "text", ["not an adult", "no adults", "non-adult", "isn't an adult", "not yet mature", "not 18"]
)
def test_adulthood_denied_is_refused(text: str) -> None:
    assert refused(text)


@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "compel_weights", "enhanced_prompt"])
@pytest.mark.parametrize("value", [7, b"boat", ["boat"]])
def test_a_fault_inside_the_check_is_a_refusal(field: str, value: object) -> None:
    given = dataclasses.replace(ScreenInput("a boat"), **{field: value})  # type: ignore[arg-type]
    assert SCREEN.check(given) == Verdict(False, "screen-error")


def test_no_prompt_at_all_is_a_refusal() -> None:
    assert not SCREEN.check(ScreenInput(None)).allowed  # type: ignore[arg-type]


def test_a_text_longer_than_the_limit_is_refused() -> None:
    assert refused("a" * (MAX_CHARACTERS + 1))
    assert refused(compel_weights="a" * (MAX_CHARACTERS + 1))
    assert refused(enhanced_prompt="a" * (MAX_CHARACTERS + 1))
    assert refused(negative_prompt="a" * (MAX_CHARACTERS + 1))


@pytest.mark.parametrize("start", range(0, 1_000, 250))
def test_a_prompt_of_ten_thousand_ordinary_characters_passes(start: int) -> None:
    """The limits that bound the time are far above what a long prompt needs."""
    texts = [*lines(BENIGN)[start:], *lines(BENIGN)[:start]]
    prompt = ""
    for text in texts:
        if len(prompt) + len(text) > 10_000:
            break
        prompt += f"({text}:1.2), "
    assert len(prompt) > 9_500
    assert not refused(prompt)


def test_the_time_grows_no_faster_than_the_text() -> None:
    """Twice the text costs about twice the time; quadratic work would cost four times."""
    short, long = least_seconds(hostile_texts(5_000)), least_seconds(hostile_texts(10_000))
    assert {name: long[name] / short[name] for name in short if long[name] > 3.2 * short[name]} == {}


def least_seconds(texts: dict[str, str]) -> dict[str, float]:
    """CPU time of a check of each text, in rounds: a busy moment must not fall on one text."""
    least = dict.fromkeys(texts, float("inf"))
    for _ in range(8):
        for name, text in texts.items():
            begun = time.thread_time()
            SCREEN.check(ScreenInput(text))
            least[name] = min(least[name], time.thread_time() - begun)
    # What takes less than half a millisecond is not worth a ratio.
    return {name: max(seconds, 0.0005) for name, seconds in least.items()}


def test_the_package_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "pydantic", "httpx")
    program = f"import sys, shared.screen; print([name for name in {heavy} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_the_screen_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SCREEN._drawn = None  # type: ignore[misc, assignment]
