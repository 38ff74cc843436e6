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

from shared.errors import SettingsError
from shared.log import configure_logging
from shared.settings import Settings, help_text, load_settings
from workers.kind import Kind
from workers.restarts import Restarts

log = logging.getLogger("worker")

EXIT_SETTINGS = 78
"""EX_CONFIG of sysexits.h."""


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
        print(help_text(parser.format_help()))  # noqa: T201
        return 0
    if arguments.demo is not None:
        from workers.demo import run_demo

        return run_demo(kind, arguments.demo or None)
    return serve(kind, once=arguments.once)


def serve(kind: Kind, *, once: bool, pause: Callable[[float], None] = time.sleep) -> int:
    """Run a worker until it is stopped. Returns the exit code."""
    from workers.build import build

    configure_logging("console" if sys.stderr.isatty() else "json")
    starts: Restarts | None = None
    try:
        settings = load_settings(kind.model_variable)
        starts = Restarts(settings.state_dir / f"{kind.name}-failures.json")
        _configure_logging(kind, settings)
        built = build(
            kind,
            settings,
            once=once,
            on_success=starts.succeeded,
        )
    except SettingsError as error:
        starts = starts or Restarts(Settings.model_fields["state_dir"].default / f"{kind.name}-failures.json")
        seconds = starts.failed()
        sys.stderr.write(f"The worker cannot start. To mend:\n{error}\n")
        log.error("ending with exit code %d in %.0f s", EXIT_SETTINGS, seconds)
        pause(seconds)
        return EXIT_SETTINGS
    try:
        with _signals(built.worker.stop):
            code = built.worker.run()
    finally:
        built.close()
    if code:
        seconds = starts.failed()
        log.error("ending with exit code %d in %.0f s", code, seconds)
        pause(seconds)
    return code


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
                self._stop()
