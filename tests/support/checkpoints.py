"""The checkpoints that tests run on: those that draw where they are there, random ones of the same shape else."""

from __future__ import annotations

from pathlib import Path

DEMO_MODELS = Path(__file__).parents[2] / "demo_models"


def sdxl_checkpoint() -> Path:
    return _first("sdxl-shapes", "sdxl-tiny")


def wan_checkpoint() -> Path:
    return _first("wan-shapes", "wan-tiny")


def _first(*names: str) -> Path:
    return next(DEMO_MODELS / name for name in names if (DEMO_MODELS / name / "model_index.json").exists())
