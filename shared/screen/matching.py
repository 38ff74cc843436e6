"""The rules compiled for matching: which of them, if any, a folded text breaks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from shared.screen import characters, patterns
from shared.screen.lexicon import Kind, Lexicon, Span, Tokens
from shared.screen.normalise import fold, joined_ideographs
from shared.screen.rules import Rule, Ruleset

PERSON = "person"
"""The class of words for people; an allowed compound in front of one is no longer plainly something else."""
ADULTHOOD = "adulthood"

_SIGNS = re.escape(characters.SIGNS)
_SIGN_IN_WORD = re.compile(rf"[^\W_][{_SIGNS}]+[^\W_]|[@$€£¢¥§][^\W_]|[^\W_][@$€£¢¥§]|[|(\\/]")
# Letters drawn with several signs, read before the signs one by one.
_DRAWN_LETTERS = (
    ("|<", "k"),
    ("|3", "b"),
    ("|-|", "h"),
    ("|\\|", "n"),
    ("|)", "d"),
    ("()", "o"),
    ("\\/", "v"),
)
_MASKED = re.compile(r"(?<![a-z*#])(?=[a-z*#]{3,16}(?![a-z*#]))[a-z]+[*#]+[a-z*#]*")
# More starred-out words than this are themselves a reason to refuse; the bound keeps the test linear.
_MAX_MASKED = 64


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a text: cut into tokens, its entries found."""

    folded: str
    tokens: Tokens
    spans: tuple[Span, ...]

    def places(self, label: str) -> list[tuple[int, int]]:
        """Offsets (start, end) of the class `label`, ascending."""
        wanted = [span for span in self.spans if span.entry.label == label]
        if not wanted:
            return []
        offsets, position = [], 0
        for separator, word in zip(self.tokens.separators, (*self.tokens.words, ""), strict=True):
            position += len(separator)
            offsets.append((position, position + len(word)))
            position += len(word)
        return sorted((offsets[span.start][0], offsets[span.end - 1][1]) for span in wanted)


@dataclass(frozen=True, slots=True)
class Matcher:
    """Compiled rules of one direction (what is drawn, or the negative prompt)."""

    lexicon: Lexicon
    tree: patterns.Node
    anywhere: tuple[tuple[str, str], ...]
    allowed_anywhere: tuple[str, ...]
    expressions: tuple[tuple[re.Pattern[str], str], ...]
    joined_expressions: tuple[tuple[re.Pattern[str], str], ...]
    masked: Mapping[int, tuple[str, ...]]

    @classmethod
    def build(cls, ruleset: Ruleset, rules: Iterable[Rule], *, allow: bool) -> Matcher:
        """`allow` says whether the allow list applies; it never does to an operator's rules."""
        rules = tuple(rules)
        labelled = [
            (sequence, rule.id)
            for rule in rules
            for pattern in rule.patterns
            for sequence in patterns.sequences(pattern)
        ]
        used = {label for sequence, _ in labelled for label in sequence}
        return cls(
            lexicon=Lexicon.build(
                _terms(ruleset, rules, used, allow=allow), ruleset.natural_words, ruleset.natural_parts
            ),
            tree=patterns.build_tree(labelled),
            anywhere=tuple(
                (joined, rule.id) for rule in rules for text in rule.anywhere if (joined := _joined(text))
            ),
            allowed_anywhere=tuple(_joined(text) for item in ruleset.allowances for text in item.anywhere)
            if allow
            else (),
            expressions=tuple((re.compile(text), rule.id) for rule in rules for text in rule.expressions),
            joined_expressions=tuple(
                (re.compile(text), rule.id) for rule in rules for text in rule.joined_expressions
            ),
            masked=_by_length(ruleset.masked) if allow else {},
        )

    def read(self, folded: str) -> Iterator[Reading]:
        """The text with signs as separators and, where signs stand in words, with signs as letters."""
        tokens = Tokens.of(folded)
        yield Reading(folded, tokens, tuple(self.lexicon.spans(tokens)))
        if _SIGN_IN_WORD.search(folded):
            drawn = folded
            for signs, letter in _DRAWN_LETTERS:
                drawn = drawn.replace(signs, letter)
            tokens = Tokens.of(drawn, signs_are_letters=True)
            yield Reading(drawn, tokens, tuple(self.lexicon.spans(tokens)))

    def first_refusal(self, folded: str) -> str | None:
        """The id of a rule that the text breaks, None where it breaks none."""
        for reading in self.read(folded):
            rule_id = self._refusal(reading)
            if rule_id:
                return rule_id
        for expression, rule_id in self.expressions:
            if expression.search(folded):
                return rule_id
        return self._masked_refusal(folded) or self._joined_refusal(folded)

    def _refusal(self, reading: Reading) -> str | None:
        allowed: list[Span] | None = None
        edges = patterns.class_edges(reading.tokens, reading.spans)
        refusals = [
            (span.start, span.end, span.entry.label)
            for span in reading.spans
            if span.entry.kind is Kind.REFUSE
        ]
        refusals.extend(patterns.matches(self.tree, edges))
        if not refusals:
            return None
        allowed = [
            span
            for span in reading.spans
            if span.entry.kind is Kind.ALLOW and _stands_alone(span, reading.tokens, edges)
        ]
        covered = _cover(allowed)
        for start, end, rule_id in refusals:
            if covered.get(start, -1) < end:
                return rule_id
        return None

    def _masked_refusal(self, folded: str) -> str | None:
        """Words with letters starred out, held against the plainest terms of the same length."""
        if not self.masked or ("*" not in folded and "#" not in folded):
            return None
        for count, match in enumerate(_MASKED.finditer(folded)):
            word = match[0].replace("#", "*")
            if count >= _MAX_MASKED:
                return "masked-word"
            shown = [(index, letter) for index, letter in enumerate(word) if letter != "*"]
            if len(shown) < 2:
                continue
            for term in self.masked.get(len(word), ()):
                if all(term[index] == letter for index, letter in shown):
                    return "masked-word"
        return None

    def _joined_refusal(self, folded: str) -> str | None:
        joined = joined_ideographs(folded)
        if joined is None:
            return None
        for text in self.allowed_anywhere:
            joined = joined.replace(text, "\n")
        single = re.sub(r"([^\W\d])\1+", r"\1", joined)
        for version in (joined,) if single == joined else (joined, single):
            for text, rule_id in self.anywhere:
                if text in version:
                    return rule_id
            for expression, rule_id in self.joined_expressions:
                if expression.search(version):
                    return rule_id
        return None


def _terms(
    ruleset: Ruleset, rules: tuple[Rule, ...], used: set[str], *, allow: bool
) -> Iterator[tuple[str, Kind, str]]:
    for rule in rules:
        yield from ((term, Kind.REFUSE, rule.id) for term in rule.terms)
    for label in sorted(used):
        if label.startswith("="):
            yield label[1:], Kind.CLASS, label
    for name, listed in ruleset.classes.items():
        if name in used or name in (PERSON, ADULTHOOD):
            yield from ((text, Kind.CLASS, name) for text in listed)
    if used:
        for value, listed in ruleset.numbers.items():
            yield from ((text, Kind.CLASS, f"{patterns.NUMBER_PREFIX}{value}") for text in listed)
    if not allow:
        return
    for item in ruleset.allowances:
        yield from ((phrase, Kind.ALLOW, "allow") for phrase in item.phrases)
    for core in ruleset.compound_core:
        yield from ((left + core, Kind.REFUSE, "compound") for left in ruleset.compound_left)
        yield from ((core + right, Kind.REFUSE, "compound") for right in ruleset.compound_right)


def _stands_alone(span: Span, tokens: Tokens, edges: patterns.Edges) -> bool:
    """Whether an allowed compound is just that: glued to nothing and not describing a person."""
    before, after = tokens.separators[span.start], tokens.separators[span.end]
    if span.start > 0 and before in ("", "-", "_"):
        return False
    if span.end < len(tokens.words) and after in ("", "-", "_"):
        return False
    return after.strip() != "" or all(label != PERSON for _, label in edges.get(span.end, ()))


def _cover(allowed: Iterable[Span]) -> dict[int, int]:
    """For each token inside an allowed span, where that span ends."""
    covered: dict[int, int] = {}
    for span in allowed:
        for index in range(span.start, span.end):
            covered[index] = max(covered.get(index, -1), span.end)
    return covered


def _joined(text: str) -> str:
    return joined_ideographs(fold(text)) or fold(text)


def _by_length(terms: Iterable[str]) -> dict[int, tuple[str, ...]]:
    grouped: dict[int, list[str]] = {}
    for term in terms:
        grouped.setdefault(len(term), []).append(fold(term))
    return {length: tuple(listed) for length, listed in grouped.items()}
