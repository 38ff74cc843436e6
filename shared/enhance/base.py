"""What the worker asks of an enhancer, and the way back to the prompt as it was written."""

from __future__ import annotations

import logging
from typing import Protocol

from shared.plan import Enhancement, PromptWindow
from shared.presets import Medium, Quality

NOT_ENHANCED = "none"
"""The strategy that the callback reports where the original prompt is used."""

_log = logging.getLogger(__name__)


class Enhancer(Protocol):
    """Writes a prompt that says more of what the model wants to read."""

    def enhance(
        self, prompt: str, medium: Medium, quality: Quality, window: PromptWindow, seed: int
    ) -> Enhancement:
        """Enhance one prompt. The same arguments always give the same text.

        `seed` decides wherever the enhancer has a choice. May raise anything; see `enhance_or_original`.
        """


def enhance_or_original(
    enhancer: Enhancer, prompt: str, medium: Medium, quality: Quality, window: PromptWindow, seed: int
) -> Enhancement:
    """Enhance, or keep the original prompt with strategy "none" and a note that says why. Never raises."""
    try:
        enhancement = enhancer.enhance(prompt, medium, quality, window, seed)
    # An enhancer may be a language model with faults of its own kind, and its work is an improvement, not
    # the job: whatever breaks here, the picture that was asked for can still be made and the note tells.
    except Exception as error:  # noqa: BLE001
        _log.warning("the prompt enhancer failed; the original prompt is used", exc_info=error)
        return _original(prompt, f"the enhancer failed ({type(error).__name__}); the original prompt is used")
    if not enhancement.prompt.strip():
        _log.warning("the prompt enhancer returned an empty prompt; the original prompt is used")
        return _original(prompt, "the enhancer returned an empty prompt; the original prompt is used")
    return enhancement


def _original(prompt: str, note: str) -> Enhancement:
    return Enhancement(strategy=NOT_ENHANCED, original_prompt=prompt, prompt=prompt, note=note)
