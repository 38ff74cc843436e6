"""Streams of jobs' states: what is told, when a stream ends, and how often anybody has to look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from gateway.live import Live, LiveSettings, Reason, Stream, TooManyStreams
from gateway.states import JobState
from shared.errors import ServiceUnavailable
from shared.progress import StepProgress

QUEUED = JobState("queued", None, None, None)
FAILED = JobState("failed", None, "generation_failed", "No.")
COMPLETED = JobState("completed", None, None, None)


def step(number: int) -> JobState:
    return JobState("processing", StepProgress(number, 25, 1), None, None)


@dataclass
class Jobs:
    """The rows and the progress that a look finds."""

    states: dict[str, JobState] = field(default_factory=dict)
    looks: list[frozenset[str]] = field(default_factory=list)
    error: Exception | None = None
    meanwhile: Callable[[], object] = lambda: None

    def look(self, job_ids: frozenset[str]) -> dict[str, JobState]:
        self.looks.append(job_ids)
        self.meanwhile()
        if self.error is not None:
            raise self.error
        return {job_id: state for job_id, state in self.states.items() if job_id in job_ids}


@dataclass
class Bench:
    jobs: Jobs = field(default_factory=Jobs)
    now: float = 0.0
    settings: LiveSettings = LiveSettings(longest_stream_s=60, streams_of_one_user=2, streams=3)  # noqa: RUF009

    def __post_init__(self) -> None:
        self.live = Live(self.jobs.look, self.settings, lambda: self.now)

    async def tick(self, **states: JobState) -> None:
        self.jobs.states |= states
        await self.live.tick()


def on_a_bench(test: Callable[[Bench], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(_run(test), 10))


async def _run(test: Callable[[Bench], Awaitable[None]]) -> None:
    await test(Bench())


async def rest(told: AsyncIterator[JobState | Reason]) -> list[JobState | Reason]:
    return [item async for item in told]


def test_a_stream_is_told_each_change_once_and_the_end() -> None:
    async def test(bench: Bench) -> None:
        with bench.live.watching("user", "job") as stream:
            told = stream.told()
            for state in (QUEUED, step(1), step(2)):
                await bench.tick(job=state)
                assert await anext(told) == state
                await bench.tick()
            await bench.tick(job=COMPLETED)
            assert await rest(told) == [COMPLETED, "ended"]

    on_a_bench(test)


def test_a_slow_reader_misses_steps_but_not_the_last_state() -> None:
    async def test(bench: Bench) -> None:
        with bench.live.watching("user", "job") as stream:
            for number in range(20):
                await bench.tick(job=step(number))
            await bench.tick(job=FAILED)
            await bench.tick(job=COMPLETED)
            assert await rest(stream.told()) == [FAILED, "ended"]

    on_a_bench(test)


def test_all_streams_share_one_look() -> None:
    async def test(bench: Bench) -> None:
        with (
            bench.live.watching("one", "a") as first,
            bench.live.watching("two", "a") as second,
            bench.live.watching("two", "b") as third,
        ):
            await bench.tick(a=FAILED, b=COMPLETED)
            assert bench.jobs.looks == [{"a", "b"}]
            for stream, state in ((first, FAILED), (second, FAILED), (third, COMPLETED)):
                assert await rest(stream.told()) == [state, "ended"]

    on_a_bench(test)


def test_a_user_and_the_gateway_have_so_many_streams_at_a_time() -> None:
    async def test(bench: Bench) -> None:
        watching = bench.live.watching
        with watching("one", "a"), watching("one", "b"):
            with pytest.raises(TooManyStreams, match="user"), watching("one", "c"):
                pass
            with watching("two", "a"), pytest.raises(TooManyStreams, match="gateway"), watching("three", "a"):
                pass
            with watching("three", "a"):
                pass
        with watching("one", "a"), watching("one", "b"):
            pass

    on_a_bench(test)


def test_a_stream_ends_when_its_time_is_over_also_while_nothing_can_be_looked_up() -> None:
    async def test(bench: Bench) -> None:
        bench.jobs.error = ServiceUnavailable("the database cannot be used now")
        with bench.live.watching("user", "job") as stream:
            bench.now = 59
            await bench.tick()
            with bench.live.watching("user", "job") as later:
                bench.now = 60
                await bench.tick()
                assert await rest(stream.told()) == ["time"]
                bench.jobs.error = None
                await bench.tick(job=COMPLETED)
                assert await rest(later.told()) == [COMPLETED, "ended"]

    on_a_bench(test)


@pytest.mark.parametrize("error", [ServiceUnavailable("the database cannot be used now"), KeyError("a bug")])
def test_a_look_that_fails_ends_no_stream(error: Exception) -> None:
    async def test(bench: Bench) -> None:
        with bench.live.watching("user", "job") as stream:
            told = stream.told()
            await bench.tick(job=QUEUED)
            assert await anext(told) == QUEUED
            bench.jobs.error = error
            await bench.tick()
            bench.jobs.error = None
            await bench.tick(job=step(3))
            assert await anext(told) == step(3)

    on_a_bench(test)


def test_the_stream_of_a_job_that_was_deleted_ends() -> None:
    async def test(bench: Bench) -> None:
        with bench.live.watching("user", "job") as stream:
            await bench.tick(job=QUEUED)
            del bench.jobs.states["job"]
            await bench.tick()
            assert await rest(stream.told()) == [QUEUED, "gone"]

    on_a_bench(test)


def test_a_stream_that_opens_during_a_look_waits_for_the_next_one() -> None:
    async def test(bench: Bench) -> None:
        opened: list[Stream] = []
        loop, late = asyncio.get_running_loop(), bench.live.watching("two", "late")

        async def open_late() -> None:
            opened.append(late.__enter__())

        bench.jobs.states = {"job": QUEUED, "late": QUEUED}
        bench.jobs.meanwhile = lambda: opened or asyncio.run_coroutine_threadsafe(open_late(), loop).result(5)
        with bench.live.watching("one", "job"):
            await bench.tick()
            await bench.tick()
            assert await anext(opened[0].told()) == QUEUED
        late.__exit__(None, None, None)

    on_a_bench(test)


def test_closing_ends_every_stream_and_every_one_that_comes_late() -> None:
    async def test(bench: Bench) -> None:
        with bench.live.watching("user", "job") as stream:
            await bench.tick(job=QUEUED)
            bench.live.close()
            assert await rest(stream.told()) == [QUEUED, "shutdown"]
        with bench.live.watching("user", "job") as late:
            assert await rest(late.told()) == ["shutdown"]

    on_a_bench(test)


def test_nobody_looks_while_nobody_watches_and_a_new_watcher_does_not_wait() -> None:
    async def test(bench: Bench) -> None:
        bench.jobs.states = {"job": QUEUED}
        slow = Live(bench.jobs.look, LiveSettings(poll_s=3600))
        poller = asyncio.create_task(slow.run())
        await asyncio.sleep(0)
        assert bench.jobs.looks == []
        with slow.watching("one", "job") as first:
            assert await anext(first.told()) == QUEUED
            with slow.watching("two", "job") as second:
                assert await anext(second.told()) == QUEUED
        assert len(bench.jobs.looks) == 2
        poller.cancel()

    on_a_bench(test)
