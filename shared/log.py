"""Logging: one line an event, JSON or console, with job and worker ids, and without anybody's secrets.

Prompts, negative prompts, reference addresses and callback bodies are never passed to a logger. Secrets are
taken out of every line as a second wall, tracebacks included: known values by their text, unknown ones by
their shape.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, Any, Final, Literal

LogFormat = Literal["json", "console"]

current_job: ContextVar[str | None] = ContextVar("current_job", default=None)

_OWN_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}

_SHAPES: Final = (
    (re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "<jwt>"),
    (re.compile(r"\bsb_(?:secret|publishable)_[A-Za-z0-9_-]+"), "<key>"),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=_-]+"), "<secret>"),
    (re.compile(r"(?i)\b(bearer)\s+[^\s'\",]+"), r"\1 <token>"),
    (re.compile(r"(?i)([a-z][a-z0-9+.-]*://)[^\s/@]*@"), r"\1<credentials>@"),
    (
        re.compile(
            r"(?i)([?&](?:[\w-]*(?:token|secret|password|signature|api_?key)|key|sig|x-amz-[a-z-]+)=)[^&\s'\"]+"
        ),
        r"\1<redacted>",
    ),
)


class Redactor:
    """Takes known secrets, and what looks like one, out of a text."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({secret for secret in secrets if len(secret) >= 6}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub("<redacted>", text)
        for shape, replacement in _SHAPES:
            text = shape.sub(replacement, text)
        return text


def _frames_only(error: BaseException) -> str:
    """A traceback without source lines of values and without the messages of foreign exceptions.

    Libraries put what they were given into their messages (a tokenizer its text, a parser its input), and
    what they are given is the user's. Our own errors carry only what may be read.
    """
    parts: list[str] = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        own = type(link).__module__.split(".")[0] in {"shared", "workers", "gateway"}
        parts.append(f"{type(link).__module__}.{type(link).__qualname__}" + (f": {link}" if own else ""))
        frames = traceback.extract_tb(link.__traceback__)
        parts.extend(f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
        if link is not None:
            parts.append("caused by")
    return "\n".join(parts)


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _one_line(text: str) -> str:
    """`text` with its control characters written out: nobody writes a line of somebody else's."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


class _Formatter(logging.Formatter):
    def __init__(self, redact: Redactor, context: Mapping[str, str]) -> None:
        super().__init__()
        self._redact = redact
        self.context = dict(context)

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        extra = {k: v for k, v in vars(record).items() if k not in _OWN_ATTRIBUTES and not k.startswith("_")}
        job = current_job.get()
        if job is not None:
            extra.setdefault("job_id", job)
        return extra

    def trace(self, record: logging.LogRecord) -> str | None:
        if record.exc_info and record.exc_info[1] is not None:
            return _frames_only(record.exc_info[1])
        return None

    def readable(self, value: Any) -> Any:
        """`value` with its texts redacted: JSON and `repr` write a secret's quotes and accents otherwise."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {self._redact(str(key)): self.readable(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.readable(item) for item in value]
        return self._redact(str(value))


class JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self.context,
            **self.fields(record),
        }
        trace = self.trace(record)
        if trace:
            line["traceback"] = trace
        return json.dumps(self.readable(line), ensure_ascii=True)


class ConsoleFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = self.readable(self.fields(record))
        extra = " ".join(f"{key}={value}" for key, value in fields.items())
        line = f"{clock} {record.levelname.lower():<7} {record.getMessage()}" + (
            f"  [{extra}]" if extra else ""
        )
        trace = self.trace(record)
        lines = [line, *(f"    {each}" for each in trace.split("\n"))] if trace else [line]
        # After the redaction, which looks for secrets as they are written.
        return "\n".join(_one_line(self._redact(each)) for each in lines)


def configure_logging(
    log_format: LogFormat,
    *,
    secrets: Iterable[str] = (),
    context: Mapping[str, str] | None = None,
    level: str = "INFO",
    stream: IO[str] | None = None,
) -> None:
    """Set up the root logger. `context` stands in every JSON line (worker and queue)."""
    redact = Redactor(secrets)
    kind = JsonFormatter if log_format == "json" else ConsoleFormatter
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(kind(redact, context or {}))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # These write whole addresses (signed tokens included), bodies or prompts at INFO and DEBUG.
    for name in (
        "httpx",
        "httpcore",
        "hpack",
        "urllib3",
        "diffusers",
        "transformers",
        "PIL",
        "redis",
        "filelock",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.captureWarnings(True)

    def last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        logging.getLogger("worker").critical("unhandled error", exc_info=(kind, error, trace))

    def thread_last_words(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            last_words(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook = last_words
    threading.excepthook = thread_last_words
