"""The bars of the content screen, on the corpora its rules may be tuned on. The held-out ones are for the benchmark."""

from __future__ import annotations

import pytest
from shared.screen import Screen
from support.evasions import EVASIONS, paired, single
from support.screen_corpora import ADULT_SERVICE, BENIGN, PASS, REFUSE, evaded, lines, tally

# A prime, so that over the terms every pair of evasions gets its turn.
EVERY_NTH_PAIR = 97


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
    result = tally(Screen.standard(), evaded(lines(REFUSE)[::3], single), allowed=False)
    assert result.total > 10_000
    assert result.rate <= 0.02, result.wrong[:50]


@pytest.mark.parametrize("evasion", EVASIONS, ids=lambda evasion: evasion.name)
def test_no_single_evasion_is_a_way_through(evasion: object) -> None:
    """A hole in one transformation would hide in the average over all of them."""
    texts = [
        text
        for term in lines(REFUSE)[::7]
        for name, text in single(term)
        if name == getattr(evasion, "name", "")
    ]
    result = tally(Screen.standard(), texts, allowed=False)
    assert result.total
    assert result.rate <= 0.06, result.wrong


def test_recall_under_pairs_of_evasions() -> None:
    texts = list(evaded(lines(REFUSE)[::31], paired))[:: EVERY_NTH_PAIR // 24]
    result = tally(Screen.standard(), texts, allowed=False)
    assert result.total > 5_000
    assert result.rate <= 0.02, result.wrong[:50]
