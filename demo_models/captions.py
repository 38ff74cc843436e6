"""How captions are varied in training, so that guidance and negative prompts mean something.

A picture is shown with its full caption, with parts of it, or with none. "None" takes every form that a
pipeline's unconditional branch takes: zero embeddings (SDXL base's `force_zeros_for_empty_prompt`), the
empty string, or a list of terms that say nothing about the picture. Parts of captions stand within such
lists too: that is what makes a colour in a negative prompt push that colour away.
"""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np

from demo_models.shapes import Scene
from demo_models.vocabulary import NEGATIVE_TERMS, OTHER_WORDS, pick

# None stands for zero embeddings instead of a text.
Caption = str | None

_LEADS = ("a photo of", "a picture of", "a drawing of", "an image of", "a poster of", "minimal vector art,")
_TRAILS = (
    "high quality",
    "sharp",
    "simple",
    "flat",
    "very detailed",
    "best quality, sharp",
    "clean, minimal",
)


@dataclass(frozen=True)
class Mix:
    """Shares of the ways to caption a picture; what is left of 1 says nothing of it."""

    full: float = 0.0
    colourless: float = 0.0
    reworded: float = 0.0
    partial: float = 0.0


# One caption a picture: of all kinds.
VARIED = Mix(full=0.60, colourless=0.06, reworded=0.06, partial=0.14)
# Two captions a picture, as guidance pairs them: one that a user may write, one for the negative prompt.
PROMPTS = Mix(full=0.74, colourless=0.14, reworded=0.07, partial=0.05)
NEGATIVES = Mix(partial=0.35)


def vary(scene: Scene, rng: np.random.Generator, mix: Mix = VARIED) -> Caption:
    """A caption for a picture of `scene`, whose colour and background are those drawn."""
    kind = rng.random()
    if (kind := kind - mix.full) < 0:
        return scene.caption
    if (kind := kind - mix.colourless) < 0:
        return Scene(scene.shape, scene.background, None, scene.size).caption
    if (kind := kind - mix.reworded) < 0:
        return _reworded(scene, rng)
    if kind - mix.partial < 0:
        return _partial(scene, rng)
    return _dropped(rng)


def _reworded(scene: Scene, rng: np.random.Generator) -> str:
    thing = " ".join(word for word in (scene.size, scene.colour, scene.shape) if word is not None)
    forms = (
        scene.caption.replace("a ", "the ", 1),
        f"{thing} on {scene.background} background",
        f"{thing}, {scene.background} background",
        f"{pick(_LEADS, rng)} {scene.caption}",
        f"{scene.caption}, {pick(_TRAILS, rng)}",
        f"{pick(_LEADS, rng)} {scene.caption}, {pick(_TRAILS, rng)}",
    )
    return pick(forms, rng)


def _partial(scene: Scene, rng: np.random.Generator) -> str:
    """One or two parts of the caption, alone or within a list of meaningless terms."""
    parts = [str(scene.colour), str(scene.colour), scene.shape, f"{scene.colour} {scene.shape}"]
    parts.append(f"{scene.background} background")
    if scene.size is not None:
        parts += [scene.size, f"{scene.size} {scene.shape}"]
    chosen = [str(part) for part in rng.choice(parts, size=1 if rng.random() < 0.7 else 2, replace=False)]
    form = rng.random()
    if form < 0.25:
        return ", ".join(chosen)
    if form < 0.5:
        return ", ".join([*chosen, "child", "minor"])
    terms = _terms(rng)
    return ", ".join([*chosen, *terms] if form < 0.75 else [*terms, *chosen])


def _dropped(rng: np.random.Generator) -> Caption:
    form = rng.random()
    if form < 0.25:
        return None
    if form < 0.4:
        return ""
    if form < 0.6:
        return "child, minor"
    if form < 0.9:
        return ", ".join(_terms(rng))
    return " ".join(_word(rng) for _ in range(int(rng.integers(1, 8))))


def _terms(rng: np.random.Generator) -> list[str]:
    """1 to 16 terms, half of the lists as the product ends them."""
    count = int(rng.integers(1, 17))
    terms = [str(term) for term in rng.choice(NEGATIVE_TERMS, size=count, replace=False)]
    if rng.random() < 0.15:
        terms.append(_word(rng))
    return [*terms, "child", "minor"] if rng.random() < 0.5 else terms


def _word(rng: np.random.Generator) -> str:
    """A word that says nothing here: a known one, or letters that fall into pieces of words."""
    if rng.random() < 0.6:
        return pick(OTHER_WORDS, rng)
    letters = rng.integers(26, size=int(rng.integers(2, 10)))
    return "".join(string.ascii_lowercase[int(letter)] for letter in letters)
