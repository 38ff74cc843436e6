"""What is asked of a language model, by model family and quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from shared.enhance import COMMA_TERMS, SENTENCES, Style
from shared.presets import SDXL, WAN, Family, Medium, Quality

Worker = Literal["chat_worker", "wan_worker"]


@dataclass(frozen=True, slots=True)
class Template:
    """`system_prompt` is the interface to the language model, word for word; `max_tokens` is the target that
    it names, in tokens of the family's text encoder."""

    name: str
    system_prompt: str
    max_tokens: int
    style: Style


TEMPLATES: Final[dict[tuple[str, Quality], Template]] = {
    (SDXL.name, "fast"): Template(
        "SDXL_FAST",
        "Enhance this prompt for SDXL fast generation (15 steps). Focus on visual clarity, composition, and"
        " immediate visual impact. Keep the core concept but add cinematic lighting, professional photography"
        " terms, and visual appeal. Target: 75 tokens max.",
        75,
        COMMA_TERMS,
    ),
    (SDXL.name, "high"): Template(
        "SDXL_HIGH",
        "Enhance this prompt for SDXL high-quality generation (25 steps). Focus on professional quality,"
        " artistic excellence, and detailed visual elements. Add masterful composition, professional"
        " photography terms, and artistic direction. Target: 75 tokens max.",
        75,
        COMMA_TERMS,
    ),
    (WAN.name, "fast"): Template(
        "WAN_FAST",
        "Enhance this prompt for WAN fast video generation. Focus on motion, temporal consistency, and"
        " cinematic flow. Add dynamic movement, camera techniques, and visual storytelling elements."
        " Emphasize smooth transitions and engaging visual sequences. Target: 175 tokens max.",
        175,
        SENTENCES,
    ),
    (WAN.name, "high"): Template(
        "WAN_HIGH_7B",
        "Enhance this prompt for WAN high-quality video generation with 7B enhancement. Focus on cinematic"
        " quality, artistic excellence, and sophisticated visual storytelling. Add masterful cinematography,"
        " professional film techniques, and artistic direction. Emphasize visual coherence and temporal"
        " consistency. Target: 250 tokens max.",
        250,
        SENTENCES,
    ),
}


@dataclass(frozen=True, slots=True)
class Context:
    """For what a prompt is enhanced."""

    family: Family
    medium: Medium
    quality: Quality

    @property
    def template(self) -> Template:
        return TEMPLATES[self.family.name, self.quality]

    @property
    def worker(self) -> Worker:
        """The language model that knows the family: a chat model for SDXL, WAN's own for WAN."""
        return "chat_worker" if self.family is SDXL else "wan_worker"
