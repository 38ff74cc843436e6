"""Worker processes to kill: a server that has imported everything once and forks a fresh worker on demand.

    python -m support.chaos_worker       reads one JSON command a line, answers one JSON line

Only this process waits for the workers, so that no signal can meet a process id that was given out again.
What a worker does differently from a real one is listed in `_arrange`; all of it is asked for by variables.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

import shared.outbox
import shared.queue
import shared.storage
import shared.webhook
import workers.build
import workers.intake
import workers.pipeline
from shared.log import current_job
from shared.plan import Plan
from shared.presets import SDXL
from shared.screen import Screen, ScreenInput
from workers.engines.base import BatchSize, Drawn, Pass, StepCallback
from workers.engines.fake import FakeEngine
from workers.kind import Kind
from workers.main import serve

POISON = "poison-"
"""A job whose id is this, a stage and "-…" kills its worker at that stage."""
PR_SET_PDEATHSIG = 1
MOVED_CLOCK = """
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(redis.call('GET', 'test:offset') or '0')
end
"""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def poisoned(job_id: str | None, stage: str) -> None:
    if job_id is not None and job_id.startswith(f"{POISON}{stage}-"):
        die()


class PoisonableEngine(FakeEngine):
    def generate(self, run: Pass, on_step: StepCallback) -> Iterator[Drawn]:
        for drawn in super().generate(run, on_step):
            poisoned(run.plans[drawn.job].job_id, "decode")
            yield drawn


def prepare() -> None:
    """Do once what every worker does at its start, so that a fresh one costs next to no time."""
    screen = Screen.standard()
    Screen.standard = classmethod(lambda _cls: screen)  # type: ignore[method-assign, assignment]
    for module in ("httpx", "storage3", "workers.health"):
        importlib.import_module(module)
    Image.init()
    transports: Any = importlib.import_module("httpx._transports.default")
    context = transports.create_ssl_context()
    transports.create_ssl_context = lambda *_args, **_named: context


def main() -> None:
    prepare()
    commands, answers = sys.stdin.buffer, sys.stdout.buffer
    _answer(answers, {"ready": True})
    living: set[int] = set()
    while True:
        line = commands.readline()
        if not line:
            break
        command = json.loads(line)
        if "spawn" in command:
            pid = _fork(command["spawn"])
            living.add(pid)
            _answer(answers, {"pid": pid})
        elif "signal" in command:
            sent = command["pid"] in living
            if sent:
                os.kill(command["pid"], command["signal"])
            _answer(answers, {"sent": sent})
        else:
            _answer(answers, {"changes": _changes(living)})
    for pid in living:
        os.kill(pid, signal.SIGKILL)


def _answer(answers: BinaryIO, document: dict[str, Any]) -> None:
    answers.write(json.dumps(document).encode() + b"\n")
    answers.flush()


def _changes(living: set[int]) -> list[tuple[int, str, int]]:
    """What became of the workers since the last call: (pid, "exited" | "killed" | "stopped", number)."""
    changes = []
    for pid in list(living):
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if not found:
            continue
        if os.WIFSTOPPED(status):
            changes.append((pid, "stopped", os.WSTOPSIG(status)))
            continue
        living.discard(pid)
        if os.WIFSIGNALED(status):
            changes.append((pid, "killed", os.WTERMSIG(status)))
        else:
            changes.append((pid, "exited", os.WEXITSTATUS(status)))
    return changes


def _fork(variables: dict[str, str]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            die()
        os.environ.update(variables)
        os.chdir(variables["CHAOS_FOLDER"])
        null = os.open(os.devnull, os.O_RDWR)
        log = os.open("workers.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for target, source in ((0, null), (1, null), (2, log)):
            os.dup2(source, target)
        code = _serve()
    except BaseException:  # noqa: BLE001  # the child must never go on as a copy of its parent
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _serve() -> int:
    engine = PoisonableEngine(
        step_s=_number("CHAOS_STEP_S"),
        decode_s=_number("CHAOS_DECODE_S"),
        before_step=lambda plan, _step: poisoned(plan.job_id, "generate"),
        warmed=frozenset(BatchSize(64, 64, 1, number, guided=True) for number in range(1, 7)),
    )
    _arrange()
    kind = Kind("sdxl", SDXL, "SDXL_MODEL", lambda _settings: engine, Path("none"))
    return serve(kind, once=False, pause=lambda _seconds: None)


def _number(name: str, default: float = 0.0) -> float:
    return float(os.environ.get(name) or default)


def _arrange() -> None:
    """Shorter times, stages that can be poisoned, and moments to die or to stop at."""
    build: Any = workers.build
    build.QueueSettings = partial(shared.queue.QueueSettings, leftovers_every_s=1.0)
    build.Outbox = partial(shared.outbox.Outbox, settings=shared.outbox.OutboxSettings(claim_s=3.0))
    build.SENDER_TIMEOUT_S = 1.0
    storage_class: Any = shared.storage.SupabaseStorage
    defaults = storage_class.__init__.__kwdefaults__
    defaults["connect_timeout"] = defaults["timeout"] = 1.0
    webhook: Any = shared.webhook
    webhook.MAX_BACKOFF_S = 0.5
    if os.environ.get("CHAOS_CLOCK"):
        build.WorkQueue = partial(shared.queue.WorkQueue, clock=MOVED_CLOCK)
    _poison_stages()
    if last := int(_number("CHAOS_DIES_AFTER")):
        _die_around_script(last)
    if share := _number("CHAOS_STOP_SHARE"):
        _stop_before_sending(share)


def _poison_stages() -> None:
    def before(stage: str, call: Callable[..., Any], job_of: Callable[..., str | None]) -> Callable[..., Any]:
        def poisonable(*args: Any, **named: Any) -> Any:
            poisoned(job_of(*args), stage)
            return call(*args, **named)

        return poisonable

    def job_in_hand(_self: Screen, _wanted: ScreenInput) -> str | None:
        return current_job.get()

    def job_of_plan(plan: Plan, *_: object) -> str:
        return plan.job_id

    def job_of_key(_self: object, _bucket: str, key: str, *_: object) -> str:
        return key.rpartition("/")[2]

    pipeline: Any = workers.pipeline
    intake: Any = workers.intake
    screen: Any = Screen
    screen.check = before("intake", Screen.check, job_in_hand)
    intake.make_plan = before("plan", intake.make_plan, lambda job, *_: job.id)
    pipeline.encode_sample = before("encode", pipeline.encode_sample, job_of_plan)
    for storage in (shared.storage.FolderStorage, shared.storage.SupabaseStorage):
        poisonable: Any = storage
        poisonable.upload = before("upload", storage.upload, job_of_key)


def _die_around_script(last: int) -> None:
    """Die right before or right after the `last` Redis script that this worker runs."""
    scripts: Any = shared.queue.Scripts
    run = scripts.run
    left = iter(range(last))
    before = random.random() < 0.5

    def deadly(self: Any, name: str, keys: list[str], args: list[Any], **options: Any) -> Any:
        due = next(left, None) is None
        if due and before:
            die()
        answer = run(self, name, keys, args, **options)
        if due:
            die()
        return answer

    scripts.run = deadly


def _stop_before_sending(share: float) -> None:
    """Stop between the question whether the job is still ours and the sending of its callback."""
    sender: Any = shared.webhook.WebhookSender
    send = sender.send

    def stopping(self: Any, body: bytes, webhook_id: str) -> Any:
        if random.random() < share:
            os.kill(os.getpid(), signal.SIGSTOP)
            # The signal reaches the whole process, but not necessarily before the next instruction.
            time.sleep(0.01)
        return send(self, body, webhook_id)

    sender.send = stopping


if __name__ == "__main__":
    main()
