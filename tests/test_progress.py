from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from support.plans import planned

from workers.engines.base import Pass
from workers.progress import FIRST_STEP_LIMIT_S, HANG_FACTOR, HANG_FLOOR_S, Progress, Snapshot

STEPS = 10


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> Progress:
    return Progress(lead_s=2.0, clock=clock)


def job(**config: Any) -> Pass:
    return Pass.of(planned(config={"size": "64*64", "sample_steps": STEPS, "seed": 7, **config}))


def run_steps(progress: Progress, clock: Clock, seconds: float, first: int = 1, last: int = STEPS) -> None:
    for step in range(first, last + 1):
        clock.now += seconds
        progress.on_step(step, STEPS)


def run_job(progress: Progress, clock: Clock, running: Pass, step_s: float, tail_s: float) -> None:
    progress.begin(running)
    run_steps(progress, clock, step_s)
    clock.now += tail_s
    progress.end()


def test_an_idle_worker_has_nothing_left_to_do(progress: Progress) -> None:
    assert progress.rest_s() == 0.0
    assert progress.snapshot() is None
    assert not progress.hung()


def test_before_the_first_step_the_rest_is_unknown(progress: Progress) -> None:
    progress.begin(job())
    assert progress.rest_s() is None
    assert progress.snapshot() == Snapshot(("job-1",), 0, STEPS)


def test_the_rest_is_estimated_from_the_steps_without_the_slow_first_one(
    progress: Progress, clock: Clock
) -> None:
    progress.begin(job())
    clock.now += 60
    progress.on_step(1, STEPS)
    run_steps(progress, clock, 0.5, 2, 4)
    assert progress.rest_s() == pytest.approx(6 * 0.5)
    assert progress.snapshot() == Snapshot(("job-1",), 4, STEPS)


def test_the_time_after_the_last_step_is_remembered_by_shape(progress: Progress, clock: Clock) -> None:
    run_job(progress, clock, job(num_images=3), step_s=1.0, tail_s=5.0)
    progress.begin(job(num_images=3))
    run_steps(progress, clock, 1.0, 1, 9)
    assert progress.rest_s() == pytest.approx(1 + 5)
    progress.end()
    progress.begin(job(num_images=1))
    run_steps(progress, clock, 1.0, 1, 9)
    assert progress.rest_s() == pytest.approx(1)


def test_a_job_that_was_stopped_teaches_nothing(progress: Progress, clock: Clock) -> None:
    run_job(progress, clock, job(), step_s=1.0, tail_s=5.0)
    progress.begin(job())
    run_steps(progress, clock, 1.0, 1, 3)
    clock.now += 500
    progress.end()
    progress.begin(job())
    run_steps(progress, clock, 1.0, 1, 9)
    assert progress.rest_s() == pytest.approx(1 + 5)


def test_nearness_is_told_once_and_as_soon_as_the_rest_is_under_the_lead(
    progress: Progress, clock: Clock
) -> None:
    told: list[int] = []
    progress.on_near = lambda: told.append(progress.snapshot().step)  # type: ignore[union-attr]
    progress.begin(job())
    run_steps(progress, clock, 0.5)
    # After step 7 three steps of half a second are left: the first rest under two seconds.
    assert told == [7]
    progress.end()
    progress.begin(job())
    run_steps(progress, clock, 0.1)
    assert told == [7, 1]


def test_a_long_decoding_delays_nearness(progress: Progress, clock: Clock) -> None:
    run_job(progress, clock, job(), step_s=0.1, tail_s=30.0)
    told: list[float] = []
    progress.on_near = lambda: told.append(clock.now)
    progress.begin(job())
    run_steps(progress, clock, 0.1)
    assert told == []


def test_the_steps_of_a_split_batch_are_measured_anew(progress: Progress, clock: Clock) -> None:
    progress.begin(job(num_images=6))
    run_steps(progress, clock, 4.0, 1, 3)
    clock.now += 100
    run_steps(progress, clock, 2.0, 1, 4)
    assert progress.rest_s() == pytest.approx(6 * 2.0)
    assert not progress.hung()


def test_the_first_step_may_take_as_long_as_a_compilation(progress: Progress, clock: Clock) -> None:
    progress.begin(job())
    clock.now += FIRST_STEP_LIMIT_S
    assert not progress.hung()
    clock.now += 1
    assert progress.hung()


def test_silence_for_many_times_the_measured_step_time_is_a_hang(progress: Progress, clock: Clock) -> None:
    progress.begin(job())
    clock.now += 300
    progress.on_step(1, STEPS)
    run_steps(progress, clock, 10.0, 2, 4)
    clock.now += HANG_FACTOR * 10
    assert not progress.hung()
    clock.now += 1
    assert progress.hung()


def test_quick_steps_do_not_make_a_short_pause_a_hang(progress: Progress, clock: Clock) -> None:
    progress.begin(job())
    run_steps(progress, clock, 0.01, 1, 5)
    clock.now += HANG_FLOOR_S
    assert not progress.hung()
    clock.now += 1
    assert progress.hung()


def test_decoding_may_take_many_times_what_it_took_last_time(progress: Progress, clock: Clock) -> None:
    run_job(progress, clock, job(), step_s=1.0, tail_s=8.0)
    progress.begin(job())
    run_steps(progress, clock, 1.0)
    clock.now += HANG_FACTOR * (1 + 8)
    assert not progress.hung()
    clock.now += 1
    assert progress.hung()


def test_decoding_of_an_unknown_shape_is_given_as_long_as_a_first_step(
    progress: Progress, clock: Clock
) -> None:
    progress.begin(job())
    run_steps(progress, clock, 1.0)
    clock.now += FIRST_STEP_LIMIT_S
    assert not progress.hung()


def test_every_decoded_sample_is_a_sign_of_life(progress: Progress, clock: Clock) -> None:
    progress.begin(job(num_images=6))
    run_steps(progress, clock, 1.0)
    for _ in range(6):
        clock.now += FIRST_STEP_LIMIT_S
        progress.moved()
    assert not progress.hung()
