"""Takes jobs from `sdxl_queue` and makes 1, 3 or 6 pictures each with an SDXL checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shared.presets import SDXL
from workers.engines.libraries import import_for_sdxl
from workers.kind import Kind
from workers.main import main

if TYPE_CHECKING:
    from shared.settings import Settings
    from workers.engines.base import Engine


def make_engine(settings: Settings) -> Engine:
    from workers.engines.compiling import Compiler
    from workers.engines.sdxl import SdxlEngine

    assert settings.sdxl_model is not None
    return SdxlEngine(
        settings.sdxl_model,
        device=settings.device,
        dtype=settings.dtype,
        config=settings.sdxl_config,
        memory_gb=settings.gpu_memory_gb,
        compiler=Compiler(on=settings.compile),
    )


KIND = Kind(
    name="sdxl",
    family=SDXL,
    model_variable="SDXL_MODEL",
    make_engine=make_engine,
    demo_model=Path(__file__).parent / "demo_models" / "sdxl-shapes",
    import_libraries=import_for_sdxl,
)

if __name__ == "__main__":
    raise SystemExit(main(KIND))
