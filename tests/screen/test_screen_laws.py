from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.evasions import single
from support.screen_corpora import BENIGN, PASS, REFUSE, lines

from shared.screen import Screen, ScreenInput, Verdict

SCREEN = Screen.standard()
REFUSED, HARMLESS = lines(REFUSE), lines(BENIGN)
any_text = st.text(st.characters(), max_size=300)
nasty_text = st.text(st.sampled_from("teнñ1!|()[]{}:.-*_ \n%&#;\\u0\u200b\u0301ا少子한क"), max_size=120)


@pytest.fixture(scope="module")
def with_operator_rules(tmp_path_factory: pytest.TempPathFactory) -> Screen:
    path: Path = tmp_path_factory.mktemp("operator") / "rules.toml"
    path.write_text('[[rule]]\nid = "own"\nreason = "x"\nterms = ["ada example", "blue"]\n', encoding="utf-8")
    return Screen.with_operator_rules(path)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(REFUSED),
    st.sampled_from(HARMLESS),
    st.sampled_from(HARMLESS),
    st.sampled_from([", ", "\n", "; "]),
)
def test_a_refused_text_stays_refused_with_harmless_text_around_it(
    term: str, before: str, after: str, separator: str
) -> None:
    assert not SCREEN.check(ScreenInput(separator.join((before, term, after)))).allowed


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(REFUSED), st.data())
def test_an_evaded_text_stays_refused_with_harmless_text_around_it(term: str, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([text for _, text in single(term)]))
    assume(not SCREEN.check(ScreenInput(text)).allowed)
    assert not SCREEN.check(ScreenInput(f"a boat on a lake, {text}, oil on canvas")).allowed


@settings(max_examples=200, deadline=None)
@given(any_text | nasty_text, any_text | st.none(), nasty_text | st.none(), any_text | st.none())
def test_a_check_never_raises_and_never_fails_inside(
    prompt: str, negative: str | None, weights: str | None, enhanced: str | None
) -> None:
    verdict = SCREEN.check(ScreenInput(prompt, negative, weights, enhanced))
    assert isinstance(verdict, Verdict)
    assert verdict.allowed == (verdict.rule_id is None)
    assert verdict.rule_id != "screen-error"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([*REFUSED, *lines(PASS), *HARMLESS]) | nasty_text)
def test_an_operators_rules_never_make_a_refused_text_pass(with_operator_rules: Screen, text: str) -> None:
    if not SCREEN.check(ScreenInput(text)).allowed:
        assert not with_operator_rules.check(ScreenInput(text)).allowed


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(REFUSED), st.sampled_from(HARMLESS))
def test_a_further_field_never_makes_a_refused_text_pass(term: str, other: str) -> None:
    assert not SCREEN.check(ScreenInput(other, None, term, other)).allowed
    assert not SCREEN.check(ScreenInput(term, other, None, other)).allowed
    assert not SCREEN.check(ScreenInput(other, None, None, term)).allowed


@settings(max_examples=100, deadline=None)
@given(any_text)
def test_a_verdict_does_not_depend_on_what_was_checked_before(text: str) -> None:
    first = SCREEN.check(ScreenInput(text))
    SCREEN.check(ScreenInput("a teen"))
    assert SCREEN.check(ScreenInput(text)) == first
