"""How captions of clips are varied in training, so that guidance and negative prompts mean something.

A clip is shown with its full caption, with parts of it, or with one that says nothing: the empty string, or a
list of terms as negative prompts have them. Parts of captions stand within such lists too: that is what makes
a colour or a direction in a negative prompt push it away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demo_models import motions
from demo_models.motions import MovingScene
from demo_models.vocabulary import NEGATIVE_TERMS, OTHER_WORDS, pick

VIDEO_TERMS = (
    *("static", "flickering", "jitter", "subtitles", "fused fingers", "distorted", "camera shake"),
    *("overall gray", "bright tones", "blurred details", "jpeg artifacts", "still picture", "style"),
)
TERMS: tuple[str, ...] = (*VIDEO_TERMS, *NEGATIVE_TERMS)
# What WAN jobs that state no negative prompt are told to avoid.
USUAL_NEGATIVES = (
    "blurry, low quality, worst quality, jpeg artifacts, distorted, deformed, bad anatomy, extra limbs,"
    " fused fingers, flickering, jitter, static, subtitles, text, watermark"
)
_LEADS = ("a video of", "a clip of", "a picture of", "a simple animation of", "minimal vector art,")
_TRAILS = ("slowly", "high quality", "sharp", "flat, simple", "steady camera", "smooth motion")
WORDS: tuple[str, ...] = tuple(
    sorted(
        {
            *motions.COLOURS,
            *motions.BACKGROUNDS,
            *motions.SHAPES,
            *(word for motion in motions.MOTIONS for word in motion.split()),
            *("a", "A", "the", "The", "on", "background"),
            *(word for text in (*TERMS, *_LEADS, *_TRAILS) for word in text.replace(",", "").split()),
            *OTHER_WORDS,
        }
    )
)


@dataclass(frozen=True)
class Mix:
    """Shares of the ways to caption a clip; what is left of 1 says nothing of it."""

    full: float
    reworded: float
    partial: float


# One caption a clip: of all kinds.
VARIED = Mix(full=0.70, reworded=0.06, partial=0.12)
# Two captions a clip, as guidance pairs them: one that a user may write, one for the negative prompt.
PROMPTS = Mix(full=0.86, reworded=0.08, partial=0.06)
NEGATIVES = Mix(full=0.04, reworded=0.0, partial=0.16)


def vary(scene: MovingScene, rng: np.random.Generator, mix: Mix = VARIED) -> str:
    """A caption for a clip of `scene`."""
    kind = rng.random()
    if kind < mix.full:
        return scene.caption
    if kind < mix.full + mix.reworded:
        return _reworded(scene, rng)
    if kind < mix.full + mix.reworded + mix.partial:
        return _partial(scene, rng)
    return _empty(rng)


def _reworded(scene: MovingScene, rng: np.random.Generator) -> str:
    caption = scene.caption
    forms = (
        caption.replace("a ", "the ", 1),
        caption.capitalize(),
        f"{caption}.",
        f"{pick(_LEADS, rng)} {caption}",
        f"{caption}, {pick(_TRAILS, rng)}",
        f"{scene.colour} {scene.shape} {scene.motion}, {scene.background} background",
        # As captions of pictures are.
        f"a {scene.colour} {scene.shape} on a {scene.background} background",
        f"a {scene.colour} {scene.shape} on a {scene.background} background",
    )
    return pick(forms, rng)


def _partial(scene: MovingScene, rng: np.random.Generator) -> str:
    """One or two parts of the caption, alone or within a list of meaningless terms."""
    parts = [scene.colour, scene.colour, scene.shape, scene.motion, scene.motion]
    parts += [f"{scene.colour} {scene.shape}", f"{scene.background} background"]
    chosen = {pick(parts, rng) for _ in range(1 if rng.random() < 0.7 else 2)}
    form = rng.random()
    if form < 0.4:
        return ", ".join(sorted(chosen))
    terms = _terms(rng)
    return ", ".join([*sorted(chosen), *terms] if form < 0.7 else [*terms, *sorted(chosen)])


def _empty(rng: np.random.Generator) -> str:
    form = rng.random()
    if form < 0.45:
        return ""
    if form < 0.7:
        return USUAL_NEGATIVES
    return ", ".join(_terms(rng))


def _terms(rng: np.random.Generator) -> list[str]:
    """1 to 10 terms."""
    return [str(term) for term in rng.choice(TERMS, size=int(rng.integers(1, 11)), replace=False)]
