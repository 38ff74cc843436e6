"""Live state of jobs: one poller looks at every job that somebody watches and tells what changed.

Everything here runs on the event loop but `look`, which may block and runs in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from starlette.concurrency import run_in_threadpool

from gateway.states import JobState
from shared.errors import ServiceError

log = logging.getLogger(__name__)

Reason = Literal["ended", "gone", "time", "shutdown"]
"""Why a stream ends: the job did, its row is no more, it was open for long enough, the gateway stops."""


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """Seconds, and streams at a time. The workers publish their steps once a second."""

    poll_s: float = 1.0
    longest_stream_s: float = 900.0
    streams_of_one_user: int = 8
    streams: int = 1000


class TooManyStreams(Exception):
    """`whose` has as many streams open as are allowed at a time."""

    def __init__(self, whose: Literal["user", "gateway"]) -> None:
        super().__init__(whose)
        self.whose = whose


class Stream:
    """What one connection is told: the latest state alone, so that a slow reader costs no memory.

    It may miss steps, but never the last state.
    """

    def __init__(self, user_id: str, job_id: str, ends_at: float) -> None:
        self.user_id = user_id
        self.job_id = job_id
        self.ends_at = ends_at
        self._state: JobState | None = None
        self._reason: Reason | None = None
        self._news = asyncio.Event()

    def show(self, state: JobState) -> None:
        if self._reason is None:
            self._state = state
            self._news.set()
            if state.ended:
                self.end("ended")

    def end(self, reason: Reason) -> None:
        """The first reason stands."""
        self._reason = self._reason or reason
        self._news.set()

    async def told(self) -> AsyncIterator[JobState | Reason]:
        """Each state that differs from the one before, and at last the reason why no more will come."""
        before: JobState | None = None
        while True:
            await self._news.wait()
            self._news.clear()
            state, reason = self._state, self._reason
            if state is not None and state != before:
                before = state
                yield state
            if reason is not None:
                yield reason
                return


class Live:
    """All streams of this process. `look` answers the states of those of the jobs that exist."""

    def __init__(
        self,
        look: Callable[[frozenset[str]], Mapping[str, JobState]],
        settings: LiveSettings = LiveSettings(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._settings = settings
        self._clock = clock
        self._streams: list[Stream] = []
        self._opened = asyncio.Event()
        self._closed = False

    @contextmanager
    def watching(self, user_id: str, job_id: str) -> Iterator[Stream]:
        """A stream that is told of the job until the end of the block. Raises `TooManyStreams`."""
        if sum(stream.user_id == user_id for stream in self._streams) >= self._settings.streams_of_one_user:
            raise TooManyStreams("user")
        if len(self._streams) >= self._settings.streams:
            raise TooManyStreams("gateway")
        stream = Stream(user_id, job_id, self._clock() + self._settings.longest_stream_s)
        self._streams.append(stream)
        self._opened.set()
        if self._closed:
            stream.end("shutdown")
        try:
            yield stream
        finally:
            self._streams.remove(stream)

    async def run(self) -> None:
        """Look once every `poll_s` and whenever a stream opens; not at all while none is open."""
        while True:
            if not self._streams:
                await self._opened.wait()
            self._opened.clear()
            await self.tick()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._opened.wait(), self._settings.poll_s)

    async def tick(self) -> None:
        """One look for all streams."""
        streams = list(self._streams)
        states = await self._states(frozenset(stream.job_id for stream in streams))
        now = self._clock()
        for stream in streams:
            if states is not None:
                state = states.get(stream.job_id)
                stream.end("gone") if state is None else stream.show(state)
            if now >= stream.ends_at:
                stream.end("time")

    def close(self) -> None:
        """End all streams, also those still to be opened."""
        self._closed = True
        for stream in self._streams:
            stream.end("shutdown")

    async def _states(self, job_ids: frozenset[str]) -> Mapping[str, JobState] | None:
        try:
            return await run_in_threadpool(self._look, job_ids)
        except ServiceError as error:
            log.warning("%s; watchers are told as soon as it answers", error)
        except Exception:
            # Nothing is expected here; without the poller no stream would be told anything again.
            log.exception("the look at watched jobs failed")
        return None
