"""The rule-based enhancer, and the way back to the original prompt."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.enhance import (
    COMMA_TERMS,
    SENTENCES,
    RuleEnhancer,
    Style,
    comma_terms,
    enhance_or_original,
    states,
    terms,
)
from shared.enhance.terms import TOKEN_TARGETS
from shared.plan import Enhancement, PromptWindow
from shared.presets import Medium, Quality

MEDIA: tuple[Medium, ...] = ("image", "video")
QUALITIES: tuple[Quality, ...] = ("fast", "high")


@dataclass(frozen=True)
class Words:
    """A window that counts a token for each word and each mark."""

    limit: int = 511

    def count(self, text: str) -> int:
        return len(re.findall(r"\w+|[^\w\s]", text))


def enhance(
    prompt: str,
    medium: Medium = "video",
    quality: Quality = "high",
    window: PromptWindow = Words(),
    seed: int = 1,
) -> Enhancement:
    return RuleEnhancer().enhance(prompt, medium, quality, window, seed)


def added(prompt: str, medium: Medium = "video", quality: Quality = "high", seed: int = 1) -> str:
    return enhance(prompt, medium, quality, seed=seed).prompt.removeprefix(prompt)


prompts = st.one_of(
    st.text(min_size=1, max_size=400).filter(lambda text: bool(text.strip())),
    st.lists(
        st.sampled_from(
            "a the boat lake cat fire, snow; circle. slow camera light at night of and forest".split()
        ),
        min_size=1,
        max_size=300,
    ).map(" ".join),
)


@given(
    prompts, st.sampled_from(MEDIA), st.sampled_from(QUALITIES), st.integers(0, 2**53), st.integers(1, 600)
)
def test_the_prompt_stands_first_and_whole_and_the_target_and_the_window_are_kept(
    prompt: str, medium: Medium, quality: Quality, seed: int, limit: int
) -> None:
    window = Words(limit)
    enhanced = enhance(prompt, medium, quality, window, seed)
    assert enhanced.original_prompt == prompt
    assert enhanced.strategy == "rules"
    assert enhanced.prompt.startswith(prompt.rstrip())
    allowed = min(TOKEN_TARGETS[quality], limit)
    if window.count(prompt) > allowed:
        assert enhanced.prompt == prompt
    else:
        assert window.count(enhanced.prompt) <= allowed


@given(prompts, st.sampled_from(MEDIA), st.sampled_from(QUALITIES), st.integers(0, 2**53))
def test_the_same_prompt_and_seed_give_the_same_text(
    prompt: str, medium: Medium, quality: Quality, seed: int
) -> None:
    first, second = (enhance(prompt, medium, quality, seed=seed) for _ in range(2))
    assert first == second


def test_the_targets_are_the_products_own() -> None:
    assert TOKEN_TARGETS == {"fast": 175, "high": 250}


def test_another_seed_chooses_other_words() -> None:
    assert len({added("a boat on a lake", seed=seed) for seed in range(20)}) > 5


def test_a_video_gets_motion_camera_light_and_coherence() -> None:
    text = added("a gray cat on a wall", "video", "fast").lower()
    assert re.search(r"mov|pause|rhythm", text)
    assert "camera" in text
    assert re.search(r"light|shadow", text)
    assert re.search(r"frame to the last|continuous shot", text)


def test_a_picture_gets_light_composition_and_detail_and_no_motion() -> None:
    text = added("a gray cat on a wall", "image", "fast").lower()
    assert re.search(r"light|shadow", text)
    assert re.search(r"composition|subject", text)
    assert "detail" in text
    assert not re.search(r"camera|moves|first frame", text)


@pytest.mark.parametrize("medium", MEDIA)
def test_high_quality_says_more_than_fast(medium: Medium) -> None:
    fast, high = (added("a gray cat on a wall", medium, quality) for quality in QUALITIES)
    assert len(high) > len(fast)


@pytest.mark.parametrize(
    ("prompt", "absent"),
    [
        ("a boat, the camera pans left", r"camera"),
        ("a boat at night", r"light comes|daylight|natural light"),
        ("a boat in slow motion", r"pace|rhythm|moves"),
        ("a boat with a blurred background", r"background"),
        ("a boat in vivid colors", r"colours|palette|tones"),
    ],
)
def test_what_the_prompt_states_is_not_said_again(prompt: str, absent: str) -> None:
    for seed in range(20):
        assert not re.search(absent, added(prompt, seed=seed))


def test_words_are_matched_whole_and_in_the_plural() -> None:
    assert "water" in added("two boats").lower() or "waves" in added("two boats").lower()
    # "cartography" holds "cart", "arcane" holds "cane", "season" holds "sea": none of them is a topic.
    assert added("arcane cartography of a season") == added_any("arcane cartography of a season")


def added_any(prompt: str) -> str:
    """What is added when every sentence comes from the topic that fits everything."""
    text = added(prompt)
    for sentence in re.findall(r"[A-Z][^.]*\.", text):
        assert any(
            sentence in variants.get(terms.ANY, ())
            for aspects in terms.ADDITIONS.values()
            for variants in aspects.values()
        ), sentence
    return text


def test_drawn_shapes_get_no_words_of_photography() -> None:
    for medium, seed in itertools.product(MEDIA, range(20)):
        text = added("a large red circle on a white background", medium, seed=seed).lower()
        assert not re.search(r"photograph|lens|film|cinematic", text)


@pytest.mark.parametrize(
    ("prompt", "continued"),
    [
        ("a boat", "a boat. [A-Z]"),
        ("A boat.", r"A boat\. [A-Z]"),
        ("a boat, a lake,", "a boat, a lake, [a-z]"),
        ("a boat \n", r"a boat\. [A-Z]"),
    ],
)
def test_it_reads_on_as_text(prompt: str, continued: str) -> None:
    enhanced = enhance(prompt).prompt
    assert re.match(continued, enhanced)
    assert enhanced.endswith(".")
    assert "  " not in enhanced
    assert ".." not in enhanced


def test_a_prompt_that_fills_the_target_stays_as_it_is_and_says_why() -> None:
    long = " ".join(["boat"] * 300)
    enhanced = enhance(long)
    assert enhanced.prompt == long
    assert enhanced.note is not None
    assert "250 tokens" in enhanced.note


# --- terms between commas, for SDXL -------------------------------------------------------------------


def with_terms(prompt: str, quality: Quality = "high", limit: int = 511, seed: int = 1) -> str:
    return RuleEnhancer(COMMA_TERMS).enhance(prompt, "image", quality, Words(limit), seed).prompt


@given(prompts, st.sampled_from(QUALITIES), st.integers(0, 2**53), st.integers(1, 100))
def test_terms_follow_the_whole_prompt_within_what_clip_reads(
    prompt: str, quality: Quality, seed: int, limit: int
) -> None:
    enhanced = with_terms(prompt, quality, limit, seed)
    assert enhanced.startswith(prompt.rstrip())
    assert enhanced == prompt or Words().count(enhanced) <= min(75, limit)


@pytest.mark.parametrize(
    ("prompt", "continued"),
    [
        ("a boat", r"a boat, [a-z]"),
        ("A boat.", r"A boat\. [a-z]"),
        ("a boat, a lake,", r"a boat, a lake, [a-z]"),
        ("a boat \n", r"a boat, [a-z]"),
    ],
)
def test_terms_are_joined_by_commas(prompt: str, continued: str) -> None:
    for seed in range(10):
        enhanced = with_terms(prompt, seed=seed)
        assert re.match(continued, enhanced)
        assert ",," not in enhanced.replace(" ", "")
        assert not enhanced.endswith((",", "."))


def test_a_picture_for_sdxl_gets_light_composition_and_the_words_of_photography() -> None:
    for seed in range(20):
        enhanced = with_terms("a gray cat on a wall", "fast", seed=seed)
        for aspect in ("light", "composition", "finish", "detail"):
            assert states(enhanced, aspect, COMMA_TERMS, "image"), (enhanced, aspect)


def test_what_the_prompt_states_gets_no_second_term() -> None:
    for seed in range(20):
        enhanced = with_terms("a boat at night, watercolor, masterpiece", seed=seed)
        assert not re.search(r"daylight|natural light|photograph|high quality|high resolution", enhanced)


def test_every_term_is_one_and_speaks_of_no_age_or_body() -> None:
    for variants in comma_terms.ADDITIONS["image"].values():
        assert terms.ANY in variants
        assert set(variants) <= {*terms.TOPICS, terms.ANY}
        for term in itertools.chain.from_iterable(variants.values()):
            assert re.fullmatch(r"[a-z][a-z -]*", term)
            assert not PERSONAL.search(term)


# --- what a text states -------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [SENTENCES, COMMA_TERMS])
def test_an_aspect_that_the_rules_added_is_stated(style: Style) -> None:
    for medium, by_aspect in style.additions.items():
        for aspect, variants in by_aspect.items():
            for addition in itertools.chain.from_iterable(variants.values()):
                assert states(f"a boat. {addition}", aspect, style, medium)


def test_an_aspect_is_stated_by_whole_words_only() -> None:
    assert states("a boat at NIGHT", "light", COMMA_TERMS, "image")
    assert states("8k", "quality", COMMA_TERMS, "image")
    assert not states("a delightful boat", "light", COMMA_TERMS, "image")


# --- the lists ----------------------------------------------------------------------------------------


def sentences() -> Iterator[str]:
    for aspects in terms.ADDITIONS.values():
        for variants in aspects.values():
            for choices in variants.values():
                yield from choices


def test_every_sentence_is_one() -> None:
    for sentence in sentences():
        assert re.fullmatch(r"[A-Z][^.!?]*\.", sentence), sentence


PERSONAL = re.compile(
    r"\b(age|aged|old|young|younger|youth|youthful|teen|adult|child|children|kid|minor|girl|boy|baby|woman"
    r"|man|men|women|body|bodies|skin|face|faces|hair|eyes|lips|figure|curves|legs?|arms?|hands?|chest|slim"
    r"|naked|nude|bare|sexy|beautiful|pretty|handsome|attractive)\b",
    re.IGNORECASE,
)


def test_no_sentence_speaks_of_age_or_bodies() -> None:
    for sentence in sentences():
        assert not PERSONAL.search(sentence), sentence


def test_every_aspect_has_sentences_and_every_topic_words() -> None:
    for medium, by_quality in terms.ASPECTS.items():
        for quality, aspects in by_quality.items():
            for aspect in aspects:
                assert terms.ANY in terms.ADDITIONS[medium][aspect], (medium, quality, aspect)
                assert aspect in terms.STATED_BY
    for additions in terms.ADDITIONS.values():
        for variants in additions.values():
            assert set(variants) <= {*terms.TOPICS, terms.ANY}


@pytest.mark.parametrize("topic", terms.TOPICS)
def test_the_fullest_enhancement_of_a_topic_stays_under_its_target(topic: str) -> None:
    for medium, quality, seed in itertools.product(MEDIA, QUALITIES, range(5)):
        subject = f"a {terms.TOPICS[topic][0]}"
        assert Words().count(enhance(subject, medium, quality, seed=seed).prompt) <= TOKEN_TARGETS[quality]


# --- failing ------------------------------------------------------------------------------------------


class Broken:
    def enhance(
        self, prompt: str, medium: Medium, quality: Quality, window: PromptWindow, seed: int
    ) -> Enhancement:
        raise RuntimeError(f"cannot think about {prompt}")


class Silent:
    def enhance(
        self, prompt: str, medium: Medium, quality: Quality, window: PromptWindow, seed: int
    ) -> Enhancement:
        return Enhancement("model", prompt, " ")


def test_a_failing_enhancer_falls_back_to_the_original_prompt_and_says_so() -> None:
    kept = enhance_or_original(Broken(), "a boat", "video", "fast", Words(), 1)
    assert (kept.strategy, kept.prompt, kept.original_prompt) == ("none", "a boat", "a boat")
    assert kept.expansion_percentage == 0
    assert kept.note is not None
    assert "RuntimeError" in kept.note
    assert "boat" not in kept.note


def test_an_enhancer_that_says_nothing_falls_back_too() -> None:
    kept = enhance_or_original(Silent(), "a boat", "video", "fast", Words(), 1)
    assert (kept.strategy, kept.prompt) == ("none", "a boat")


def test_a_working_enhancer_is_used() -> None:
    used = enhance_or_original(RuleEnhancer(), "a boat", "video", "fast", Words(), 1)
    assert used == enhance("a boat", "video", "fast")
    assert used.expansion_percentage > 0
