"""What the rules add to a prompt for SDXL: short terms between commas, as its training captions are written.

Like the sentences of `terms`, every term holds for any subject of its topic, adds no subject, and says
nothing about what persons look like. A term holds no comma.
"""

from __future__ import annotations

from typing import Final

from shared.enhance.terms import ANY
from shared.presets import Medium, Quality

TOKEN_TARGETS: Final[dict[Quality, int]] = {"fast": 75, "high": 75}
"""Longest enhanced SDXL prompt in tokens: what CLIP reads beside its two marks."""

ASPECTS: Final[dict[Medium, dict[Quality, tuple[str, ...]]]] = {
    "image": {
        "fast": ("light", "composition", "finish", "detail"),
        "high": ("light", "composition", "finish", "detail", "depth", "palette", "quality"),
    },
}
"""What is added, the most needed first: a fast picture has to strike at once, a fine one has to hold a second
look."""

ADDITIONS: Final[dict[Medium, dict[str, dict[str, tuple[str, ...]]]]] = {
    "image": {
        "light": {
            "drawn": ("even clear lighting", "simple light and shade"),
            "space": ("crisp light from a distant sun", "rim light against deep darkness"),
            "underwater": ("shafts of light from the surface", "soft light rippling from above"),
            "fire": ("warm glow and soft shadows", "flickering warm light"),
            "weather": ("soft overcast light", "diffuse light from the sky"),
            "food": ("soft side light", "warm diffuse light from one side"),
            "interior": ("soft daylight from a window", "warm indoor lighting"),
            ANY: ("cinematic lighting", "soft natural light", "warm side light with gentle shadows"),
        },
        "composition": {
            "drawn": ("clear balanced composition", "simple centered composition"),
            "people": ("natural framing with room around the scene", "considered balanced framing"),
            "landscape": ("wide shot with a clear horizon", "composition with leading lines"),
            "city": ("composition with strong leading lines", "wide angle with clean verticals"),
            "food": ("simple composition from slightly above", "close balanced framing"),
            ANY: (
                "masterful composition",
                "balanced composition with one clear subject",
                "off-center composition with calm space",
            ),
        },
        "finish": {
            "drawn": ("carefully rendered artwork", "polished and carefully rendered"),
            ANY: ("professional photography", "professional photograph with a natural grade"),
        },
        "detail": {
            "drawn": ("clean sharp edges", "sharp deliberate lines"),
            "water": ("detailed ripples and reflections",),
            "vehicle": ("detailed reflections on metal and glass",),
            ANY: ("sharp focus", "finely detailed", "sharp natural texture"),
        },
        "depth": {
            "drawn": ("subject set apart from the background",),
            "space": ("vast depth",),
            ANY: ("shallow depth of field", "layered foreground and background", "softly blurred background"),
        },
        "palette": {
            "drawn": ("limited harmonious palette",),
            "fire": ("warm colors against cool shadows",),
            "weather": ("muted palette with warm accents",),
            ANY: ("rich natural colors", "restrained harmonious palette", "balanced warm and cool colors"),
        },
        "quality": {
            "drawn": ("high quality", "masterpiece"),
            ANY: ("high quality", "high resolution", "award winning"),
        },
    },
}
"""By medium, aspect and topic: the terms to choose from."""
