"""Makes a prompt fit a number of tokens without breaking a term. Pure.

A prompt is taken apart at its commas (terms), prose at the ends of its sentences. The first part, which names
the subject, is always kept; then come the parts that speak of quality, then the others, each kept where it
fits. What is kept stands in the order in which it was written.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from shared.enhance import Style
from shared.plan import PromptWindow

# A comma inside a number is none; a full stop ends a sentence before a space or another mark only.
_TERM_ENDS: Final = re.compile(r"\s*(?:(?<!\d),|,(?!\d)|;|[.!?…]+(?![^\s,;])|[，、；。！？\n])\s*")  # noqa: RUF001
_SENTENCE_ENDS: Final = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*")  # noqa: RUF001
_BRACKETS: Final = {"(": 1, "[": 1, ")": -1, "]": -1}


class Limited:
    """A window that reads at most `limit` tokens. Made for one prompt: it remembers what it counted."""

    def __init__(self, window: PromptWindow, limit: int) -> None:
        self.limit = min(limit, window.limit)
        self._count = functools.cache(window.count)

    def count(self, text: str) -> int:
        return self._count(text)


def compress(text: str, window: PromptWindow, style: Style, is_quality: Callable[[str], bool]) -> str:
    """`text`, or as much of it as `window` reads; never empty where `text` is not blank.

    Parts that stand twice are said once. Prose whose first sentence is longer than the window is taken apart
    at its commas; where the first term is longer still, only its first words are left.
    """
    text = text.strip()
    if window.count(text) <= window.limit:
        return text
    terms = terms_of(text)
    for parts, separator in ((sentences_of(text) if style.prose else [], " "), (terms, ", ")):
        if parts and window.count(parts[0]) <= window.limit:
            kept = _kept(parts, separator, window, is_quality)
            return separator.join(parts[number] for number in kept)
    return _beginning(terms[0] if terms else text, window)


def subject_of(prompt: str) -> str:
    """What stands before the first comma or the end of the first sentence; the prompt where nothing does."""
    return next(iter(terms_of(prompt)), prompt.strip())


def terms_of(text: str) -> list[str]:
    """What stands between commas, semicolons and the ends of sentences; brackets are never taken apart."""
    return [term for term in _split(text, _TERM_ENDS) if term]


def sentences_of(text: str) -> list[str]:
    """Sentences with their marks."""
    return [sentence for sentence in _split(text, _SENTENCE_ENDS) if sentence]


def _kept(
    parts: Sequence[str], separator: str, window: PromptWindow, is_quality: Callable[[str], bool]
) -> list[int]:
    """The numbers of the parts that are kept, in their order. The first part has to fit."""
    distinct: dict[str, int] = {}
    for number, part in enumerate(parts):
        distinct.setdefault(part.casefold(), number)
    first, *further = distinct.values()
    kept, used = [first], window.count(parts[first])
    for number in sorted(further, key=lambda number: not is_quality(parts[number])):
        # No token reaches over a space, so that this bound spares hopeless parts the exact count.
        if used + window.count(parts[number]) > window.limit:
            continue
        longer = sorted([*kept, number])
        tokens = window.count(separator.join(parts[each] for each in longer))
        if tokens <= window.limit:
            kept, used = longer, tokens
    return kept


def _beginning(text: str, window: PromptWindow) -> str:
    """As many whole words as fit, or characters where not even one word does."""
    for pieces, separator in ((text.split(), " "), (list(text), "")):
        lengths = range(1, len(pieces) + 1)
        number = bisect_right(
            lengths, window.limit, key=lambda length: window.count(separator.join(pieces[:length]))
        )
        if number:
            break
    return separator.join(pieces[:number])


def _split(text: str, ends: re.Pattern[str]) -> Iterator[str]:
    """The texts between the matches of `ends` that stand in no bracket."""
    depths = list(accumulate((_BRACKETS.get(character, 0) for character in text), initial=0))
    balanced = depths[-1] == 0 and min(depths) == 0
    begin = 0
    for end in ends.finditer(text):
        if not balanced or depths[end.start()] == 0:
            yield text[begin : end.start()].strip()
            begin = end.end()
    yield text[begin:].strip()
