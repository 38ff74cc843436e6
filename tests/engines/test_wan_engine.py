"""The WAN engine on the tiny checkpoint: the real pipeline, a few random weights."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.passes import samples_of
from torch.utils._python_dispatch import TorchDispatchMode

from shared.errors import GenerationFailed, OutOfMemory, SettingsError
from shared.job import Envelope, Job
from shared.plan import Plan, PlanDefaults, make_plan
from shared.presets import WAN
from workers.engines.base import Pass, Sample
from workers.engines.download import Download
from workers.engines.wan import WanEngine, _denoise, _scheduler, _set_attention
from workers.engines.wan_decoder import FrameDecoder, _lay, _tile_starts
from workers.engines.wan_text import PromptPair

CHECKPOINT = Path(__file__).parents[2] / "demo_models" / "wan-tiny"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small only lose time when torch shares them out over busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def engine() -> WanEngine:
    engine = WanEngine(str(CHECKPOINT), device="cpu")
    engine.load()
    return engine


@pytest.fixture
def parts(engine: WanEngine) -> Any:
    """What the engine holds, to put faults into; pytest's monkeypatch takes them out again."""
    return engine._loaded


def silent(_step: int, _total: int) -> None:
    pass


def run(engine: WanEngine, plan: Plan, on_step: Callable[[int, int], None] = silent) -> list[Sample]:
    (samples,) = samples_of(engine.generate(Pass.of(plan), on_step))
    return samples


def planned(engine: WanEngine, job_type: str = "video_fast", **config: Any) -> Plan:
    payload = {"id": "j1", "type": job_type, "prompt": "a boat on a lake", "user_id": "u1"}
    config = {"size": "64*64", "sample_steps": 2, "seed": 7, **config}
    job = Job.parse(Envelope("j1", job_type, {**payload, "config": config}), WAN)
    return make_plan(job, engine.prompt_window(), PlanDefaults(negative_prompt="blurry, static"))


@pytest.fixture
def picture(engine: WanEngine) -> Plan:
    return replace(planned(engine, "image_fast"), width=32, height=32)


@pytest.fixture
def video(engine: WanEngine) -> Plan:
    return replace(planned(engine, frame_num=5), width=32, height=32)


# --- what comes out -----------------------------------------------------------------------------------


def test_83_frames_are_planned_as_81_and_come_out_as_exactly_81(engine: WanEngine) -> None:
    plan = planned(engine, frame_num=83)
    (sample,) = run(engine, plan)
    assert plan.num_frames == 81
    assert sample.frames.shape == (81, 64, 64, 3)
    assert sample.frames.dtype == np.uint8


def test_a_frame_count_other_than_4k_plus_1_never_reaches_the_pipeline(
    engine: WanEngine, video: Plan
) -> None:
    with pytest.raises(AssertionError, match="floor"):
        run(engine, replace(video, num_frames=6))


def test_width_and_height_are_the_plans(engine: WanEngine, picture: Plan) -> None:
    (sample,) = run(engine, replace(picture, width=96, height=48))
    assert sample.frames.shape == (1, 48, 96, 3)


def test_frames_equal_those_of_the_plain_pipeline_with_the_same_scheduler(
    engine: WanEngine, video: Plan
) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    plain = WanPipeline.from_pretrained(
        CHECKPOINT,
        local_files_only=True,
        dtype={"text_encoder": torch.bfloat16, "default": torch.float32},
        scheduler=FlowMatchEulerDiscreteScheduler(shift=video.shift),
    )
    plain.set_progress_bar_config(disable=True)
    expected = plain(
        video.prompt,
        negative_prompt=video.negative_prompt,
        height=video.height,
        width=video.width,
        num_frames=video.num_frames,
        num_inference_steps=video.num_inference_steps,
        guidance_scale=video.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(video.seeds[0]),
        output_type="np",
    ).frames[0]
    (sample,) = run(engine, video)
    difference = np.abs(sample.frames - 255.0 * expected)
    # The text is encoded at its own length in bfloat16, which rounds a little differently.
    assert np.quantile(difference, 0.99) <= 3
    assert difference.mean() <= 0.5


# --- what the result depends on -----------------------------------------------------------------------


def test_the_same_plan_twice_gives_identical_bytes(engine: WanEngine, video: Plan) -> None:
    first, second = (run(engine, video)[0].frames.tobytes() for _ in range(2))
    assert first == second


def test_a_job_leaves_nothing_behind_that_changes_the_next(engine: WanEngine, video: Plan) -> None:
    before = run(engine, video)[0].frames
    run(engine, replace(video, shift=2.0, guidance_scale=1.0, num_inference_steps=3, seeds=(8,)))
    assert np.array_equal(before, run(engine, video)[0].frames)


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": (8,)},
        {"prompt": "a red circle"},
        {"negative_prompt": "ugly"},
        {"negative_prompt": ""},
        {"guidance_scale": 3.0},
        {"guidance_scale": 1.0},
        {"shift": 2.0},
        {"num_inference_steps": 3},
    ],
    ids=str,
)
def test_everything_a_plan_states_changes_the_result(
    engine: WanEngine, picture: Plan, change: dict[str, Any]
) -> None:
    base = run(engine, picture)[0].frames
    changed = run(engine, replace(picture, **change))[0].frames
    assert np.abs(base.astype(int) - changed).mean() > 0.2


def test_picture_i_of_a_batch_is_the_single_picture_with_seed_plus_i(
    engine: WanEngine, picture: Plan
) -> None:
    batch = run(engine, replace(picture, seeds=(7, 8, 9)))
    assert [sample.index for sample in batch] == [0, 1, 2]
    for sample, seed in zip(batch, (7, 8, 9), strict=True):
        single = run(engine, replace(picture, seeds=(seed,)))[0].frames
        difference = np.abs(sample.frames.astype(int) - single)
        assert difference.max() <= 2
        assert (difference > 0).mean() < 0.02


# --- steps --------------------------------------------------------------------------------------------


def test_on_step_is_called_once_a_step_counted_from_1(engine: WanEngine, picture: Plan) -> None:
    steps: list[tuple[int, int]] = []
    run(
        engine,
        replace(picture, num_inference_steps=3, seeds=(1, 2, 3)),
        lambda step, total: steps.append((step, total)),
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("error", [KeyError("cancelled"), RuntimeError("CUDA out of memory")], ids=repr)
def test_what_on_step_raises_leaves_as_it_is_and_nothing_is_decoded(
    engine: WanEngine, picture: Plan, parts: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_arguments: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(parts.decoder, "decode", refuse)
    steps: list[int] = []

    def stop(step: int, _total: int) -> None:
        steps.append(step)
        raise error

    with pytest.raises(type(error)) as raised:
        run(engine, picture, stop)
    assert raised.value is error
    assert steps == [1]


def test_the_next_job_runs_after_one_was_stopped(engine: WanEngine, picture: Plan) -> None:
    def stop(_step: int, _total: int) -> None:
        raise KeyError("cancelled")

    before = run(engine, picture)[0].frames
    with pytest.raises(KeyError):
        run(engine, picture, stop)
    assert np.array_equal(before, run(engine, picture)[0].frames)


# --- the scheduler ------------------------------------------------------------------------------------


def test_sigmas_stay_on_the_cpu_and_timesteps_go_to_the_device() -> None:
    scheduler = _scheduler(5.0)
    scheduler.set_timesteps(4, device="meta")
    assert scheduler.sigmas.device.type == "cpu"
    assert scheduler.timesteps.device.type == "meta"


def test_latents_stay_in_float32_between_the_steps_of_a_model_in_bfloat16() -> None:
    scheduler = _scheduler(5.0)
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(0)
    noise = torch.randn(1, 16, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    (latents,) = scheduler.step(noise.to(torch.bfloat16), scheduler.timesteps[0], noise, return_dict=False)
    assert latents.dtype is torch.float32


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what reaches the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_a_step_in_bfloat16_runs_no_more_operations_than_the_librarys_own_loop() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    engine = WanEngine(str(CHECKPOINT), device="cpu", dtype="bfloat16")
    engine.load()
    plan = replace(planned(engine, "image_fast"), width=32, height=32)
    parts: Any = engine._loaded
    text = parts.embeddings.of([plan])

    def operations(steps: int, *, ours: bool) -> int:
        operations = Operations()
        with operations:
            if ours:
                _denoise(parts, Pass.of(replace(plan, num_inference_steps=steps)).rows, silent)
            else:
                parts.sampler.scheduler = FlowMatchEulerDiscreteScheduler(shift=plan.shift)
                parts.sampler(
                    prompt_embeds=text.positive,
                    negative_prompt_embeds=text.negative,
                    height=plan.height,
                    width=plan.width,
                    num_frames=1,
                    num_inference_steps=steps,
                    guidance_scale=plan.guidance_scale,
                    output_type="latent",
                )
        return operations.count

    ours, library = (operations(4, ours=who) - operations(2, ours=who) for who in (True, False))
    assert 0 < ours <= library


def test_no_step_waits_for_a_value_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the meta device have no values: whoever asks for one gets an error."""
    engine = WanEngine(str(CHECKPOINT), device="cpu")
    engine.load()
    plan = replace(planned(engine, "image_fast"), width=32, height=32, seeds=(1, 2, 3))
    parts: Any = engine._loaded
    text = parts.embeddings.of([plan] * 3)
    monkeypatch.setattr(
        parts.embeddings, "of", lambda _plans: PromptPair(text.positive.to("meta"), text.negative.to("meta"))
    )
    parts.sampler.to("meta")
    steps: list[int] = []
    latents = _denoise(parts, Pass.of(plan).rows, lambda step, _: steps.append(step))
    assert latents.is_meta
    assert steps == [1, 2]


# --- several jobs in one pass -------------------------------------------------------------------------


def test_pictures_of_several_jobs_come_out_as_they_do_alone(engine: WanEngine, picture: Plan) -> None:
    """To rounding, as pictures of one batch do."""
    mates = (
        replace(picture, job_id="a"),
        replace(picture, job_id="b", prompt="a gray cat", negative_prompt="ugly", seeds=(3, 4)),
    )
    together = samples_of(engine.generate(Pass(mates), silent))
    for plan, samples in zip(mates, together, strict=True):
        for sample, alone in zip(samples, run(engine, plan), strict=True):
            difference = np.abs(sample.frames.astype(int) - alone.frames)
            assert difference.max() <= 2
            assert (difference > 0).mean() < 0.02


def test_videos_run_one_by_one(video: Plan) -> None:
    with pytest.raises(ValueError, match="one by one"):
        Pass.of(video, replace(video, job_id="another"))


def test_plans_that_do_not_agree_make_no_pass(picture: Plan) -> None:
    with pytest.raises(ValueError, match="one shape"):
        Pass.of(picture, replace(picture, shift=2.0))


# --- text ---------------------------------------------------------------------------------------------


@pytest.fixture
def encoded(parts: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that reach the text encoder, beginning with an empty cache."""
    prompts: list[str] = []
    encode = parts.embeddings._encode

    def counted(prompt: str) -> torch.Tensor:
        prompts.append(prompt)
        return encode(prompt)  # type: ignore[no-any-return]

    monkeypatch.setattr(parts.embeddings, "_encode", counted)
    parts.embeddings._cache.clear()
    return prompts


def test_a_prompt_and_the_constant_negative_prompt_are_encoded_once(
    engine: WanEngine, picture: Plan, encoded: list[str]
) -> None:
    run(engine, replace(picture, seeds=(1, 2, 3)))
    run(engine, replace(picture, seeds=(4,)))
    run(engine, replace(picture, prompt="a gray cat"))
    assert encoded == [picture.prompt, picture.negative_prompt, "a gray cat"]


def test_without_guidance_the_negative_prompt_is_not_encoded(
    engine: WanEngine, picture: Plan, encoded: list[str]
) -> None:
    run(engine, replace(picture, guidance_scale=1.0))
    assert encoded == [picture.prompt]


def test_the_window_is_511_tokens_beside_the_end_mark(engine: WanEngine) -> None:
    assert engine.prompt_window().limit == 511


def test_the_window_counts_with_the_checkpoints_tokenizer_what_the_pipeline_reads(engine: WanEngine) -> None:
    count = engine.prompt_window().count
    assert count("a boat on a lake") == 5
    assert count("  a boat\n on  a&nbsp;lake ") == 5
    assert count("") == 0


def test_text_that_fills_the_window_is_encoded_to_its_last_token(engine: WanEngine, parts: Any) -> None:
    full = " ".join(["boat"] * 511)
    assert engine.prompt_window().count(full) == 511
    assert parts.embeddings._encode(full).shape[1] == 512


def test_encoding_at_its_own_length_gives_what_the_padded_pipeline_gives(parts: Any) -> None:
    with torch.no_grad():
        padded = parts.embeddings._pipeline.encode_prompt(
            "a boat on a lake", do_classifier_free_guidance=False
        )[0]
    ours = parts.embeddings._padded("a boat on a lake")
    assert ours.shape == (1, 512, 32)
    assert torch.allclose(ours[:, :226].float(), padded.float(), atol=0.05)
    assert not ours[:, 6:].any()


# --- memory -------------------------------------------------------------------------------------------


def fail_above(limit: int, transformer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the transformer run out of memory with more than `limit` samples at once."""
    forward = transformer.forward

    def limited(*arguments: Any, hidden_states: torch.Tensor, **options: Any) -> Any:
        if hidden_states.shape[0] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*arguments, hidden_states=hidden_states, **options)

    monkeypatch.setattr(transformer, "forward", limited)


def test_pictures_that_do_not_fit_together_are_made_in_smaller_batches_and_that_is_recorded(
    engine: WanEngine, picture: Plan, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    six = replace(picture, seeds=tuple(range(6)))
    whole = run(engine, six)
    fail_above(2, parts.sampler.transformer, monkeypatch)
    split = run(engine, six)
    assert [sample.index for sample in split] == list(range(6))
    for one, other in zip(whole, split, strict=True):
        assert np.abs(one.frames.astype(int) - other.frames).max() <= 2
        (adjustment,) = other.adjustments
        assert (adjustment.field, adjustment.requested, adjustment.used) == ("batch_size", 6, 2)


def test_a_single_picture_that_does_not_fit_is_out_of_memory(
    engine: WanEngine, picture: Plan, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_above(0, parts.sampler.transformer, monkeypatch)
    with pytest.raises(OutOfMemory, match="The picture needs more memory"):
        run(engine, replace(picture, seeds=(1, 2, 3)))


def test_a_video_whose_decoding_runs_out_of_memory_is_decoded_in_tiles_and_that_is_recorded(
    engine: WanEngine, video: Plan, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = replace(video, width=192)
    whole = run(engine, wide)[0].frames
    monkeypatch.setattr(parts.decoder, "_tile", 16)
    decoder = parts.decoder._vae.decoder
    forward = decoder.forward

    def limited(latents: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if latents.shape[-1] > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(latents, *arguments, **options)

    monkeypatch.setattr(decoder, "forward", limited)
    (sample,) = run(engine, wide)
    (adjustment,) = sample.adjustments
    assert (adjustment.field, adjustment.requested, adjustment.used) == ("vae_tiling", False, True)
    assert sample.frames.shape == whole.shape


@pytest.mark.parametrize(("height", "width"), [(8, 20), (20, 8)])
def test_decoding_in_tiles_gives_what_the_librarys_tiles_give(parts: Any, height: int, width: int) -> None:
    vae = parts.decoder._vae
    ours = FrameDecoder(vae, tile_pixels=64).decode(torch.zeros(16, 2, height, width), tiles=True)()
    mean = torch.tensor(vae.config.latents_mean).view(1, 16, 1, 1, 1)
    vae.enable_tiling(64, 64, 48, 48)
    try:
        with torch.no_grad():
            decoded = vae.decode(mean.expand(1, 16, 2, height, width).contiguous(), return_dict=False)[0]
    finally:
        vae.use_tiling = False
    download = Download(5, 8 * height, 8 * width, torch.device("cpu"))
    download.put(decoded[0].transpose(0, 1))
    theirs = download.frames()
    assert ours.shape == theirs.shape == (5, 8 * height, 8 * width, 3)
    # The library ends each side with one more tile, a sliver; up to there the tiles are the same.
    before_sliver = {8: 48, 20: 144}
    difference = np.abs(ours.astype(int) - theirs)[:, : before_sliver[height], : before_sliver[width]]
    assert np.quantile(difference, 0.99) <= 1


def test_tiles_meet_without_a_seam() -> None:
    """Tiles of constant brightness, each 30 levels above the one before, become a ramp."""
    width, tile = 224, 64
    row = np.zeros((1, 8, width, 3), np.uint8)
    laid = 0
    for number, start in enumerate(_tile_starts(width // 8, tile // 8)):
        piece = np.full((1, 8, tile, 3), 30 * number, np.uint8)
        laid = _lay(row, piece, 8 * start, laid, axis=2)
    assert laid == width
    steps = np.diff(row[0, 0, :, 0].astype(int))
    assert steps.min() >= 0
    assert steps.max() <= 3


@given(st.integers(1, 260), st.integers(4, 64))
def test_tiles_cover_every_pixel_and_overlap_their_neighbours(length: int, side: int) -> None:
    starts = _tile_starts(length, side)
    assert starts[0] == 0
    assert starts[-1] + side >= length
    assert all(0 < second - first < side for first, second in itertools.pairwise(starts))


def test_a_video_is_never_held_as_floats(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    original = torch.cat

    def watched(tensors: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal largest
        joined = original(tensors, *arguments, **options)
        if joined.ndim == 5 and joined.shape[1] == 3:
            largest = max(largest, joined.shape[2])
        return joined

    monkeypatch.setattr(torch, "cat", watched)
    frames = parts.decoder.decode(torch.zeros(16, 6, 4, 4), tiles=False)()
    assert frames.shape == (21, 32, 32, 3)
    assert largest <= 4


def test_output_that_is_not_finite_fails_the_job(
    engine: WanEngine, picture: Plan, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        bias = parts.sampler.transformer.proj_out.bias
        patch.setattr(bias, "data", torch.full_like(bias, torch.nan))
        with pytest.raises(GenerationFailed):
            run(engine, picture)
    with monkeypatch.context() as patch:
        bias = parts.decoder._vae.decoder.conv_out.bias
        patch.setattr(bias, "data", torch.full_like(bias, torch.inf))
        with pytest.raises(GenerationFailed):
            run(engine, picture)


def test_an_offloaded_text_encoder_gives_the_same_picture(engine: WanEngine, picture: Plan) -> None:
    offloaded = WanEngine(str(CHECKPOINT), device="cpu", residency="offload_text")
    assert offloaded.load().applied["residency"] == "offload_text"
    assert np.array_equal(run(offloaded, picture)[0].frames, run(engine, picture)[0].frames)


def test_tiling_can_be_forced(picture: Plan) -> None:
    engine = WanEngine(str(CHECKPOINT), device="cpu", vae_tiling=True)
    assert engine.load().applied["vae_tiling"] == "always"
    (sample,) = run(engine, replace(picture, width=320))
    assert sample.frames.shape == (1, 32, 320, 3)
    assert sample.adjustments == ()


# --- loading ------------------------------------------------------------------------------------------


def test_the_device_and_what_was_chosen_are_told() -> None:
    info = WanEngine(str(CHECKPOINT), device="cpu").load()
    assert (info.device, info.dtype) == ("cpu", "float32")
    assert info.gpu_name
    assert info.applied["text_encoder"] == "bfloat16"
    assert info.applied["vae"] == "float32"


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("/nowhere/wan", "there is no such folder"),
        (str(CHECKPOINT / "model_index.json"), "it is a file"),
        (str(CHECKPOINT / "vae"), "model_index.json"),
    ],
)
def test_a_model_that_is_no_checkpoint_is_refused_with_what_to_set(model: str, found: str) -> None:
    with pytest.raises(SettingsError, match="WAN_MODEL") as raised:
        WanEngine(model, device="cpu").load()
    assert found in str(raised.value)
    assert "diffusers layout" in str(raised.value)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "wan"))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"_class_name": "StableDiffusionXLPipeline"}, "names StableDiffusionXLPipeline"),
        ({"expand_timesteps": True}, "WAN 2.2"),
        ({"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "WAN 2.2"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(copied: Path, change: dict[str, Any], found: str) -> None:
    index = copied / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **change}))
    with pytest.raises(SettingsError, match=found):
        WanEngine(str(copied), device="cpu").load()


def test_weights_that_are_no_safetensors_are_refused(copied: Path) -> None:
    weights = copied / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(SettingsError, match="WAN_MODEL"):
        WanEngine(str(copied), device="cpu").load()


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_a_checkpoint_with_a_missing_tensor_is_refused(copied: Path, part: str) -> None:
    from safetensors.torch import load_file, save_file

    (file,) = (copied / part).glob("*.safetensors")
    tensors = load_file(file)
    del tensors[sorted(name for name in tensors if "weight" in name)[0]]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(SettingsError, match="WAN_MODEL"):
        WanEngine(str(copied), device="cpu").load()


def test_an_unknown_residency_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(SettingsError, match="auto, all or offload_text"):
        WanEngine(str(CHECKPOINT), device="cpu", residency="half").load()


def test_attention_that_is_not_there_is_refused_with_what_to_set() -> None:
    with pytest.raises(SettingsError, match="only cards have"):
        WanEngine(str(CHECKPOINT), device="cpu", attention="flash3").load()
    with pytest.raises(SettingsError, match="sdpa, cudnn, flash, flash3"):
        WanEngine(str(CHECKPOINT), device="cpu", attention="sage").load()


def test_attention_without_its_library_on_a_card_is_refused(parts: Any) -> None:
    with pytest.raises(SettingsError, match="WAN_ATTENTION is flash"):
        _set_attention(parts.sampler.transformer, "flash", torch.device("cuda"))


def test_the_share_of_prompts_found_in_the_cache_is_told(
    engine: WanEngine, picture: Plan, parts: Any
) -> None:
    run(engine, picture)
    run(engine, picture)
    assert 0 < parts.embeddings.hit_rate < 1
