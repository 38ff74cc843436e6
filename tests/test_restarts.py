from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from workers.restarts import FORGOTTEN_AFTER_S, LONGEST_PAUSE_S, Restarts


@dataclass
class Clock:
    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def test_each_failure_in_a_row_doubles_the_pause_up_to_five_minutes(tmp_path: Path) -> None:
    pauses = [Restarts(tmp_path / "state" / "failures.json", Clock()).failed() for _ in range(12)]
    assert pauses[:5] == [1, 2, 4, 8, 16]
    assert pauses[-1] == LONGEST_PAUSE_S == 300


def test_a_success_ends_the_row(tmp_path: Path) -> None:
    starts = Restarts(tmp_path / "failures.json", Clock())
    starts.failed()
    starts.failed()
    starts.succeeded()
    starts.succeeded()
    assert starts.count() == 0
    assert starts.failed() == 1


def test_failures_an_hour_ago_are_forgotten(tmp_path: Path) -> None:
    clock = Clock()
    starts = Restarts(tmp_path / "failures.json", clock)
    starts.failed()
    clock.now += FORGOTTEN_AFTER_S - 1
    assert starts.count() == 1
    clock.now += 1
    assert starts.failed() == 1


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"count":1}', '{"count":"x","at":0}', '{"count":null,"at":1}']
)
def test_a_broken_record_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "failures.json").write_text(content)
    assert Restarts(tmp_path / "failures.json", Clock()).failed() == 1


def test_where_nothing_can_be_remembered_every_pause_is_the_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    starts = Restarts(tmp_path / "file" / "failures.json", Clock())
    assert [starts.failed(), starts.failed()] == [1, 1]
    starts.succeeded()
