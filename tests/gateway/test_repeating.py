from __future__ import annotations

import threading

import pytest

from gateway.repeating import repeating
from shared.errors import ServiceUnavailable

LONG_S = 30


class Rounds:
    """An action that fails in its first rounds as told."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.number = 0
        self.reached = threading.Event()

    def __call__(self) -> None:
        self.number += 1
        if self.faults:
            raise self.faults.pop(0)
        self.reached.set()


@pytest.mark.parametrize("fault", [ServiceUnavailable("the database is away"), RuntimeError("planted text")])
def test_a_round_that_fails_is_told_and_the_next_one_comes(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    rounds = Rounds(fault)
    with repeating("counting", rounds, 0.001):
        assert rounds.reached.wait(LONG_S)
    assert "counting failed" in caplog.messages[0]


def test_the_end_waits_for_no_pause() -> None:
    rounds = Rounds()
    with repeating("counting", rounds, LONG_S):
        assert rounds.reached.wait(LONG_S)
    assert rounds.number == 1
