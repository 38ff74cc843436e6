"""The bars of the content screen, on the corpora its rules may be tuned on; the benchmark has the others."""

from __future__ import annotations

import pytest
from support.evasions import EVASIONS, Evasion, paired, single
from support.screen_corpora import ADULT_SERVICE, BENIGN, PASS, REFUSE, evaded, lines, tally

from shared.screen import Screen

EVERY_NTH_TERM, EVERY_NTH_PAIR = 7, 29


def test_recall_on_plain_terms() -> None:
    result = tally(Screen.standard(), lines(REFUSE), allowed=False)
    assert result.total >= 400
    assert result.rate <= 0.005, result.wrong


def test_near_misses_pass() -> None:
    result = tally(Screen.standard(), lines(PASS), allowed=True)
    assert result.total >= 400
    assert result.wrong == ()


def test_false_refusals_on_benign_prompts() -> None:
    result = tally(Screen.standard(), lines(BENIGN), allowed=True)
    assert result.total >= 1_000
    assert result.rate <= 0.005, result.wrong


def test_false_refusals_on_the_ordinary_vocabulary_of_an_adult_service() -> None:
    result = tally(Screen.standard(), lines(ADULT_SERVICE), allowed=True)
    assert result.total >= 340
    assert result.rate <= 0.02, result.wrong


def test_recall_under_every_evasion() -> None:
    result = tally(Screen.standard(), evaded(lines(REFUSE)[::EVERY_NTH_TERM], single), allowed=False)
    assert result.total > 4_000
    assert result.rate <= 0.02, result.wrong[:50]


@pytest.mark.parametrize("evasion", EVASIONS, ids=lambda evasion: evasion.name)
def test_no_single_evasion_is_a_way_through(evasion: Evasion) -> None:
    """A hole in one transformation would hide in the average over all of them."""
    texts = [
        text
        for term in lines(REFUSE)[::EVERY_NTH_TERM]
        for name, text in single(term)
        if name == evasion.name
    ]
    result = tally(Screen.standard(), texts, allowed=False)
    assert result.total
    assert result.rate <= 0.06, result.wrong


def test_recall_under_pairs_of_evasions() -> None:
    texts = list(evaded(lines(REFUSE)[::EVERY_NTH_TERM], paired))[::EVERY_NTH_PAIR]
    result = tally(Screen.standard(), texts, allowed=False)
    assert result.total > 3_000
    assert result.rate <= 0.02, result.wrong[:50]
