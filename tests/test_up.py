"""What `make up` starts: processes that are kept running, and the whole system made of them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.harness import until

from gateway.up import EXIT_SETTINGS, ROOT, Installation, Program, Service, UpError, running
from shared.local_valkey import free_port

SERVER = """
import http.server, os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
life = len(list(folder.glob("life-*")))
(folder / f"life-{life}").touch()
plan = sys.argv[3].split(",")[life:]
if plan and plan[0]:
    print("a line for whoever looks")
    sys.exit(int(plan[0]))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        if self.path == "/fail": os._exit(int(sys.argv[4]))
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""
"""Answers 200 until it is asked to fail. Its lives are counted in a folder; a plan of exit codes, one a life,
lets it end at once."""


@contextmanager
def service(folder: Path, *, plan: str = "", exit_code: int = 70) -> Iterator[tuple[Service, list[str]]]:
    port = free_port()
    command = [sys.executable, "-c", SERVER, str(folder), str(port), plan, str(exit_code)]
    reports: list[str] = []
    program = Program("SDXL worker", command, dict(os.environ), f"http://127.0.0.1:{port}/ready", folder)
    kept = Service(program, reports.append, lambda: reports.append("given up"))
    kept.start()
    try:
        yield kept, reports
    finally:
        kept.stop()
        assert kept.process is None or kept.process.poll() is not None


def fail(kept: Service) -> None:
    url = kept.program.ready_url.replace("/ready", "/fail")
    with suppress(httpx.HTTPError):
        httpx.get(url, timeout=5)


def lives(folder: Path) -> int:
    return len(list(folder.glob("life-*")))


def test_a_process_that_ends_with_a_fault_of_its_node_starts_again_at_once(tmp_path: Path) -> None:
    with service(tmp_path) as (kept, reports):
        kept.wait_until_ready()
        for number in (1, 2, 3):
            fail(kept)
            until(lambda: lives(tmp_path) > number)  # noqa: B023
            kept.wait_until_ready()
        assert reports == ["The SDXL worker ended with exit code 70; it starts again in 0 s."] * 3


def test_a_process_that_keeps_failing_otherwise_starts_again_after_growing_pauses(tmp_path: Path) -> None:
    with service(tmp_path, exit_code=1) as (kept, reports):
        kept.wait_until_ready()
        fail(kept)
        until(lambda: lives(tmp_path) == 2)
        kept.wait_until_ready()
        fail(kept)
        until(lambda: len(reports) == 2)
        assert [report.rpartition("in ")[2] for report in reports] == ["1 s.", "2 s."]


def test_wrong_settings_are_not_tried_again(tmp_path: Path) -> None:
    with service(tmp_path, exit_code=EXIT_SETTINGS) as (kept, reports):
        kept.wait_until_ready()
        fail(kept)
        until(lambda: kept.gave_up)
        assert reports == ["given up"]
        assert lives(tmp_path) == 1


def test_a_process_that_does_not_come_up_is_told_with_its_last_words(tmp_path: Path) -> None:
    with service(tmp_path, plan="70") as (kept, _):
        with pytest.raises(UpError, match="The SDXL worker did not start") as told:
            kept.wait_until_ready()
        assert "a line for whoever looks" in str(told.value)
        assert str(kept.program.log) in str(told.value)


def test_what_is_stopped_does_not_start_again(tmp_path: Path) -> None:
    with service(tmp_path) as (kept, reports):
        kept.wait_until_ready()
    assert lives(tmp_path) == 1
    assert reports == []


# --- the whole system, once


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """On the smallest checkpoints, and as quick as can be."""
    models = {"SDXL_MODEL": "sdxl-tiny", "WAN_MODEL": "wan-tiny"}
    given = {name: str(ROOT / "demo_models" / folder) for name, folder in models.items()}
    small = {"DEMO_SIZE": "64", "DEMO_FRAMES": "5", "HEARTBEAT_S": "1", "LEASE_S": "4", "BLOCK_S": "1"}
    with running(tmp_path_factory.mktemp("up"), given | small, lambda _text: None) as installation:
        yield installation


@pytest.fixture
def client(system: Installation) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=system.url, timeout=30) as client:
        yield client


def queued(client: httpx.Client, job_type: str, **metadata: Any) -> str:
    request = {"jobType": job_type, "metadata": {"prompt": "a red circle", "seed": 0, **metadata}}
    answer = client.post("/functions/v1/queue-job", json=request)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["job"]["id"])


def completed(client: httpx.Client, job_id: str) -> dict[str, Any]:
    def job() -> dict[str, Any]:
        return dict(client.get(f"/jobs/{job_id}").raise_for_status().json()["job"])

    until(lambda: job()["status"] in {"completed", "failed"}, 300)
    ended = job()
    assert ended["status"] == "completed", ended["error_message"]
    return ended


def test_a_request_becomes_files_that_can_be_fetched(client: httpx.Client) -> None:
    pictures = queued(client, "sdxl_image_fast", num_images=3)
    video = queued(client, "video_fast")
    made = completed(client, pictures)
    assert made["seeds"] == [0, 1, 2]
    for image in made["images"]:
        assert client.get(image["url"]).headers["Content-Type"] == "image/png"
        assert client.get(image["thumbnail_url"]).headers["Content-Type"] == "image/webp"
    film = completed(client, video)
    assert (film["width"], film["frame_num"]) == (64, 5)
    assert client.get(film["video"]["url"]).headers["Content-Type"] == "video/mp4"


def test_a_worker_that_is_killed_comes_back_and_its_job_is_done(
    system: Installation, client: httpx.Client
) -> None:
    worker = system.services["SDXL worker"]
    job_id = queued(client, "sdxl_image_high", num_images=6)
    until(lambda: client.get(f"/jobs/{job_id}").json()["job"]["status"] == "processing", 60)
    assert worker.process is not None
    os.kill(worker.process.pid, signal.SIGKILL)
    until(lambda: worker.restarts == 1)
    assert len(completed(client, job_id)["images"]) == 6


def test_a_second_one_in_the_same_folder_is_refused(system: Installation) -> None:
    folder = next(iter(system.services.values())).program.folder
    with pytest.raises(UpError, match="Another one runs"), running(folder, {}, lambda _text: None):
        pass
