"""In which form a model's prompts are enhanced: prose for WAN, terms between commas for SDXL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from shared.enhance import comma_terms, terms
from shared.presets import Medium, Quality

# Prompts come in any script, so the full-width marks of Chinese and Japanese are meant as they stand.
_ENDS_A_SENTENCE: Final = (".", "!", "?", "…", "。", "！", "？")  # noqa: RUF001
_GOES_ON: Final = (",", ";", ":", "-", "–", "—", "，", "、", "；", "：")  # noqa: RUF001


@dataclass(frozen=True, slots=True)
class Style:
    """In which words, and how many, a model's prompts are enhanced.

    `targets` are tokens. `aspects` are in the order of need; `additions` hold the texts to choose from by
    medium, aspect and topic. `append` joins one to the text before it. `prose` tells whether prompts are
    sentences rather than terms between commas.
    """

    prose: bool
    targets: Mapping[Quality, int]
    aspects: Mapping[Medium, Mapping[Quality, tuple[str, ...]]]
    additions: Mapping[Medium, Mapping[str, Mapping[str, tuple[str, ...]]]]
    append: Callable[[str, str], str]


def _append_sentence(text: str, sentence: str) -> str:
    """Go on where the text breaks off: after a comma in lower case, else as a new sentence."""
    if text.endswith(_GOES_ON):
        return f"{text} {sentence[0].lower()}{sentence[1:]}"
    return f"{text} {sentence}" if text.endswith(_ENDS_A_SENTENCE) else f"{text}. {sentence}"


def _append_term(text: str, term: str) -> str:
    return f"{text} {term}" if text.endswith((*_GOES_ON, *_ENDS_A_SENTENCE)) else f"{text}, {term}"


SENTENCES: Final = Style(True, terms.TOKEN_TARGETS, terms.ASPECTS, terms.ADDITIONS, _append_sentence)
"""Of WAN's prompts."""

COMMA_TERMS: Final = Style(
    False, comma_terms.TOKEN_TARGETS, comma_terms.ASPECTS, comma_terms.ADDITIONS, _append_term
)
"""Of SDXL's prompts, which are pictures only."""
