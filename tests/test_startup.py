from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.harness import Installation

import workers.build
import workers.startup
from shared.errors import ServiceMisconfigured, SettingsError
from workers.engines.base import EngineInfo
from workers.engines.fake import FakeEngine
from workers.startup import Timeline, problems_known, read_ahead

T = TypeVar("T")
WAIT_S = 20.0


class AtOnce(Timeline):
    """Does beside what a thread would do, before it goes on."""

    def beside(self, name: str, call: Callable[[], T]) -> Future[T]:
        future = super().beside(name, call)
        future.exception(WAIT_S)
        return future


def misconfigured(*_: object) -> None:
    raise ServiceMisconfigured("the key is refused")


def test_services_are_checked_while_the_model_loads(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, checked = threading.Event(), threading.Event()

    class Loading(FakeEngine):
        def load(self) -> EngineInfo:
            loading.set()
            assert checked.wait(WAIT_S)
            return super().load()

    def check(*_: object) -> None:
        assert loading.wait(WAIT_S)
        checked.set()

    monkeypatch.setattr(workers.build, "_check_services", check)
    installation.engine = Loading()
    installation.build().close()


def test_what_is_wrong_with_a_service_is_told_before_the_model_is_loaded(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unwanted(FakeEngine):
        def load(self) -> EngineInfo:
            raise AssertionError("nothing should be loaded")

    monkeypatch.setattr(workers.build, "Timeline", AtOnce)
    monkeypatch.setattr(workers.build, "_check_storage", misconfigured)
    installation.engine = Unwanted()
    with pytest.raises(SettingsError, match="the key is refused"):
        installation.build()


def test_a_service_that_turns_out_wrong_while_the_model_loads_ends_the_start(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = threading.Event()

    class Loading(FakeEngine):
        def load(self) -> EngineInfo:
            loaded.set()
            return super().load()

    def check(*_: object) -> None:
        assert loaded.wait(WAIT_S)
        misconfigured()

    monkeypatch.setattr(workers.build, "_check_storage", check)
    installation.engine = Loading()
    with pytest.raises(SettingsError, match="the key is refused"):
        installation.build()


def test_all_that_is_known_to_be_wrong_is_told_together() -> None:
    wrong: list[Future[Any]] = [Future() for _ in range(2)]
    for number, future in enumerate(wrong):
        future.set_exception(SettingsError([f"problem {number}"]))
    good: Future[Any] = Future()
    good.set_result(None)
    assert problems_known(*wrong, good, Future()) == ["problem 0", "problem 1"]


def test_stages_are_told_in_the_order_of_their_begin_from_the_begin_of_the_process() -> None:
    timeline = Timeline()
    with timeline.stage("outer"), timeline.stage("inner"):
        pass
    assert list(timeline.told()) == ["interpreter and imports", "outer", "inner"]
    first, *_ = timeline.stages
    assert first.begin == 0.0 < first.end <= timeline.now() < time.monotonic()


def test_a_checkpoint_is_read_ahead_unless_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(1000))
    opened: list[Path] = []
    path_open = Path.open

    def noted(self: Path, *arguments: Any, **named: Any) -> Any:
        opened.append(self)
        return path_open(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", noted)
    monkeypatch.setattr(workers.startup, "_free_bytes", lambda: 1999)
    read_ahead(str(file))
    assert opened == []
    monkeypatch.setattr(workers.startup, "_free_bytes", lambda: 2000)
    read_ahead(str(file))
    assert opened == [file]


def test_reading_a_hub_id_ahead_does_nothing() -> None:
    read_ahead("owner/name")
