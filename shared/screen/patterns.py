"""Sequences of word classes: "looks 15", "15 years old", "young blonde girl".

A pattern is a sequence of classes; the classes of a text are the lexicon's class spans plus its numbers. All
patterns share one tree, so the work at each token is bounded by the size of the tree (a few hundred nodes, of
which a text reaches a handful), and the whole is linear in the text.

Numbers get their classes from their value and from what follows them, so that "16 mm" and "9:16" are not ages:

``<minor>`` 0 to 17, ``<teenage>`` 6 to 17, ``<eighteen>``, ``<adult>`` 18 and more, ``<number>`` any,
``<grade>`` 1 to 13, and with ``!`` (``<minor!>``, from 3 on) only where the number ends a phrase: at
punctuation or at the end of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shared.screen.lexicon import Kind, Span, Tokens

NUMBER_PREFIX = "#"
"""Class labels of number words are this and the value."""

_ITEM = re.compile(r"<([^>]+)>(\?)?|(=[^\s<>?=]+)(\?)?")
_CLOSERS = frozenset(",;)!?]}|\n")
_DIGIT_LOOKS = str.maketrans("lioszb", "110528")

Edges = Mapping[int, Sequence[tuple[int, str]]]


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


def class_edges(tokens: Tokens, spans: Iterable[Span]) -> dict[int, list[tuple[int, str]]]:
    """For each token that a class begins at: where it ends, and its label."""
    edges: dict[int, list[tuple[int, str]]] = {}
    numbers: list[tuple[int, int, int]] = []
    for span in spans:
        if span.entry.kind is not Kind.CLASS:
            continue
        if span.entry.label.startswith(NUMBER_PREFIX):
            numbers.append((span.start, span.end, int(span.entry.label[1:])))
        else:
            edges.setdefault(span.start, []).append((span.end, span.entry.label))
    for start, end, value in (*_longest(numbers), *_digits(tokens)):
        listed = edges.setdefault(start, [])
        listed.extend((end, label) for label in _number_labels(value))
        if _ends_a_phrase(tokens, end):
            listed.extend((end, label) for label in _number_labels(value, closed=True))
    return edges


def matches(tree: Node, edges: Edges) -> Iterator[tuple[int, int, str]]:
    """(start, end, rule id) of every pattern found."""
    for start in edges:
        pending = [(start, tree)]
        while pending:
            position, node = pending.pop()
            for end, label in edges.get(position, ()):
                child = node.children.get(label)
                if child is None:
                    continue
                if child.rule_id is not None:
                    yield start, end, child.rule_id
                if child.children:
                    pending.append((end, child))


def _longest(numbers: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Numbers without those inside a longer one: the "five" of "twenty-five" is no age."""
    kept: list[tuple[int, int, int]] = []
    reach = -1
    for start, end, value in sorted(numbers, key=lambda number: (number[0], -number[1])):
        if end > reach:
            kept.append((start, end, value))
            reach = end
        elif kept and kept[-1][:2] == (start, end):
            kept.append((start, end, value))
    return kept


def _digits(tokens: Tokens) -> Iterator[tuple[int, int, int]]:
    words, gaps = tokens.words, tokens.separators
    count = len(words)
    for index, word in enumerate(words):
        following = words[index + 1] if index + 1 < count else ""
        if not word.isdigit():
            # "l5 years old": a letter for a one.
            if len(word) == 1 and word in "liosb" and following.isdigit() and gaps[index + 1] == "":
                yield from _valued(index, index + 2, (word + following).translate(_DIGIT_LOOKS))
            continue
        gap = gaps[index + 1]
        if following.isdigit():
            if gap == ":" or (gap == "," and len(following) == 3):
                continue
            if len(word) == 1 and len(following) == 1 and "," not in gap and len(gap) < 4:
                yield from _valued(index, index + 2, word + following)
            if gap == ".":
                yield from _valued(index, index + 2, word)
                continue
        elif gap == "" and len(following) == 1 and following in "liosb":
            yield from _valued(index, index + 2, (word + following).translate(_DIGIT_LOOKS))
        if index and words[index - 1].isdigit() and gaps[index] in (".", ":", ","):
            continue
        yield from _valued(index, index + 1, word)


def _valued(start: int, end: int, digits: str) -> Iterator[tuple[int, int, int]]:
    if len(digits) <= 3 and digits.isdecimal():
        yield start, end, int(digits)


def _number_labels(value: int, *, closed: bool = False) -> Iterator[str]:
    mark = "!" if closed else ""
    yield "number" + mark
    if value >= 18:
        yield "adult" + mark
    elif not closed or value >= 3:
        yield "minor" + mark
    if value == 18:
        yield "eighteen" + mark
    if 6 <= value <= 17:
        yield "teenage" + mark
    if 1 <= value <= 13:
        yield "grade" + mark


def _ends_a_phrase(tokens: Tokens, end: int) -> bool:
    if end == len(tokens.words):
        return True
    gap = tokens.separators[end].lstrip(" ")
    return bool(gap) and (gap[0] in _CLOSERS or gap.startswith(". ") or "\n" in gap)
