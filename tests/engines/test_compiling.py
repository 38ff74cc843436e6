"""torch.compile on the small checkpoints. The backend counts the programs and runs them as they are, so that
what is proved is which call gets which program; what a real backend makes of it is not this project's."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.passes import samples_of
from support.sdxl import TINY_SDXL, sdxl_plan

from shared.errors import SettingsError
from shared.plan import Plan
from shared.presets import WAN
from workers.engines.base import Pass
from workers.engines.compiling import Compiler, prepare_environment
from workers.engines.sdxl import SdxlEngine
from workers.engines.wan import WanEngine

TINY_WAN = TINY_SDXL.with_name("wan-tiny")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    import torch._dynamo

    threads, limit = torch.get_num_threads(), torch._dynamo.config.recompile_limit
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.reset()


class CountingBackend:
    def __init__(self) -> None:
        self.programs = 0
        self.calls = 0

    def __call__(self, graph: Any, _inputs: Any) -> Any:
        self.programs += 1

        def program(*arguments: Any) -> Any:
            self.calls += 1
            return graph(*arguments)

        return program


def ignore(_step: int, _total: int) -> None:
    pass


def frames(engine: SdxlEngine | WanEngine, plan: Plan) -> Any:
    ((sample,),) = samples_of(engine.generate(Pass.of(plan), ignore))
    return sample.frames.astype(int)


def check_that_only_warmed_sizes_are_compiled(
    engine: SdxlEngine | WanEngine, plain: SdxlEngine | WanEngine, plan: Plan, backend: CountingBackend
) -> None:
    assert engine.warm_up([Pass.of(plan)], 60) == {Pass.of(plan).size}
    programs, calls = backend.programs, backend.calls
    assert programs > 0
    compiled = frames(engine, replace(plan, prompt="a gray cat", num_inference_steps=3))
    assert backend.calls > calls, "a warmed size runs its program"
    calls = backend.calls
    other = replace(plan, width=2 * plan.width)
    eager = frames(engine, other)
    assert (backend.programs, backend.calls) == (programs, calls), "another size neither compiles nor waits"
    assert (
        np.abs(compiled - frames(plain, replace(plan, prompt="a gray cat", num_inference_steps=3))).max() <= 1
    )
    assert np.array_equal(eager, frames(plain, other))


def test_sdxl_runs_compiled_at_warmed_sizes_and_as_it_is_at_every_other() -> None:
    backend = CountingBackend()
    engine = SdxlEngine(str(TINY_SDXL), device="cpu", compiler=Compiler(on=True, backend=backend))
    assert engine.load().applied["compile"] == "unet, vae decoder"
    plain = SdxlEngine(str(TINY_SDXL), device="cpu")
    assert plain.load().applied["compile"] == "off"
    check_that_only_warmed_sizes_are_compiled(engine, plain, sdxl_plan(), backend)
    assert backend.programs == 2, "the UNet and the decoder, each in one piece"


def test_wan_runs_one_compiled_program_for_all_blocks() -> None:
    backend = CountingBackend()
    engine = WanEngine(str(TINY_WAN), device="cpu", compiler=Compiler(on=True, backend=backend))
    assert engine.load().applied["compile"] == "transformer blocks"
    plain = WanEngine(str(TINY_WAN), device="cpu")
    plain.load()
    plan = sdxl_plan(family=WAN, job_type="image_fast", width=32, height=32)
    check_that_only_warmed_sizes_are_compiled(engine, plain, plan, backend)
    assert backend.programs == 1


# --- the environment ----------------------------------------------------------------------------------


def test_compiled_programs_are_kept_in_a_folder_of_the_workers_own(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    prepare_environment(tmp_path, True, environment)
    assert environment["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        folder = Path(environment[name])
        assert folder.is_relative_to(tmp_path)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_the_operator_has_set_stands(tmp_path: Path) -> None:
    theirs = {
        "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512",
        "TORCHINDUCTOR_CACHE_DIR": "/cache/inductor",
        "TRITON_CACHE_DIR": "/cache/triton",
    }
    environment = dict(theirs)
    prepare_environment(tmp_path, True, environment)
    assert environment == theirs
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_made_where_nothing_is_compiled(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    prepare_environment(tmp_path, False, environment)
    assert set(environment) == {"PYTORCH_ALLOC_CONF"}
    assert list(tmp_path.iterdir()) == []


def test_programs_are_never_run_from_a_folder_that_others_may_write_to(tmp_path: Path) -> None:
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled").chmod(0o777)
    with pytest.raises(SettingsError, match="others may write"):
        prepare_environment(tmp_path, True, {})
