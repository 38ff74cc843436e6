"""Enhances one prompt: a language model, else rules, else the prompt as it was written.

    draft → fit the text encoder → screen → measure

The first draft that passes is used. The prompt itself has to have passed the content screen before.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

from gateway.enhance.compression import Limited, compress, subject_of
from gateway.enhance.language_model import LanguageModel, Task
from gateway.enhance.metrics import QualityMetrics, measure
from gateway.enhance.templates import Context, Worker
from shared.enhance import RuleEnhancer, Style, enhance_or_original, states
from shared.enhance.base import NOT_ENHANCED
from shared.errors import ContentRefused
from shared.job import MAX_PROMPT_CHARACTERS
from shared.plan import PromptWindow
from shared.presets import Medium
from shared.screen import Screen, ScreenInput

Method = Literal[Worker, "system_prompt"]

_RULES_SEED: Final = 0
"""The choices of the rules depend on the prompt alone, so that the same request has the same answer."""

_QUALITY_ASPECTS: Final = ("quality", "finish", "detail")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Of the prompt as it was written, of what the enhancer made of it, and of what is left of that."""

    original: int
    enhanced: int
    compressed: int

    @property
    def compression_ratio(self) -> float:
        """The share of the enhancer's tokens that is left, 0…1; 1 where nothing had to be cut."""
        return round(self.compressed / self.enhanced, 3) if self.enhanced else 1.0


@dataclass(frozen=True, slots=True)
class Enhanced:
    """`fallback_used` tells that something better was tried first; `processing_ms` are milliseconds."""

    prompt: str
    method: Method
    fallback_used: bool
    tokens: TokenCount
    metrics: QualityMetrics
    processing_ms: float


@dataclass(frozen=True, slots=True)
class _Draft:
    text: str
    method: Method
    fallback_used: bool


@dataclass(frozen=True, slots=True)
class Orchestrator:
    """`windows` are those of the text encoders by the family's name."""

    screen: Screen
    windows: Mapping[str, PromptWindow]
    language_models: Mapping[Worker, LanguageModel] = field(default_factory=dict)
    timer: Callable[[], float] = time.perf_counter

    def enhance(self, prompt: str, context: Context, conversation: str | None = None) -> Enhanced:
        """Raises `ContentRefused` where even the prompt itself does not pass once it was cut to fit."""
        started = self.timer()
        template = context.template
        window = Limited(self.windows[context.family.name], template.max_tokens)
        written = _tidy(prompt)
        for draft in self._drafts(written, context, window, conversation):
            whole, text = _fitted(draft.text, subject_of(written), window, template.style, context.medium)
            if self._passes(prompt, text):
                break
            _log.warning("an enhanced prompt (%s) did not pass the content screen", draft.method)
        else:
            raise ContentRefused("The request was refused by the content rules of this service.")
        return Enhanced(
            prompt=text,
            method=draft.method,
            fallback_used=draft.fallback_used,
            tokens=TokenCount(window.count(prompt), window.count(whole), window.count(text)),
            metrics=measure(prompt, text, template.style, context.medium),
            processing_ms=round((self.timer() - started) * 1000, 3),
        )

    def _drafts(
        self, prompt: str, context: Context, window: PromptWindow, conversation: str | None
    ) -> Iterator[_Draft]:
        """The best first, each made only when it is asked for."""
        template, model = context.template, self.language_models.get(context.worker)
        if model is not None:
            task = Task(template.system_prompt, prompt, window.limit, conversation)
            text = _written(model, task)
            if text is not None:
                yield _Draft(text, context.worker, False)
        enhancement = enhance_or_original(
            RuleEnhancer(template.style), prompt, context.medium, context.quality, window, _RULES_SEED
        )
        failed = model is not None or enhancement.strategy == NOT_ENHANCED
        yield _Draft(enhancement.prompt, "system_prompt", failed)
        yield _Draft(prompt, "system_prompt", True)

    def _passes(self, prompt: str, text: str) -> bool:
        return text == prompt or self.screen.check(ScreenInput(prompt, enhanced_prompt=text)).allowed


def _tidy(text: str) -> str:
    """Runs of spaces as one, as both encoders read them; lines stay."""
    return re.sub(r"[^\S\n]+", " ", text).strip()


def _written(model: LanguageModel, task: Task) -> str | None:
    """What the model writes, or None where it fails or writes what can be no prompt."""
    try:
        text = _tidy(model.write(task))
    # A model runs elsewhere, with faults of its own kinds; the rules take its place whatever happened.
    except Exception as error:  # noqa: BLE001
        _log.warning("the language model failed (%s); the rules are used", type(error).__name__)
        return None
    if not text or len(text) > MAX_PROMPT_CHARACTERS:
        _log.warning("the language model wrote %d characters; the rules are used", len(text))
        return None
    return text


def _fitted(text: str, subject: str, window: PromptWindow, style: Style, medium: Medium) -> tuple[str, str]:
    """`text` whole and cut to the window, both with the subject in front where the cut lacks it."""
    is_quality = partial(_states_quality, style=style, medium=medium)
    fitted = compress(text, window, style, is_quality)
    if subject.casefold() in fitted.casefold() or window.count(subject) > window.limit:
        return text, fitted
    led = f"{subject}{'.' if style.prose else ','} {text}"
    return led, compress(led, window, style, is_quality)


def _states_quality(text: str, style: Style, medium: Medium) -> bool:
    return any(states(text, aspect, style, medium) for aspect in _QUALITY_ASPECTS)
