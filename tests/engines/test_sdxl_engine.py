from __future__ import annotations

import logging
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.passes import samples_of
from support.sdxl import TINY_SDXL, sdxl_plan
from torch.utils._python_dispatch import TorchDispatchMode

from shared.errors import Cancelled, GenerationFailed, NodeFault, OutOfMemory
from shared.plan import Plan
from workers.engines.base import Engine, EngineInfo, Pass, Sample, StepCallback
from workers.engines.sdxl import SdxlEngine


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors are slower on many threads, and tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def loaded() -> tuple[SdxlEngine, EngineInfo]:
    engine = SdxlEngine(str(TINY_SDXL), device="cpu")
    return engine, engine.load()


@pytest.fixture
def engine(loaded: tuple[SdxlEngine, EngineInfo]) -> SdxlEngine:
    loaded[0].embeddings.clear()
    return loaded[0]


def parts(engine: SdxlEngine) -> Any:
    return engine._ready().pipeline


def ignore(step: int, total: int) -> None:
    pass


def pictures(engine: SdxlEngine, plan: Plan) -> list[NDArray[np.uint8]]:
    samples = drawn(engine, plan)
    assert [sample.index for sample in samples] == list(range(plan.num_images))
    return [sample.frames for sample in samples]


def drawn(engine: SdxlEngine, plan: Plan, on_step: StepCallback = ignore) -> list[Sample]:
    """The samples of a plan that runs alone; raises what one of them failed with."""
    return samples_of(engine.generate(Pass.of(plan), on_step))[0]


def difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> int:
    return int(np.abs(first.astype(int) - second.astype(int)).max())


@contextmanager
def before_each_call(module: Any, hook: Callable[[tuple[Any, ...]], None]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda _, arguments: hook(arguments))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def room_for(engine: SdxlEngine, rows: int) -> Iterator[list[int]]:
    """A device whose memory holds a UNet call of at most `rows` rows; yields the rows of each call."""
    calls: list[int] = []

    def call(arguments: tuple[Any, ...]) -> None:
        calls.append(len(arguments[0]))
        if calls[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with before_each_call(parts(engine).unet, call):
        yield calls


# --- what is drawn -----------------------------------------------------------------------------------


def test_the_engine_says_what_it_runs_on(loaded: tuple[SdxlEngine, EngineInfo]) -> None:
    engine: Engine = loaded[0]
    assert engine.prompt_window().limit == 75
    info = loaded[1]
    assert (info.device, info.dtype) == ("cpu", "float32")
    assert info.applied["vae_dtype"] == "float32"
    assert info.gpu_name


@pytest.mark.parametrize("number", [3, 6])
def test_a_picture_of_a_batch_is_the_single_picture_of_its_seed(engine: SdxlEngine, number: int) -> None:
    seeds = tuple(range(2**53 - 1, 2**53 - 1 + number))
    batch = pictures(engine, sdxl_plan(seeds=seeds))
    singles = [pictures(engine, sdxl_plan(seeds=(seed,)))[0] for seed in seeds]
    assert max(difference(*pair) for pair in zip(batch, singles, strict=True)) <= 1
    assert difference(batch[0], batch[1]) > 1


def test_the_same_plan_twice_gives_identical_bytes_cached_or_not(engine: SdxlEngine) -> None:
    plan = sdxl_plan(seeds=(0, 1, 2))
    first = pictures(engine, plan)
    cached = pictures(engine, plan)
    engine.embeddings.clear()
    pictures(engine, sdxl_plan(prompt="a cat"))
    again = pictures(engine, plan)
    for one, two, three in zip(first, cached, again, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a yellow circle"},
        {"negative_prompt": "sharp, child, minor"},
        {"guidance_scale": 12.0},
        {"guidance_scale": 1.0},
        {"num_inference_steps": 3},
        {"seeds": (0,)},
    ],
)
def test_whatever_the_plan_states_changes_the_picture(engine: SdxlEngine, change: dict[str, Any]) -> None:
    (before,), (after,) = (pictures(engine, sdxl_plan(**change)) for change in ({}, change))
    assert difference(before, after) > 1


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 64), (72, 136)])
def test_a_picture_has_the_planned_size_in_one_frame_of_rgb(
    engine: SdxlEngine, width: int, height: int
) -> None:
    (frames,) = pictures(engine, sdxl_plan(width=width, height=height))
    assert frames.shape == (1, height, width, 3)
    assert frames.dtype == np.uint8
    assert frames.std() > 1


# --- how it is drawn ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("guidance_scale", "passes"), [(6.5, 2), (1.0, 1), (0.0, 1)])
def test_all_pictures_go_through_one_call_a_step_without_a_guidance_pass_nobody_needs(
    engine: SdxlEngine, guidance_scale: float, passes: int
) -> None:
    with room_for(engine, rows=99) as calls:
        pictures(engine, sdxl_plan(seeds=tuple(range(6)), guidance_scale=guidance_scale))
    assert calls == [6 * passes, 6 * passes]


def test_six_pictures_of_one_prompt_run_the_text_encoders_once(engine: SdxlEngine) -> None:
    calls: Counter[str] = Counter()
    plan = sdxl_plan(seeds=tuple(range(6)))
    with (
        before_each_call(parts(engine).text_encoder, lambda _: calls.update(["first"])),
        before_each_call(parts(engine).text_encoder_2, lambda _: calls.update(["second"])),
    ):
        pictures(engine, plan)
        assert calls == {"first": 2, "second": 2}, "once for the prompt, once for the negative prompt"
        hits = engine.embeddings.hits
        pictures(engine, plan)
        assert calls == {"first": 2, "second": 2}, "the second job finds both in the cache"
        assert engine.embeddings.hits == hits + 2


def test_pictures_are_decoded_one_by_one_and_one_ahead_of_who_takes_them(engine: SdxlEngine) -> None:
    decoded: list[int] = []
    with before_each_call(parts(engine).vae.decoder, lambda arguments: decoded.append(len(arguments[0]))):
        samples = engine.generate(Pass.of(sdxl_plan(seeds=(1, 2, 3))), ignore)
        next(samples)
        assert decoded == [1, 1], "the device has the next picture before the host waits for this one"
        next(samples)
        assert decoded == [1, 1, 1]
        assert len(list(samples)) == 1


def test_each_step_is_reported_once_counted_from_1(engine: SdxlEngine) -> None:
    steps: list[tuple[int, int]] = []
    drawn(engine, sdxl_plan(num_inference_steps=3), lambda *step: steps.append(step))
    assert steps == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("error", [Cancelled("stop"), ZeroDivisionError("a bug of the caller")])
def test_an_exception_of_the_step_callback_leaves_at_once_and_nothing_is_decoded(
    engine: SdxlEngine, error: Exception
) -> None:
    def on_step(step: int, total: int) -> None:
        raise error

    decoded: list[object] = []
    with room_for(engine, rows=99) as calls, before_each_call(parts(engine).vae.decoder, decoded.append):
        with pytest.raises(type(error)) as caught:
            drawn(engine, sdxl_plan(), on_step)
        assert caught.value is error
        assert (len(calls), decoded) == (1, [])
    assert pictures(engine, sdxl_plan())[0].std() > 1, "the next job is not disturbed"


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every operation of torch below it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.counts[str(operation)] += 1
        return operation(*args, **(kwargs or {}))


def operations_of_a_step(run: Callable[[int], object]) -> Counter[str]:
    """What a run of four steps does more than one of three."""
    counts: list[Counter[str]] = []
    for steps in (3, 4):
        with Operations() as counted:
            run(steps)
        counts.append(counted.counts)
    return counts[1] - counts[0]


def test_a_step_runs_no_more_operations_than_diffusers_own_loop(engine: SdxlEngine) -> None:
    plan = sdxl_plan()

    @torch.no_grad()
    def plain(steps: int) -> None:
        parts(engine)(
            plan.prompt,
            negative_prompt=plan.negative_prompt,
            width=64,
            height=64,
            num_inference_steps=steps,
            guidance_scale=6.5,
            output_type="latent",
        )

    ours = operations_of_a_step(lambda steps: pictures(engine, sdxl_plan(num_inference_steps=steps)))
    theirs = operations_of_a_step(plain)
    assert sum(theirs.values()) > 100
    assert sum(ours.values()) <= sum(theirs.values())


def test_no_step_waits_for_a_value_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the meta device have no values: whoever asks for one, as `.item()`, `nonzero` and copies to
    main memory do, gets an error. Values that live in main memory, as the scheduler's, remain."""
    engine = SdxlEngine(str(TINY_SDXL), device="cpu")
    engine.load()
    parts(engine).to("meta")
    scheduler = parts(engine).scheduler
    set_timesteps = scheduler.set_timesteps

    def set_timesteps_before_the_loop(steps: int, device: torch.device) -> None:
        set_timesteps(steps, device="cpu")
        scheduler.timesteps = scheduler.timesteps.to(device)

    monkeypatch.setattr(scheduler, "set_timesteps", set_timesteps_before_the_loop)
    with pytest.raises(RuntimeError):
        torch.ones(1, device="meta").item()
    steps: list[int] = []
    rows = Pass.of(sdxl_plan(seeds=(1, 2, 3))).rows
    latents = engine._denoise(rows, lambda step, _: steps.append(step))
    assert latents.is_meta
    assert latents.shape == (3, 4, 8, 8)
    assert steps == [1, 2]


# --- several jobs in one pass ------------------------------------------------------------------------

MATES = (
    sdxl_plan(job_id="a", prompt="a red boat on a calm lake", seeds=(11,)),
    sdxl_plan(job_id="b", prompt="a gray cat", negative_prompt="sharp, child, minor", seeds=(5, 6, 7)),
    sdxl_plan(job_id="c", prompt="a blue star", seeds=(11, 12)),
)


def test_jobs_of_one_pass_come_out_as_they_do_alone(engine: SdxlEngine) -> None:
    """To rounding: one level of 255, because a larger batch adds up in another order."""
    with room_for(engine, rows=99) as calls:
        together = samples_of(engine.generate(Pass(MATES), ignore))
        assert calls == [12, 12], "six pictures, and guidance doubles them"
    for plan, samples in zip(MATES, together, strict=True):
        assert [sample.index for sample in samples] == list(range(plan.num_images))
        for sample, alone in zip(samples, pictures(engine, plan), strict=True):
            assert difference(sample.frames, alone) <= 1


def test_a_picture_that_is_not_finite_fails_its_own_job_alone(engine: SdxlEngine) -> None:
    spoiled = iter([False, True, False, False, False, False])

    def spoil(_module: Any, _arguments: Any, output: torch.Tensor) -> torch.Tensor | None:
        return torch.full_like(output, torch.nan) if next(spoiled) else None

    handle = parts(engine).vae.decoder.register_forward_hook(spoil)
    try:
        results = list(engine.generate(Pass(MATES), ignore))
    finally:
        handle.remove()
    assert [(one.job, isinstance(one.result, Sample)) for one in results] == [
        (0, True), (1, False), (1, True), (1, True), (2, True), (2, True),
    ]  # fmt: skip
    assert isinstance(results[1].result, GenerationFailed)


def test_a_pass_that_is_split_tells_those_jobs_whose_pictures_it_separates(engine: SdxlEngine) -> None:
    with room_for(engine, rows=4):
        together = samples_of(engine.generate(Pass(MATES), ignore))
    recorded = [[sample.adjustments for sample in samples] for samples in together]
    assert recorded[0] == [()]
    assert recorded[2] == [(), ()], "two at once is all that it asked for"
    assert [adjustment[0].used for adjustment in recorded[1]] == [2, 2, 2]


def test_the_host_reads_one_value_a_picture_from_the_device(engine: SdxlEngine) -> None:
    plan = sdxl_plan(seeds=(1, 2, 3))
    latents = engine._denoise(Pass.of(plan).rows, ignore)
    with Operations() as counted:
        for latent in latents:
            engine._decode(latent).frames()
    reads = ("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.is_nonzero.default")
    assert sum(counted.counts[read] for read in reads) == 3


# --- what goes wrong ---------------------------------------------------------------------------------


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_says_so(engine: SdxlEngine) -> None:
    plan = sdxl_plan(seeds=tuple(range(6)))
    whole = pictures(engine, plan)
    with room_for(engine, rows=4) as calls:
        samples = drawn(engine, plan)
    assert calls == [12, 6, *[4] * 6], "six, then three, then two at once, guidance doubling each"
    assert [sample.index for sample in samples] == list(range(6))
    for sample, expected in zip(samples, whole, strict=True):
        assert difference(sample.frames, expected) <= 1
        (adjustment,) = sample.adjustments
        assert (adjustment.field, adjustment.requested, adjustment.used) == ("batch_size", 6, 2)


def test_a_batch_that_fits_is_not_adjusted(engine: SdxlEngine) -> None:
    assert all(sample.adjustments == () for sample in drawn(engine, sdxl_plan(seeds=(1, 2, 3))))


def test_a_single_picture_that_does_not_fit_is_out_of_memory(engine: SdxlEngine) -> None:
    with room_for(engine, rows=1) as calls, pytest.raises(OutOfMemory):
        drawn(engine, sdxl_plan(seeds=(1, 2, 3)))
    assert calls == [6, 4, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_output_that_is_not_finite_is_never_handed_out(engine: SdxlEngine, value: float) -> None:
    handle = parts(engine).vae.decoder.register_forward_hook(lambda *_: torch.full((1, 3, 64, 64), value))
    try:
        with pytest.raises(GenerationFailed):
            drawn(engine, sdxl_plan())
    finally:
        handle.remove()


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae.post_quant_conv"])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("a red boat"), GenerationFailed),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), NodeFault),
    ],
)
def test_a_fault_of_any_part_is_translated(
    engine: SdxlEngine, part: str, error: Exception, kind: type[Exception]
) -> None:
    def fail(_: object) -> None:
        raise error

    module = operator.attrgetter(part)(parts(engine))
    with before_each_call(module, fail), pytest.raises(kind) as caught:
        drawn(engine, sdxl_plan())
    assert "boat" not in str(caught.value)


def test_a_prompt_never_reaches_the_log_however_long(
    engine: SdxlEngine, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        pictures(engine, sdxl_plan(prompt="lighthouse " * 200, negative_prompt="lighthouse " * 200))
    printed = capfd.readouterr()
    assert "lighthouse" not in caplog.text + printed.out + printed.err
