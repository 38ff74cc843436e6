"""How good an enhanced prompt is, as far as that can be counted. Pure; every value lies in 0…1.

These are measures of the text, not of the picture that a model draws from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gateway.enhance.compression import terms_of
from shared.enhance import Style, states
from shared.presets import Medium

VISUAL: Final = frozenset({"motion", "camera", "light", "composition", "depth", "palette"})
TECHNICAL: Final = frozenset({"coherence", "pacing", "detail", "finish", "quality"})
"""The aspects of `shared.enhance`: what one sees first, and how well it is made."""

# Words that carry no content of their own.
_EMPTY: Final = frozenset(
    "a an and are as at be by for from has have in into is it its of on or over that the their then there"
    " this to under with".split()
)


@dataclass(frozen=True, slots=True)
class QualityMetrics:
    """Of an enhanced prompt beside the original one.

    `coherence` is the share of the original's content words that the enhanced prompt still has, times the
    share of its own terms that are said once: 1 where nothing was lost and nothing is said twice.
    `visual_appeal` is the share of the visual aspects, `technical_quality` that of the technical aspects that
    it states, of those that a prompt of high quality for this model and medium is given (SDXL: light,
    composition, depth, palette and detail, finish, quality; a WAN video: motion, camera, light, depth,
    palette and coherence, pacing, detail, finish). An aspect is stated in any of the words that
    `shared.enhance` knows for it.
    """

    coherence: float
    visual_appeal: float
    technical_quality: float

    @property
    def score(self) -> float:
        """The mean of the three."""
        return round((self.coherence + self.visual_appeal + self.technical_quality) / 3, 3)


def measure(original: str, enhanced: str, style: Style, medium: Medium) -> QualityMetrics:
    words, terms = _content_words(original), [term.casefold() for term in terms_of(enhanced)]
    kept = _share(len(words & _content_words(enhanced)), len(words))
    said_once = _share(len(set(terms)), len(terms))
    return QualityMetrics(
        coherence=round(kept * said_once, 3),
        visual_appeal=_stated(enhanced, VISUAL, style, medium),
        technical_quality=_stated(enhanced, TECHNICAL, style, medium),
    )


def _stated(text: str, kind: frozenset[str], style: Style, medium: Medium) -> float:
    aspects = [aspect for aspect in style.aspects[medium]["high"] if aspect in kind]
    return _share(sum(states(text, aspect, style, medium) for aspect in aspects), len(aspects))


def _content_words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold())) - _EMPTY


def _share(part: int, whole: int) -> float:
    """`part` of `whole`; all of nothing is 1."""
    return round(part / whole, 3) if whole else 1.0
