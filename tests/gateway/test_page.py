"""The page in a browser: a real gateway over HTTP, real workers whose engine draws plain colours."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect, sync_playwright
from support.gateway import CALLBACK_SECRET, USER_ID, gateway_settings, make_token
from support.harness import Installation, until
from support.serving import serving

from gateway.app import create_app
from shared.plan import Plan
from workers.build import Built
from workers.engines.fake import FakeEngine
from workers.local_receiver import LocalReceiver

CHROMIUM = Path("/usr/bin/chromium")
WAIT_MS = 60_000
PROMPT = "a red circle on a white background"
PHONE = {"width": 360, "height": 740}

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no Chromium at /usr/bin/chromium")


@dataclass
class Gate:
    """Holds an engine back before one of its steps until the test lets it go on."""

    step: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)

    def before_step(self, _plan: Plan, step: int) -> None:
        if step == self.step:
            self.reached.set()
            assert self.open.wait(60)


@dataclass(frozen=True)
class Studio:
    url: str
    gate: Gate
    engines: dict[str, FakeEngine]
    workers: dict[str, Built]


@pytest.fixture
def studio(
    redis_url: str, sqlite_url: str, tmp_path: Path, receiver: LocalReceiver, request: pytest.FixtureRequest
) -> Iterator[Studio]:
    """The demo, unless a test's parameter False asks for users with tokens."""
    demo = getattr(request, "param", True)
    settings = gateway_settings(redis_url, sqlite_url, tmp_path, DEMO=demo, DEMO_SIZE=64, DEMO_FRAMES=5)
    gate = Gate()
    engines = {name: FakeEngine(before_step=gate.before_step) for name in ("sdxl", "wan")}
    workers = {}
    with ExitStack() as stack:
        gateway = stack.enter_context(serving(create_app(settings)))
        for name, engine in engines.items():
            overrides = {
                "STORAGE_URL": settings.storage_url,
                "CALLBACK_URL": f"{gateway.url}/functions/v1/job-callback",
                "JOB_CALLBACK_SECRET": CALLBACK_SECRET,
            }
            worker = Installation(redis_url, tmp_path / name, receiver, name, engine, overrides)
            workers[name] = stack.enter_context(worker.serving())
        # Before the workers drain: a job that is held back would not end.
        stack.callback(gate.open.set)
        yield Studio(gateway.url, gate, engines, workers)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--mute-audio"]
        with playwright.chromium.launch(executable_path=CHROMIUM, args=flags) as browser:
            yield browser


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(reduced_motion="reduce") as context:
        context.set_default_timeout(WAIT_MS)
        yield context


@pytest.fixture
def opened(context: BrowserContext, studio: Studio) -> Page:
    page = context.new_page()
    page.goto(studio.url)
    return page


@pytest.fixture
def page(opened: Page) -> Iterator[Page]:
    """The page, which must not complain; an answer that is no success is none."""
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield opened
    assert [text for text in complaints if "Failed to load resource" not in text] == []


@pytest.fixture(autouse=True)
def patience() -> None:
    expect.set_options(timeout=WAIT_MS)


def submit(
    page: Page, prompt: str = PROMPT, *, count: int = 1, seed: str = "", negative: str = ""
) -> Locator:
    """Fill the form, send it, and return the card of the job."""
    before = page.locator(".job").count()
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Negative prompt").fill(negative)
    page.get_by_role("radio", name=str(count), exact=True).check()
    page.get_by_label("Seed").fill(seed)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".job")).to_have_count(before + 1)
    return page.locator(".job").first


def status(card: Locator) -> Locator:
    return card.locator(".status")


def is_shown(picture: Locator) -> bool:
    width: int = picture.evaluate("image => image.decode().then(() => image.naturalWidth)")
    return width > 0


def test_a_prompt_becomes_a_job_whose_steps_and_pictures_are_seen(studio: Studio, page: Page) -> None:
    studio.gate.step = 13
    card = submit(page, count=3, seed="0", negative="text")
    expect(status(card)).to_have_text("Step 12 of 25")
    expect(card.get_by_role("progressbar")).to_have_attribute("value", "12")
    studio.gate.open.set()
    expect(status(card)).to_have_text("Done")
    pictures = card.locator(".picture img")
    expect(pictures).to_have_count(3)
    assert all(is_shown(picture) for picture in pictures.all())
    assert card.locator(".use-seed").all_text_contents() == ["seed 0", "seed 1", "seed 2"]
    expect(page.get_by_role("status")).to_have_text("Done.")
    card.get_by_text("Settings").click()
    settings = dict(
        zip(card.locator("dt").all_text_contents(), card.locator("dd").all_text_contents(), strict=True)
    )
    assert settings["Size"] == "64 \u00d7 64"
    assert settings["Steps"] == "25"
    assert settings["Seeds"] == "0, 1, 2"
    assert settings["Negative prompt"].startswith("text")

    pictures.first.click()
    full = page.get_by_role("dialog").get_by_role("img")
    assert is_shown(full)
    expect(page.locator("#viewer-caption")).to_have_text("seed 0 · 64 \u00d7 64")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer-caption")).to_have_text("seed 1 · 64 \u00d7 64")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_a_video_plays_in_the_page_and_where_its_link_is_opened(page: Page) -> None:
    page.get_by_label("WAN video").check()
    expect(page.get_by_role("group", name="Pictures")).to_be_hidden()
    page.get_by_role("group", name="Examples").get_by_role("button").first.click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(re.compile("moving"))
    page.get_by_role("button", name="Generate").click()
    card = page.locator(".job").first
    expect(status(card)).to_have_text("Done")
    play = "video => video.play().then(() => [video.videoWidth, video.duration > 0, video.error])"
    film = card.locator("video")
    assert film.evaluate(play) == [64, True, None]
    page.goto(film.evaluate("video => video.currentSrc"))
    assert page.locator("video").evaluate(play) == [64, True, None]


def test_running_again_with_the_same_seed_makes_the_same_files(studio: Studio, page: Page) -> None:
    first = submit(page, negative="text, logo")
    expect(status(first)).to_have_text("Done")
    page.locator(".job").first.get_by_role("button", name="Run again").click()
    expect(page.locator(".job")).to_have_count(2)
    expect(page.locator(".job .status")).to_have_text(["Done", "Done"])
    once, again = studio.engines["sdxl"].plans
    assert (once.seeds, once.prompt, once.negative_prompt) == (
        again.seeds,
        again.prompt,
        again.negative_prompt,
    )
    seeds = page.locator(".job .use-seed").all_text_contents()
    assert seeds == [f"seed {once.seeds[0]}"] * 2


def test_a_running_job_is_cancelled_and_a_job_that_ended_is_deleted(studio: Studio, page: Page) -> None:
    studio.gate.step = 2
    card = submit(page)
    assert studio.gate.reached.wait(20)
    card.get_by_role("button", name="Cancel").click()
    expect(status(card)).to_have_text("Stopping")
    until(lambda: any(held._reason for held in studio.workers["sdxl"].pipeline._hands.all()))
    studio.gate.open.set()
    expect(status(card)).to_have_text("Cancelled")
    card.get_by_role("button", name="Delete").click()
    expect(page.locator(".job")).to_have_count(1)
    card.get_by_role("button", name="Delete for good?").click()
    expect(page.locator(".job")).to_have_count(0)
    page.reload()
    expect(page.get_by_text("Nothing yet.")).to_be_visible()


def test_a_prompt_is_text_and_never_markup(page: Page) -> None:
    hostile = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script> a boat"
    card = submit(page, hostile)
    expect(status(card)).to_have_text("Done")
    expect(card.locator(".prompt")).to_have_text(hostile)
    assert card.locator(".prompt *").count() == 0
    expect(page).to_have_title("Generate")


def test_the_policy_stops_a_script_that_got_into_the_page(studio: Studio, opened: Page) -> None:
    def injected(route: Route) -> None:
        answer = route.fetch()
        taken = "<script>document.title = 'taken'</script><p onclick=\"document.title = 'taken'\">Here</p>"
        route.fulfill(response=answer, body=answer.text().replace("<main", f"{taken}<main"))

    stopped: list[str] = []
    opened.on("console", lambda message: stopped.append(message.text))
    opened.route(f"{studio.url}/", injected)
    opened.reload()
    opened.get_by_text("Here", exact=True).click()
    expect(opened.get_by_label("Prompt", exact=True)).to_be_visible()
    expect(opened).to_have_title("Generate")
    assert [text for text in stopped if "inline script" in text]
    assert [text for text in stopped if "inline event handler" in text]


def test_no_script_of_the_page_can_write_markup(opened: Page) -> None:
    refused = opened.evaluate(
        """() => {
            try { document.body.innerHTML = "<p>taken</p>"; } catch (error) { return error.name; }
        }"""
    )
    assert refused == "TypeError"


def test_a_refused_prompt_is_told_where_it_was_written(page: Page) -> None:
    page.get_by_label("Prompt", exact=True).fill("a schoolgirl on a bench")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#request-error")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    expect(page.locator(".job")).to_have_count(0)


def test_a_seed_that_is_none_is_told_before_anything_is_sent(page: Page) -> None:
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    for seed in ("-1", "1.5", "x", "9007199254740992"):
        page.get_by_label("Seed").fill(seed)
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("#request-error")).to_contain_text("whole number")
        expect(page.get_by_label("Seed")).to_be_focused()
        page.get_by_label("Seed").fill("")
    expect(page.locator(".job")).to_have_count(0)


def test_nothing_is_wider_than_a_phone(page: Page) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    card = submit(page, "supercalifragilistic" * 30, count=6)
    expect(status(card)).to_have_text("Done")
    card.get_by_text("Settings").click()
    widest = page.evaluate("document.documentElement.scrollWidth")
    assert widest <= PHONE["width"]
    for button in page.get_by_role("button").all():
        if button.is_visible():
            box = button.bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= PHONE["width"]


def test_everything_that_takes_input_has_a_name(page: Page) -> None:
    card = submit(page, count=3)
    expect(status(card)).to_have_text("Done")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, img, video, progress, dialog")]
            .filter((part) => part.checkVisibility())
            .filter((part) => !(part.getAttribute("aria-label") || part.alt || part.labels?.length
                                || part.textContent.trim() || part.querySelector?.("img[alt]")))
            .map((part) => part.outerHTML)"""
    )
    assert nameless == []


def test_a_job_is_followed_by_asking_where_there_is_no_stream(studio: Studio, page: Page) -> None:
    page.route(re.compile("/events"), lambda route: route.abort())
    studio.gate.step = 13
    card = submit(page)
    expect(status(card)).to_have_text("Step 12 of 25")
    studio.gate.open.set()
    expect(status(card)).to_have_text("Done")
    expect(card.locator(".picture img")).to_have_count(1)


@pytest.mark.parametrize("studio", [False], indirect=True)
def test_a_user_pastes_a_token_which_stays_in_the_tab_and_goes_with_it(
    context: BrowserContext, studio: Studio, page: Page
) -> None:
    token = page.get_by_label("Access token")
    token.fill("no.token.atall")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    token.fill(make_token(USER_ID))
    page.get_by_role("button", name="Sign in").click()
    card = submit(page)
    expect(status(card)).to_have_text("Done")
    page.reload()
    expect(page.locator(".job")).to_have_count(1)
    assert context.cookies() == []
    assert page.evaluate("localStorage.length") == 0
    page.get_by_role("radio", name="3", exact=True).check()
    expect(page.locator("#summary")).to_contain_text("3 credits")
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator(".job")).to_have_count(0)
    assert page.evaluate("sessionStorage.length") == 0


@pytest.mark.parametrize("studio", [False], indirect=True)
def test_whoever_is_not_known_any_more_signs_in_again(studio: Studio, page: Page) -> None:
    page.get_by_label("Access token").fill(make_token(USER_ID))
    page.get_by_role("button", name="Sign in").click()
    card = submit(page)
    expect(status(card)).to_have_text("Done")
    page.evaluate("token => sessionStorage.setItem('access-token', token)", make_token(USER_ID, exp=1))
    card.get_by_role("button", name="Run again").click()
    expect(page.get_by_label("Access token")).to_be_focused()
    expect(page.get_by_role("alert")).to_contain_text("expired")
    expect(page.locator(".job")).to_have_count(0)


def test_an_enhanced_prompt_is_shown_beside_ones_own_before_it_is_used(page: Page) -> None:
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_role("button", name="Enhance", exact=True).click()
    comparison = page.get_by_role("region", name="Enhanced prompt")
    expect(comparison.locator("#original-text")).to_have_text(PROMPT)
    enhanced = comparison.locator("#enhanced-text").inner_text()
    assert enhanced != PROMPT
    page.get_by_role("button", name="Use enhanced").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(enhanced)
    expect(comparison).to_be_hidden()
