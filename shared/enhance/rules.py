"""Enhancement by rules: the prompt as it was written, then words about what it leaves open.

What is added depends on what the prompt is about and on what it does not state yet; the lists stand in
`terms` and `comma_terms`. Nothing of the prompt is changed, and no subject is added to it.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shared.enhance import terms
from shared.enhance.style import SENTENCES, Style
from shared.plan import Enhancement, PromptWindow
from shared.presets import Medium, Quality

STRATEGY: Final = "rules"


@dataclass(frozen=True, slots=True)
class RuleEnhancer:
    """Needs no model, knows no state, and answers in well under a millisecond of its own."""

    style: Style = SENTENCES

    def enhance(
        self, prompt: str, medium: Medium, quality: Quality, window: PromptWindow, seed: int
    ) -> Enhancement:
        """Add one text for each aspect that the prompt leaves open, while the token target allows it."""
        budget = min(self.style.targets[quality], window.limit)
        enhanced = prompt.rstrip()
        # A prompt that fills the budget alone can be a very long one: it is counted once.
        has_room = window.count(enhanced) < budget
        for addition in _additions(self.style, prompt, medium, quality, seed) if has_room else ():
            longer = self.style.append(enhanced, addition)
            if window.count(longer) <= budget:
                enhanced = longer
        if enhanced == prompt.rstrip():
            note = f"nothing was added: the prompt says it all or fills the {budget} tokens aimed for"
            return Enhancement(STRATEGY, prompt, prompt, note)
        return Enhancement(STRATEGY, prompt, enhanced)


def states(text: str, aspect: str, style: Style, medium: Medium) -> bool:
    """Whether a text states an aspect: in a word that says so, or in what the rules add for it."""
    return _mentions(_normalized(text), terms.STATED_BY[aspect]) or any(
        addition.casefold() in text.casefold()
        for choices in style.additions[medium].get(aspect, {}).values()
        for addition in choices
    )


def _additions(style: Style, prompt: str, medium: Medium, quality: Quality, seed: int) -> Iterator[str]:
    """The texts to add, the most needed first."""
    text = _normalized(prompt)
    topics = [topic for topic, words in terms.TOPICS.items() if _mentions(text, words)]
    digest = hashlib.sha256(f"{seed}\0{medium}\0{quality}\0{prompt}".encode()).digest()
    rng = random.Random(digest)  # noqa: S311 - a choice of words, not a secret
    for aspect in style.aspects[medium][quality]:
        if not _mentions(text, terms.STATED_BY.get(aspect, ())):
            variants = style.additions[medium][aspect]
            topic = next((topic for topic in topics if topic in variants), terms.ANY)
            if topic in variants:
                yield rng.choice(variants[topic])


def _normalized(text: str) -> str:
    """Lower-case singular words between single spaces, so that phrases match as whole words."""
    words = (_singular(word) for word in re.findall(r"[a-z0-9]+", text.casefold()))
    return f" {' '.join(words)} "


def _singular(word: str) -> str:
    """Good enough for matching, as both sides go through it: "boats" and "boat" meet, "glass" stays."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _mentions(normalized: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in normalized for phrase in _all_normalized(phrases))


@functools.cache
def _all_normalized(phrases: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_normalized(phrase) for phrase in phrases)
