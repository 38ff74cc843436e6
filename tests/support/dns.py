"""Name services of the tests' own."""

from __future__ import annotations

import socket
from collections.abc import Sequence


class StubResolver:
    """Answers the first question with the first list of addresses, the second with the second, and so on.

    The last list answers every further question. Without any list no question may be asked.
    """

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def resolve(self, host: str, port: int, timeout_s: float) -> Sequence[str]:
        assert timeout_s > 0
        assert self._answers, f"{host} was looked up"
        self.asked.append((host, port))
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class FailingResolver:
    """A name service that knows no name."""

    def resolve(self, host: str, port: int, timeout_s: float) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, f"{host} is unknown")
