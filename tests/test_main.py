from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from support.harness import Installation
from support.jobs import payload

import workers.build
from shared.errors import NodeFault, SettingsError
from shared.presets import SDXL
from shared.settings import Settings
from workers.engines.base import Engine
from workers.engines.fake import FakeEngine
from workers.kind import Kind
from workers.main import main, serve

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "diffusers", "transformers", "redis", "numpy", "PIL", "httpx", "supabase", "workers.build")


@pytest.fixture
def pauses() -> list[float]:
    """What would have been slept, in seconds."""
    return []


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty environment; logging and signals as they were before."""
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        for name in field.validation_alias.choices:  # type: ignore[union-attr]
            monkeypatch.delenv(str(name), raising=False)
    monkeypatch.setenv("STATE_DIR", str(tmp_path / "state"))
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    handlers, level = root.handlers[:], root.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in signals.items():
        signal.signal(number, handler)
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks


def kind_with(engine: Callable[[Settings], Engine] | Engine) -> Kind:
    make = engine if callable(engine) else lambda _settings: engine
    return Kind("sdxl", SDXL, "SDXL_MODEL", make, Path("none"))


def no_engine(_settings: Settings) -> Engine:
    raise AssertionError("no model is loaded before the settings are right")


SetUp = Callable[..., None]


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch, installation: Installation) -> SetUp:
    """Sets the variables of a whole installation."""

    def set_up(**more: str) -> None:
        values = {
            "REDIS_URL": installation.redis_url,
            "STORAGE_URL": installation.folder.as_uri(),
            "CALLBACK_URL": installation.receiver.url,
            "JOB_CALLBACK_SECRET": "a-secret-for-callbacks",
            "SDXL_MODEL": "fake",
            **{"BLOCK_S": "1", "HEARTBEAT_S": "1", "LEASE_S": "5"},
            **more,
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_up


# --- --help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["sdxl_worker", "wan_worker"])
def test_help_lists_every_setting_and_imports_nothing_heavy(root: str) -> None:
    probe = (
        f"import sys, {root} as root, workers.main as m; code = m.main(root.KIND, ['--help']);"
        f"print('imported:', [name for name in {HEAVY!r} if name in sys.modules]); raise SystemExit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("imported: []")
    for name in ("--once", "--demo", "REDIS_URL", "SDXL_MODEL", "WAN_MODEL", "HEALTH_PORT", "LOG_FORMAT"):
        assert name in done.stdout


def test_help_says_which_worker_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(kind_with(no_engine), ["-h"]) == 0
    shown = capsys.readouterr().out
    assert "sdxl_worker.py" in shown
    assert "Takes jobs from a Redis list" in shown


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(kind_with(no_engine), ["--twice"])
    assert raised.value.code == 2


# --- starts that fail --------------------------------------------------------------------------------


def test_missing_settings_end_the_start_with_78_and_one_message_that_names_them_all(
    pauses: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(kind_with(no_engine), once=False, pause=pauses.append) == 78
    message = capsys.readouterr().err
    assert message.count("To mend:") == 1
    for name in ("REDIS_URL", "SUPABASE_URL", "CALLBACK_URL", "SDXL_MODEL"):
        assert f"  - {name} is missing" in message


def test_the_pause_before_the_end_grows_from_start_to_start(pauses: list[float]) -> None:
    for _ in range(4):
        serve(kind_with(no_engine), once=False, pause=pauses.append)
    assert pauses == [1, 2, 4, 8]


def test_settings_that_are_right_do_not_end_the_row_of_failed_starts(
    set_up: SetUp, pauses: list[float]
) -> None:
    serve(kind_with(no_engine), once=False, pause=pauses.append)

    def unusable(_settings: Settings) -> Engine:
        raise SettingsError(["SDXL_MODEL: there is no such file."])

    set_up()
    assert serve(kind_with(unusable), once=True, pause=pauses.append) == 78
    assert pauses == [1, 2]


@pytest.mark.parametrize("error", [NodeFault("the device is lost"), OSError("disk")])
def test_a_start_that_fails_for_any_other_reason_does_not_spin_either(
    set_up: SetUp, pauses: list[float], error: Exception
) -> None:
    def fail(_settings: Settings) -> Engine:
        raise error

    set_up()
    assert serve(kind_with(fail), once=True, pause=pauses.append) == 70
    assert serve(kind_with(fail), once=True, pause=pauses.append) == 70
    assert pauses == [1, 2]


def test_a_health_port_that_is_taken_is_a_setting_to_mend(
    set_up: SetUp, pauses: list[float], installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = installation.receiver.url.split(":")[2].split("/")[0]
    set_up(HEALTH_PORT=taken)
    assert serve(kind_with(no_engine), once=True, pause=pauses.append) == 78
    assert f"HEALTH_PORT: 127.0.0.1:{taken} cannot be listened on" in capsys.readouterr().err


# --- runs --------------------------------------------------------------------------------------------


def test_once_handles_what_waits_and_ends_with_0_without_a_pause(
    set_up: SetUp, installation: Installation, pauses: list[float]
) -> None:
    set_up()
    installation.push(payload())
    assert serve(kind_with(FakeEngine()), once=True, pause=pauses.append) == 0
    assert installation.terminal("job-1").status == "completed"
    assert pauses == []


def test_a_success_ends_the_row_of_failures(
    set_up: SetUp, installation: Installation, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(kind_with(no_engine), once=False, pause=pauses.append)
    set_up()
    installation.push(payload())
    assert serve(kind_with(FakeEngine()), once=True, pause=pauses.append) == 0
    monkeypatch.delenv("REDIS_URL")
    serve(kind_with(no_engine), once=False, pause=pauses.append)
    assert pauses == [1, 1]


def test_a_node_fault_ends_with_70_after_a_growing_pause(
    set_up: SetUp, installation: Installation, pauses: list[float]
) -> None:
    def before_step(_plan: Any, _step: int) -> None:
        raise NodeFault("the CUDA context is broken")

    set_up()
    for _ in range(2):
        installation.push(payload())
        assert serve(kind_with(FakeEngine(before_step=before_step)), once=True, pause=pauses.append) == 70
    assert pauses == [1, 2]


def test_an_end_out_of_another_thread_pauses_too(
    set_up: SetUp, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hang is noticed beside the main thread, which waits for the device and cannot return."""
    given: dict[str, Any] = {}

    def stand_in(*_: Any, **more: Any) -> None:
        given.update(more)
        raise SettingsError(["far enough"])

    set_up()
    ended: list[int] = []
    monkeypatch.setattr(workers.build, "build", stand_in)
    monkeypatch.setattr(os, "_exit", ended.append)
    serve(kind_with(no_engine), once=False, pause=lambda _: None)
    serve(kind_with(no_engine), once=False, pause=pauses.append)
    pauses.clear()
    given["exit_now"](0)
    assert (pauses, ended) == ([], [0])
    given["on_node_fault"]()
    given["exit_now"](70)
    assert (pauses, ended) == ([4], [0, 70])


def test_the_health_port_answers_before_the_model_is_loaded_and_is_closed_at_the_end(
    set_up: SetUp, pauses: list[float], free_port: int
) -> None:
    answers: list[tuple[int, Any]] = []

    def look_while_loading(_settings: Settings) -> Engine:
        for path in ("live", "ready"):
            try:
                with urlopen(f"http://127.0.0.1:{free_port}/{path}", timeout=10) as answer:
                    answers.append((answer.status, json.load(answer)))
            except HTTPError as error:
                answers.append((error.code, json.load(error)))
        return FakeEngine()

    set_up(HEALTH_PORT=str(free_port))
    assert serve(kind_with(look_while_loading), once=True, pause=pauses.append) == 0
    (live, _), (ready, why) = answers
    assert (live, ready) == (200, 503)
    assert why["reasons"][0].startswith("loading")
    with pytest.raises(OSError, match="refused"):
        urlopen(f"http://127.0.0.1:{free_port}/live", timeout=10)


def test_a_signal_stops_the_worker_and_a_later_one_ends_the_process(
    set_up: SetUp, installation: Installation, pauses: list[float]
) -> None:
    def before_step(_plan: Any, step: int) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    set_up(DRAIN_S="20")
    installation.push(payload())
    assert serve(kind_with(FakeEngine(before_step=before_step)), once=False, pause=pauses.append) == 0
    assert installation.client.zcard("{sdxl_queue}:leases") == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert pauses == []


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
