from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from shared.errors import GenerationFailed, OutOfMemory, SettingsError
from shared.plan import Adjustment
from shared.presets import SDXL, WAN
from workers.engines.base import BatchSize, Drawn, Pass, Sample, StepCallback
from workers.engines.fake import FakeEngine
from workers.engines.warmup import passes_to_warm_up, warm_up


def sizes(*passes: Pass) -> list[tuple[int, int, int, int]]:
    return [(run.size.width, run.size.height, run.size.num_frames, run.size.num_images) for run in passes]


def test_what_the_job_types_ask_for_is_warmed_up_with_guidance() -> None:
    passes = passes_to_warm_up(SDXL, (), limit=1)
    assert sizes(*passes) == [(1024, 1024, 1, 1), (1024, 1024, 1, 3), (1024, 1024, 1, 6)]
    assert all(run.size.guided for run in passes)


def test_a_video_of_the_usual_length_comes_after_the_first_picture_of_wan() -> None:
    assert sizes(*passes_to_warm_up(WAN, (), limit=1)) == [
        (480, 832, 1, 1), (480, 832, 81, 1), (480, 832, 1, 3), (480, 832, 1, 6),
    ]  # fmt: skip


def test_the_operators_sizes_and_numbers_that_merging_can_make_are_warmed_up() -> None:
    passes = passes_to_warm_up(SDXL, ("768*1344", "1344x768"), limit=4)
    assert {run.size.num_images for run in passes} == {1, 2, 3, 4, 6}
    assert {run.size.width for run in passes} == {768, 1344}


@pytest.mark.parametrize("size", ["1024", "1001*1024", "8000*8000", "0*64", "a*b"])
def test_a_size_that_cannot_be_drawn_is_a_setting_at_fault(size: str) -> None:
    with pytest.raises(SettingsError, match="WARMUP_SIZES"):
        passes_to_warm_up(SDXL, (size,), limit=1)


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 0), (2.5, 2), (100.0, 3)])
def test_no_pass_begins_once_the_time_is_over(seconds: float, expected: int) -> None:
    engine, ticks = FakeEngine(), count()
    passes = passes_to_warm_up(SDXL, ("64*64",), limit=1)
    warmed = warm_up(engine.generate, passes, seconds, clock=lambda: float(next(ticks)))
    assert len(engine.passes) == expected
    assert warmed == {run.size for run in passes[:expected]}


def test_what_does_not_fit_into_memory_in_one_piece_is_not_warmed_up() -> None:
    whole = FakeEngine()

    def generate(run: Pass, on_step: StepCallback) -> Iterator[Drawn]:
        if run.size.num_images == 6:
            raise OutOfMemory("no")
        for drawn in whole.generate(run, on_step):
            assert isinstance(drawn.result, Sample)
            split = (Adjustment("batch_size", 3, 2, "memory"),) if run.size.num_images == 3 else ()
            yield Drawn(drawn.job, Sample(drawn.result.index, drawn.result.frames, split))

    warmed = warm_up(generate, passes_to_warm_up(SDXL, ("64*64",), limit=1), 60)
    assert warmed == {BatchSize(64, 64, 1, 1, guided=True)}


def test_a_model_that_fails_while_it_is_warmed_up_takes_no_jobs() -> None:
    engine = FakeEngine(spoiled=lambda _plan: GenerationFailed("no"))
    with pytest.raises(SettingsError, match="COMPILE"):
        warm_up(engine.generate, passes_to_warm_up(SDXL, ("64*64",), limit=1), 60)
