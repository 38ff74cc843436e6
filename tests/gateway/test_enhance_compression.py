"""Compression: within the limit, the subject and the quality terms kept, whole terms in their order."""

from __future__ import annotations

import re
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.enhance.compression import Limited, compress, sentences_of, subject_of, terms_of
from gateway.tokens import EstimatedWindow, sdxl_window
from shared.enhance import COMMA_TERMS, SENTENCES, Style
from shared.plan import PromptWindow


@cache
def clip(limit: int = 75) -> PromptWindow:
    return Limited(sdxl_window(None), limit)


def is_quality(text: str) -> bool:
    return bool(re.search(r"sharp|8k|cinematic", text))


def shortened(text: str, limit: int, style: Style = COMMA_TERMS) -> str:
    return compress(text, clip(limit), style, is_quality)


clauses = st.sampled_from(
    [
        "a red boat",
        "1,000 lanterns",
        "(two gulls, flying:1.2)",
        "sharp focus",
        "cinematic light",
        "8k",
        "mist over the water",
        "шторм",
        "夜明け",
        "an old pier",
        "AN OLD PIER",
        "!!",
    ]
)
marks = st.sampled_from([", ", ",", ". ", "; ", "\n", "、", "。", " ", "! ", " , "])
prompts = st.one_of(
    st.lists(st.tuples(clauses, marks), min_size=1, max_size=40).map(
        lambda pairs: "".join(clause + mark for clause, mark in pairs)
    ),
    st.text(min_size=1, max_size=500),
).filter(lambda text: bool(text.strip()))
styles = st.sampled_from([COMMA_TERMS, SENTENCES])


@settings(max_examples=150, deadline=None)
@given(prompts, st.integers(4, 80), styles)
@example("," * 500, 4, COMMA_TERMS)
@example("🙂" * 300, 4, SENTENCES)
@example("a" * 500, 5, COMMA_TERMS)
def test_the_result_fits_and_is_never_empty(text: str, limit: int, style: Style) -> None:
    made = shortened(text, limit, style)
    assert made.strip() == made != ""
    assert clip().count(made) <= limit


@settings(max_examples=150, deadline=None)
@given(prompts, st.integers(10, 80), styles)
def test_whole_terms_are_left_in_their_order(text: str, limit: int, style: Style) -> None:
    terms = terms_of(text)
    made = shortened(text, limit, style)
    if made == text.strip() or not terms or clip().count(terms[0]) > limit:
        return
    left = terms_of(made)
    places: list[int] = []
    for term in left:
        start = places[-1] + 1 if places else 0
        assert term in terms[start:], (term, terms)
        places.append(terms.index(term, start))
    assert places == sorted(set(places))


@settings(max_examples=150, deadline=None)
@given(prompts, st.integers(4, 80), styles)
def test_the_subject_is_kept_where_the_limit_has_room_for_it(text: str, limit: int, style: Style) -> None:
    subject = subject_of(text)
    made = shortened(text, limit, style)
    if clip().count(subject) <= limit:
        assert subject in made
    else:
        assert subject.split()[0].startswith(made.split()[0])


@settings(max_examples=100, deadline=None)
@given(prompts, st.integers(4, 80), styles)
def test_the_same_text_is_shortened_the_same_way_and_once_only(text: str, limit: int, style: Style) -> None:
    made = shortened(text, limit, style)
    assert shortened(text, limit, style) == made
    assert shortened(made, limit, style) == made


def test_a_text_that_fits_is_left_alone() -> None:
    text = "a boat ,, a boat. A lake"
    assert shortened(text, 75) == text


@pytest.mark.parametrize(
    ("limit", "left"),
    [
        (
            30,
            "a red boat on a lake, two gulls, mist over the water, sharp focus, an old pier, cinematic light",
        ),
        # Quality terms outrank the others wherever they stand, and the earlier of equals the later.
        (19, "a red boat on a lake, two gulls, sharp focus, an old pier, cinematic light"),
        (16, "a red boat on a lake, two gulls, sharp focus, cinematic light"),
        (13, "a red boat on a lake, sharp focus, cinematic light"),
        (10, "a red boat on a lake, sharp focus"),
        (9, "a red boat on a lake, sharp focus"),
        (7, "a red boat on a lake"),
        (6, "a red boat on a lake"),
        (5, "a red boat on a"),
    ],
)
def test_what_is_left_of_a_prompt_at_a_limit(limit: int, left: str) -> None:
    text = "a red boat on a lake, two gulls, mist over the water, sharp focus, an old pier, cinematic light"
    assert shortened(text, limit) == left


def test_prose_keeps_whole_sentences() -> None:
    text = "A red boat drifts. Gulls circle over it. The picture is sharp. It rains."
    assert shortened(text, 14, SENTENCES) == "A red boat drifts. The picture is sharp. It rains."


def test_prose_whose_first_sentence_is_too_long_is_taken_apart_at_its_commas() -> None:
    text = "A red boat drifts, gulls circle over it, fog comes, the picture is sharp. It rains."
    assert shortened(text, 11, SENTENCES) == "A red boat drifts, the picture is sharp"


def test_what_is_said_twice_is_said_once() -> None:
    text = "a boat, fog, a Boat, fog, " * 10
    assert shortened(text, 20) == "a boat, fog"


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("a boat,a lake", ["a boat", "a lake"]),
        ("1,000 boats, 3.5 m", ["1,000 boats", "3.5 m"]),
        ("(red, blue:1.2), [a, b] c", ["(red, blue:1.2)", "[a, b] c"]),
        ("(red, blue", ["(red", "blue"]),
        (") a, b (", [") a", "b ("]),
        ("A boat. It drifts! Why?", ["A boat", "It drifts", "Why"]),
        ("湖、舟。夜", ["湖", "舟", "夜"]),
        ("a boat\na lake;; fog", ["a boat", "a lake", "fog"]),
        (" ,., ", []),
    ],
)
def test_terms_stand_between_marks(text: str, terms: list[str]) -> None:
    assert terms_of(text) == terms


def test_sentences_keep_their_marks() -> None:
    assert sentences_of("A boat. It drifts!  Why?\nFog。夜") == [
        "A boat.",
        "It drifts!",
        "Why?",
        "Fog。",
        "夜",
    ]


def test_an_estimated_window_is_kept_as_well() -> None:
    text = "A red boat drifts on a calm lake at dawn. " + "Something else happens here too. Fog. " * 40
    made = compress(text, Limited(EstimatedWindow(), 20), SENTENCES, is_quality)
    assert made == "A red boat drifts on a calm lake at dawn. Fog."
    assert EstimatedWindow().count(made) == 18
