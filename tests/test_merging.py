"""Jobs in one pass: which go together, and that each of them keeps what is its own."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.harness import Installation, until
from support.jobs import element, payload
from support.plans import planned

from shared.errors import GenerationFailed, NodeFault
from shared.plan import Plan
from shared.queue import Lease
from workers.engines.base import BatchSize
from workers.engines.fake import FakeEngine
from workers.merging import Candidate, Merging

WARMED = frozenset(BatchSize(64, 64, 1, images, guided=True) for images in (1, 3, 6))


def waiting(job_id: str = "other", **config: Any) -> Candidate:
    config = {"size": "64*64", "sample_steps": 2, "seed": 7, **config}
    return Candidate.planned(planned(job_id, config=config))


def together(*row: Candidate | None, limit: int = 6, **config: Any) -> int:
    first = planned(config={"size": "64*64", "sample_steps": 2, "seed": 7, **config})
    return Merging(limit, WARMED).together(first, row)


# --- which jobs go together ---------------------------------------------------------------------------


def test_only_numbers_of_pictures_that_were_warmed_up_make_a_batch() -> None:
    mates = [waiting(f"job-{n}") for n in range(2, 9)]
    assert [together(*mates[:number]) for number in range(8)] == [0, 0, 2, 2, 2, 5, 5, 5]


def test_a_batch_never_holds_more_pictures_than_allowed() -> None:
    mates = [waiting(f"job-{n}") for n in range(2, 9)]
    assert [together(*mates, limit=limit) for limit in (1, 2, 3, 5, 6)] == [0, 0, 2, 2, 5]


@pytest.mark.parametrize(
    "config",
    [{"size": "64*96"}, {"sample_steps": 3}, {"sample_guide_scale": 3.0}, {"sample_guide_scale": 1.0}],
    ids=str,
)
def test_jobs_that_differ_in_size_steps_or_guidance_do_not_run_together(config: dict[str, Any]) -> None:
    assert together(waiting("b", num_images=1, **config), waiting("c", num_images=1)) == 0


def test_no_job_is_overtaken() -> None:
    assert together(waiting("b"), None, waiting("c")) == 0
    assert together(waiting("b", num_images=6), waiting("c", num_images=1)) == 0


def test_two_elements_of_one_job_do_not_run_together() -> None:
    assert together(waiting("job-1"), waiting("b")) == 0
    assert together(waiting("b"), waiting("b")) == 0


def test_videos_have_room_for_nobody() -> None:
    assert Merging(6, WARMED).room(planned(job_type="video_fast")) == 0


@given(
    limit=st.integers(1, 12),
    warmed=st.frozensets(st.integers(1, 12)),
    images=st.lists(st.sampled_from([1, 3, 6]), min_size=1, max_size=8),
)
def test_what_runs_together_is_a_size_that_was_warmed_up_within_the_limit(
    limit: int, warmed: frozenset[int], images: list[int]
) -> None:
    sizes = frozenset(BatchSize(64, 64, 1, number, guided=True) for number in warmed)
    first, *row = images
    plan = planned(config={"size": "64*64", "sample_steps": 2, "num_images": first})
    mates = [waiting(f"mate-{n}", num_images=number) for n, number in enumerate(row)]
    number = Merging(limit, sizes).together(plan, mates)
    total = first + sum(row[:number])
    assert number == 0 or (total <= limit and total in warmed)
    larger = [first + sum(row[: more + 1]) for more in range(number, len(row))]
    assert not any(size <= limit and size in warmed for size in larger)


# --- what each job keeps ------------------------------------------------------------------------------


@pytest.fixture
def merged(installation: Installation) -> Installation:
    installation.overrides["MAX_BATCH_IMAGES"] = 6
    installation.engine = FakeEngine(warmed=WARMED)
    return installation


def engine_of(installation: Installation, **options: Any) -> FakeEngine:
    engine = FakeEngine(warmed=WARMED, **options)
    installation.engine = engine
    return engine


def passes(installation: Installation) -> list[list[str]]:
    engine = installation.engine
    assert isinstance(engine, FakeEngine)
    return [[plan.job_id for plan in run.plans] for run in engine.passes]


def jobs(*names: str, **config: Any) -> list[dict[str, Any]]:
    """Jobs that agree; the prompt and the seed are each job's own."""
    return [
        payload(
            name,
            prompt=f"a circle, number {number}",
            config={"size": "64*64", "sample_steps": 2, "seed": 100 * number, **config},
        )
        for number, name in enumerate(names)
    ]


def test_waiting_jobs_that_agree_run_in_one_pass_with_their_own_files_and_metadata(
    merged: Installation,
) -> None:
    callbacks = merged.run_jobs(*jobs("a", "b", "c"))
    assert passes(merged) == [["a", "b", "c"]]
    files = [merged.asset(callback) for callback in callbacks]
    pictures = [file.read_bytes() for file in files]
    for number, callback in enumerate(callbacks):
        metadata = callback.document["metadata"]
        assert metadata["seeds"] == [100 * number]
        assert metadata["final_prompt"] == f"a circle, number {number}"
        assert metadata["jobs_in_pass"] == 3
    merged.client.flushall()
    merged.overrides["MAX_BATCH_IMAGES"] = 1
    for file in files:
        file.unlink()
    merged.run_jobs(*jobs("a", "b", "c"))
    assert passes(merged)[1:] == [["a"], ["b"], ["c"]]
    assert [file.read_bytes() for file in files] == pictures
    assert merged.leftovers() == []


def test_jobs_run_alone_unless_merging_is_on(installation: Installation) -> None:
    installation.engine = FakeEngine(warmed=WARMED)
    first, *_ = installation.run_jobs(*jobs("a", "b", "c"))
    assert passes(installation) == [["a"], ["b"], ["c"]]
    assert "jobs_in_pass" not in first.document["metadata"]


def test_what_does_not_fit_stays_in_the_queue_for_its_turn(merged: Installation) -> None:
    row = [*jobs("a", "b"), *jobs("odd", size="64*96"), *jobs("c", "d", "e")]
    merged.push(b"no json at all", *row)
    assert merged.run_once() == 0
    assert passes(merged) == [["a"], ["b"], ["odd"], ["c", "d", "e"]]


def test_a_marked_job_runs_alone_first_or_later(merged: Installation) -> None:
    documents = jobs("a", "marked", "b", "c", "d")
    merged.client.hset("{sdxl_queue}:deliveries", Lease(element(documents[1]), "w").sha, "1:0")
    merged.run_jobs(*documents)
    assert passes(merged) == [["a"], ["marked"], ["b", "c", "d"]]


def test_mates_that_end_before_the_pass_leave_a_size_that_was_warmed_up(merged: Installation) -> None:
    merged.client.set("{sdxl_queue}:cancel:b", 1)
    a, b, c = merged.run_jobs(*jobs("a", "b", "c"))
    assert passes(merged) == [["a"], ["c"]], "two pictures at once were never run before"
    assert (a.status, c.status) == ("completed", "completed")
    assert b.document["metadata"]["error_code"] == "cancelled"
    assert c.document["metadata"]["attempt"] == 1


def test_a_picture_that_fails_takes_no_other_job_along(merged: Installation) -> None:
    engine_of(merged, spoiled=lambda plan: GenerationFailed("No.") if plan.job_id == "b" else None)
    a, b, c = merged.run_jobs(*jobs("a", "b", "c"))
    assert passes(merged) == [["a", "b", "c"]]
    assert (a.status, b.status, c.status) == ("completed", "failed", "completed")


def test_what_fails_the_whole_pass_fails_each_of_its_jobs_and_counts_once(merged: Installation) -> None:
    def before_step(plan: Plan, step: int) -> None:
        raise GenerationFailed("No.")

    engine_of(merged, before_step=before_step)
    merged.push(*jobs("a", "b", "c", "d", "e", "f"))
    assert merged.run_once() == 0
    assert passes(merged) == [["a", "b", "c", "d", "e", "f"]]
    for name in "abcdef":
        assert merged.terminal(name).document["metadata"]["error_code"] == "generation_failed"


def test_a_broken_device_returns_every_job_of_the_pass_with_blame_and_in_order(merged: Installation) -> None:
    def before_step(plan: Plan, step: int) -> None:
        raise NodeFault("the CUDA context is broken")

    engine_of(merged, before_step=before_step)
    documents = jobs("a", "b", "c")
    merged.push(*documents)
    assert merged.run_once() == 70
    assert sorted(merged.client.lrange("sdxl_queue", 0, -1)) == sorted(map(element, documents))
    assert merged.client.hvals("{sdxl_queue}:deliveries") == [b"1:0"] * 3


def stopped_in_its_first_step(installation: Installation) -> tuple[threading.Event, threading.Event]:
    entered, release = threading.Event(), threading.Event()

    def before_step(plan: Plan, step: int) -> None:
        entered.set()
        release.wait(20)

    engine_of(installation, before_step=before_step)
    return entered, release


def test_a_cancelled_mate_drops_out_and_the_others_go_on(merged: Installation) -> None:
    entered, release = stopped_in_its_first_step(merged)
    merged.push(*jobs("a", "b", "c"))
    with merged.serving() as built:
        assert entered.wait(20)
        merged.client.set("{sdxl_queue}:cancel:b", 1)
        until(lambda: any(held.stopped for held in built.pipeline._hands.all()), 3)
        release.set()
        assert merged.terminal("b").document["metadata"]["error_code"] == "cancelled"
        assert merged.terminal("a").status == merged.terminal("c").status == "completed"
    assert passes(merged) == [["a", "b", "c"]]


def test_a_pass_whose_jobs_are_all_cancelled_ends_at_once(merged: Installation) -> None:
    entered, release = stopped_in_its_first_step(merged)
    merged.push(*jobs("a", "b", "c", sample_steps=50))
    with merged.serving() as built:
        assert entered.wait(20)
        for name in "abc":
            merged.client.set(f"{{sdxl_queue}}:cancel:{name}", 1)
        until(lambda: all(held.stopped for held in built.pipeline._hands.all()), 3)
        release.set()
        codes = [merged.terminal(name).document["metadata"]["error_code"] for name in "abc"]
    assert codes == ["cancelled"] * 3


def test_a_stopping_worker_returns_all_jobs_of_the_pass_in_their_order(merged: Installation) -> None:
    entered, release = stopped_in_its_first_step(merged)
    documents = jobs("a", "b", "c")
    merged.push(*documents)
    with merged.serving() as built:
        assert entered.wait(20)
        built.worker.stop()
        release.set()
    assert sorted(merged.client.lrange("sdxl_queue", 0, -1)) == sorted(map(element, documents))
    assert merged.client.hlen("{sdxl_queue}:deliveries") == 0


def test_every_job_of_a_pass_has_its_progress_published(merged: Installation) -> None:
    entered, release = stopped_in_its_first_step(merged)
    merged.push(*jobs("a", "b", "c"))
    with merged.serving():
        assert entered.wait(20)
        names = [f"{{sdxl_queue}}:progress:{name}" for name in "abc"]
        until(lambda: merged.client.mget(names) == [b"0/2 1"] * 3, 3)
        release.set()
        merged.terminal("c")
