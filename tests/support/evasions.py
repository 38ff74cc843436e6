"""Ways to write a term so that people and text encoders still read it and a plain word list does not.

Each transformation is deterministic. They come in phases, and a pair applies an earlier phase first, so that
what results is still readable: letters are swapped before they are taken apart, and escapes come last.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_CYRILLIC = str.maketrans("aceiopsxyjh", "асеіорѕхујһ")
_FAUX_CYRILLIC = str.maketrans("rnbmkt", "яивмкт")
_GREEK = str.maketrans("aiotvx", "αιοτνχ")
_LATIN_INTO_CYRILLIC = str.maketrans("аеорсхукмтв", "aeopcxykmtb")
_DIGITS = str.maketrans("oieast", "013457")
_OTHER_DIGITS = str.maketrans("lbg", "189")
_SIGNS = str.maketrans("aisl", "@!$|")
_SMALL_CAPITALS = str.maketrans("abcdefghijklmnoprtuvwyz", "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀᴛᴜᴠᴡʏᴢ")
_WORD = re.compile(r"[^\W\d_]+")
_LETTER = re.compile(r"[^\W\d_]")
_LATIN_LETTER = re.compile(r"[a-zA-Z]")


@dataclass(frozen=True, slots=True)
class Evasion:
    """A named transformation; `phase` says where in a pair it may stand (lower first)."""

    name: str
    phase: int
    apply: Callable[[str], str]


def _offset(capital: int, small: int) -> Callable[[str], str]:
    """Latin letters as those of a mathematical or enclosed alphabet beginning at the two code points."""

    def apply(text: str) -> str:
        return "".join(
            chr(small + ord(c) - ord("a"))
            if "a" <= c <= "z"
            else chr(capital + ord(c) - ord("A"))
            if "A" <= c <= "Z"
            else c
            for c in text
        )

    return apply


def _fullwidth(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def _every_letter(insert: str) -> Callable[[str], str]:
    """`insert` behind every letter but the last of a word."""
    pattern = re.compile(r"([^\W_])(?=[^\W_])")
    return lambda text: pattern.sub(lambda match: match[1] + insert, text)


def _in_the_middle(insert: str) -> Callable[[str], str]:
    """`insert` once in the middle of every word of four letters or more."""

    def split(match: re.Match[str]) -> str:
        word = match[0]
        middle = len(word) // 2
        return word[:middle] + insert + word[middle:] if len(word) >= 4 else word

    return lambda text: _WORD.sub(split, text)


def _repeated(text: str) -> str:
    """The last vowel-like place of every word stretched to four."""

    def stretch(match: re.Match[str]) -> str:
        word = match[0]
        place = max((i for i, c in enumerate(word) if c in "aeiouyаеиоуыя"), default=len(word) - 1)
        return word[:place] + word[place] * 4 + word[place + 1 :]

    return _WORD.sub(stretch, text)


def _doubled(text: str) -> str:
    return _LETTER.sub(lambda match: match[0] * 2, text) if text.isascii() else text


def _accented(text: str) -> str:
    marks = itertools.cycle("\u0301\u0308\u0300\u0302")
    return _LATIN_LETTER.sub(lambda match: unicodedata.normalize("NFC", match[0] + next(marks)), text)


def _stacked_marks(text: str) -> str:
    return _LATIN_LETTER.sub(lambda match: match[0] + "\u0335\u0323\u0301\u0336", text)


def _regional(text: str) -> str:
    return "".join(chr(0x1F1E6 + ord(c.lower()) - ord("a")) if _LATIN_LETTER.match(c) else c for c in text)


def _negative_squared(text: str) -> str:
    return "".join(chr(0x1F170 + ord(c.lower()) - ord("a")) if _LATIN_LETTER.match(c) else c for c in text)


def _bracketed_tail(text: str) -> str:
    """te(en): the second half of each word in brackets."""
    return _WORD.sub(
        lambda match: (
            f"{match[0][: len(match[0]) // 2]}({match[0][len(match[0]) // 2 :]})"
            if len(match[0]) >= 4
            else match[0]
        ),
        text,
    )


def _weighted_halves(text: str) -> str:
    return _WORD.sub(
        lambda match: (
            f"({match[0][: len(match[0]) // 2]}:1.1)({match[0][len(match[0]) // 2 :]}:1.2)"
            if len(match[0]) >= 4
            else match[0]
        ),
        text,
    )


def _alternating_case(text: str) -> str:
    return "".join(c.upper() if i % 2 else c.lower() for i, c in enumerate(text))


def _l_as_capital_i(text: str) -> str:
    return text.replace("l", "I")


def _percent(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


EVASIONS: tuple[Evasion, ...] = (
    Evasion("digits for letters", 0, lambda text: text.translate(_DIGITS)),
    Evasion("other digits for letters", 0, lambda text: text.translate(_OTHER_DIGITS)),
    Evasion("signs for letters", 0, lambda text: text.translate(_SIGNS)),
    Evasion("repeated letters", 0, _repeated),
    Evasion("doubled letters", 0, _doubled),
    Evasion("capital I for l", 0, _l_as_capital_i),
    Evasion("capitals", 1, str.upper),
    Evasion("alternating case", 1, _alternating_case),
    Evasion("full width", 1, _fullwidth),
    Evasion("mathematical bold", 1, _offset(0x1D400, 0x1D41A)),
    Evasion("mathematical monospace", 1, _offset(0x1D670, 0x1D68A)),
    Evasion("circled", 1, _offset(0x24B6, 0x24D0)),
    Evasion("parenthesised", 1, lambda text: _offset(0x1F110, 0x249C)(text)),
    Evasion("negative squared", 1, _negative_squared),
    Evasion("regional indicators", 1, _regional),
    Evasion("small capitals", 1, lambda text: text.translate(_SMALL_CAPITALS)),
    Evasion("cyrillic lookalikes", 1, lambda text: text.translate(_CYRILLIC)),
    Evasion("faux cyrillic", 1, lambda text: text.translate(_FAUX_CYRILLIC)),
    Evasion("latin in cyrillic", 1, lambda text: text.translate(_LATIN_INTO_CYRILLIC)),
    Evasion("greek lookalikes", 1, lambda text: text.translate(_GREEK)),
    Evasion("accents", 1, _accented),
    Evasion("stacked marks", 2, _stacked_marks),
    Evasion("zero width space", 2, _every_letter("\u200b")),
    Evasion("zero width joiner", 2, _every_letter("\u200d")),
    Evasion("soft hyphen", 2, _every_letter("\u00ad")),
    Evasion("bidi controls", 2, _every_letter("\u202e\u2066")),
    Evasion("variation selectors", 2, _every_letter("\ufe0f")),
    Evasion("control characters", 2, _every_letter("\x08")),
    Evasion("tag characters", 2, _every_letter("\U000e0041")),
    Evasion("spaced out", 3, _every_letter(" ")),
    Evasion("dotted", 3, _every_letter(".")),
    Evasion("hyphenated", 3, _every_letter("-")),
    Evasion("starred", 3, _every_letter("*")),
    Evasion("underscored", 3, _every_letter("_")),
    Evasion("slashed", 3, _every_letter("/")),
    Evasion("middle dot", 3, _every_letter("\u00b7")),
    Evasion("split by a hyphen", 3, _in_the_middle("-")),
    Evasion("split over lines", 3, _in_the_middle("-\n")),
    Evasion("bracketed tail", 3, _bracketed_tail),
    Evasion("weighted halves", 3, _weighted_halves),
    Evasion("weight", 4, lambda text: f"({text}:1.2)"),
    Evasion("square brackets", 4, lambda text: f"[{text}]"),
    Evasion("curly brackets", 4, lambda text: f"{{{{{text}}}}}"),
    Evasion("compel weight", 4, lambda text: f"({text})1.3"),
    Evasion("underscores for spaces", 4, lambda text: text.replace(" ", "_")),
    Evasion("line break for spaces", 4, lambda text: text.replace(" ", "\n")),
    Evasion("html decimal", 5, lambda text: "".join(f"&#{ord(c)};" for c in text)),
    Evasion("html hexadecimal", 5, lambda text: "".join(f"&#x{ord(c):x};" for c in text)),
    Evasion("percent", 5, _percent),
    Evasion(
        "backslash u", 5, lambda text: "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else c for c in text)
    ),
)  # fmt: skip

# Pairs in which the second undoes what makes the first readable, each with what happens.
UNREADABLE_PAIRS = frozenset(
    {
        ("parenthesised", "weighted halves"),  # every letter is already in brackets of its own
    }
)


def single(term: str) -> Iterator[tuple[str, str]]:
    """(name, text) of every transformation that changes the term."""
    for evasion in EVASIONS:
        text = evasion.apply(term)
        if text != term:
            yield evasion.name, text


def paired(term: str) -> Iterator[tuple[str, str]]:
    """(names, text) of every pair of transformations that both change the term."""
    for first, second in itertools.permutations(EVASIONS, 2):
        if first.phase > second.phase or (first.phase == second.phase == 5):
            continue
        if (first.name, second.name) in UNREADABLE_PAIRS:
            continue
        once = first.apply(term)
        twice = second.apply(once)
        if term != once != twice:
            yield f"{first.name} + {second.name}", twice
