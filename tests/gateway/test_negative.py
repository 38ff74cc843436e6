"""The negative prompt of SDXL jobs, against a table worked out by hand and against its laws."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import negative
from gateway.negative import NegativePrompt, generate_negative_prompt
from gateway.tokens import sdxl_window
from shared.plan import PromptWindow
from shared.presets import SAFETY_NEGATIVES
from shared.screen import Screen, ScreenInput


@cache
def window() -> PromptWindow:
    return sdxl_window(None)


def generate(prompt: str, own: str | None = None) -> NegativePrompt:
    return generate_negative_prompt(prompt, window(), own)


# Worked out by hand. CLIP reads 75 tokens. A term costs its words and its comma; of the words in these lists
# "lowres", "malformed", "watermark", "deformed", "unnatural" and "disembodied" take two to four tokens. The
# critical and anatomical terms and the two safety terms take 54, so 21 are left, for:
#
#   three girls 3, all girls 3, only girls 3, no male 3, missing male 3, disembodied penis 6              = 21
#   three girls 3, all girls 3, only girls 3, wrong number of people 5                                    = 14
#   wrong position 3, incorrect pose 3, impossible position 3, unnatural pose 4, penis in wrong place 6   = 19
#   deformed breasts 4, extra breasts 3, anatomical errors 4, wrong anatomy 3                             = 14
#   text 2, watermark 3, logo 2, signature 2                                                              =  9
#   anime 2, cartoon 2, graphic 2                                                                         =  6
ALWAYS = (
    "bad anatomy, extra limbs, deformed, missing limbs, worst quality, low quality, normal quality, lowres, "
    "deformed hands, extra fingers, deformed face, malformed, bad hands, bad fingers, missing fingers, "
    "distorted features, "
)
PLAIN = "text, watermark, logo, signature, anime, cartoon, graphic"
MIXED = "three girls, all girls, only girls, no male, missing male, disembodied penis"
FEMALE = "three girls, all girls, only girls, wrong number of people"
POSITION = "wrong position, incorrect pose, impossible position, unnatural pose, penis in wrong place"
ANATOMY = "deformed breasts, extra breasts, anatomical errors, wrong anatomy"
THREE_ARTIFACTS = "text, watermark, logo"

TABLE = [
    # No word of any list, or one only as a part of another word.
    ("a red boat on a calm lake at dawn", PLAIN),
    ("portrait of a woman reading in a library", PLAIN),
    ("a man repairing a bicycle", PLAIN),
    ("a woman and a man dancing in the rain", PLAIN),
    ("a network of rivers seen from above, women rowing", PLAIN),
    ("a woman at work in a cotton mill", PLAIN),
    ("a bothersome goose and a woman", PLAIN),
    ("floral wallpaper, coral and sand", PLAIN),
    ("a choral concert, moral support", PLAIN),
    ("a map of Essex and Sussex", PLAIN),
    ("a sextant on an old chart", PLAIN),
    ("two lighthouses in a storm", PLAIN),
    ("two men playing chess", PLAIN),
    ("both boys of the team, adults, in football shirts", PLAIN),
    ("two humans on a mantelpiece, a talisman", PLAIN),
    ("twofold symmetry, a woman in glass", PLAIN),
    ("", PLAIN),
    # Several women.
    ("two women at a cafe table", f"{FEMALE}, {THREE_ARTIFACTS}"),
    ("Two Sisters on a bench", f"{FEMALE}, {THREE_ARTIFACTS}"),
    ("girls' choir, adult singers", f"{FEMALE}, {THREE_ARTIFACTS}"),
    ("both of them, a woman and her sister, sailing", f"{FEMALE}, {THREE_ARTIFACTS}"),
    ("TWO female violinists", f"{FEMALE}, {THREE_ARTIFACTS}"),
    ("two females, human and superhuman", f"{FEMALE}, {THREE_ARTIFACTS}"),
    ("2girls, adult women, tennis court", f"{FEMALE}, {THREE_ARTIFACTS}"),
    # Women and men.
    ("two women and a man hiking", MIXED),
    ("both the woman and the guy laughing", MIXED),
    ("two men and three women in a meeting", MIXED),
    ("sisters and guys at a bonfire, all adults", MIXED),
    ("two dancers, one male, one female", MIXED),
    ("two females, two males, ballroom", MIXED),
    ("girls vs boys, adults, tug of war", MIXED),
    # Acts and nudity, as bare terms.
    ("oral", f"{POSITION}, text"),
    ("oral history, a microphone", f"{POSITION}, text"),
    ("doggy", f"{POSITION}, text"),
    ("topless", f"{ANATOMY}, {THREE_ARTIFACTS}"),
    ("a nude in marble, museum", f"{ANATOMY}, {THREE_ARTIFACTS}"),
    ("nudes, charcoal studies", f"{ANATOMY}, {THREE_ARTIFACTS}"),
    ("naked flame of a candle", f"{ANATOMY}, {THREE_ARTIFACTS}"),
    ("sex", POSITION),
    ("oral, nude", POSITION),
    ("two women, nude", f"{FEMALE}, deformed breasts, extra breasts"),
    ("two women, oral", f"{FEMALE}, wrong position, incorrect pose"),
    ("two women and a man, sex", MIXED),
]


@pytest.mark.parametrize(("prompt", "after_the_quality_terms"), TABLE)
def test_the_negative_prompt_is_the_one_worked_out_by_hand(prompt: str, after_the_quality_terms: str) -> None:
    assert generate(prompt).text == f"{ALWAYS}{after_the_quality_terms}, child, minor"


def test_what_applies_and_what_was_cut_is_told() -> None:
    given_groups = (
        "critical",
        "anatomical",
        "multi_party",
        "nsfw_anatomical",
        "artifacts",
        "style",
        "safety",
    )
    made = generate("two women, nude")
    assert made.groups == given_groups
    assert made.cut == ("anatomical errors", "wrong anatomy", *PLAIN.split(", "))
    assert generate("a boat").cut == ()


def test_the_users_own_terms_rank_first() -> None:
    made = generate("a boat", "blurry sky,  people in the water ,")
    assert made.groups[0] == "own"
    # Of 21 tokens the plain terms take 15, which leaves 6. "blurry sky" takes 3 and "people in the water" 5,
    # so that "graphic", which takes 2, goes.
    assert made.text == (
        f"blurry sky, people in the water, {ALWAYS}{PLAIN.removesuffix(', graphic')}, child, minor"
    )
    assert made.cut == ("graphic",)


@pytest.mark.parametrize("own", [None, "", "  ", " , ,"])
def test_an_empty_wish_is_none(own: str | None) -> None:
    assert generate("a boat", own) == generate("a boat")


def test_a_term_of_the_user_that_the_lists_hold_is_said_once_where_it_stands_first() -> None:
    made = generate("a boat", "Watermark, fog, fog, Child")
    terms = made.text.split(", ")
    assert terms[:3] == ["Watermark", "fog", "Child"]
    assert terms[-1] == "minor"
    assert len({term.casefold() for term in terms}) == len(terms)


def test_a_single_term_longer_than_the_window_is_cut_at_a_word_and_keeps_the_safety_terms() -> None:
    made = generate("a boat", "fog " * 200)
    assert made.text.endswith("fog, child, minor")
    assert window().count(made.text) == 75


words = sorted(negative.SEVERAL | negative.FEMALES | negative.MALES | negative.ACTS | negative.UNDRESSED)
prompts = st.lists(st.one_of(st.sampled_from(words), st.text(max_size=12)), max_size=20).map(" ".join)
own_prompts = st.none() | st.lists(
    st.one_of(
        st.text(max_size=30), st.sampled_from(["child", "Minor", "text", "blurry, fog", "(hat:1.2)", "!!!"])
    ),
    max_size=30,
).map(", ".join)


def terms_of(text: str) -> list[str]:
    return [term.strip() for term in text.split(",") if term.strip()]


@settings(max_examples=150, deadline=None)
@given(prompts, own_prompts)
def test_it_never_overruns_the_window_and_always_has_the_safety_terms(prompt: str, own: str | None) -> None:
    made = generate(prompt, own)
    assert window().count(made.text) <= window().limit
    assert set(SAFETY_NEGATIVES) <= {term.casefold() for term in terms_of(made.text)}


@settings(max_examples=150, deadline=None)
@given(prompts, own_prompts)
def test_only_whole_terms_stand_in_it_in_their_order_and_once(prompt: str, own: str | None) -> None:
    made = generate(prompt, own)
    listed = [
        *negative.CRITICAL,
        *negative.ANATOMICAL,
        *(negative.MIXED_PARTY if "no male" in (*terms_of(made.text), *made.cut) else negative.FEMALE_PARTY),
        *negative.POSITION,
        *negative.NSFW_ANATOMICAL,
        *negative.ARTIFACTS,
        *negative.STYLE,
        *SAFETY_NEGATIVES,
    ]
    order = list(dict.fromkeys(term.casefold() for term in [*terms_of(own or ""), *listed]))
    places = [order.index(term.casefold()) for term in terms_of(made.text)]
    assert places == sorted(set(places))
    # What is cut stands behind everything that is kept, but for the safety terms.
    kept = [place for place in places if order[place] not in SAFETY_NEGATIVES]
    assert not made.cut or max(kept) < min(order.index(term.casefold()) for term in made.cut)


@settings(max_examples=100, deadline=None)
@given(prompts, st.sampled_from([str.upper, str.title, lambda text: text.replace(" ", ", ")]))
def test_case_and_marks_between_words_change_nothing(prompt: str, changed: object) -> None:
    assert callable(changed)
    ascii_prompt = prompt.encode("ascii", "ignore").decode()
    assert generate(ascii_prompt) == generate(changed(ascii_prompt))


@pytest.mark.parametrize(("prompt", "_"), TABLE)
def test_the_content_screen_lets_every_generated_one_pass(prompt: str, _: str) -> None:
    verdict = Screen.standard().check(ScreenInput("a boat", generate(prompt).text))
    assert verdict.allowed
