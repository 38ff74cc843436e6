"""The rules compiled for matching: which of them, if any, a folded text breaks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from shared.screen import characters, patterns, weights
from shared.screen.lexicon import Findings, Kind, Lexicon, Span, Tokens, without_repeats
from shared.screen.normalise import BLANK, blank_weights, fold, joined_ideographs
from shared.screen.rules import Rule, Ruleset

PERSON = "person"
"""The class of words for people; an allowed compound in front of one is no longer plainly something else."""
ADULTHOOD = "adulthood"
LOWERED_RULE = "adulthood-lowered"

_SIGNS = re.escape(characters.SIGNS)
# Signs that are read as letters anywhere, those that are where they touch a word, and two drawn letters.
# Each branch begins with a sign, so that the search skips from sign to sign.
_SIGN_IN_WORD = re.compile(rf"[@$|€£¢¥§]|[{_SIGNS}](?:(?=[^\W_])|(?<=[^\W_].))|\(\)|\\/", re.DOTALL)
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
    """One way to read a text: cut into tokens, what stands in it, and its classes by where they begin."""

    tokens: Tokens
    findings: Findings
    edges: patterns.Edges

    def places(self, label: str) -> list[tuple[int, int]]:
        """Offsets (start, end) of the class `label`, ascending."""
        wanted = [(start, end) for start, end, labels in self.findings.classes if label in labels]
        if not wanted:
            return []
        offsets, position = [], 0
        for separator, word in zip(self.tokens.separators, (*self.tokens.words, ""), strict=True):
            position += len(separator)
            offsets.append((position, position + len(word)))
            position += len(word)
        return sorted((offsets[start][0], offsets[end - 1][1]) for start, end in wanted)


@dataclass(frozen=True, slots=True)
class Matcher:
    """Compiled rules of one direction (what is drawn, or the negative prompt)."""

    lexicon: Lexicon
    tree: patterns.Node
    anywhere: tuple[tuple[str, str], ...]
    allowed_anywhere: tuple[str, ...]
    expressions: tuple[tuple[re.Pattern[str], str], ...]
    joined_expressions: tuple[tuple[frozenset[str], re.Pattern[str], str], ...]
    masked: Mapping[int, tuple[str, ...]]
    guards_adulthood: bool

    @classmethod
    def build(
        cls, ruleset: Ruleset, rules: Iterable[Rule], *, allow: bool, guards_adulthood: bool = False
    ) -> Matcher:
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
                (frozenset(needed), re.compile(text), rule.id)
                for rule in rules
                for needed, text in rule.joined_expressions
            ),
            masked=_by_length(ruleset.masked) if allow else {},
            guards_adulthood=guards_adulthood,
        )

    def first_refusal(self, folded: str) -> str | None:
        """The id of a rule that the text breaks, None where it breaks none.

        Raises `UnreadableError` for text made to cost time.
        """
        plain = blank_weights(folded)
        for reading in self._readings(plain):
            rule_id = self._refusal(reading)
            if rule_id:
                return rule_id
            if (
                self.guards_adulthood
                and weights.may_lower(folded)
                and weights.lowers_any(folded, reading.places(ADULTHOOD))
            ):
                return LOWERED_RULE
        for expression, rule_id in self.expressions:
            if expression.search(plain):
                return rule_id
        return self._masked_refusal(folded) or self._joined_refusal(plain)

    def _readings(self, folded: str) -> Iterator[Reading]:
        """The text with signs as separators and, where signs stand in words, with signs as letters."""
        yield self._read(Tokens.of(folded))
        if _SIGN_IN_WORD.search(folded):
            drawn = folded
            for signs, letter in _DRAWN_LETTERS:
                # Padded to the length of the signs, so that offsets stay those of the text.
                drawn = drawn.replace(signs, letter + BLANK * (len(signs) - 1))
            yield self._read(Tokens.of(drawn, signs_are_letters=True))

    def _read(self, tokens: Tokens) -> Reading:
        findings = self.lexicon.find(tokens)
        return Reading(tokens, findings, patterns.class_edges(tokens, findings) if self.tree.children else {})

    def _refusal(self, reading: Reading) -> str | None:
        refusals = [(start, end, labels[0]) for start, end, labels in reading.findings.refused]
        refusals.extend(patterns.matches(self.tree, reading.edges))
        if not refusals:
            return None
        covered = _cover(span for span in reading.findings.allowed if _stands_alone(span, reading))
        return next((rule_id for start, end, rule_id in refusals if covered.get(start, -1) < end), None)

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
        present = set(joined)
        for text in self.allowed_anywhere:
            if present.issuperset(text):
                joined = joined.replace(text, BLANK)
        for version in dict.fromkeys((joined, without_repeats(joined))):
            for text, rule_id in self.anywhere:
                # Most terms hold a character that the text lacks; only the others are searched for.
                if present.issuperset(text) and text in version:
                    return rule_id
        for needed, expression, rule_id in self.joined_expressions:
            if not needed.isdisjoint(present) and expression.search(joined):
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
        for value, listed in ruleset.foreign_numbers.items():
            yield from ((text, Kind.CLASS, f"{patterns.FOREIGN_NUMBER_PREFIX}{value}") for text in listed)
    if not allow:
        return
    for item in ruleset.allowances:
        yield from ((phrase, Kind.ALLOW, "allow") for phrase in item.phrases)
    for core in ruleset.compound_core:
        yield from ((left + core, Kind.COMPOUND, "compound") for left in ruleset.compound_left)
        yield from ((core + right, Kind.COMPOUND, "compound") for right in ruleset.compound_right)


def _stands_alone(span: Span, reading: Reading) -> bool:
    """Whether an allowed compound is just that: glued to nothing and not describing a person."""
    tokens = reading.tokens
    start, end, _ = span
    before, after = tokens.separators[start], tokens.separators[end]
    if start > 0 and before in ("", "-", "_"):
        return False
    if end < len(tokens.words) and after in ("", "-", "_"):
        return False
    return after.strip() != "" or all(PERSON not in labels for _, labels in reading.edges.get(end, ()))


def _cover(allowed: Iterable[Span]) -> dict[int, int]:
    """For each token inside an allowed span, where that span ends."""
    covered: dict[int, int] = {}
    for start, end, _ in allowed:
        for index in range(start, end):
            covered[index] = max(covered.get(index, -1), end)
    return covered


def _joined(text: str) -> str:
    return joined_ideographs(fold(text)) or fold(text)


def _by_length(terms: Iterable[str]) -> dict[int, tuple[str, ...]]:
    grouped: dict[int, list[str]] = {}
    for term in terms:
        grouped.setdefault(len(term), []).append(fold(term))
    return {length: tuple(listed) for length, listed in grouped.items()}
