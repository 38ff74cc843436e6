"""Takes jobs from `wan_queue` and makes a video or 1, 3 or 6 pictures each with WAN 2.1 1.3B."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shared.presets import WAN
from workers.engines.libraries import import_for_wan
from workers.kind import Kind
from workers.main import main

if TYPE_CHECKING:
    from shared.settings import Settings
    from workers.engines.base import Engine


def make_engine(settings: Settings) -> Engine:
    from workers.engines.compiling import Compiler
    from workers.engines.wan import WanEngine

    assert settings.wan_model is not None
    return WanEngine(
        settings.wan_model,
        device=settings.device,
        dtype=settings.dtype,
        memory_gb=settings.gpu_memory_gb,
        residency=settings.wan_residency,
        attention=settings.wan_attention,
        compiler=Compiler(on=settings.compile),
    )


KIND = Kind(
    name="wan",
    family=WAN,
    model_variable="WAN_MODEL",
    make_engine=make_engine,
    demo_model=Path(__file__).parent / "demo_models" / "wan-shapes",
    import_libraries=import_for_wan,
)

if __name__ == "__main__":
    raise SystemExit(main(KIND))
