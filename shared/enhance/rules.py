"""Enhancement by rules: the prompt as it was written, then sentences about what it leaves open.

What is added depends on what the prompt is about and on what it does not state yet; the lists stand in
`terms`. Nothing of the prompt is changed, and no subject is added to it.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections.abc import Iterator
from typing import Final

from shared.enhance import terms
from shared.plan import Enhancement, PromptWindow
from shared.presets import Medium, Quality

STRATEGY: Final = "rules"

TOKEN_TARGETS: Final[dict[Quality, int]] = {"fast": 175, "high": 250}
"""Longest enhanced WAN prompt in tokens: the targets that the product's language-model prompts name."""

# Prompts come in any script, so the full-width marks of Chinese and Japanese are meant as they stand.
_ENDS_A_SENTENCE: Final = (".", "!", "?", "…", "。", "！", "？")  # noqa: RUF001
_GOES_ON: Final = (",", ";", ":", "-", "–", "—", "，", "、", "；", "：")  # noqa: RUF001


class RuleEnhancer:
    """Needs no model, knows no state, and answers in well under a millisecond of its own."""

    def enhance(
        self, prompt: str, medium: Medium, quality: Quality, window: PromptWindow, seed: int
    ) -> Enhancement:
        """Add one sentence for each aspect that the prompt leaves open, while the token target allows it."""
        budget = min(TOKEN_TARGETS[quality], window.limit)
        enhanced = prompt.rstrip()
        for sentence in _sentences(prompt, medium, quality, seed):
            longer = _append(enhanced, sentence)
            if window.count(longer) <= budget:
                enhanced = longer
        if enhanced == prompt.rstrip():
            note = f"nothing was added: the prompt says it all or fills the {budget} tokens aimed for"
            return Enhancement(STRATEGY, prompt, prompt, note)
        return Enhancement(STRATEGY, prompt, enhanced)


def _sentences(prompt: str, medium: Medium, quality: Quality, seed: int) -> Iterator[str]:
    """The sentences to add, the most needed first."""
    text = _normalized(prompt)
    topics = [topic for topic, words in terms.TOPICS.items() if _mentions(text, words)]
    digest = hashlib.sha256(f"{seed}\0{medium}\0{quality}\0{prompt}".encode()).digest()
    rng = random.Random(digest)  # noqa: S311 - a choice of words, not a secret
    for aspect in terms.ASPECTS[medium][quality]:
        if not _mentions(text, terms.STATED_BY.get(aspect, ())):
            variants = terms.ADDITIONS[medium][aspect]
            topic = next((topic for topic in topics if topic in variants), terms.ANY)
            if topic in variants:
                yield rng.choice(variants[topic])


def _append(text: str, sentence: str) -> str:
    """Go on where the text breaks off: after a comma in lower case, else as a new sentence."""
    if text.endswith(_GOES_ON):
        return f"{text} {sentence[0].lower()}{sentence[1:]}"
    return f"{text} {sentence}" if text.endswith(_ENDS_A_SENTENCE) else f"{text}. {sentence}"


def _normalized(text: str) -> str:
    """Lower-case singular words between single spaces, so that phrases match as whole words."""
    words = (_singular(word) for word in re.findall(r"[a-z]+", text.casefold()))
    return f" {' '.join(words)} "


def _singular(word: str) -> str:
    """Good enough for matching, as both sides go through it: "boats" and "boat" meet, "glass" stays."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _mentions(normalized: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in normalized for phrase in _all_normalized(phrases))


@functools.cache
def _all_normalized(phrases: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_normalized(phrase) for phrase in phrases)
