"""The console: `python -m workers.admin` looks at the queues, the dead letters and the callbacks, and mends.

Exit codes: 0, 1 where what was asked for could not be done, 2 for a wrong command line, 69 (EX_UNAVAILABLE)
where Redis does not answer, 78 (EX_CONFIG) for a missing or wrong setting.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

import redis

from shared.errors import MalformedElement, ServiceError, SettingsError
from shared.job import IDENTIFIER, MAX_IDENTIFIER_CHARACTERS, Envelope
from shared.queue import (
    Keys,
    RedisConnections,
    Scripts,
    member_of,
    request_cancellation,
    translated_redis_errors,
)
from shared.settings import Settings, load_console_settings
from workers.exits import EXIT_REFUSED, EXIT_SETTINGS, EXIT_UNAVAILABLE


class Refused(Exception):
    """What was asked for cannot be done; the message says why and what can be done instead."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker that has a lease or holds something. `lease_s` is negative where its lease ran out."""

    id: str
    name: str
    version: str
    lease_s: float | None
    in_flight: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QueueView:
    """Counts, and times in seconds. `oldest_s` is None where the next element does not tell its age."""

    queue: str
    waiting: int
    oldest_s: float | None
    in_flight: int
    outbox: int
    outbox_next_due_s: float | None
    dead: int
    outbox_dead: int
    workers: tuple[WorkerView, ...]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """`raw` is the element as it was queued, prompt included: shown only on request. `size` is its bytes."""

    queue: str
    id: str
    at: str
    job: str | None
    reason: str
    terminal: bool
    raw: bytes

    def as_json(self, *, reveal: bool = False) -> dict[str, Any]:
        about = {
            "queue": self.queue,
            "id": self.id,
            "at": self.at,
            "job": self.job,
            "reason": self.reason,
            "terminal_callback": self.terminal,
            "size": len(self.raw),
        }
        return about | _revealed(self.raw) if reveal else about


@dataclass(frozen=True, slots=True)
class CallbackView:
    """A callback that waits for its receiver, or was given up. Its body stays unseen: it holds prompts."""

    queue: str
    job: str
    status: str
    attempts: int | None
    age_s: float | None
    due_s: float | None
    reason: str | None = None


class Console:
    """One queue as an operator sees it. Every method raises `ServiceError` where Redis does not answer."""

    def __init__(
        self, client: redis.Redis, queue: str, pop: str, now_ms: Callable[[], int] | None = None
    ) -> None:
        self._client: Any = client
        self._scripts = Scripts(client)
        self._keys = Keys(queue)
        self._pop = pop
        self._now_ms = now_ms or self._server_ms

    @property
    def queue(self) -> str:
        return self._keys.queue

    def view(self) -> QueueView:
        k = self._keys
        with translated_redis_errors():
            now = self._now_ms()
            workers = self._workers(now)
            oldest = self._client.lindex(k.queue, -1 if self._pop == "right" else 0)
            first_due = self._client.zrange(k.outbox, 0, 0, withscores=True)
            return QueueView(
                queue=k.queue,
                waiting=self._client.llen(k.queue),
                oldest_s=None if oldest is None else _age_s(oldest, now),
                in_flight=sum(len(worker.in_flight) for worker in workers),
                outbox=self._client.zcard(k.outbox),
                outbox_next_due_s=max(0.0, (first_due[0][1] - now) / 1000) if first_due else None,
                dead=self._client.xlen(k.dead),
                outbox_dead=self._client.xlen(k.outbox_dead),
                workers=tuple(workers),
            )

    def dead(self, limit: int) -> list[DeadLetter]:
        """The newest dead letters, newest first."""
        with translated_redis_errors():
            return [
                self._dead_letter(*entry) for entry in self._client.xrevrange(self._keys.dead, count=limit)
            ]

    def dead_letter(self, entry_id: str) -> DeadLetter | None:
        with translated_redis_errors():
            found = self._client.xrange(self._keys.dead, entry_id, entry_id)
            return self._dead_letter(*found[0]) if found else None

    def requeue(self, letter: DeadLetter, new_id: str | None) -> None:
        """Queue a dead letter again, behind what waits, and remove it from the dead letters, in one step.

        Its job must not have had a terminal callback, since its receiver takes no second one; under a
        `new_id` it is a new job. Raises `Refused`.
        """
        if new_id is None and letter.terminal:
            raise Refused(
                f"{letter.id}: its failed callback was sent, so nobody waits for job {letter.job} any more;"
                " queue it as a new job with --new-id ID."
            )
        raw = letter.raw if new_id is None else _renamed(letter, new_id)
        job = new_id if new_id is not None else letter.job
        keys = [self._keys.dead, self._keys.queue]
        if job is not None:
            keys.append(self._keys.done(member_of(job)))
        behind = "LPUSH" if self._pop == "right" else "RPUSH"
        outcome = self._scripts.run("dead_requeue", keys, [letter.id, raw, behind]).decode()
        if outcome == "ended":
            raise Refused(f"a job with the id {job} ended in the last seven days; choose another --new-id.")
        if outcome == "gone":
            raise Refused(f"{letter.id} is no dead letter any more: somebody requeued or dropped it.")

    def drop(self, letter: DeadLetter) -> None:
        with translated_redis_errors():
            self._client.xdel(self._keys.dead, letter.id)

    def outbox(self, limit: int) -> list[CallbackView]:
        """Callbacks that wait, the next one first."""
        k = self._keys
        with translated_redis_errors():
            now = self._now_ms()
            entries = self._client.zrange(k.outbox, 0, limit - 1, withscores=True)
            if not entries:
                return []
            members = [member for member, _ in entries]
            bodies = self._client.hmget(k.outbox_bodies, members)
            states = self._client.hmget(k.outbox_state, members)
        views = []
        for (member, due), body, state in zip(entries, bodies, states, strict=True):
            attempts, first_ms = (int(part) for part in (state or b"0 %d" % now).split())
            about = (self.queue, _text(member), _status(body), attempts)
            views.append(CallbackView(*about, (now - first_ms) / 1000, max(0.0, (due - now) / 1000)))
        return views

    def outbox_dead(self, limit: int) -> list[CallbackView]:
        """Callbacks that were given up, newest first."""
        with translated_redis_errors():
            now = self._now_ms()
            entries = self._client.xrevrange(self._keys.outbox_dead, count=limit)
        return [
            CallbackView(
                self.queue,
                _text(fields[b"job"]),
                _status(fields[b"body"]),
                None,
                (now - int(entry_id.split(b"-")[0])) / 1000,
                None,
                _text(fields[b"reason"]),
            )
            for entry_id, fields in entries
        ]

    def deliver(self) -> int:
        """Make every waiting callback due now; a live worker sends it at its next heartbeat."""
        with translated_redis_errors():
            members = self._client.zrange(self._keys.outbox, 0, -1)
            if members:
                # Only what is still there: one that was delivered meanwhile must not come back.
                self._client.zadd(self._keys.outbox, dict.fromkeys(members, 0), xx=True)
            return len(members)

    def cancel(self, job_id: str) -> bool:
        """Ask for a job's end. False where it has ended already."""
        return request_cancellation(self._client, self._keys, job_id)

    def _workers(self, now: int) -> list[WorkerView]:
        k = self._keys
        leases = {
            _text(name): deadline for name, deadline in self._client.zrange(k.leases, 0, -1, withscores=True)
        }
        described = {_text(name): info for name, info in self._client.hgetall(k.workers).items()}
        # A swept worker may have woken and taken something; that comes back, and until then it shows here.
        swept = [_text(name) for name in self._client.zrange(k.tombstones, 0, -1)]
        views = []
        for name in sorted({*leases, *described, *swept}):
            held = self._client.lrange(k.processing(name), 0, -1)
            if not held and name not in leases and name not in described:
                continue
            info = _object(described.get(name))
            lease_s = (leases[name] - now) / 1000 if name in leases else None
            jobs = tuple(_job_id(raw) or "(malformed)" for raw in held)
            views.append(
                WorkerView(name, str(info.get("name", "")), str(info.get("version", "")), lease_s, jobs)
            )
        return views

    def _dead_letter(self, entry_id: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
        raw = fields[b"raw"]
        moment = datetime.fromtimestamp(int(entry_id.split(b"-")[0]) / 1000, UTC)
        return DeadLetter(
            self.queue,
            entry_id.decode(),
            moment.isoformat(timespec="seconds"),
            _text(fields.get(b"job", b"")) or _job_id(raw),
            _text(fields[b"reason"]),
            fields.get(b"terminal") == b"1",
            raw,
        )

    def _server_ms(self) -> int:
        seconds, microseconds = self._client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000


# --- reading what stands in Redis --------------------------------------------------------------------


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _object(raw: bytes | None) -> dict[str, Any]:
    try:
        document = json.loads(raw or b"{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _status(body: bytes | None) -> str:
    return str(_object(body).get("status", "?"))


def _job_id(raw: bytes) -> str | None:
    try:
        return Envelope.decode(raw).job_id
    except MalformedElement:
        return None


def _age_s(raw: bytes, now_ms: int) -> float | None:
    """Seconds since an element's `created_at`; None where it states none."""
    try:
        stated = Envelope.decode(raw).payload.get("created_at")
        created = datetime.fromisoformat(stated) if isinstance(stated, str) else None
    except (MalformedElement, ValueError):
        return None
    if created is None:
        return None
    created = created if created.tzinfo else created.replace(tzinfo=UTC)
    return max(0.0, now_ms / 1000 - created.timestamp())


def _renamed(letter: DeadLetter, new_id: str) -> bytes:
    """The element as an object with another id. Raises `Refused` where it is no job or the id is none."""
    if len(new_id) > MAX_IDENTIFIER_CHARACTERS or not IDENTIFIER.fullmatch(new_id):
        raise Refused(
            f"--new-id has to be 1 to {MAX_IDENTIFIER_CHARACTERS} characters A-Z a-z 0-9 . _ -,"
            " the first a letter or digit."
        )
    try:
        payload = Envelope.decode(letter.raw).payload
    except MalformedElement as error:
        raise Refused(f"{letter.id} cannot be given a new id: {error}.") from error
    return json.dumps({**payload, "id": new_id}, allow_nan=False).encode()


def _revealed(raw: bytes) -> dict[str, str]:
    try:
        return {"raw": raw.decode()}
    except UnicodeDecodeError:
        return {"raw_base64": base64.b64encode(raw).decode()}


# --- the command line --------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        settings = load_console_settings()
        assert settings.redis_url is not None
        client = RedisConnections(settings.redis_url.get_secret_value(), settings.block_s).commands
        consoles = [Console(client, name, settings.queue_pop) for name in _queues(settings, arguments.queue)]
        arguments.run(consoles, arguments, _Printer(out or sys.stdout, arguments.json))
    except SettingsError as error:
        sys.stderr.write(f"The console cannot start. To mend:\n{error}\n")
        return EXIT_SETTINGS
    except ServiceError as error:
        sys.stderr.write(f"{error}.\n")
        return EXIT_UNAVAILABLE
    except Refused as error:
        sys.stderr.write(f"{_printable(str(error))}\n")
        return EXIT_REFUSED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workers.admin",
        description="Looks at the queues in REDIS_URL and mends what is in them.",
        epilog="Prompts are shown by nothing but `dead show --reveal`.",
    )

    def general(added: argparse.ArgumentParser, absent: Any) -> None:
        added.add_argument(
            "--queue", default=absent, help="sdxl, wan or the name of a list (default: both workers' lists)"
        )
        added.add_argument(
            "--json", action="store_true", default=absent or False, help="print one JSON document"
        )

    general(parser, None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(within: Any, name: str, run: Callable[..., None], about: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = within.add_parser(name, help=about, description=about)
        added.set_defaults(run=run)
        # Understood behind the command too; absent there, what stands before it counts.
        general(added, argparse.SUPPRESS)
        return added

    def limited(added: argparse.ArgumentParser) -> None:
        added.add_argument("--limit", type=_count, default=100, help="show at most so many (default 100)")

    command(commands, "queues", _show_queues, "what waits, runs and went wrong, by queue and worker")
    dead = commands.add_parser("dead", help="elements that no worker could end").add_subparsers(
        required=True, metavar="ACTION"
    )
    limited(command(dead, "list", _list_dead, "the newest dead letters"))
    show = command(dead, "show", _show_dead, "one dead letter")
    show.add_argument("--reveal", action="store_true", help="print the element itself, prompt included")
    requeue = command(dead, "requeue", _requeue_dead, "queue a dead letter again, behind what waits")
    requeue.add_argument("--new-id", help="as a job of this id; needed where its callback was sent")
    drop = command(dead, "drop", _drop_dead, "delete a dead letter")
    for each in (show, requeue, drop):
        each.add_argument("id", type=_entry_id, help="as `dead list` shows it")
    outbox = commands.add_parser("outbox", help="callbacks on their way").add_subparsers(
        required=True, metavar="ACTION"
    )
    limited(command(outbox, "list", _list_outbox, "callbacks that wait for their receiver"))
    limited(command(outbox, "dead", _list_outbox_dead, "callbacks that were given up"))
    command(outbox, "deliver", _deliver_outbox, "try all waiting callbacks again now")
    cancel = command(commands, "cancel", _cancel, "end a job that waits or runs")
    cancel.add_argument("job", help="the job's id")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError("has to be a number from 1 to 10000")
    return int(text)


def _entry_id(text: str) -> str:
    milliseconds, _, sequence = text.partition("-")
    if not (text.isascii() and milliseconds.isdecimal() and sequence.isdecimal()):
        raise argparse.ArgumentTypeError("has to be an id such as 1700000000000-0, see `dead list`")
    return text


def _queues(settings: Settings, wanted: str | None) -> list[str]:
    own = {"sdxl": settings.sdxl_queue, "wan": settings.wan_queue}
    return list(dict.fromkeys(own.values())) if wanted is None else [own.get(wanted, wanted)]


@dataclass(frozen=True, slots=True)
class _Printer:
    out: TextIO
    as_json: bool

    def show(self, document: Any, text: str) -> None:
        self.out.write(json.dumps(document, indent=2) if self.as_json else text)
        self.out.write("\n")


def _show_queues(consoles: Sequence[Console], _: argparse.Namespace, printer: _Printer) -> None:
    views = [console.view() for console in consoles]
    printer.show([asdict(view) for view in views], "\n\n".join(_told(view) for view in views))


def _list_dead(consoles: Sequence[Console], arguments: argparse.Namespace, printer: _Printer) -> None:
    letters = [letter for console in consoles for letter in console.dead(arguments.limit)]
    rows = [
        (one.id, one.queue, one.job or "-", one.at, f"{len(one.raw)} bytes", one.reason) for one in letters
    ]
    printer.show(
        [letter.as_json() for letter in letters],
        _table(("id", "queue", "job", "at", "size", "reason"), rows) or "There are no dead letters.",
    )


def _show_dead(consoles: Sequence[Console], arguments: argparse.Namespace, printer: _Printer) -> None:
    _, letter = _found(consoles, arguments.id)
    shown = letter.as_json(reveal=arguments.reveal)
    printer.show(shown, _table(("", ""), [(name, str(value)) for name, value in shown.items()]))


def _requeue_dead(consoles: Sequence[Console], arguments: argparse.Namespace, printer: _Printer) -> None:
    console, letter = _found(consoles, arguments.id)
    console.requeue(letter, arguments.new_id)
    job = arguments.new_id or letter.job
    printer.show({"requeued": letter.id, "queue": console.queue, "job": job}, f"Requeued on {console.queue}.")


def _drop_dead(consoles: Sequence[Console], arguments: argparse.Namespace, printer: _Printer) -> None:
    console, letter = _found(consoles, arguments.id)
    console.drop(letter)
    printer.show({"dropped": letter.id, "queue": console.queue}, f"Dropped from {console.queue}.")


def _list_outbox(consoles: Sequence[Console], arguments: argparse.Namespace, printer: _Printer) -> None:
    views = [view for console in consoles for view in console.outbox(arguments.limit)]
    rows = [
        (one.job, one.queue, one.status, str(one.attempts), _seconds(one.age_s), _seconds(one.due_s))
        for one in views
    ]
    printer.show(
        [asdict(view) for view in views],
        _table(("job", "queue", "status", "attempts", "age", "due in"), rows) or "No callback waits.",
    )


def _list_outbox_dead(consoles: Sequence[Console], arguments: argparse.Namespace, printer: _Printer) -> None:
    views = [view for console in consoles for view in console.outbox_dead(arguments.limit)]
    rows = [(one.job, one.queue, one.status, _seconds(one.age_s), one.reason or "") for one in views]
    printer.show(
        [asdict(view) for view in views],
        _table(("job", "queue", "status", "given up", "reason"), rows) or "No callback was given up.",
    )


def _deliver_outbox(consoles: Sequence[Console], _: argparse.Namespace, printer: _Printer) -> None:
    due = {console.queue: console.deliver() for console in consoles}
    printer.show(
        {"due": due},
        "\n".join(
            f"{queue}: {number} callbacks are due now; live workers send them at their next heartbeat."
            for queue, number in due.items()
        ),
    )


def _cancel(consoles: Sequence[Console], arguments: argparse.Namespace, printer: _Printer) -> None:
    asked = {console.queue: console.cancel(arguments.job) for console in consoles}
    if not any(asked.values()):
        raise Refused(f"Job {arguments.job} has ended already.")
    printer.show(
        {"job": arguments.job, "asked": asked},
        "\n".join(
            f"{queue}: "
            + (
                "asked; a waiting job ends before it starts, a running one within a second"
                if done
                else "it has ended"
            )
            for queue, done in asked.items()
        ),
    )


def _found(consoles: Sequence[Console], entry_id: str) -> tuple[Console, DeadLetter]:
    pairs = [(console, console.dead_letter(entry_id)) for console in consoles]
    found = [(console, letter) for console, letter in pairs if letter is not None]
    if not found:
        raise Refused(f"There is no dead letter {entry_id}; `dead list` shows those there are.")
    if len(found) > 1:
        raise Refused(f"{entry_id} is a dead letter of several queues; say which one with --queue.")
    return found[0]


def _told(view: QueueView) -> str:
    oldest = f", the oldest for {_seconds(view.oldest_s)}" if view.oldest_s is not None else ""
    due = f", next due in {_seconds(view.outbox_next_due_s)}" if view.outbox_next_due_s is not None else ""
    lines = [
        _printable(view.queue),
        f"  waiting             {view.waiting}{oldest}",
        f"  in flight           {view.in_flight}",
        f"  callbacks waiting   {view.outbox}{due}",
        f"  callbacks given up  {view.outbox_dead}",
        f"  dead letters        {view.dead}",
    ]
    rows = [
        (one.id, one.name, one.version, _seconds(one.lease_s), ", ".join(one.in_flight) or "-")
        for one in view.workers
    ]
    table = _table(("worker", "name", "version", "lease", "in flight"), rows) or "no workers"
    return "\n".join([*lines, *(f"  {line}" for line in table.split("\n"))])


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} s"


def _printable(text: str) -> str:
    """What stands in Redis must not move the cursor of the terminal it is shown on."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; "" without rows."""
    if not rows:
        return ""
    cells = [[_printable(cell) for cell in row] for row in ([heads, *rows] if any(heads) else rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


if __name__ == "__main__":
    raise SystemExit(main())
