"""The content screen: refuses a job whose words indicate a minor, before anything is generated.

It reads words. It does not know what a picture shows and nothing here detects a person's age; it is one
layer, measured on corpora (`python -m benchmarks.screen`), and in doubt it refuses.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.errors import SettingsError
from shared.screen import weights
from shared.screen.matching import Matcher
from shared.screen.normalise import (
    UnreadableError,
    blank_weights,
    decode_escapes,
    fold,
    hidden_tags,
    squeeze_separators,
    turned_over,
)
from shared.screen.rules import RulesError, operator_rules, standard_ruleset

MAX_CHARACTERS = 12_000
"""Of each field. A prompt has at most 10,000, and the limits of `lexicon` are made for that length."""

# How much of each field is looked at where two meet; several times the longest term.
_SEAM = 120
_FEWEST_TO_JOIN = 2

ERROR_RULE = "screen-error"
LENGTH_RULE = "too-long"
NEGATIVE_WEIGHT_RULE = "negative-weight"


@dataclass(frozen=True, slots=True)
class ScreenInput:
    """The texts of one job. All but `negative_prompt` are drawn, and are read singly and joined."""

    prompt: str
    negative_prompt: str | None = None
    compel_weights: str | None = None
    enhanced_prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`rule_id` names the rule of a refusal, for the operator's own records only; None where allowed."""

    allowed: bool
    rule_id: str | None


@dataclass(frozen=True, slots=True)
class Screen:
    """The compiled rules. Build it once with `standard` or `with_operator_rules`; it never changes."""

    _drawn: Matcher
    _negative: Matcher
    _operator: Matcher | None = None

    @classmethod
    def standard(cls) -> Screen:
        """The reviewed rules of this package; compiled at the first call, about a fifth of a second."""
        return _standard()

    @classmethod
    def configured(cls, rules: Path | None) -> Screen:
        """The screen that SCREEN_RULES asks for. Raises `SettingsError` for a file that cannot be used."""
        if rules is None:
            return cls.standard()
        try:
            return cls.with_operator_rules(rules)
        except RulesError as error:
            raise SettingsError([f"SCREEN_RULES: {error}"]) from error

    @classmethod
    def with_operator_rules(cls, path: Path | str) -> Screen:
        """The standard rules and an operator's own, which can only refuse more.

        Raises `RulesError` naming what is wrong with the file.
        """
        standard, ruleset = _standard(), standard_ruleset()
        rules = operator_rules(Path(path))
        try:
            own = Matcher.build(ruleset, rules, allow=False)
        except ValueError as error:
            raise RulesError(f"{path}: {error}") from error
        return cls(standard._drawn, standard._negative, own)

    def check(self, given: ScreenInput) -> Verdict:
        """Whether the job may run. Never raises."""
        try:
            rule_id = self._first_refusal(given)
        except UnreadableError as unreadable:
            rule_id = unreadable.rule_id
        except Exception:  # noqa: BLE001 - a fault in this check must refuse the job, never let it through
            rule_id = ERROR_RULE
        return Verdict(rule_id is None, rule_id)

    def _first_refusal(self, given: ScreenInput) -> str | None:
        # The prompt itself is never left out: one that is no text at all raises here, and is refused.
        further = (given.compel_weights, given.enhanced_prompt)
        drawn = [given.prompt, *(text for text in further if text is not None)]
        negative = given.negative_prompt
        if any(len(text) > MAX_CHARACTERS for text in (*drawn, negative or "")):
            return LENGTH_RULE
        fields = [list(_readings(text)) for text in dict.fromkeys(drawn)]
        refusals = itertools.chain(
            (self._drawn_refusal(text) for texts in fields for text in texts),
            (self._drawn_refusal(seam) for seam in _seams(fields)),
            (self._negative_refusal(text) for text in _readings(negative or "")),
        )
        return next(filter(None, refusals), None)

    def _drawn_refusal(self, folded: str) -> str | None:
        rule_id = self._drawn.first_refusal(folded)
        return rule_id or (self._operator.first_refusal(folded) if self._operator else None)

    def _negative_refusal(self, folded: str) -> str | None:
        if weights.has_negative_weight(folded):
            return NEGATIVE_WEIGHT_RULE
        return self._negative.first_refusal(folded)


@functools.cache
def _standard() -> Screen:
    ruleset = standard_ruleset()
    return Screen(
        Matcher.build(
            ruleset, (rule for rule in ruleset.rules if not rule.negative), allow=True, guards_adulthood=True
        ),
        Matcher.build(ruleset, (rule for rule in ruleset.rules if rule.negative), allow=False),
    )


def _readings(text: str) -> Iterator[str]:
    """The text folded, first as it stands, then with its escapes, hidden or turned letters read."""
    yield fold(text)
    for other in (decode_escapes(text), hidden_tags(text), turned_over(text)):
        if other is not None:
            yield fold(other)


def _seams(fields: list[list[str]]) -> Iterator[str]:
    """Where fields meet, in any order: a term may stand half in each."""
    if len(fields) < _FEWEST_TO_JOIN:
        return
    # As written, and with escapes read where a field has any.
    for texts in dict.fromkeys(tuple(texts[index] for texts in fields) for index in (0, -1)):
        squeezed = [squeeze_separators(blank_weights(text)) for text in texts]
        for first, second in itertools.permutations(squeezed, 2):
            yield f"{first[-_SEAM:]}, {second[:_SEAM]}"
        if sum(map(len, squeezed)) < _SEAM:
            yield ", ".join(squeezed)
