from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.harness import Installation, until
from support.jobs import element, payload

import workers.pipeline
from shared.errors import GenerationFailed, JobError, NodeFault, OutOfMemory
from shared.plan import Plan
from shared.progress import StepProgress, read_progress
from shared.queue import Lease
from shared.storage import FolderStorage
from workers.encode import EncodedSample, encode_sample
from workers.engines.fake import FakeEngine
from workers.scratch import Scratch


@pytest.mark.parametrize("spelling", ["object", "array", "string"])
def test_a_job_in_any_spelling_ends_in_uploaded_pictures_and_a_completed_callback(
    installation: Installation, spelling: str
) -> None:
    (callback,) = installation.run_jobs(
        payload(config={"size": "64*96", "sample_steps": 2, "num_images": 3, "seed": 0}), spelling=spelling
    )
    assert callback.document["assets"] == [f"user-1/job-1_{n}.png" for n in (1, 2, 3)]
    metadata = callback.document["metadata"]
    assert metadata["seeds"] == [0, 1, 2]
    assert metadata["attempt"] == 1
    for index in range(3):
        with Image.open(installation.asset(callback, index)) as image:
            assert image.size == (64, 96)
    assert [c.status for c in installation.receiver.accepted["job-1"]] == ["processing", "completed"]
    assert installation.leftovers() == []


def test_bad_input_gets_a_sentence_and_a_code(installation: Installation) -> None:
    (callback,) = installation.run_jobs(payload(config={"num_images": 7}))
    assert callback.status == "failed"
    assert callback.document["error_message"] == "config.num_images is 7, but has to be 1, 3 or 6."
    assert callback.document["metadata"]["error_code"] == "invalid_job"
    assert callback.document["assets"] == []


def test_what_is_no_job_goes_to_the_dead_letters_byte_for_byte_and_the_worker_goes_on(
    installation: Installation,
) -> None:
    installation.push(b"\xff\x00 no json", payload("after"))
    installation.run_once()
    assert installation.terminal("after").status == "completed"
    ((_, entry),) = installation.client.xrange("{sdxl_queue}:dead")
    assert entry[b"raw"] == b"\xff\x00 no json"


def test_a_job_that_waited_too_long_expires_without_being_generated(installation: Installation) -> None:
    installation.overrides["MAX_QUEUE_AGE_S"] = 60
    (callback,) = installation.run_jobs(payload(created_at="2020-01-01T00:00:00Z"))
    assert callback.document["metadata"]["error_code"] == "expired"
    assert installation.engine.plans == []  # type: ignore[attr-defined]


def test_a_refused_prompt_is_neither_generated_nor_echoed(installation: Installation) -> None:
    (callback,) = installation.run_jobs(payload(prompt="a schoolgirl on a bench"))
    assert callback.document["metadata"]["error_code"] == "content_refused"
    assert "schoolgirl" not in callback.body.decode()
    assert installation.engine.plans == []  # type: ignore[attr-defined]
    assert installation.client.xlen("{sdxl_queue}:moderation") == 1


def test_a_job_cancelled_while_it_waits_is_not_generated(installation: Installation) -> None:
    installation.client.set("{sdxl_queue}:cancel:job-1", 1)
    (callback,) = installation.run_jobs(payload())
    assert callback.document["metadata"]["error_code"] == "cancelled"
    assert installation.engine.plans == []  # type: ignore[attr-defined]


def test_a_running_job_is_cancelled_within_about_a_second(installation: Installation) -> None:
    entered, release = threading.Event(), threading.Event()

    def before_step(plan: Plan, step: int) -> None:
        if step == 2:
            entered.set()
            release.wait(20)

    installation.engine = FakeEngine(before_step=before_step)
    with installation.serving() as built:
        installation.push(payload())
        assert entered.wait(20)
        installation.client.set("{sdxl_queue}:cancel:job-1", 1)
        held = built.pipeline._hands.all()[0]
        until(lambda: held._reason is not None, 3)
        release.set()
        assert installation.terminal("job-1").document["metadata"]["error_code"] == "cancelled"


def test_the_steps_of_a_running_job_are_told_until_it_ends(installation: Installation) -> None:
    entered, release = threading.Event(), threading.Event()

    def before_step(plan: Plan, step: int) -> None:
        if step == 3:
            entered.set()
            release.wait(20)

    def told() -> dict[str, StepProgress]:
        return read_progress(installation.client, "sdxl_queue", ["job-1"])

    installation.engine = FakeEngine(before_step=before_step)
    with installation.serving():
        installation.push(payload(config={"size": "64*64", "sample_steps": 5}))
        assert entered.wait(20)
        until(lambda: told() == {"job-1": StepProgress(step=2, steps=5, attempt=1)}, 5)
        release.set()
        installation.terminal("job-1")
    assert told() == {}


def test_a_repeated_job_is_acknowledged_and_its_callback_sent_again(installation: Installation) -> None:
    installation.run_jobs(payload())
    installation.push(payload())
    installation.run_once()
    assert len(installation.engine.plans) == 1  # type: ignore[attr-defined]
    completed = [c for c in installation.receiver.received if c.status == "completed"]
    assert len(completed) == 2
    assert completed[0].body == completed[1].body
    assert completed[0].webhook_id == completed[1].webhook_id


@pytest.mark.parametrize("error", [OutOfMemory("The pictures need more memory."), GenerationFailed("No.")])
def test_a_failed_generation_is_told_and_the_worker_goes_on(
    installation: Installation, error: JobError
) -> None:
    def before_step(plan: Plan, step: int) -> None:
        if plan.job_id == "bad":
            raise error

    installation.engine = FakeEngine(before_step=before_step)
    bad, good = installation.run_jobs(payload("bad"), payload("good"))
    assert bad.document["metadata"]["error_code"] == error.code
    assert bad.document["metadata"]["retryable"] is True
    assert good.status == "completed"


def test_an_unforeseen_error_fails_the_job_and_not_the_worker(installation: Installation) -> None:
    def before_step(plan: Plan, step: int) -> None:
        if plan.job_id == "bad":
            raise ZeroDivisionError("a secret prompt")

    installation.engine = FakeEngine(before_step=before_step)
    bad, good = installation.run_jobs(payload("bad"), payload("good"))
    assert bad.document["metadata"]["error_code"] == "generation_failed"
    assert "secret" not in bad.body.decode()
    assert good.status == "completed"


def test_a_broken_device_returns_the_job_with_blame_and_ends_the_process(installation: Installation) -> None:
    def before_step(plan: Plan, step: int) -> None:
        raise NodeFault("the CUDA context is broken")

    installation.engine = FakeEngine(before_step=before_step)
    installation.push(payload())
    assert installation.run_once() == 70
    assert installation.client.llen("sdxl_queue") == 1
    assert installation.client.hvals("{sdxl_queue}:deliveries") == [b"1:0"]


def test_after_three_node_faults_in_a_row_the_worker_takes_no_more_jobs(installation: Installation) -> None:
    def before_step(plan: Plan, step: int) -> None:
        raise GenerationFailed("No.")

    installation.engine = FakeEngine(before_step=before_step)
    installation.push(*(payload(f"job-{n}") for n in range(6)))
    assert installation.run_once() == 70
    assert len(installation.engine.plans) == 3
    assert installation.client.llen("sdxl_queue") == 3


def test_invalid_refused_and_cancelled_jobs_are_no_node_faults(installation: Installation) -> None:
    installation.push(*(payload(f"job-{n}", config={"num_images": 2}) for n in range(10)), payload("good"))
    assert installation.run_once() == 0
    assert installation.terminal("good").status == "completed"


def test_a_job_is_given_up_after_three_deaths_of_its_own(installation: Installation) -> None:
    document = payload()
    raw = json.dumps(document).encode()
    installation.client.hset("{sdxl_queue}:deliveries", Lease(raw, "w").sha, "4:3")
    (callback,) = installation.run_jobs(document)
    assert callback.document["metadata"]["error_code"] == "abandoned"
    assert callback.document["metadata"]["retryable"] is True
    ((_, entry),) = installation.client.xrange("{sdxl_queue}:dead")
    assert entry[b"raw"] == raw
    assert entry[b"terminal"] == b"1"


def test_a_marked_job_begins_only_once_nothing_is_beside_it(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploading, release = threading.Event(), threading.Event()
    upload = FolderStorage.upload

    def slow(self: FolderStorage, *arguments: Any) -> None:
        uploading.set()
        release.wait(20)
        upload(self, *arguments)

    marked = element(payload("marked"))
    installation.client.hset("{sdxl_queue}:deliveries", Lease(marked, "w").sha, "1:0")
    engine = installation.engine = FakeEngine()
    with installation.serving() as built, monkeypatch.context() as patch:
        patch.setattr(FolderStorage, "upload", slow)
        installation.push(payload("a"), marked)
        assert uploading.wait(20)
        until(lambda: any(held.marked for held in built.pipeline._hands.all()))
        assert [plan.job_id for plan in engine.plans] == ["a"]
        release.set()
        assert installation.terminal("marked").status == "completed"
    assert [plan.job_id for plan in engine.plans] == ["a", "marked"]


def test_a_stopping_worker_returns_the_job_that_would_take_too_long(installation: Installation) -> None:
    entered, release = threading.Event(), threading.Event()

    def before_step(plan: Plan, step: int) -> None:
        entered.set()
        release.wait(20)

    installation.engine = FakeEngine(before_step=before_step)
    with installation.serving() as built:
        installation.push(payload())
        assert entered.wait(20)
        built.worker.stop()
        release.set()
    assert installation.client.llen("sdxl_queue") == 1
    assert installation.client.hlen("{sdxl_queue}:deliveries") == 0
    assert [name for name in installation.leftovers() if name != "sdxl_queue"] == []


def test_the_same_job_twice_gives_identical_files(installation: Installation, tmp_path: Path) -> None:
    (first,) = installation.run_jobs(payload())
    before = installation.asset(first).read_bytes()
    installation.client.flushall()
    (second,) = installation.run_jobs(payload())
    assert installation.asset(second).read_bytes() == before


def test_jobs_that_never_fitted_into_memory_do_not_stop_a_worker(installation: Installation) -> None:
    def before_step(plan: Plan, step: int) -> None:
        if plan.width > 64:
            raise OutOfMemory("The pictures need more memory.")

    installation.engine = FakeEngine(before_step=before_step)
    big = (payload(f"big-{n}", config={"size": "128*64", "steps": 1}) for n in range(5))
    installation.push(*big, payload("good"))
    assert installation.run_once() == 0
    assert installation.terminal("good").status == "completed"


def test_a_callback_describes_the_files_of_its_own_run_when_a_job_stands_twice_in_the_queue(
    installation: Installation,
) -> None:
    small = payload(config={"size": "64*64", "steps": 1, "seed": 1})
    large = payload(config={"size": "128*64", "steps": 1, "seed": 2})
    entered, release = threading.Event(), threading.Event()

    def before_step(plan: Plan, step: int) -> None:
        if plan.width == 128:
            entered.set()
            release.wait(20)

    installation.engine = FakeEngine(before_step=before_step)
    with installation.serving(), installation.serving():
        installation.push(large)
        assert entered.wait(20)
        installation.push(small)
        callback = installation.terminal("job-1")
        release.set()
        until(lambda: installation.leftovers() in ([], ["{sdxl_queue}:leases"]))
    with Image.open(installation.asset(callback)) as image:
        assert image.size == (64, 64)
    assert callback.document["metadata"]["width"] == 64


def test_a_thread_that_breaks_ends_the_process_and_gives_its_jobs_back(installation: Installation) -> None:
    built = installation.build()
    built.pipeline.intake = lambda lease: 1 / 0  # type: ignore[assignment,method-assign,return-value]
    thread = threading.Thread(target=built.worker.run, daemon=True)
    thread.start()
    installation.push(payload())
    until(lambda: installation.exits != [])
    assert installation.exits == [70]
    assert installation.client.llen("sdxl_queue") == 1
    built.worker._to_generate.put(None)
    thread.join(10)


def test_no_job_is_taken_while_more_waits_behind_the_device_than_there_is_room_for(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    def held_up(*arguments: Any) -> EncodedSample:
        assert gate.wait(20)
        return encode_sample(*arguments)

    monkeypatch.setattr(workers.pipeline, "encode_sample", held_up)
    installation.overrides["SPOOL_MB"] = 1
    jobs = [f"job-{number}" for number in range(4)]
    large = {"size": "1024*1024", "sample_steps": 1}
    with installation.serving() as built:
        looked: list[bool] = []
        room = built.worker._room

        def noted() -> bool:
            looked.append(room())
            return looked[-1]

        built.worker._room = noted  # type: ignore[method-assign]
        installation.push(*(payload(job, config=large) for job in jobs))
        until(lambda: False in looked)
        # One was on the device; the next may have been taken before its picture was there.
        assert installation.client.llen("sdxl_queue") >= 2
        gate.set()
        for job in jobs:
            assert installation.terminal(job).status == "completed"


def test_files_of_a_process_that_was_killed_are_removed_by_the_next_one(tmp_path: Path) -> None:
    dead, alive = Scratch(tmp_path), Scratch(tmp_path)
    (dead.path / "picture.png").write_bytes(b"x")
    os.close(dead._lock)
    third = Scratch(tmp_path)
    assert not dead.path.exists()
    assert alive.path.exists()
    assert third.path.exists()
