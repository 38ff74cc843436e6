"""Prompt weights: how strongly a place in a prompt counts, in the notations of the common front ends.

``(word:0.3)``, ``[word]`` (divided by 1.1 each), ``(word)0.3``, ``(word)-``, ``word--`` (times 0.9 each),
``word:0.3``; ``(word)`` and ``{word}`` raise and so cannot lower. Groups nest and multiply.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_LOWERING = re.compile(r"\[|:[ ]?-?[\d.]|[)\]}]\s?[-\d.]|-(?<=\w-)(?!\w)")
_BRACKET = re.compile(r"[\[\](){}]")
_INNER_WEIGHT = re.compile(r":\s{0,3}([+-]?\d{0,3}\.?\d{1,6})\s{0,3}$")
_OUTER_WEIGHT = re.compile(r"([+-]?\d{0,3}\.?\d{1,6})|(-+)(?!\w)")
_WORD_WEIGHT = re.compile(r"(-+)(?![\w-])|\s?:\s?(-?\d{0,3}\.?\d{1,6})")
_NEGATIVE = re.compile(r":\s{0,3}-\s?[\d.]|[)\]}]\s?-\s?[\d.]")
_CLOSING = {"]": "[", ")": "(", "}": "{"}
# Below this a weight is "not more than one" beyond what rounding explains.
_LOWERED = math.log(0.999)
_ERASED = -100.0


def may_lower(folded: str) -> bool:
    """Whether the text holds any notation that lowers a weight; cheap, and often wrong towards True."""
    return _LOWERING.search(folded) is not None


def has_negative_weight(folded: str) -> bool:
    """Whether any weight is below zero, which turns a prompt into its opposite."""
    return _NEGATIVE.search(folded) is not None


def lowers_any(folded: str, places: Sequence[tuple[int, int]]) -> bool:
    """Whether any of `places` (start, end offsets, ascending) counts less than plain text does."""
    if not places:
        return False
    changes = _changes(folded)
    total, index = 0.0, 0
    for start, end in places:
        while index < len(changes) and changes[index][0] <= start:
            total += changes[index][1]
            index += 1
        own = 0.0
        match = _WORD_WEIGHT.match(folded, end)
        if match:
            own = len(match[1]) * math.log(0.9) if match[1] else _logarithm(match[2])
            if not match[1] and folded[match.end() : match.end() + 1] in (")", "]", "}"):
                own = 0.0  # the group's own weight, counted with the group
        if total + own < _LOWERED:
            return True
    return False


def _changes(folded: str) -> list[tuple[int, float]]:
    """(offset, change of the logarithm of the weight), by offset."""
    changes: list[tuple[int, float]] = []
    pending: list[tuple[str, int]] = []
    for match in _BRACKET.finditer(folded):
        bracket, offset = match[0], match.start()
        opener = _CLOSING.get(bracket)
        if opener is None:
            pending.append((bracket, offset))
        elif pending and pending[-1][0] == opener:
            _, start = pending.pop()
            change = _group_weight(folded, bracket, start, offset)
            changes += [(start, change), (offset, -change)]
    # An unclosed square bracket lowers everything behind it.
    changes += [(offset, -math.log(1.1)) for bracket, offset in pending if bracket == "["]
    return sorted(changes)


def _group_weight(folded: str, bracket: str, start: int, end: int) -> float:
    inner = _INNER_WEIGHT.search(folded, max(start, end - 16), end)
    outer = _OUTER_WEIGHT.match(folded, end + 1)
    change = -math.log(1.1) if bracket == "]" else 0.0
    if inner:
        change += _logarithm(inner[1])
    if outer:
        change += _logarithm(outer[1]) if outer[1] else len(outer[2]) * math.log(0.9)
    return change


def _logarithm(number: str) -> float:
    value = float(number)
    return math.log(value) if value > 0 else _ERASED
