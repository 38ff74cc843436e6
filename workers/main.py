"""The command line of both workers, and everything that decides how the process ends."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from shared.configuration import help_text
from shared.errors import SettingsError
from shared.log import configure_logging
from shared.settings import Settings, load_settings
from workers.exits import EXIT_NODE_FAULT, EXIT_SETTINGS
from workers.kind import Kind
from workers.restarts import Restarts

if TYPE_CHECKING:
    from workers.health import Health

log = logging.getLogger("worker")


def main(kind: Kind, argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{kind.name}_worker.py",
        description=f"Takes jobs from a Redis list and generates with {kind.family.name.upper()}.",
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this and every setting")
    parser.add_argument("--once", action="store_true", help="handle what waits in the queue, then end")
    parser.add_argument(
        "--demo", nargs="?", const="", metavar="PROMPT", help="run on this machine alone, with nothing set up"
    )
    arguments = parser.parse_args(argv)
    if arguments.help:
        print(help_text(parser.format_help(), Settings))  # noqa: T201
        return 0
    # Threads of OpenMP that spin while they wait for each other cost a busy machine most of its time: 2,000
    # small convolutions took 10.3 s on two busy cores, and 0.6 s with this. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if arguments.demo is not None:
        from workers.demo import run_demo

        return run_demo(kind, arguments.demo or None)
    return serve(kind, once=arguments.once)


def serve(kind: Kind, *, once: bool, pause: Callable[[float], None] = time.sleep) -> int:
    """Run a worker until it is stopped. Returns the exit code."""
    from workers.health import Health, HealthServer

    configure_logging("console" if sys.stderr.isatty() else "json")
    starts = _starts(kind, Path(os.environ.get("STATE_DIR") or Settings.model_fields["state_dir"].default))
    try:
        settings = load_settings(kind.model_variable)
        starts = _starts(kind, settings.state_dir)
        _configure_logging(kind, settings)
        health = Health(kind.queue(settings))
        with ExitStack() as stack:
            if settings.health_port is not None:
                # Before the model is loaded: a probe can tell loading from not being there.
                stack.enter_context(HealthServer(settings.health_host, settings.health_port, health.state))
            return _serve(kind, settings, starts, health, once, pause)
    except SettingsError as error:
        sys.stderr.write(f"The worker cannot start. To mend:\n{error}\n")
        _wait(starts.failed(), EXIT_SETTINGS, pause)
        return EXIT_SETTINGS


def _serve(
    kind: Kind,
    settings: Settings,
    starts: Restarts,
    health: Health,
    once: bool,
    pause: Callable[[float], None],
) -> int:
    from workers.build import build

    pauses: list[float] = []

    def exit_now(code: int) -> None:
        """Ends the process from another thread, where the main one cannot be woken."""
        if code and pauses:
            _wait(pauses[-1], code, pause)
        os._exit(code)

    try:
        built = build(
            kind,
            settings,
            once=once,
            on_node_fault=lambda: pauses.append(starts.failed()),
            on_success=starts.succeeded,
            exit_now=exit_now,
        )
    except SettingsError:
        raise
    except Exception as error:
        # Whatever else keeps a worker from starting: the container starts it again, and must not spin.
        log.critical("the start failed", exc_info=error)
        _wait(starts.failed(), EXIT_NODE_FAULT, pause)
        return EXIT_NODE_FAULT
    health.built = built
    try:
        with _signals(built.worker.stop):
            code = built.worker.run()
    finally:
        built.close()
    if pauses:
        _wait(pauses[-1], code, pause)
    return code


def _starts(kind: Kind, folder: Path) -> Restarts:
    return Restarts(folder / f"{kind.name}-failures.json")


def _wait(seconds: float, code: int, pause: Callable[[float], None]) -> None:
    log.error("ending with exit code %d in %.0f s", code, seconds)
    pause(seconds)


def _configure_logging(kind: Kind, settings: Settings) -> None:
    configure_logging(
        settings.log_format,
        secrets=settings.secrets(),
        context={"worker": settings.worker_name, "queue": kind.queue(settings)},
        level=settings.log_level,
    )


class _signals:  # noqa: N801
    """Calls `stop` on SIGTERM and SIGINT from a thread of its own.

    Python runs signal handlers between two instructions of the main thread, which may be waiting for the
    device for seconds; the wake-up descriptor is written to at once.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._read, self._write = os.pipe()

    def __enter__(self) -> None:
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)

    def _watch(self) -> None:
        while number := os.read(self._read, 1):
            if number[0] in (signal.SIGTERM, signal.SIGINT):
                # A thread each: a second signal counts while the first one's stop still waits for something.
                threading.Thread(target=self._stop, name="stop", daemon=True).start()
