"""Something done again and again from a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.errors import ServiceError

log = logging.getLogger(__name__)


@contextmanager
def repeating(name: str, action: Callable[[], object], every_s: float) -> Iterator[None]:
    """Call `action` at once and then every `every_s` seconds until the end of the block.

    A call that fails is logged, and the next one comes all the same.
    """
    stop = threading.Event()

    def run() -> None:
        while True:
            try:
                action()
            except ServiceError as error:
                log.error("%s failed: %s", name, error)
            except Exception as error:
                # The thread has to outlive a fault of one round: nobody else does its work.
                log.critical("%s failed", name, exc_info=error)
            if stop.wait(every_s):
                return

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
