"""The checkpoints that tests run on: those that draw where they are there, else random ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workers.engines.base import Engine, EngineInfo

DEMO_MODELS = Path(__file__).parents[2] / "demo_models"


def sdxl_checkpoint() -> Path:
    return _first("sdxl-shapes", "sdxl-tiny")


def wan_checkpoint() -> Path:
    return _first("wan-shapes", "wan-tiny")


def _first(*names: str) -> Path:
    return next(DEMO_MODELS / name for name in names if (DEMO_MODELS / name / "model_index.json").exists())


@dataclass
class Loaded:
    """An engine that several workers of a test use one after the other."""

    engine: Engine

    def __post_init__(self) -> None:
        self.info = self.engine.load()
        self.prompt_window = self.engine.prompt_window
        self.generate = self.engine.generate
        self.warm_up = self.engine.warm_up

    def load(self) -> EngineInfo:
        return self.info
