"""The short form of `python -m tests.chaos`: every scenario for a few seconds, some of them side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from chaos.scenarios import SCENARIOS, Outcome, run, run_poison
from chaos.world import Workshop

SIDE_BY_SIDE = 5
SEED = 7


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Outcome]]]:
    """Runs those scenarios whose tests were selected; most of their time is waiting."""

    def short(name: str) -> Callable[[], Outcome]:
        return lambda: run(workshop, SCENARIOS[name], kills=3, seconds=2, seed=SEED)

    selected = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    ]
    with Workshop() as workshop, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        runs: dict[str, Future[Outcome]] = {}
        if any(item.name.startswith("test_a_job_that_kills") for item in request.session.items):
            # First, because it takes longest.
            runs["poison"] = pool.submit(run_poison, workshop, seed=SEED)
        runs |= {name: pool.submit(short(name)) for name in selected}
        yield runs


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_job_ends_once_with_the_files_it_describes_and_nothing_is_left_behind(
    outcomes: dict[str, Future[Outcome]], name: str
) -> None:
    outcome = outcomes[name].result()
    assert outcome.breaches == []
    assert outcome.completed == outcome.jobs > 0
    assert outcome.kills >= 3


def test_a_job_that_kills_its_worker_is_given_up_after_three_deaths_of_its_own_and_no_other_is(
    outcomes: dict[str, Future[Outcome]],
) -> None:
    outcome = outcomes["poison"].result()
    assert outcome.breaches == []
    assert outcome.failed == 6
    assert outcome.completed == outcome.jobs - 6
