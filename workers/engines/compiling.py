"""torch.compile for the sizes that are warmed up; every other size runs as it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from shared.errors import SettingsError

COMPILED_SIZES: Final = 64
"""How many sizes one part may be compiled for; torch's own limit of 8 is less than what is warmed up."""


class Compiler:
    """What is compiled is decided by the warm-up: before and after it nothing is.

    So a customer's odd size never waits minutes for its own program, and whether a job's program was compiled
    does not depend on the jobs before it. `backend` is torch.compile's.
    """

    def __init__(self, on: bool, backend: str | Callable[..., Any] = "inductor") -> None:
        self.on = on
        self._backend = backend
        self._warming_up = False

    def compile(self, module: Any) -> None:
        """Compile a module in place, one program for each size and without a break."""
        if self.on:
            self._prepare()
            module.compile(**self._options)

    def compile_blocks(self, model: Any) -> None:
        """Compile the repeated blocks of a diffusers model: one program serves all of them."""
        if self.on:
            self._prepare()
            model.compile_repeated_blocks(**self._options)

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        self._warming_up = True
        try:
            yield
        finally:
            self._warming_up = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around every call of a compiled part."""
        if not self.on:
            yield
            return
        import torch

        with torch.compiler.set_stance("default" if self._warming_up else "eager_on_recompile"):
            yield

    @property
    def _options(self) -> dict[str, Any]:
        return {"backend": self._backend, "dynamic": False, "fullgraph": True}

    @staticmethod
    def _prepare() -> None:
        import torch._dynamo

        torch._dynamo.config.recompile_limit = COMPILED_SIZES


def prepare_environment(state_dir: Path, compiled: bool, environment: MutableMapping[str, str]) -> None:
    """Set what torch reads while it is imported; what the operator has set stands.

    The allocator grows its segments, so that passes of many sizes do not break the memory into pieces.
    Compiled programs are kept in `state_dir`, so that a restart does not compile again. They are code that
    will be run: raises `SettingsError` where the folder belongs to somebody else.
    """
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & set(environment):
        environment["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    if not compiled:
        return
    for name, folder in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        if not environment.get(name):
            environment[name] = str(_private(state_dir / "compiled" / folder))


def _private(folder: Path) -> Path:
    try:
        for part in (folder.parent, folder):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
            if part.stat().st_uid != os.getuid() or part.stat().st_mode & 0o022:
                raise SettingsError(
                    [
                        f"STATE_DIR: others may write to {part}, from where compiled programs are run;"
                        " remove it, or set another STATE_DIR."
                    ]
                )
    except OSError as error:
        raise SettingsError(
            [f"STATE_DIR: {folder} cannot be made ({error.strerror}); COMPILE=on keeps its programs there."]
        ) from error
    return folder
