"""Screens for pictures: references before they are used, generated pictures and sampled frames before upload.

Nothing here detects a person's age, or what a picture shows. `HashBlocklist` recognises pictures that
somebody listed before, and near copies of them; `ClassifierOverHttp` asks a service that the operator chose
and is as good as that service. A picture that passes is not thereby harmless.

Off unless configured. What cannot be decided, or not in time, is refused, and pixels are never logged.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import ssl
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import httpcore
import numpy as np
from numpy.typing import NDArray
from pydantic import SecretStr

from shared.errors import JobError, SettingsError
from workers.inputs.network import Deadline, DeadlineBackend

log = logging.getLogger(__name__)

Purpose = Literal["reference", "generated", "frame"]
Picture = NDArray[np.uint8]

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True)
class ImageVerdict:
    """`reason_id` says which rule refused; it is for the operator, never for the customer."""

    allowed: bool
    reason_id: str | None = None


ALLOWED = ImageVerdict(allowed=True)


class ImageScreen(Protocol):
    """Decides about pictures. Implementations do not raise for what they are given: they refuse."""

    def check(self, pictures: Sequence[Picture], purpose: Purpose) -> ImageVerdict:
        """One verdict for all `pictures`: uint8 arrays of shape (height, width, 3), RGB."""
        ...


class ScreenChain:
    """Asks each screen in turn; the first refusal stands, and a screen that fails has refused."""

    def __init__(self, screens: Sequence[ImageScreen]) -> None:
        if not screens:
            raise ValueError(
                "a chain without screens would allow everything; configure no screen at all instead"
            )
        self._screens = tuple(screens)

    def check(self, pictures: Sequence[Picture], purpose: Purpose) -> ImageVerdict:
        if not pictures or not all(_is_picture(picture) for picture in pictures):
            return _undecided("screen.no_picture")
        for screen in self._screens:
            try:
                verdict = screen.check(pictures, purpose)
            # Whatever goes wrong inside a check, the picture has not been found allowed.
            except Exception as error:  # noqa: BLE001
                log.error("image screen %s failed with %s", type(screen).__name__, type(error).__name__)
                return _undecided("screen.failed")
            if verdict.allowed is not True:
                return verdict
        return ALLOWED


class HashBlocklist:
    """Refuses listed pictures: exact copies by SHA-256 of the pixels, near copies by perceptual hash.

    The file has one entry a line, `sha256:<64 hex digits>` or `phash:<16 hex digits>`; `#` begins a comment.
    `python -m workers.image_screen FILE...` writes the entries of pictures. `radius` is the number of the 64
    bits that may differ; the hash is also compared for the picture mirrored and turned by quarters. It stands
    recompression, scaling and changes of brightness, but not crops of more than about one per cent a side.
    """

    def __init__(self, path: Path, radius: int = 6) -> None:
        if not 0 <= radius <= 16:
            raise SettingsError([f"image blocklist: the radius is {radius}; set it to a number from 0 to 16"])
        self._radius = radius
        self._exact, self._perceptual = _read_blocklist(path)

    def check(self, pictures: Sequence[Picture], purpose: Purpose) -> ImageVerdict:
        del purpose  # a listed picture is refused wherever it appears
        for picture in pictures:
            if not _is_picture(picture):
                return _undecided("screen.no_picture")
            if pixel_sha256(picture) in self._exact:
                return ImageVerdict(False, "blocklist.exact")
            if self._near_copy(picture):
                return ImageVerdict(False, "blocklist.perceptual")
        return ALLOWED

    def _near_copy(self, picture: Picture) -> bool:
        return self._perceptual.size > 0 and any(
            int(np.bitwise_count(self._perceptual ^ variant).min()) <= self._radius
            for variant in phash_variants(picture)
        )


class ClassifierOverHttp:
    """Asks the operator's own classifier about each picture.

    POST to `url` with the picture as PNG, its purpose in `X-Image-Purpose` and `token` as bearer token. Only
    a status of 200 with the JSON object `{"allowed": true}` (more members are ignored) allows; any other
    answer, and none within `timeout_s` seconds for a picture, refuses. Redirects are not followed and no
    proxy is used: the picture and the token go to this address alone.
    """

    def __init__(
        self,
        url: str,
        token: SecretStr | None = None,
        timeout_s: float = 10.0,
        *,
        network: httpcore.NetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = _endpoint(url)
        self._token = token
        self._timeout_s = timeout_s
        self._network = network or httpcore.SyncBackend()
        self._ssl_context = ssl_context or httpcore.default_ssl_context()
        self._clock = clock

    def check(self, pictures: Sequence[Picture], purpose: Purpose) -> ImageVerdict:
        for picture in pictures:
            if not _is_picture(picture):
                return _undecided("screen.no_picture")
            try:
                allowed = _decision(self._ask(_png(picture), purpose))
            # httpcore's errors and those of the answer's form, translated here and nowhere else.
            except (
                httpcore.TimeoutException,
                httpcore.NetworkError,
                httpcore.ProtocolError,
                _UnusableAnswer,
            ) as error:
                log.warning("the image classifier gave no decision: %s", type(error).__name__)
                return _undecided("classifier.undecided")
            if not allowed:
                return ImageVerdict(False, "classifier.refused")
        return ALLOWED

    def _ask(self, png: bytes, purpose: Purpose) -> bytes:
        deadline = Deadline(self._timeout_s, self._clock)
        pool = httpcore.ConnectionPool(
            ssl_context=self._ssl_context,
            network_backend=DeadlineBackend(self._network, deadline),
            max_connections=1,
            max_keepalive_connections=0,
        )
        headers = [
            ("Content-Type", "image/png"),
            ("Content-Length", str(len(png))),
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
            ("X-Image-Purpose", purpose),
        ]
        if self._token is not None:
            headers.append(("Authorization", f"Bearer {self._token.get_secret_value()}"))
        with pool, pool.stream("POST", self._url, headers=headers, content=png) as response:
            if response.status != 200:
                raise _UnusableAnswer
            answer = bytearray()
            for chunk in response.iter_stream():
                answer += chunk
                if len(answer) > _MAX_ANSWER_BYTES:
                    raise _UnusableAnswer
            return bytes(answer)


class _UnusableAnswer(Exception):
    """The classifier answered something else than a decision."""


def pixel_sha256(picture: Picture) -> str:
    """SHA-256, in hex, of width and height as big-endian 32-bit numbers and the RGB rows from the top."""
    height, width = picture.shape[:2]
    digest = hashlib.sha256(struct.pack(">II", width, height))
    digest.update(np.ascontiguousarray(picture).data)
    return digest.hexdigest()


def phash(picture: Picture) -> int:
    """The 64-bit perceptual hash of a picture.

    After C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), the hash by
    discrete cosine transform: the luma is averaged down to 32x32, transformed with the two-dimensional
    DCT-II, and each of the 8x8 coefficients after the first row and column becomes a bit that says whether it
    is above their median. Averaging is by area, where the thesis smooths and then samples, so only hashes
    made here are comparable.
    """
    return _bits(_coefficients(picture))


def phash_variants(picture: Picture) -> tuple[np.uint64, ...]:
    """The hashes of the picture mirrored and turned by quarters, the picture itself first.

    Mirroring along an axis changes the sign of the odd coefficients along it; turning swaps the axes too.
    """
    block = _coefficients(picture)
    signs = np.where(np.arange(1, 9) % 2 == 1, -1.0, 1.0)
    upright = (block, block * signs, block * signs[:, None], block * signs * signs[:, None])
    return tuple(np.uint64(_bits(variant)) for plain in upright for variant in (plain, plain.T))


def _coefficients(picture: Picture) -> NDArray[np.float64]:
    """DCT-II coefficients 1 to 8 along both axes (shape 8x8, rows are vertical frequencies)."""
    from PIL import Image

    height, width = picture.shape[:2]
    luma = np.asarray(Image.fromarray(picture).convert("L"), np.float64)  # ITU-R BT.601
    coefficients: NDArray[np.float64] = _projection(height) @ luma @ _projection(width).T
    return coefficients


def _projection(length: int) -> NDArray[np.float64]:
    """The matrix (8, length) that averages a line down to 32 cells and takes its DCT coefficients 1 to 8.

    A pixel that lies across a border counts for both cells by its share. An image library's box filter gives
    it to one of them, and a mirrored picture then has another hash.
    """
    borders = np.linspace(0.0, length, 33)
    pixels = np.arange(length)
    overlap = np.minimum(borders[1:, None], pixels + 1) - np.maximum(borders[:-1, None], pixels)
    averages = np.clip(overlap, 0.0, None) * (32 / length)
    frequency, position = np.arange(1, 9)[:, None], np.arange(32)[None, :]
    projection: NDArray[np.float64] = np.cos(np.pi * frequency * (2 * position + 1) / 64) @ averages
    return projection


def _bits(block: NDArray[np.float64]) -> int:
    return int.from_bytes(np.packbits((block > np.median(block)).ravel()).tobytes(), "big")


def _read_blocklist(path: Path) -> tuple[frozenset[str], NDArray[np.uint64]]:
    """The exact and the perceptual hashes in the file. Raises SettingsError naming every line at fault."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = f"{path} cannot be read ({type(error).__name__})"
        raise SettingsError([f"image blocklist: {reason}; name a text file of hashes"]) from error
    exact: set[str] = set()
    perceptual: set[int] = set()
    problems = []
    for number, line in enumerate(lines, start=1):
        entry = line.partition("#")[0].strip().lower()
        kind, _, digits = entry.partition(":")
        is_hex = all(digit in "0123456789abcdef" for digit in digits)
        if kind == "sha256" and len(digits) == 64 and is_hex:
            exact.add(digits)
        elif kind == "phash" and len(digits) == 16 and is_hex:
            perceptual.add(int(digits, 16))
        elif entry:
            form = "sha256:<64 hex digits> or phash:<16 hex digits>"
            problems.append(f"image blocklist: {path}, line {number}: write {form}")
    if problems:
        raise SettingsError(problems)
    if not exact and not perceptual:
        raise SettingsError([f"image blocklist: {path} holds no hash; add some or configure no blocklist"])
    return frozenset(exact), np.array(sorted(perceptual), np.uint64)


def _endpoint(url: str) -> httpcore.URL:
    """The classifier's address. Raises SettingsError unless it is https, or http on this machine."""
    try:
        parsed = httpcore.URL(url)
        parsed.host.decode("ascii")
    except (ValueError, UnicodeError):
        parsed = httpcore.URL("invalid:")
    local = parsed.host.decode("ascii").lower() in _LOOPBACK_HOSTS
    if not parsed.host or not (parsed.scheme == b"https" or (parsed.scheme == b"http" and local)):
        raise SettingsError(["image classifier: set an https address, or http to localhost"])
    return parsed


def _decision(answer: bytes) -> bool:
    """The classifier's decision. Raises _UnusableAnswer for anything but an object with a boolean
    `allowed`."""
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        raise _UnusableAnswer from None
    allowed = document.get("allowed") if isinstance(document, dict) else None
    if not isinstance(allowed, bool):
        raise _UnusableAnswer
    return allowed


def _png(picture: Picture) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    # The size hardly matters on the way to a classifier; the time does.
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _is_picture(picture: Picture) -> bool:
    return (
        isinstance(picture, np.ndarray)
        and picture.dtype == np.uint8
        and picture.ndim == 3
        and picture.shape[2] == 3
        and picture.size > 0
    )


def _undecided(reason_id: str) -> ImageVerdict:
    return ImageVerdict(False, reason_id)


def _write_entries(paths: Iterable[str]) -> int:
    """Write the blocklist entries of picture files to standard output; the exit status."""
    from workers.inputs.decode import decode_image

    failed = False
    for path in paths:
        try:
            picture = decode_image(Path(path).read_bytes())
        except (OSError, JobError) as error:
            sys.stderr.write(f"{path}: {error}\n")
            failed = True
        else:
            sys.stdout.write(f"sha256:{pixel_sha256(picture)}\nphash:{phash(picture):016x}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(_write_entries(sys.argv[1:]))
