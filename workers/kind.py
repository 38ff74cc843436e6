"""What the two workers differ in. Imports no model and no client, so that `--help` answers at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared.presets import Family
from shared.settings import Settings

if TYPE_CHECKING:
    from workers.engines.base import Engine


@dataclass(frozen=True, slots=True)
class Kind:
    """`name` is "sdxl" or "wan"; `model_variable` the setting that names this worker's checkpoint.

    `import_libraries` imports what `make_engine`'s engine stands on.
    """

    name: str
    family: Family
    model_variable: str
    make_engine: Callable[[Settings], Engine]
    demo_model: Path
    import_libraries: Callable[[], None] = lambda: None

    def queue(self, settings: Settings) -> str:
        return str(getattr(settings, f"{self.name}_queue"))
