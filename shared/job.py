"""Bytes of a queue element → `Envelope` → `Job`.

An element that carries an id becomes an envelope, so that there is somebody to call back; everything else
is malformed. A job then holds every field of the payload that this product reads, under one name each,
checked, with None where the payload states nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TypeVar

from shared.errors import InvalidJob, MalformedElement
from shared.presets import PRESETS, Family, Preset

MAX_ELEMENT_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 32
MAX_PROMPT_CHARACTERS: Final = 10_000
MAX_SEED: Final = 2**53 - 1
"""The largest integer that JSON readers with double precision keep exactly."""

IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MAX_IDENTIFIER_CHARACTERS: Final = 128

_SIZE = re.compile(r"\s*(\d{1,5})\s*[*xX]\s*(\d{1,5})\s*")
# Possessive, and a string that never ends is taken to the end at once: linear time for any bytes.
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)

# What producers in the wild call a sampler, without case, spaces, "+", "-" and "_".
_EULER: Final = frozenset(
    {"euler", "eulerdiscrete", "eulerdiscretescheduler", "flowmatcheulerdiscretescheduler"}
)
_OTHER_SOLVERS: Final = frozenset(
    "unipc unipcmultistep unipcmultistepscheduler ddim ddimscheduler ddpm ddpmscheduler pndm plms"
    " pndmscheduler lms lmsdiscrete lmsdiscretescheduler heun heundiscretescheduler dpm dpmsolver"
    " dpmsolvermultistep dpmsolvermultistepscheduler dpmsolversinglestep dpmpp dpmpp2m dpmpp2mkarras"
    " dpmpp2msde dpmpp2msdekarras dpmppsde dpmppsdekarras dpmpp3msde dpm2m dpm2mkarras dpm2 dpm2a dpmsde"
    " dpmfast dpmadaptive eulera eulerancestral eulerancestraldiscretescheduler kdpm2 kdpm2ancestral"
    " deis deismultistep deismultistepscheduler lcm lcmscheduler tcd ipndm restart sasolver"
    " edm edmeuler".split()
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A decoded element: enough to call somebody back, whatever else is wrong with it."""

    job_id: str
    job_type: str | None
    payload: Mapping[str, Any]

    @staticmethod
    def decode(raw: bytes) -> Envelope:
        """Read one element in any of its three spellings.

        Raises `MalformedElement`, with a reason for the operator that quotes nothing of the element.
        """
        if len(raw) > MAX_ELEMENT_BYTES:
            raise MalformedElement(f"the element has {len(raw)} bytes, over the limit of {MAX_ELEMENT_BYTES}")
        document = _json(raw)
        if isinstance(document, list) and len(document) == 1:
            document = document[0]
            if not isinstance(document, str):
                raise MalformedElement("a JSON array must hold exactly one string, the job's JSON")
        if isinstance(document, str):
            document = _json(document.encode("utf-8", "surrogatepass"))
        if not isinstance(document, dict):
            raise MalformedElement("the element is JSON but no object, no array of one string and no string")
        job_id = document.get("id")
        if not isinstance(job_id, str) or not job_id:
            raise MalformedElement("the job has no id, so nobody can be called back")
        job_type = document.get("type")
        return Envelope(job_id, job_type if isinstance(job_type, str) else None, document)


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference image that the payload asks for. `strength` in 0.1…1.0, None where not stated."""

    url: str
    role: str
    strength: float | None


@dataclass(frozen=True, slots=True)
class Job:
    """A checked payload; None where it states nothing. Sizes in pixels, `fps` in frames a second."""

    id: str
    user_id: str
    preset: Preset
    prompt: str
    negative_prompt: str | None
    bucket: str
    size: tuple[int, int] | None
    num_inference_steps: int | None
    guidance_scale: float | None
    scheduler: str | None
    shift: float | None
    num_frames: int | None
    fps: float | None
    num_images: int | None
    seed: int | None
    enhance: bool | None
    compel_weights: str | None
    wants_compel: bool
    references: tuple[Reference, ...]
    denoising_strength: float | None
    created_at: datetime | None

    @staticmethod
    def parse(envelope: Envelope, family: Family, output_buckets: Collection[str] = ()) -> Job:
        """Check a payload for the worker of `family`.

        Raises `InvalidJob` with a sentence that names the field, the value and what is allowed.
        """
        fields = _Fields(envelope.payload)
        job_id = fields.identifier("id")
        preset = _preset(fields, family)
        wants_compel, compel_weights = _compel(fields)
        return Job(
            id=job_id,
            user_id=fields.identifier("user_id"),
            preset=preset,
            prompt=fields.prompt(),
            negative_prompt=fields.first(_text, *_paths("negative_prompt", "", "config", "metadata")),
            bucket=_bucket(fields, preset, output_buckets),
            size=_size(fields, family),
            num_inference_steps=fields.first(
                _integer(1, 100), "config.sample_steps", "config.num_inference_steps", "config.steps"
            ),
            guidance_scale=fields.first(_number(0, 20), "config.sample_guide_scale", "config.guidance_scale"),
            scheduler=fields.first(_solver, "config.sample_solver", "config.scheduler"),
            shift=fields.first(_number(0.01, 100), "config.sample_shift", "config.shift"),
            num_frames=_num_frames(fields, preset),
            fps=fields.first(_number(1, 60), "config.fps", "config.sample_fps", "config.frame_rate"),
            num_images=_num_images(fields, preset),
            seed=fields.first(_integer(0, MAX_SEED), *_paths("seed", "config", "metadata")),
            enhance=fields.first(_boolean, "config.enhance_prompt"),
            compel_weights=compel_weights,
            wants_compel=wants_compel,
            references=_references(fields),
            denoising_strength=fields.first(_number(0, 1), *_paths("denoise_strength", "metadata", "config")),
            created_at=_timestamp(fields.get("created_at")),
        )


# --- reading single values ---------------------------------------------------------------------------

T = TypeVar("T")
Reader = Callable[[str, Any], T]
"""`(path, value) → checked value`; raises InvalidJob naming the path."""


class _Fields:
    """Looks up dotted paths in the payload. Null, and an object that is null, mean absent."""

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self._payload = payload
        for group in ("config", "metadata"):
            if not isinstance(payload.get(group, {}), dict | None):
                _refuse(group, payload[group], "a JSON object")

    def get(self, path: str) -> Any:
        group, _, name = path.rpartition(".")
        holder = self._payload if not group else self._payload.get(group) or {}
        return holder.get(name)

    def first(self, read: Reader[T], *paths: str) -> T | None:
        """The value of the first path that is present. The others are not looked at: the first wins."""
        for path in paths:
            value = self.get(path)
            if value is not None:
                return read(path, value)
        return None

    def identifier(self, path: str) -> str:
        value = self.get(path)
        if (
            not isinstance(value, str)
            or not IDENTIFIER.fullmatch(value)
            or len(value) > MAX_IDENTIFIER_CHARACTERS
        ):
            _refuse(
                path,
                value,
                f"1 to {MAX_IDENTIFIER_CHARACTERS} characters A-Z a-z 0-9 . _ -, the first a letter or digit",
            )
        return value

    def prompt(self) -> str:
        value = self.get("prompt")
        if not isinstance(value, str) or not value.strip():
            raise InvalidJob("prompt is empty: it has to be a text that says what to draw.")
        return _text("prompt", value)


def _paths(name: str, *groups: str) -> tuple[str, ...]:
    return tuple(f"{group}.{name}" if group else name for group in groups)


def _refuse(path: str, value: Any, allowed: str) -> NoReturn:
    raise InvalidJob(f"{path} is {_shown(value)}, but has to be {allowed}.")


def _shown(value: Any) -> str:
    """A value as a customer may read it: short, on one line, never a whole structure."""
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value) if abs(value) < 1e21 else "a number beyond 1e21"
    if isinstance(value, str):
        printable = "".join(c if c.isprintable() else "?" for c in value[:41])
        return f"'{printable[:40]}…'" if len(value) > 40 else f"'{printable}'"
    return "a list" if isinstance(value, list) else "an object"


def _integer(low: int, high: int) -> Reader[int]:
    def read(path: str, value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            _refuse(path, value, f"a whole number from {low} to {high}")
        return value

    return read


def _number(low: float, high: float) -> Reader[float]:
    def read(path: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            _refuse(path, value, f"a number from {low:g} to {high:g}")
        return float(value)

    return read


def _boolean(path: str, value: Any) -> bool:
    if not isinstance(value, bool):
        _refuse(path, value, "true or false")
    return value


def _text(path: str, value: Any) -> str:
    if not isinstance(value, str):
        _refuse(path, value, "a text")
    if len(value) > MAX_PROMPT_CHARACTERS:
        raise InvalidJob(f"{path} has {len(value)} characters, but may have {MAX_PROMPT_CHARACTERS} at most.")
    if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
        # Neither can be stored by PostgreSQL, so the callback that reports the prompt would bounce.
        raise InvalidJob(f"{path} holds characters that are no text (NUL or half of a surrogate pair).")
    return value


def _solver(path: str, value: Any) -> str:
    name = re.sub(r"[\s_+-]", "", value).casefold() if isinstance(value, str) else ""
    if name.replace("dpm", "dpmpp", 1) in _OTHER_SOLVERS or name in _EULER or name in _OTHER_SOLVERS:
        return "euler" if name in _EULER else str(value)
    _refuse(path, value, "a known sampler such as 'euler', 'unipc', 'ddim' or 'dpmpp_2m'")


# --- reading groups of values ------------------------------------------------------------------------


def _preset(fields: _Fields, family: Family) -> Preset:
    value = fields.get("type")
    preset = PRESETS.get(value) if isinstance(value, str) else None
    own = [name for name, candidate in PRESETS.items() if candidate.family is family]
    if preset is None:
        _refuse("type", value, "one of " + ", ".join(own))
    if preset.family is not family:
        raise InvalidJob(
            f"type is '{value}', which belongs to the {preset.family.name} worker;"
            f" this queue takes {', '.join(own)}."
        )
    return preset


def _bucket(fields: _Fields, preset: Preset, output_buckets: Collection[str]) -> str:
    value = fields.get("bucket")
    if value is None:
        return preset.bucket
    if not isinstance(value, str) or (value != preset.bucket and value not in output_buckets):
        _refuse("bucket", value, f"'{preset.bucket}' for this job type, or one that the operator allows")
    return value


def _size(fields: _Fields, family: Family) -> tuple[int, int] | None:
    path, size = _stated_size(fields)
    if size is None:
        return None
    width, height = size
    if not (64 <= width <= 2048 and 64 <= height <= 2048):
        _refuse(path, f"{width}x{height}", "from 64 to 2048 pixels on each side")
    if width * height > family.max_area:
        _refuse(path, f"{width}x{height}", f"at most {family.max_area_text} in area")
    return size


def _stated_size(fields: _Fields) -> tuple[str, tuple[int, int] | None]:
    def read(path: str, value: Any) -> tuple[str, tuple[int, int]]:
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            _refuse(path, value, "a size such as '1024*1024' (width*height)")
        return path, (int(match[1]), int(match[2]))

    stated = fields.first(read, "config.size")
    if stated is not None:
        return stated
    side = _integer(64, 2048)
    width = fields.first(side, "config.width")
    height = fields.first(side, "config.height")
    if width is not None and height is not None:
        return "config.width and config.height", (width, height)
    if (width is None) != (height is None):
        missing = "width" if width is None else "height"
        raise InvalidJob(f"config.{missing} is missing: width and height have to be stated together.")
    return fields.first(read, "config.resolution") or ("", None)


def _num_frames(fields: _Fields, preset: Preset) -> int | None:
    value = fields.first(_integer(1, 161), "config.frame_num", "config.num_frames")
    if value is not None and value != 1 and preset.medium == "image":
        _refuse("config.frame_num", value, f"1 for a job of type {preset.job_type}")
    return value


def _num_images(fields: _Fields, preset: Preset) -> int | None:
    allowed = (1,) if preset.medium == "video" else (1, 3, 6)
    shown = "1 for a video" if preset.medium == "video" else "1, 3 or 6"

    def read(path: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value not in allowed:
            _refuse(path, value, shown)
        return int(value)

    return fields.first(read, *_paths("num_images", "config", "metadata"))


def _compel(fields: _Fields) -> tuple[bool, str | None]:
    enabled = fields.first(_boolean, *_paths("compel_enabled", "", "config", "metadata"))
    weights = fields.first(_text, *_paths("compel_weights", "", "config", "metadata")) or None
    return bool(enabled or (weights and enabled is None)), weights


_ROLES: Final = ("style", "composition", "character")
_STRENGTH: Final = _number(0.1, 1.0)


def _references(fields: _Fields) -> tuple[Reference, ...]:
    found: list[Reference] = []
    url = fields.first(_url, *_paths("reference_image_url", "metadata", "config"), "metadata.reference_url")
    strength = fields.first(_STRENGTH, *_paths("reference_strength", "metadata", "config"))
    role = fields.first(_role, *_paths("reference_type", "metadata", "config"))
    if url:
        found.append(Reference(url, role or "style", strength))
    for name in _ROLES:
        url = fields.first(_url, *_paths(f"{name}_reference_url", "metadata", "config"))
        strength = fields.first(_STRENGTH, *_paths(f"{name}_reference_strength", "metadata", "config"))
        if url:
            found.append(Reference(url, name, strength))
    found.extend(fields.first(_reference_list, *_paths("references", "metadata", "config")) or ())
    for end, names in {
        "first_frame": ("first_frame", "start_reference_url"),
        "last_frame": ("last_frame", "end_reference_url"),
    }.items():
        paths = [path for name in names for path in _paths(name, "metadata", "config")]
        url = fields.first(_url, *paths)
        if url:
            found.append(Reference(url, end, None))
    return tuple(found)


def _url(path: str, value: Any) -> str:
    """An empty address asks for nothing: producers send "" for a field that was not filled in."""
    if not isinstance(value, str) or len(value) > 4096:
        # The address itself is not shown: it may carry a token.
        raise InvalidJob(f"{path} has to be an address of at most 4096 characters.")
    return value.strip()


def _role(path: str, value: Any) -> str:
    if value not in _ROLES:
        _refuse(path, value, "one of " + ", ".join(_ROLES))
    return str(value)


def _reference_list(path: str, value: Any) -> tuple[Reference, ...]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        _refuse(path, value, "a list of objects with url, type and strength")
    return tuple(
        Reference(
            _url(f"{path}[{index}].url", item.get("url")),
            _role(f"{path}[{index}].type", item.get("type")),
            None
            if item.get("strength") is None
            else _STRENGTH(f"{path}[{index}].strength", item["strength"]),
        )
        for index, item in enumerate(value)
    )


def _timestamp(value: Any) -> datetime | None:
    """`created_at` only tells how long a job waited; one that cannot be read tells nothing."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# --- JSON --------------------------------------------------------------------------------------------


def _json(raw: bytes) -> Any:
    if _depth(raw) > MAX_DEPTH:
        raise MalformedElement(f"the JSON is nested deeper than {MAX_DEPTH} levels")

    def constant(name: str) -> NoReturn:
        raise ValueError(name)

    try:
        return json.loads(raw.decode("utf-8", "surrogatepass"), parse_constant=constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        # The decoder's message quotes nothing, but its text stays out all the same: only the class counts.
        raise MalformedElement(f"the element is not JSON ({type(error).__name__})") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("out of range")
    return value


def _depth(raw: bytes) -> int:
    """Deepest nesting of brackets outside strings, found without parsing."""
    depth = deepest = 0
    for byte in re.sub(rb"[^\[\]{}]", b"", _STRINGS.sub(b"", raw)):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest
