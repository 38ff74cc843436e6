from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from shared.screen import RulesError, Screen, ScreenInput
from shared.screen.matching import Matcher
from shared.screen.normalise import fold
from shared.screen.patterns import parse_pattern
from shared.screen.rules import Rule, expand_braces, operator_rules, standard_ruleset

RULESET = standard_ruleset()
NUMBER_CLASSES = {"number", "minor", "adult", "eighteen", "teenage", "grade"}
SPECIAL_CLASSES = {"foreign-number", "foreign-minor", "foreign-adult", "grade-th"}


def given(rule: Rule, text: str) -> ScreenInput:
    return ScreenInput("a boat on a lake", negative_prompt=text) if rule.negative else ScreenInput(text)


@pytest.mark.parametrize("rule", RULESET.rules, ids=lambda rule: rule.id)
def test_a_rule_refuses_its_examples_of_what_it_is_for(rule: Rule) -> None:
    verdicts = {text: Screen.standard().check(given(rule, text)) for text in rule.examples_refused}
    assert verdicts
    assert [text for text, verdict in verdicts.items() if verdict.allowed] == []
    assert "screen-error" not in {verdict.rule_id for verdict in verdicts.values()}


@pytest.mark.parametrize("rule", RULESET.rules, ids=lambda rule: rule.id)
def test_a_rule_passes_its_examples_of_what_it_must_leave_alone(rule: Rule) -> None:
    assert rule.examples_passed
    wrong = [text for text in rule.examples_passed if not Screen.standard().check(given(rule, text)).allowed]
    assert wrong == []


def test_every_rule_and_every_allowance_says_why_it_exists() -> None:
    assert all(len(rule.reason) > 20 for rule in RULESET.rules)
    assert all(len(allowance.reason) > 20 for allowance in RULESET.allowances)


def test_rule_ids_are_unique() -> None:
    ids = [rule.id for rule in RULESET.rules]
    assert len(ids) == len(set(ids))


def test_patterns_name_only_classes_that_exist() -> None:
    known = {*RULESET.classes, *NUMBER_CLASSES, *(name + "!" for name in NUMBER_CLASSES), *SPECIAL_CLASSES}
    labels = {label for rule in RULESET.rules for text in rule.patterns for label, _ in parse_pattern(text)}
    assert {label for label in labels if not label.startswith("=")} <= known


def test_every_item_of_a_pattern_is_understood() -> None:
    texts = [text for rule in RULESET.rules for text in rule.patterns]
    assert [text for text in texts if len(parse_pattern(text)) != len(text.split())] == []


def test_expressions_repeat_nothing_without_a_bound_so_that_they_take_linear_time() -> None:
    expressions = [text for rule in RULESET.rules for text in rule.expressions]
    expressions += [text for rule in RULESET.rules for _, text in rule.joined_expressions]
    assert expressions
    unbounded = re.compile(r"(?<!\\)[*+]|\{\d*,\}")
    assert [text for text in expressions if unbounded.search(text)] == []


PHRASES = [text for allowance in RULESET.allowances for text in (*allowance.phrases, *allowance.anywhere)]


def test_allowed_compounds_are_allowed() -> None:
    assert [text for text in PHRASES if not Screen.standard().check(ScreenInput(text)).allowed] == []


def test_every_allowed_compound_is_needed() -> None:
    """An allowance that nothing refuses is a hole without a use."""
    drawn = (rule for rule in RULESET.rules if not rule.negative)
    without = Matcher.build(dataclasses.replace(RULESET, allowances=()), drawn, allow=True)
    assert [text for text in PHRASES if without.first_refusal(fold(text)) is None] == []


@pytest.mark.parametrize(
    "text",
    [
        "baby blue-eyed",
        "baby blue girl",
        "baby, blue",
        "baby bluegirl",
        "blue baby",
        "baby oil girl",
        "my baby blue baby",
        "kid gloves kid",
        "a minor key, a minor",
        "baby  elephant woman",
        "non-baby blue",
        "baby powder face",
        "old school girl",
        "art students daughter",
        "b a b y blue",
    ],
)
def test_an_allowed_compound_is_no_way_around_the_rules(text: str) -> None:
    assert not Screen.standard().check(ScreenInput(text)).allowed


def test_braces_list_alternatives() -> None:
    assert list(expand_braces("kid{,s} {glove,boot}")) == ["kid glove", "kid boot", "kids glove", "kids boot"]


@pytest.mark.parametrize("text", ["{a,{b,c}}", "a}", "{a"])
def test_braces_that_do_not_match_are_an_error(text: str) -> None:
    with pytest.raises(RulesError, match="braces"):
        list(expand_braces(text))


OPERATOR_FILE = """
[[rule]]
id = "real-persons"
reason = "Persons who have not agreed to be shown."
terms = ["Ada Example", "Blaise Beispiel"]
anywhere = ["山田花子"]
"""


@pytest.fixture
def operator_file(tmp_path: Path) -> Path:
    path = tmp_path / "operator.toml"
    path.write_text(OPERATOR_FILE, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text", ["ada example on a boat", "A D A  E X A M P L E", "àda_exámple", "山田 花子"]
)
def test_an_operators_terms_are_refused_under_the_operators_id(operator_file: Path, text: str) -> None:
    verdict = Screen.with_operator_rules(operator_file).check(ScreenInput(text))
    assert not verdict.allowed
    assert verdict.rule_id == "operator-real-persons"


def test_an_operators_rules_leave_the_standard_ones_in_force(operator_file: Path) -> None:
    screen = Screen.with_operator_rules(operator_file)
    assert not screen.check(ScreenInput("a teen")).allowed
    assert screen.check(ScreenInput("a boat")).allowed


def test_no_allowed_compound_hides_an_operators_term(tmp_path: Path) -> None:
    path = tmp_path / "operator.toml"
    path.write_text('[[rule]]\nid = "colour"\nreason = "x"\nterms = ["baby blue"]\n', encoding="utf-8")
    assert not Screen.with_operator_rules(path).check(ScreenInput("a baby blue boat")).allowed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no \\[\\[rule\\]\\]"),
        ('[[allow]]\nphrases = ["teen"]\n', "only \\[\\[rule\\]\\]"),
        ('[[rule]]\nid = "a"\nreason = "x"\nterms = ["b"]\nallow = ["teen"]\n', "unknown keys: allow"),
        ('[[rule]]\nid = "a"\nreason = "x"\nterms = ["b"]\nfield = "negative"\n', "unknown keys: field"),
        ('[[rule]]\nid = "a"\nreason = "x"\n', "neither terms nor anywhere"),
        ('[[rule]]\nid = "a"\nterms = ["b"]\n', "needs a reason"),
        ('[[rule]]\nid = "A B"\nreason = "x"\nterms = ["b"]\n', "needs an id"),
        ('[[rule]]\nid = "a"\nreason = "x"\nterms = [""]\n', "empty text"),
        ('[[rule]]\nid = "a"\nreason = "x"\nterms = "b"\n', "list of texts"),
        ('[[rule]]\nid = "a"\nreason = "x"\nterms = ["!!"]\n', "no letters"),
        (
            '[[rule]]\nid = "a"\nreason = "x"\nterms = ["b"]\n' * 2,
            "differ",
        ),
        ("rule = 3\n", "no \\[\\[rule\\]\\]"),
        ("[[rule\n", "cannot be read"),
    ],
)
def test_a_wrong_operators_file_is_an_error_that_says_what_is_wrong(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "operator.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RulesError, match=message):
        Screen.with_operator_rules(path)


def test_a_missing_operators_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match=r"absent\.toml"):
        operator_rules(tmp_path / "absent.toml")
