"""The negative prompt of an SDXL job: ranked lists of terms, cut where the text encoders stop reading. Pure.

Which terms exist, which stand in every negative prompt and which only beside certain words of the prompt is
the product's; the ranking is made for CLIP's window, of which the terms without a condition fill most.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shared.plan import PromptWindow, fit_terms
from shared.presets import SAFETY_NEGATIVES


def _split(text: str) -> tuple[str, ...]:
    return tuple(term for term in (term.strip() for term in text.split(",")) if term)


CRITICAL: Final = _split(
    "bad anatomy, extra limbs, deformed, missing limbs, worst quality, low quality, normal quality, lowres"
)
ANATOMICAL: Final = _split(
    "deformed hands, extra fingers, deformed face, malformed, bad hands, bad fingers, missing fingers,"
    " distorted features"
)
MIXED_PARTY: Final = _split("three girls, all girls, only girls, no male, missing male, disembodied penis")
FEMALE_PARTY: Final = _split("three girls, all girls, only girls, wrong number of people")
POSITION: Final = _split(
    "wrong position, incorrect pose, impossible position, unnatural pose, penis in wrong place"
)
NSFW_ANATOMICAL: Final = _split("deformed breasts, extra breasts, anatomical errors, wrong anatomy")
ARTIFACTS: Final = _split("text, watermark, logo, signature")
STYLE: Final = _split("anime, cartoon, graphic")

# Whole words of the prompt, in lower case, every form spelled out.
SEVERAL: Final = frozenset("two both sisters girls".split())
FEMALES: Final = frozenset("girl girls woman women sister sisters female females".split())
MALES: Final = frozenset("guy guys man men male males boy boys".split())
ACTS: Final = frozenset("sex oral doggy sucking".split())
UNDRESSED: Final = frozenset("naked nude nudes sex topless".split())

_WORD: Final = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class NegativePrompt:
    """The negative prompt of a job.

    `groups` names the lists that apply, the most important first; `cut` holds those of their terms that did
    not fit the window, in their order.
    """

    text: str
    groups: tuple[str, ...]
    cut: tuple[str, ...]


def generate_negative_prompt(prompt: str, window: PromptWindow, own: str | None = None) -> NegativePrompt:
    """The negative prompt for `prompt`, never longer than `window` and never without the safety terms.

    `own` is what the user does not want to see. It ranks before the lists, which follow as far as there is
    room: who names one fault more still wants hands with five fingers. Whole terms are cut from the end; a
    term that stands twice is said once, where it stands first. Only where the user's first term alone fills
    the window is it cut within, at a whole word.
    """
    ranked = [("own", _split(own or "")), *_applying(prompt)]
    terms: dict[str, str] = {}
    for _, group in ranked:
        for term in group:
            terms.setdefault(term.casefold(), term)
    text = fit_terms(", ".join(terms.values()), window, SAFETY_NEGATIVES)
    kept = _split(text)
    return NegativePrompt(
        text=text,
        groups=tuple(name for name, group in ranked if group),
        cut=tuple(term for term in terms.values() if term not in kept),
    )


def _applying(prompt: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The lists that apply to a prompt by name, the most important first."""
    words = set(_WORD.findall(prompt.casefold()))

    def says(trigger: frozenset[str]) -> bool:
        return not words.isdisjoint(trigger)

    yield "critical", CRITICAL
    yield "anatomical", ANATOMICAL
    if says(SEVERAL) and says(FEMALES):
        yield "multi_party", MIXED_PARTY if says(MALES) else FEMALE_PARTY
    if says(ACTS):
        yield "position", POSITION
    if says(UNDRESSED):
        yield "nsfw_anatomical", NSFW_ANATOMICAL
    yield "artifacts", ARTIFACTS
    yield "style", STYLE
    yield "safety", SAFETY_NEGATIVES
