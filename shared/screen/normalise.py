"""From what was typed to what a reader sees: the folding every text goes through before it is matched.

`fold` is one pass over the text. It costs a table look-up for each character and a normalisation for each
*distinct* character, and refuses text with more distinct characters than any prompt has, so its time is
linear with a small constant whatever the input.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping
from urllib.parse import unquote

from shared.screen import characters

# More than prose of 10,000 characters needs in Chinese, which needs the most.
MAX_DISTINCT_CHARACTERS = 1_200
# Deeper nesting of escapes than this is refused by the caller, see `decode_escapes`.
MAX_ESCAPE_ROUNDS = 3

# One turned letter is phonetics; hundreds are not worth the time of a second reading, and are refused.
_FEWEST_TURNED = 2
_MOST_TURNED = 200

# A separator that is no white space: what stands on both sides of it may be one word.
BLANK = "\x01"

_ESCAPE = re.compile(
    r"&#?[0-9A-Za-z]{2,31};?|%[0-9A-Fa-f]{2}|\\[ux]\{?[0-9A-Fa-f]{2,6}|\\U[0-9A-Fa-f]{8}"
    r"|u\+[0-9A-Fa-f]{4,6}|U\+[0-9A-Fa-f]{4,6}"
)
_BACKSLASH = re.compile(r"(?:\\[ux]\{?|\\U|[uU]\+)([0-9A-Fa-f]{2,8})\}?")
_COMPOSABLE = re.compile("[\u1100-\u11ff\u3099\u309a\u3131-\u318e\ua960-\ua97f\ud7b0-\ud7ff\uff61-\uffdc]")
_TAG = re.compile("[\U000e0020-\U000e007e]")
_ENYE = re.compile("([nN])\u0303")
# The tail "(boat:1.2)", and Compel's "(boat)1.2": weights stand between the halves of a split word.
_WEIGHT = re.compile(r":[ ]?[+-]?(?:\d?\.\d{1,6}|[0-4])(?=[ ]?[)\]}>])|(?<=[)\]}])[+-]?\d?\.\d{1,6}")
_SEPARATOR_RUN = re.compile(r"[\W_]{4,}")
_NOT_A_LETTER = re.compile(r"[\W_]+")
_KATAKANA = re.compile("[\u30a1-\u30f6]")
_CJK_CHARACTER = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\U00020000-\U0003134f]")


class UnreadableError(ValueError):
    """The text cannot be read with the means of this package; it is refused under `rule_id`."""

    def __init__(self, rule_id: str) -> None:
        super().__init__(rule_id)
        self.rule_id = rule_id


def fold(text: str) -> str:
    """Lower-case text in its plain letters: compatibility forms, accents, marks, invisible characters folded.

    Accents go, except the tilde of the letter that tells "nina" (a name) from the Spanish word for a child.
    Raises `UnreadableError` for letters of a script without rules and for more than
    `MAX_DISTINCT_CHARACTERS` distinct characters.
    """
    if text.isascii():
        return text.translate(_ASCII_FOLD)
    alphabet = "".join(set(text))
    if len(alphabet) > MAX_DISTINCT_CHARACTERS:
        raise UnreadableError("too-many-characters")
    if characters.UNREAD_SCRIPT.search(alphabet):
        raise UnreadableError("unread-script")
    if "\u0303" in alphabet:
        text = _ENYE.sub("ñ", text)
        alphabet += "ñ"
    if _COMPOSABLE.search(alphabet):
        # Safe from the quadratic reordering of marks: the only marks that survive here share one class.
        text = unicodedata.normalize("NFKC", text.translate(_MARKS))
        alphabet = "".join(set(text))
    shown = {
        character: _fold_ideograph(character)
        if "\u3400" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7a3"
        else _fold_character(character)
        for character in alphabet
    }
    folded = map_characters(text, shown)
    shown_alphabet = "".join(shown.values())
    if characters.UNREAD_SCRIPT.search(shown_alphabet) or (
        characters.GREEK_LETTER.search(shown_alphabet) and characters.GREEK_WORD.search(folded)
    ):
        raise UnreadableError("unread-script")
    return folded


def map_characters(text: str, table: Mapping[str, str]) -> str:
    """Each character replaced by its entry in `table`, which holds every one of them.

    Three times as fast as `str.translate`, which raises and catches an exception for each character it keeps.
    """
    return "".join(map(table.__getitem__, text))


def blank_weights(folded: str) -> str:
    """Prompt weights overwritten with separators, so that they neither divide a word nor count as numbers.

    The length, and with it every offset, stays the same. Brackets stay, they are separators like any other.
    """
    if not (":" in folded or ")" in folded or "]" in folded or "}" in folded):
        return folded
    return _WEIGHT.sub(lambda weight: BLANK * len(weight[0]), folded)


def squeeze_separators(folded: str) -> str:
    """Runs of separators shortened, so that padding cannot push a word out of a window."""
    return _SEPARATOR_RUN.sub(lambda run: run[0][:2] + " ", folded)


def decode_escapes(text: str) -> str | None:
    """The text with HTML, percent and backslash escapes read, or None where it has none.

    Raises `UnreadableError` for escapes nested deeper than `MAX_ESCAPE_ROUNDS`.
    """
    decoded = text
    for _ in range(MAX_ESCAPE_ROUNDS + 1):
        once = decoded
        if _ESCAPE.search(decoded):
            once = _BACKSLASH.sub(_backslash, unquote(html.unescape(decoded), errors="replace"))
        if once == decoded:
            return None if decoded == text else decoded
        decoded = once
    raise UnreadableError("nested-escapes")


def turned_over(text: str) -> str | None:
    """The text read upside down, from its end, where it holds letters that exist for that purpose."""
    turned = 0 if text.isascii() else len(characters.TURNED.findall(text))
    if turned < _FEWEST_TURNED:
        return None
    if turned > _MOST_TURNED:
        raise UnreadableError("turned-over")
    return text.lower()[::-1].translate(dict(characters.FLIPPED))


def hidden_tags(text: str) -> str | None:
    """Text written in the invisible tag characters, which language models read and people do not see."""
    if text.isascii():
        return None
    return "".join(chr(ord(tag) - 0xE0000) for tag in _TAG.findall(text)) or None


def joined_ideographs(folded: str) -> str | None:
    """The text without separators and in one kana, for the scripts that write words without spaces."""
    if folded.isascii() or not _CJK_CHARACTER.search(folded):
        return None
    joined = _NOT_A_LETTER.sub("", folded)
    if not _KATAKANA.search(joined):
        return joined
    return map_characters(joined, {kana: characters.HIRAGANA.get(kana, kana) for kana in set(joined)})


def _fold_ideograph(character: str) -> str:
    """Compatibility forms do not concern these blocks, only the variants of one character do."""
    return characters.AFTER_NFKC.get(ord(character), character) or ""


def _fold_character(character: str) -> str:
    mapped = characters.BEFORE_NFKC.get(ord(character), character)
    if mapped is None:
        return ""
    plain = mapped if mapped.isascii() else unicodedata.normalize("NFKC", mapped)
    return "".join(_finish(part) for part in plain.lower())


def _finish(character: str) -> str:
    if character.isascii():
        return characters.AFTER_NFKC.get(ord(character), character) or ""
    known = characters.AFTER_NFKC.get(ord(character), characters.BEFORE_NFKC.get(ord(character), character))
    return known or ""


def _backslash(match: re.Match[str]) -> str:
    code = int(match[1], 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else " "


_ASCII_FOLD = {code: _fold_character(chr(code)) for code in range(128)}
_MARKS = {code: None for code, mapped in characters.BEFORE_NFKC.items() if mapped is None}
