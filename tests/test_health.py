from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from support.harness import SECRET, Installation, until
from support.jobs import payload

from shared.errors import SettingsError
from shared.plan import Plan
from workers.engines.fake import FakeEngine
from workers.health import LIVE_WITHIN_S, Health, HealthServer, HealthState
from workers.progress import Snapshot

IDLE = HealthState("idle", True, (), "sdxl_queue", "worker-1", None, 1_700_000_000.0, 2)


def get(server: HealthServer, path: str) -> tuple[int, dict[str, Any]]:
    try:
        with urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=20) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def showing(state: HealthState | Callable[[], HealthState]) -> HealthServer:
    return HealthServer("127.0.0.1", 0, state if callable(state) else lambda: state)


def test_a_worker_that_takes_jobs_is_live_and_ready() -> None:
    with showing(IDLE) as server:
        assert get(server, "/live") == (200, {"live": True})
        assert get(server, "/ready") == (200, {"ready": True, "reasons": []})
        assert get(server, "/ready?verbose=1")[0] == 200


def test_a_worker_that_takes_no_jobs_says_why() -> None:
    with showing(replace(IDLE, not_ready=("stopping", "Redis cannot be reached"))) as server:
        assert get(server, "/live")[0] == 200
        assert get(server, "/ready") == (
            503,
            {"ready": False, "reasons": ["stopping", "Redis cannot be reached"]},
        )


def test_a_process_that_does_not_turn_is_not_live() -> None:
    with showing(replace(IDLE, live=False)) as server:
        assert get(server, "/live") == (503, {"live": False})


def test_the_overview_has_the_state_and_the_running_jobs_step() -> None:
    with showing(replace(IDLE, state="generating", job=Snapshot(("job-1",), 3, 25))) as server:
        assert get(server, "/") == (
            200,
            {
                "state": "generating",
                "live": True,
                "ready": True,
                "reasons": [],
                "queue": "sdxl_queue",
                "worker_id": "worker-1",
                "job": {"job_ids": ["job-1"], "step": 3, "steps": 25},
                "last_success": "2023-11-14T22:13:20+00:00",
                "callbacks_waiting": 2,
                "engine": {},
            },
        )


def test_any_other_path_and_method_is_refused() -> None:
    with showing(IDLE) as server:
        assert get(server, "/settings")[0] == 404
        with pytest.raises(HTTPError) as raised:
            urlopen(f"http://127.0.0.1:{server.port}/live", data=b"x", timeout=20)
        assert raised.value.code == 501


def test_the_answers_do_not_tell_what_answers() -> None:
    with showing(IDLE) as server, urlopen(f"http://127.0.0.1:{server.port}/live", timeout=20) as answer:
        assert "Python" not in answer.headers["Server"]


def test_an_unforeseen_error_of_one_request_ends_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    faults = [ZeroDivisionError("unforeseen")]

    def state() -> HealthState:
        if faults:
            raise faults.pop()
        return IDLE

    with showing(state) as server:
        with pytest.raises(OSError, match="closed"):
            urlopen(f"http://127.0.0.1:{server.port}/live", timeout=20)
        assert get(server, "/live")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("address", [("127.0.0.1", None), ("192.0.2.1", 0)])
def test_an_address_that_cannot_be_listened_on_is_a_setting_to_mend(address: tuple[str, int | None]) -> None:
    host, port = address
    with showing(IDLE) as server, pytest.raises(SettingsError, match="HEALTH_PORT"):
        HealthServer(host, server.port if port is None else port, lambda: IDLE)


# --- the state of a worker ---------------------------------------------------------------------------


def test_before_the_worker_is_set_up_it_is_live_and_loading(installation: Installation) -> None:
    health = Health("sdxl_queue")
    assert (health.state().state, health.state().live) == ("loading", True)
    assert health.state().not_ready[0].startswith("loading")
    built = installation.build()
    health.built = built
    assert health.state().state == "loading"
    built.close()


def test_the_state_follows_the_worker_and_tells_no_prompt_and_no_setting(
    installation: Installation,
) -> None:
    entered, release = threading.Event(), threading.Event()

    def before_step(plan: Plan, step: int) -> None:
        if step == 2:
            entered.set()
            assert release.wait(20)

    installation.engine = FakeEngine(before_step=before_step)
    health = Health("sdxl_queue")
    with showing(health.state) as server:
        with installation.serving() as built:
            health.built = built
            until(lambda: get(server, "/ready")[0] == 200)
            assert get(server, "/")[1]["state"] == "idle"
            assert get(server, "/")[1]["last_success"] is None
            installation.push(payload(prompt="a boat on a lake", negative_prompt="fog"))
            assert entered.wait(20)
            status, running = get(server, "/")
            assert (status, running["state"], running["ready"]) == (200, "generating", True)
            assert running["job"] == {"job_ids": ["job-1"], "step": 1, "steps": 2}
            assert running["worker_id"] == built.queue.worker
            told = json.dumps(running)
            for text in ("boat", "fog", SECRET, installation.redis_url, str(installation.folder)):
                assert text not in told
            release.set()
            until(lambda: get(server, "/")[1]["last_success"] is not None)
            built.pipeline.standing.waiting_for_mending.add("storage")
            built.worker.keeper.redis_reachable = False
            reasons = health.state().not_ready
            assert [reason.split()[0] for reason in reasons] == ["Redis", "a"]
            built.pipeline.standing.waiting_for_mending.clear()
        status, ready = get(server, "/ready")
        assert (status, ready["reasons"][-1]) == (503, "stopping")
        assert get(server, "/")[1]["state"] == "stopping"


def test_a_keeper_that_has_not_turned_for_long_means_a_process_that_does_not_turn(
    installation: Installation,
) -> None:
    built = installation.build()
    built.queue.register()
    now = built.worker.keeper.turned_at
    health = Health("sdxl_queue", clock=lambda: now)
    health.built = built
    assert health.state().live
    now += LIVE_WITHIN_S
    assert not health.state().live
    assert health.state().not_ready == ("the process does not turn",)
    built.close()
