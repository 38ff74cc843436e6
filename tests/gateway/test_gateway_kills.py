"""The short form of `python -m tests.chaos.gateway_kills`."""

from __future__ import annotations

from pathlib import Path

from chaos.gateway_kills import World, free_port, run


def test_a_killed_gateway_leaves_every_row_with_one_element_and_every_element_with_its_row(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    outcome = run(World(redis_url, database_url, tmp_path, free_port()), kills=2, seed=7)
    assert outcome.breaches == []
    assert outcome.kills == 2
    assert outcome.rows == outcome.acknowledged > 0
