"""Sequences of word classes: "looks 15", "15 years old", "young blonde girl".

A pattern is a sequence of classes; the classes of a text are the lexicon's class spans plus its numbers. All
patterns share one tree, so the work at each token is bounded by the size of the tree (a few hundred nodes, of
which a text reaches a handful), and the whole is linear in the text.

Numbers get their classes from their value and from what follows them, so that "16 mm" and "9:16" are no ages:

``<minor>`` 0 to 17, ``<teenage>`` 6 to 17, ``<eighteen>``, ``<adult>`` 18 and more, ``<number>`` any,
``<grade>`` 1 to 13, ``<minor-th>`` and ``<grade-th>`` their ordinals ("16th"), and with ``!`` (``<minor!>``,
from 3 on) only where the number ends a phrase: at punctuation or at the end of the text.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shared.screen.lexicon import COUNTED, Findings, Tokens
from shared.screen.normalise import BLANK, UnreadableError

NUMBER_PREFIX = "#"
"""Class labels of number words are this and the value."""
FOREIGN_NUMBER_PREFIX = "~"
"""Of number words that count only before a year in their own language."""

_ITEM = re.compile(r"<([^>]+)>(\?)?|(=[^\s<>?=]+)(\?)?")
_CLOSERS = frozenset(",;)!?]}|\n")
_ORDINAL_PREFIX = "^"
_ORDINAL_ENDINGS = frozenset({"st", "nd", "rd", "th"})
_DIGITS = frozenset("0123456789")
_LETTERS_FOR_DIGITS = "liosb"
_DIGIT_LOOKS = str.maketrans("liosb", "11058")

# More numbers than this make a text a table, not a prompt; it is refused, which bounds what they cost.
_MAX_NUMBERS = 300
# "a woman, 2," counts something; from here on a bare number behind a person is an age.
_SMALLEST_BARE_AGE = 3
_ADULT = 18
_LAST_GRADE = 13
# "golden age, 3 ships": behind a comma no longer the number that "age" announces.
_AGE = "age"
_CLAUSE_ENDS = frozenset(",;.")
_NUMBER_PREFIXES = frozenset({NUMBER_PREFIX, FOREIGN_NUMBER_PREFIX})

Edges = Mapping[int, Sequence[tuple[int, tuple[str, ...]]]]
"""For each token that something begins at: where it ends, and its labels."""


@dataclass(frozen=True, slots=True)
class Node:
    """One position in the tree of patterns; `rule_id` is set where a pattern ends."""

    children: Mapping[str, Node]
    rule_id: str | None


def parse_pattern(pattern: str) -> list[tuple[str, bool]]:
    """The items of a pattern as (label, optional); a label is the name of a class, or ``=word``."""
    return [(match[1] or match[3], bool(match[2] or match[4])) for match in _ITEM.finditer(pattern)]


def sequences(pattern: str) -> Iterator[tuple[str, ...]]:
    """All sequences of labels a pattern stands for, its optional items present and absent."""
    found: list[tuple[str, ...]] = [()]
    for label, optional in parse_pattern(pattern):
        extended = [(*sequence, label) for sequence in found]
        found = extended + found if optional else extended
    yield from (sequence for sequence in dict.fromkeys(found) if sequence)


def build_tree(labelled: Iterable[tuple[tuple[str, ...], str]]) -> Node:
    """One tree of (sequence of labels, rule id)."""
    branches: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    rule_id = None
    for sequence, name in labelled:
        if sequence:
            branches.setdefault(sequence[0], []).append((sequence[1:], name))
        else:
            rule_id = rule_id or name
    return Node({label: build_tree(rest) for label, rest in branches.items()}, rule_id)


def class_edges(tokens: Tokens, findings: Findings) -> dict[int, list[tuple[int, tuple[str, ...]]]]:
    """The members of word classes, and the numbers with their classes, by where they begin.

    Raises `UnreadableError` for more numbers than any prompt has.
    """
    edges: dict[int, list[tuple[int, tuple[str, ...]]]] = {}
    numbers: list[tuple[int, int, str]] = []
    for start, end, labels in findings.classes:
        if _AGE in labels and any(mark in tokens.separators[end] for mark in _CLAUSE_ENDS):
            continue
        edges.setdefault(start, []).append((end, labels))
        for label in labels:
            if label[0] in _NUMBER_PREFIXES:
                numbers.append((start, end, label))
    candidates = itertools.chain(((*number, True) for number in _longest(numbers)), _digits(tokens))
    found = list(itertools.islice(candidates, _MAX_NUMBERS + 1))
    if len(found) > _MAX_NUMBERS:
        raise UnreadableError("too-many-numbers")
    for start, end, number, whole in found:
        closed = whole and _ends_a_phrase(tokens, end)
        edges.setdefault(start, []).append((end, _number_labels(number, closed=closed)))
    return edges


def matches(tree: Node, edges: Edges) -> Iterator[tuple[int, int, str]]:
    """(start, end, rule id) of every pattern found."""
    for start in edges:
        pending = [(start, tree)]
        while pending:
            position, node = pending.pop()
            for end, labels in edges.get(position, ()):
                for label in labels:
                    child = node.children.get(label)
                    if child is None:
                        continue
                    if child.rule_id is not None:
                        yield start, end, child.rule_id
                    if child.children:
                        pending.append((end, child))


def _longest(numbers: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Numbers without those inside a longer one: the "five" of "twenty-five" is no age."""
    kept: list[tuple[int, int, str]] = []
    reach = -1
    for start, end, number in sorted(numbers, key=lambda found: (found[0], -found[1])):
        if end > reach:
            kept.append((start, end, number))
            reach = end
        elif kept and kept[-1][:2] == (start, end):
            kept.append((start, end, number))
    return kept


def _digits(tokens: Tokens) -> Iterator[tuple[int, int, str, bool]]:
    words, gaps = tokens.words, tokens.separators
    for index in [index for index, word in enumerate(words) if word[0] in _DIGITS]:
        word, gap = words[index], gaps[index + 1]
        following = words[index + 1] if index + 1 < len(words) else ""
        # A letter for a digit: "l5 years old", "1o years old".
        if (
            index
            and len(words[index - 1]) == 1
            and words[index - 1] in _LETTERS_FOR_DIGITS
            and gaps[index] == ""
        ):
            yield from _valued(index - 1, index + 1, (words[index - 1] + word).translate(_DIGIT_LOOKS))
        if gap == "" and len(following) == 1 and following in _LETTERS_FOR_DIGITS:
            yield from _valued(index, index + 2, (word + following).translate(_DIGIT_LOOKS))
        if following and following[0] in _DIGITS:
            if gap == ":" or (gap == "," and len(following) == 3):
                continue
            if len(word) == 1 and len(following) == 1 and "," not in gap and len(gap) < 4:
                yield from _valued(index, index + 2, word + following)
            if gap == ".":
                yield from _valued(index, index + 2, word, whole=False)
                continue
        if index and words[index - 1][0] in _DIGITS and gaps[index] in (".", ":", ","):
            continue
        if gap == "" and following in COUNTED:
            continue
        if gap == "" and following in _ORDINAL_ENDINGS:
            yield from _valued(index, index + 2, word, prefix=_ORDINAL_PREFIX)
            continue
        yield from _valued(index, index + 1, word)


def _valued(
    start: int, end: int, digits: str, *, whole: bool = True, prefix: str = NUMBER_PREFIX
) -> Iterator[tuple[int, int, str, bool]]:
    if len(digits) <= 3 and digits.isdecimal():
        yield start, end, prefix + str(int(digits)), whole


@functools.cache
def _number_labels(number: str, *, closed: bool) -> tuple[str, ...]:
    """The classes of a number (prefix and value). Cached: it is a pure function of a thousand values."""
    value = int(number[1:])
    if number[0] == FOREIGN_NUMBER_PREFIX:
        return ("foreign-number", "foreign-adult" if value >= _ADULT else "foreign-minor")
    if number[0] == _ORDINAL_PREFIX:
        return _ordinal_labels(value)
    labels = ["number"]
    if value >= _ADULT:
        labels.append("adult")
    else:
        labels.append("minor")
    if value == 18:
        labels.append("eighteen")
    if 6 <= value <= 17:
        labels.append("teenage")
    if 1 <= value <= _LAST_GRADE:
        labels.append("grade")
    if closed and value >= _SMALLEST_BARE_AGE:
        labels += [label + "!" for label in labels]
    return tuple(labels)


def _ordinal_labels(value: int) -> tuple[str, ...]:
    labels = ["minor-th"] if value <= _ADULT else []
    if 1 <= value <= _LAST_GRADE:
        labels += ["grade-word", "grade-th"]
    return tuple(labels)


def _ends_a_phrase(tokens: Tokens, end: int) -> bool:
    if end == len(tokens.words):
        return True
    gap = tokens.separators[end].replace(BLANK, "").lstrip(" ")
    return bool(gap) and (gap[0] in _CLOSERS or gap.startswith(". ") or "\n" in gap)
