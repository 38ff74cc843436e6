"""The tiers of enhance-prompt, its templates, and the laws of what comes out."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.enhance.compression import subject_of
from gateway.enhance.language_model import LanguageModel, Task
from gateway.enhance.metrics import measure
from gateway.enhance.orchestrator import Enhanced, Orchestrator
from gateway.enhance.templates import TEMPLATES, Context, Worker
from gateway.tokens import EstimatedWindow, sdxl_window
from shared.enhance import COMMA_TERMS, SENTENCES
from shared.errors import ContentRefused
from shared.plan import PromptWindow
from shared.presets import SDXL, WAN
from shared.screen import Screen, ScreenInput

CONTEXTS = (
    Context(SDXL, "image", "fast"),
    Context(SDXL, "image", "high"),
    Context(WAN, "image", "fast"),
    Context(WAN, "image", "high"),
    Context(WAN, "video", "fast"),
    Context(WAN, "video", "high"),
)
FAST_PICTURE, FINE_VIDEO = CONTEXTS[0], CONTEXTS[-1]


@dataclass
class FakeModel:
    """Answers what it was given to answer, or fails with it, and keeps the tasks."""

    answer: str | Exception
    tasks: list[Task] = field(default_factory=list)

    def write(self, task: Task) -> str:
        self.tasks.append(task)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@cache
def windows() -> dict[str, PromptWindow]:
    return {"sdxl": sdxl_window(None), "wan": EstimatedWindow()}


def orchestrator(
    models: dict[Worker, LanguageModel] | None = None, timer: Callable[[], float] = lambda: 0.0
) -> Orchestrator:
    return Orchestrator(Screen.standard(), windows(), models or {}, timer)


def enhance(prompt: str, context: Context = FAST_PICTURE, model: LanguageModel | None = None) -> Enhanced:
    models: dict[Worker, LanguageModel] = {} if model is None else {context.worker: model}
    return orchestrator(models).enhance(prompt, context)


# --- what a language model is asked -------------------------------------------------------------------


def test_the_templates_name_their_own_targets() -> None:
    assert {template.name: template.max_tokens for template in TEMPLATES.values()} == {
        "SDXL_FAST": 75,
        "SDXL_HIGH": 75,
        "WAN_FAST": 175,
        "WAN_HIGH_7B": 250,
    }
    for (family, _), template in TEMPLATES.items():
        assert template.system_prompt.startswith(f"Enhance this prompt for {family.upper()} ")
        assert template.system_prompt.endswith(f" Target: {template.max_tokens} tokens max.")
        assert "  " not in template.system_prompt


@pytest.mark.parametrize(
    ("context", "worker", "template"),
    [
        (CONTEXTS[0], "chat_worker", "SDXL_FAST"),
        (CONTEXTS[1], "chat_worker", "SDXL_HIGH"),
        (CONTEXTS[2], "wan_worker", "WAN_FAST"),
        (CONTEXTS[3], "wan_worker", "WAN_HIGH_7B"),
        (CONTEXTS[4], "wan_worker", "WAN_FAST"),
        (CONTEXTS[5], "wan_worker", "WAN_HIGH_7B"),
    ],
)
def test_family_and_quality_choose_the_template_and_the_worker(
    context: Context, worker: Worker, template: str
) -> None:
    models = {name: FakeModel(f"a red boat, {name}") for name in ("chat_worker", "wan_worker")}
    made = Orchestrator(Screen.standard(), windows(), models).enhance(  # type: ignore[arg-type]
        "a red boat", context, "session-1"
    )
    assert made.method == worker
    assert worker in made.prompt
    (task,) = models[worker].tasks
    assert task == Task(
        context.template.system_prompt, "a red boat", context.template.max_tokens, "session-1"
    )
    assert context.template.name == template
    assert "red boat" not in repr(task)


# --- the tiers ----------------------------------------------------------------------------------------


def test_without_a_language_model_the_rules_are_the_first_choice() -> None:
    made = enhance("a red boat")
    assert (made.method, made.fallback_used) == ("system_prompt", False)
    assert made.prompt.startswith("a red boat, ")


def test_what_a_language_model_writes_is_used() -> None:
    made = enhance("a red boat", model=FakeModel(" A red boat at dawn, golden mist \n"))
    assert (made.prompt, made.method, made.fallback_used) == (
        "A red boat at dawn, golden mist",
        "chat_worker",
        False,
    )


@pytest.mark.parametrize("answer", [RuntimeError("cannot say a red boat"), "", " \n", "a" * 10_001])
def test_a_language_model_that_fails_is_replaced_by_the_rules_and_that_is_said(
    answer: str | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made = enhance("a red boat", model=FakeModel(answer))
    assert (made.method, made.fallback_used) == ("system_prompt", True)
    assert made.prompt == enhance("a red boat").prompt
    assert "language model" in caplog.text
    assert "red boat" not in caplog.text


def test_what_the_content_screen_refuses_of_a_model_is_never_handed_out() -> None:
    refused = "a red boat, a schoolgirl, topless"
    assert not Screen.standard().check(ScreenInput(refused)).allowed
    made = enhance("a red boat", model=FakeModel(refused))
    assert (made.method, made.fallback_used) == ("system_prompt", True)
    assert "schoolgirl" not in made.prompt


def test_where_the_rules_fail_the_prompt_is_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Iterator[str]:
        raise RuntimeError

    monkeypatch.setattr("shared.enhance.rules._additions", broken)
    made = enhance("a red boat")
    assert (made.prompt, made.method, made.fallback_used) == ("a red boat", "system_prompt", True)


def test_a_prompt_that_does_not_pass_once_it_is_shortened_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Strict:
        def check(self, given: ScreenInput) -> object:
            return Screen.standard().check(ScreenInput("a schoolgirl, topless"))

    with pytest.raises(ContentRefused):
        Orchestrator(Strict(), windows()).enhance("a boat, " * 100, FAST_PICTURE)  # type: ignore[arg-type]


def test_the_subject_goes_in_front_where_a_model_lost_it() -> None:
    made = enhance("a red boat, fog", model=FakeModel("calm water, soft light"))
    assert made.prompt == "a red boat, calm water, soft light"
    made = enhance("a red boat, fog", FINE_VIDEO, FakeModel("Calm water. Soft light."))
    assert made.prompt == "a red boat. Calm water. Soft light."


def test_the_subject_outlives_the_cutting_of_a_long_answer() -> None:
    made = enhance(
        "a red boat", model=FakeModel("calm water, " * 100 + "fog, " * 10 + "a red boat at dawn" * 30)
    )
    assert made.prompt.startswith("a red boat, calm water, fog")
    assert made.tokens.compressed <= 75 < made.tokens.enhanced


# --- what comes out -----------------------------------------------------------------------------------

prompts = st.one_of(
    st.text(min_size=1, max_size=400),
    st.lists(
        st.sampled_from(
            "a red boat on the lake, fog. slow camera! light at night; sharp (two gulls:1.2) 舟、".split()
        ),
        min_size=1,
        max_size=300,
    ).map(" ".join),
).filter(lambda text: bool(text.strip()))
answers = st.none() | prompts | st.just("soft light, calm water, " * 60)


@settings(max_examples=150, deadline=None)
@given(prompts, st.sampled_from(CONTEXTS), answers)
def test_the_result_fits_keeps_the_subject_and_is_never_empty(
    prompt: str, context: Context, answer: str | None
) -> None:
    try:
        made = enhance(prompt, context, FakeModel(answer) if answer else None)
    except ContentRefused:
        return
    window = windows()[context.family.name]
    assert made.prompt.strip() == made.prompt != ""
    assert window.count(made.prompt) == made.tokens.compressed <= context.template.max_tokens
    assert made.tokens.original == window.count(prompt)
    assert 0 <= made.tokens.compression_ratio <= 1
    for value in (made.metrics.coherence, made.metrics.visual_appeal, made.metrics.technical_quality):
        assert 0 <= value <= 1
    assert 0 <= made.metrics.score <= 1
    subject = " ".join(subject_of(prompt).split())
    if window.count(subject) <= context.template.max_tokens:
        assert subject.casefold() in made.prompt.casefold()


@settings(max_examples=100, deadline=None)
@given(prompts, st.sampled_from(CONTEXTS))
def test_the_same_request_has_the_same_answer(prompt: str, context: Context) -> None:
    try:
        assert enhance(prompt, context) == enhance(prompt, context)
    except ContentRefused:
        return


def test_the_time_is_told_in_milliseconds() -> None:
    times = itertools.count(10.0, 0.25)
    made = orchestrator(timer=lambda: next(times)).enhance("a boat", FAST_PICTURE)
    assert made.processing_ms == 250.0


def test_the_ratio_is_the_share_of_the_enhanced_tokens_that_is_left() -> None:
    made = enhance(
        "a boat", model=FakeModel("a boat, " + ", ".join(f"buoy {number}" for number in range(10, 50)))
    )
    assert made.tokens.enhanced == 2 + 40 * 5
    assert made.tokens.compressed == 2 + 14 * 5
    assert made.tokens.compression_ratio == round(72 / 202, 3)


# --- the measures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("original", "enhanced", "coherence"),
    [
        ("a red boat on the lake", "a red boat on the lake, fog", 1.0),
        ("a red boat on the lake", "a red boat, fog", 0.667),
        ("a red boat", "a red boat, fog, Fog", 0.667),
        ("a red boat, an old pier", "fog", 0.0),
        ("on the", "fog", 1.0),
    ],
)
def test_coherence_is_what_is_left_of_the_prompts_words_and_said_once(
    original: str, enhanced: str, coherence: float
) -> None:
    assert measure(original, enhanced, COMMA_TERMS, "image").coherence == coherence


def test_the_aspects_that_are_stated_are_counted() -> None:
    picture = measure("a boat", "a boat at night, wide shot, sharp focus", COMMA_TERMS, "image")
    # Of light, composition, depth and palette two; of detail, finish and quality one.
    assert (picture.visual_appeal, picture.technical_quality) == (0.5, 0.333)
    assert picture.score == round((1 + 0.5 + 0.333) / 3, 3)
    video = measure("a boat", "a boat in slow motion, the camera pans", SENTENCES, "video")
    # Of motion, camera, light, depth and palette two; of coherence, pacing, detail and finish one.
    assert (video.visual_appeal, video.technical_quality) == (0.4, 0.25)


@pytest.mark.parametrize("context", CONTEXTS)
def test_an_enhanced_prompt_is_measured_higher_than_the_bare_one(context: Context) -> None:
    bare = measure("a red boat", "a red boat", context.template.style, context.medium)
    made = enhance("a red boat", context)
    assert made.metrics.score > bare.score
    if context.quality == "high":
        assert made.metrics.score == 1.0
