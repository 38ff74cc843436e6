"""What is asked of a language model that writes prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt to write.

    `max_tokens` is a target in tokens of the picture model's text encoder. `conversation` is the same for all
    requests of one session of one user and of nobody else; None where the user named no session.
    """

    system_prompt: str
    prompt: str = field(repr=False)
    max_tokens: int
    conversation: str | None = None


class LanguageModel(Protocol):
    def write(self, task: Task) -> str:
        """The enhanced prompt and nothing else, the same for the same task. May raise anything."""
