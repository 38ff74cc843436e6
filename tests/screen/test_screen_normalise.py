from __future__ import annotations

import pytest

from shared.screen import Screen, ScreenInput
from shared.screen.normalise import (
    UnreadableError,
    blank_weights,
    decode_escapes,
    fold,
    hidden_tags,
    turned_over,
)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("TEEN", "teen"),
        ("ｔｅｅｎ", "teen"),
        ("𝕥𝕖𝕖𝕟", "teen"),
        ("ⓣⓔⓔⓝ", "teen"),
        ("🅃🄴🄴🄽", "teen"),
        ("🅣🅔🅔🅝", "teen"),
        ("🇹🇪🇪🇳", "teen"),
        ("ᴛᴇᴇɴ", "teen"),
        ("tëéñ", "teeñ"),
        ("t\u0301e\u0323e\u0336n", "teen"),
        ("t\u200be\u200de\u2060n", "teen"),
        ("t\u202ee\u2066en", "teen"),
        ("t\u00ade\ufe0fe\U000e0041n", "teen"),
        ("te\x00e\x08n", "teen"),
        ("straße, œuvre, Łódź", "strasse, oeuvre, lodz"),
        ("nin\u0303a", "niña"),
        ("ребёнок", "ребенок"),
        ("１５ १५ ١٥ ⑮", "15 15 15 15"),
        ("1\ufe0f\u20e35\ufe0f\u20e3", "15"),
        ("she’s", "shes"),
        ("ﾛﾘ", "ロリ"),
        ("ㅇㅏㅇㅣ", "아이"),
        ("أطفال", "اطفال"),
        ("歳歲學", "岁岁学"),
    ],
)
def test_folding_shows_what_a_reader_sees(text: str, folded: str) -> None:
    assert fold(text) == folded


def test_folding_keeps_the_letter_that_tells_a_name_from_a_spanish_child() -> None:
    screen = Screen.standard()
    assert not screen.check(ScreenInput("niña")).allowed
    assert not screen.check(ScreenInput("n i ñ a")).allowed
    assert screen.check(ScreenInput("Nina Simone")).allowed


@pytest.mark.parametrize(
    "text",
    ["เด็ก", "ילדה", "சிறுமி", "გოგო", "աղջիկ", "বালিকা", "ልጅ", "κορίτσι", "κ ο ρ ί τ σ ι", "⠞⠑⠑⠝", "ᎠᎡ", "𐌰𐌱"],
)
def test_a_script_without_rules_is_refused(text: str) -> None:
    assert Screen.standard().check(ScreenInput(f"a boat {text}")).rule_id == "unread-script"


@pytest.mark.parametrize(
    "text", ["5 μm", "Δt", "π", "£5", "½ cup", "№ 7", "→ ★ ♥ ✓", "日本語", "café", "naïve"]
)
def test_single_foreign_letters_and_symbols_pass(text: str) -> None:
    assert Screen.standard().check(ScreenInput(f"a boat, {text}, lake")).allowed


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("t&#101;&#x65;n", "teen"),
        ("t%65%65n", "teen"),
        ("t\\u0065\\x65n", "teen"),
        ("t\\u{65}en", "teen"),
        ("t&amp;#101;en", "teen"),
        ("a boat", None),
        ("R&B, 50% off", None),
    ],
)
def test_escapes_are_read_as_well(text: str, decoded: str | None) -> None:
    assert decode_escapes(text) == decoded


def test_escapes_nested_without_end_are_refused() -> None:
    with pytest.raises(UnreadableError, match="nested-escapes"):
        decode_escapes("&amp;amp;amp;amp;amp;amp;lt;")


def test_blanking_weights_keeps_the_length_and_everything_else() -> None:
    text = "(te:1.1)(en:0.9) (boat)1.2 girl:15)"
    blanked = blank_weights(text)
    assert len(blanked) == len(text)
    assert [character for character in blanked if character != "\x01"] == list("(te)(en) (boat) girl:15)")


def test_turned_letters_are_read_from_the_end() -> None:
    assert turned_over("uǝǝʇ") == "teen"
    assert turned_over("ə in phonetics") is None


def test_hidden_tags_are_read() -> None:
    hidden = "".join(chr(0xE0000 + ord(character)) for character in "teen")
    assert hidden_tags(f"a boat{hidden}") == "teen"
    assert not Screen.standard().check(ScreenInput(f"a boat{hidden}")).allowed


@pytest.mark.parametrize("emoji", ["👶", "👧🏽", "👦", "🧒", "🍼", "👩‍👧", "🏫", "🚸"])
def test_emoji_are_words(emoji: str) -> None:
    assert not Screen.standard().check(ScreenInput(f"a boat {emoji}")).allowed


@pytest.mark.parametrize("emoji", ["👩", "👨‍👩", "🔞", "💋", "👙", "🇫🇷", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🎹", "❤️"])
def test_other_emoji_pass(emoji: str) -> None:
    assert Screen.standard().check(ScreenInput(f"a boat {emoji}, lake")).allowed


@pytest.mark.parametrize(
    "text", ["a shot a day", "5 min or 10", "so on and on", "as soon as possible", "as it is"]
)
def test_words_that_beside_each_other_spell_a_term_pass(text: str) -> None:
    assert Screen.standard().check(ScreenInput(text)).allowed


@pytest.mark.parametrize(
    "text", ["t.e.e.n", "te-en", "te\u00ad-\nen", "t3en", "teeeeen", "t*e*e*n", "(te:1.1)(en:1.2)"]
)
def test_words_taken_apart_are_put_together(text: str) -> None:
    assert Screen.standard().check(ScreenInput(f"a boat, {text}, lake")).rule_id == "teens"
