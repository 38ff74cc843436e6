"""Where results are kept: Supabase Storage or a local folder, behind one protocol.

Every fault leaves this module as one of three errors: `ServiceUnavailable` (it passes),
`ServiceMisconfigured` (a person has to mend it) or `ServiceRefused` (this very object will never be
accepted). Their messages name no key, no token and no signed link.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import ipaddress
import json
import logging
import os
import re
import shutil
import struct
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from shared.errors import (
    ServiceError,
    ServiceMisconfigured,
    ServiceRefused,
    ServiceUnavailable,
    SettingsError,
)
from shared.tus import upload_resumably

if TYPE_CHECKING:
    import httpx
    from storage3 import SyncStorageClient

log = logging.getLogger(__name__)

T = TypeVar("T")
LinkKind = Literal["public", "signed"]

RESUMABLE_BYTES: Final = 6 * 1024 * 1024
"""Files above this size are sent resumably, as Supabase advises."""

SMALLEST_SIZE_LIMIT: Final[Mapping[str, int]] = {
    # A picture of 1024x1024 that does not compress at all.
    "image/png": 1024 * 1024 * 3 + 1024,
    # Five seconds of 480x832 at a generous bit rate of 8 Mbit/s.
    "video/mp4": 5_000_000,
}
"""Bytes of one file that a bucket for this content type must accept at least."""

MAX_RETRY_AFTER_S: Final = 3600.0
"""A service may ask for a longer pause, but a result that waits for hours looks lost."""

MAX_KEY_CHARACTERS: Final = 1024
# What Supabase Storage accepts in a key without any encoding, a little narrower: no percent sign, because
# percent sequences are decoded on the way.
_KEY_PART: Final = re.compile(r"[A-Za-z0-9_!\-.*'() &$@=;:+,]+")
_BUCKET: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class Storage(Protocol):
    """Objects in buckets. All methods may be called by several threads at once.

    Each raises `ServiceUnavailable`, `ServiceMisconfigured` or `ServiceRefused`.
    """

    def check(self, buckets: Mapping[str, str], *, public_links: bool = False) -> None:
        """Write a small object to each bucket and remove it again.

        `buckets` maps each bucket to the content type of its main files. With `public_links` a bucket that
        is known to be private is a fault too. Raises `ServiceMisconfigured` with every fault of every bucket
        in one message, or `ServiceUnavailable` where nothing can be said.
        """

    def upload(self, bucket: str, key: str, file: Path, content_type: str) -> None:
        """Store `file`, replacing an object of the same key. Raises OSError where `file` cannot be read."""

    def link(self, bucket: str, key: str, kind: LinkKind) -> str:
        """The address of an object. A signed one is as good as a password: never log it."""

    def remove(self, bucket: str, keys: Sequence[str]) -> None:
        """Remove objects; those that do not exist are no fault."""


def open_storage(
    url: str,
    key: SecretStr | None = None,
    *,
    cache_seconds: int = 3600,
    link_seconds: int = 7 * 24 * 3600,
    public_base: str | None = None,
) -> Storage:
    """The storage at `url`: `file:///…` a folder, `http(s)://…` a Supabase project.

    `cache_seconds` is what browsers and the CDN may keep an object, `link_seconds` how long a signed link
    works, `public_base` the address under which a web server serves the folder. Raises `SettingsError`.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise SettingsError(["STORAGE_URL: a folder needs an absolute path, as in file:///data/results"])
        return FolderStorage(Path(unquote(parts.path)), public_base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(
            ["STORAGE_URL: set https://<project>.supabase.co, or file:///<folder> for a local folder"]
        )
    if key is None or not is_header_value(key.get_secret_value()):
        raise SettingsError(
            ["SUPABASE_SERVICE_KEY: set the project's service key, one line without spaces or quotes"]
        )
    return SupabaseStorage(url, key, cache_seconds=cache_seconds, link_seconds=link_seconds)


def supabase_headers(key: SecretStr) -> dict[str, str]:
    """How a Supabase key is presented.

    `apikey` always. As a bearer only where it is a JWT: the newer keys (`sb_secret_…`) are none, and Supabase
    refuses them there.
    """
    value = key.get_secret_value()
    return {"apikey": value, **({"Authorization": f"Bearer {value}"} if is_jwt(value) else {})}


def is_jwt(value: str) -> bool:
    """Whether `value` has the form of a signed JSON Web Token; the signature is not looked at."""
    parts = value.split(".")
    if len(parts) != 3 or not all(parts):
        return False
    try:
        header = json.loads(base64.urlsafe_b64decode(parts[0] + "=" * (-len(parts[0]) % 4)))
    except (ValueError, binascii.Error):
        return False
    return isinstance(header, dict) and "alg" in header


def is_header_value(value: str) -> bool:
    """Whether `value` can stand in an HTTP header as it is. The HTTP library's own error would quote it."""
    return bool(value) and all("!" <= character <= "~" for character in value)


def is_loopback(url: str) -> bool:
    """Whether `url` points to this machine, where a proxy of the environment has no business."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_path(bucket: str, key: str) -> str:
    """`bucket/key`, where both are safe in a URL and in a file system. Raises `ServiceRefused`."""
    if not _BUCKET.fullmatch(bucket):
        raise ServiceRefused(
            f"{bucket!r} cannot be a bucket: letters, digits, '_', '-' and '.', at most 100 characters"
        )
    parts = key.split("/")
    if len(key) > MAX_KEY_CHARACTERS or not all(
        _KEY_PART.fullmatch(part) and part not in (".", "..") for part in parts
    ):
        raise ServiceRefused(
            f"{key!r} cannot be a key in bucket {bucket!r}: at most {MAX_KEY_CHARACTERS} ASCII letters,"
            " digits and simple signs, without empty or dotted folders"
        )
    return f"{bucket}/{key}"


class SupabaseStorage:
    """Supabase Storage through the official client.

    Of the supabase package only its storage client is built: a whole client would import the database, auth
    and realtime clients, start with a session of its own and present every key as a bearer. Parallel calls
    share one `httpx.Client`, which is safe for threads and pools its connections; the storage client keeps no
    state between calls. HTTP/1.1, so that parallel uploads have a connection each.
    """

    def __init__(
        self,
        url: str,
        key: SecretStr,
        *,
        cache_seconds: int = 3600,
        link_seconds: int = 7 * 24 * 3600,
        connect_timeout: float = 10.0,
        timeout: float = 60.0,
        max_connections: int = 16,
    ) -> None:
        """`timeout` in seconds bounds each wait for the network, not the whole upload."""
        import httpx
        from storage3 import SyncStorageClient

        self._key = key
        self._cache_control = str(cache_seconds)
        self._link_seconds = link_seconds
        self._endpoint = url.rstrip("/").removesuffix("/storage/v1") + "/storage/v1/"
        self._headers = supabase_headers(key)
        self._http: httpx.Client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=connect_timeout),
            limits=httpx.Limits(max_connections=max_connections, keepalive_expiry=30.0),
            # A proxy that the operator has set in the environment is used.
            trust_env=not is_loopback(url),
            # The key must not follow a redirect to another host.
            follow_redirects=False,
        )
        self._client: SyncStorageClient = SyncStorageClient(
            self._endpoint, self._headers, http_client=self._http
        )

    def close(self) -> None:
        self._http.close()

    def check(self, buckets: Mapping[str, str], *, public_links: bool = False) -> None:
        settings = self._bucket_settings()
        findings = _Findings()
        for bucket, content_type in buckets.items():
            with findings.of(bucket):
                self._probe(bucket, content_type)
            limit, public = settings.get(bucket, (None, None))
            smallest = SMALLEST_SIZE_LIMIT.get(content_type, 0)
            if limit is not None and limit < smallest:
                findings.fault(
                    bucket, f"its files are limited to {limit} bytes; allow at least {smallest} bytes"
                )
            if public_links and public is False:
                findings.fault(
                    bucket, "it is private, so that public links do not work; make it public or sign links"
                )
        findings.raise_if_any()

    def upload(self, bucket: str, key: str, file: Path, content_type: str) -> None:
        path = checked_path(bucket, key)
        size = file.stat().st_size
        if size > RESUMABLE_BYTES:
            with file.open("rb") as stream:
                self._call(
                    f"uploading {path}",
                    lambda: upload_resumably(
                        self._http,
                        f"{self._endpoint}upload/resumable",
                        stream,
                        size,
                        headers={**self._headers, "x-upsert": "true"},
                        metadata={
                            "bucketName": bucket,
                            "objectName": key,
                            "contentType": content_type,
                            "cacheControl": self._cache_control,
                        },
                    ),
                )
            return
        # Opened here, because a path that cannot be opened is no fault of the storage.
        with file.open("rb") as stream:
            self._put(bucket, key, stream, content_type, f"uploading {path}")

    def link(self, bucket: str, key: str, kind: LinkKind) -> str:
        path = checked_path(bucket, key)
        objects = self._client.from_(bucket)
        if kind == "public":
            return self._call(f"linking to {path}", lambda: objects.get_public_url(key))
        return self._call(
            f"signing a link to {path}",
            lambda: str(objects.create_signed_url(key, self._link_seconds)["signedURL"]),
        )

    def remove(self, bucket: str, keys: Sequence[str]) -> None:
        for key in keys:
            checked_path(bucket, key)
        if keys:
            self._call(
                f"removing {len(keys)} objects from {bucket}",
                lambda: self._client.from_(bucket).remove(list(keys)),
            )

    def _put(self, bucket: str, key: str, content: object, content_type: str, doing: str | None) -> None:
        self._call(
            doing,
            lambda: self._client.from_(bucket).upload(
                key,
                content,  # type: ignore[arg-type]  # the client reads any open file or bytes
                {"content-type": content_type, "cache-control": self._cache_control, "upsert": "true"},
            ),
        )

    def _probe(self, bucket: str, content_type: str) -> None:
        """Write and remove one object of a name that nobody else uses."""
        key = f"storage-check/{uuid.uuid4().hex}{_EXTENSIONS.get(content_type, '')}"
        checked_path(bucket, key)
        self._put(bucket, key, sample(content_type), content_type, None)
        removed = self._call(None, lambda: self._client.from_(bucket).remove([key]))
        if not removed:
            raise ServiceMisconfigured(
                f"the key may write to it, but not remove (a test object stays at {key}); set"
                " SUPABASE_SERVICE_KEY to the service key"
            )

    def _bucket_settings(self) -> dict[str, tuple[int | None, bool | None]]:
        """Size limit in bytes and whether it is public, of each bucket that the key may look at."""
        try:
            buckets = self._call(None, self._client.list_buckets)
        except ServiceUnavailable:
            raise
        except ServiceError as error:
            # A key that may write but not look is no fault; a key that may do neither is told of below.
            log.warning("the size limits of the buckets cannot be read: %s", error)
            return {}
        return {bucket.id: (bucket.file_size_limit, bucket.public) for bucket in buckets}

    def _call(self, doing: str | None, request: Callable[[], T]) -> T:
        """Run one request of the vendor's client: the only place where its errors are translated."""
        import httpx
        from storage3.utils import StorageException

        try:
            return request()
        except (
            httpx.HTTPError,
            httpx.InvalidURL,
            httpx.StreamError,
            httpx.CookieConflict,
            StorageException,
            # How the client fails on an answer of another shape (pydantic's errors are ValueErrors).
            ValueError,
            KeyError,
            TypeError,
        ) as error:
            fault = _fault(error)
        # Outside of the except clause, so that the vendor's error, which may quote headers and answers, is
        # not carried along as context.
        raise fault.error(doing, hidden=self._key.get_secret_value())


class FolderStorage:
    """A folder with one folder for each bucket, for demonstrations and for pods with a disk of their own.

    Content types and cache times are not kept; a web server derives both. A "signed" link is the public one.
    """

    def __init__(self, root: Path, public_base: str | None = None) -> None:
        self._root = root.absolute()
        self._public_base = public_base.rstrip("/") if public_base else None

    # The arguments that a folder has no use for belong to the protocol.
    def check(self, buckets: Mapping[str, str], *, public_links: bool = False) -> None:  # noqa: ARG002
        findings = _Findings()
        for bucket, content_type in buckets.items():
            with findings.of(bucket):
                target = self._path(bucket, f"storage-check-{uuid.uuid4().hex}")
                with _folder_errors(None):
                    self._replace(target, lambda path: path.write_bytes(sample(content_type)))  # noqa: B023
                    target.unlink()
        findings.raise_if_any()

    def upload(self, bucket: str, key: str, file: Path, content_type: str) -> None:  # noqa: ARG002
        target = self._path(bucket, key)
        # Opened outside of the translation, because a file that cannot be read is no fault of the storage.
        with file.open("rb") as source, _folder_errors(f"storing {bucket}/{key}"):

            def copy(path: Path) -> None:
                with path.open("xb") as copied:
                    shutil.copyfileobj(source, copied, 1 << 20)
                    copied.flush()
                    os.fsync(copied.fileno())

            self._replace(target, copy)

    def file(self, bucket: str, key: str) -> Path | None:
        """The file of an object, None where there is none. Raises `ServiceRefused` where it cannot be one."""
        target = self._path(bucket, key)
        return target if target.is_file() else None

    def link(self, bucket: str, key: str, kind: LinkKind) -> str:
        target = self._path(bucket, key)
        if kind == "signed" and not target.is_file():
            raise ServiceRefused(f"signing a link to {bucket}/{key}: there is no such object")
        if self._public_base:
            return f"{self._public_base}/{quote(f'{bucket}/{key}')}"
        return target.as_uri()

    def remove(self, bucket: str, keys: Sequence[str]) -> None:
        for target in [self._path(bucket, key) for key in keys]:
            with _folder_errors(f"removing from {bucket}"):
                target.unlink(missing_ok=True)

    def _path(self, bucket: str, key: str) -> Path:
        """The file of an object. Raises `ServiceRefused` where a link leads out of the root."""
        target = self._root / checked_path(bucket, key)
        if not target.resolve().is_relative_to(self._root.resolve()):
            raise ServiceRefused(f"{bucket}/{key} lies outside of the storage folder")
        return target

    @staticmethod
    def _replace(target: Path, write: Callable[[Path], object]) -> None:
        """Let `write` make a file beside `target` and put it in place at once: no reader sees half a file."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            write(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Fault:
    """What went wrong, in words for the operator. `retry_after` in seconds."""

    kind: type[ServiceError]
    explanation: str
    retry_after: float | None = None

    def error(self, doing: str | None, hidden: str = "") -> ServiceError:
        message = without_secrets(f"{doing}: {self.explanation}" if doing else self.explanation, hidden)
        if issubclass(self.kind, ServiceUnavailable):
            return self.kind(message, self.retry_after)
        return self.kind(message)


def _fault(error: Exception) -> _Fault:
    """Read an error of httpx or of the storage client."""
    import httpx
    from storage3.utils import StorageException

    response = _response(error)
    if response is not None:
        return _answer_fault(response)
    if isinstance(error, httpx.TimeoutException):
        return _Fault(ServiceUnavailable, f"no answer in time ({type(error).__name__})")
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError)):
        return _Fault(ServiceMisconfigured, "the request cannot be sent; check SUPABASE_URL and the key")
    if isinstance(error, httpx.TransportError):
        return _Fault(ServiceUnavailable, f"{type(error).__name__}: {error}")
    if isinstance(error, (StorageException, ValueError, KeyError, TypeError)):
        # The error quotes the answer, which may be a signed link: its class has to do.
        return _Fault(
            ServiceMisconfigured,
            f"the answer is none of Supabase Storage ({type(error).__name__}); check SUPABASE_URL",
        )
    return _Fault(ServiceUnavailable, type(error).__name__)


def _response(error: BaseException | None) -> httpx.Response | None:
    """The answer behind an error: the storage client keeps it only as the cause or context."""
    import httpx

    while error is not None:
        if isinstance(error, httpx.HTTPStatusError):
            return error.response
        error = error.__cause__ or error.__context__
    return None


# Codes of Supabase Storage whose number alone would mislead (a client error comes as HTTP 400, and several
# codes are 400 in the body too).
_PASSING_CODES: Final = frozenset(
    "SlowDown ResourceLocked LockTimeout DatabaseTimeout DatabaseReadOnly DatabaseTransactionAborted"
    # Every upload here replaces, so that a duplicate can only be a race with another upload.
    " KeyAlreadyExists ResourceAlreadyExists".split()
)
_PASSING_STATUS: Final = frozenset({408, 409, 423, 425, 429})

_KEY_ADVICE: Final = "the key is refused; set SUPABASE_SERVICE_KEY to the service key of this project"
_MISCONFIGURED_CODES: Final[Mapping[str, str]] = {
    "NoSuchBucket": "the bucket does not exist; create it in the project's Storage",
    "InvalidBucketName": "the bucket does not exist; create it in the project's Storage",
    "TenantNotFound": "the project is unknown; check SUPABASE_URL",
    "AccessDenied": _KEY_ADVICE,
    "InvalidJWT": _KEY_ADVICE,
    "ExpiredToken": _KEY_ADVICE,
    "InvalidSignature": _KEY_ADVICE,
    "SignatureDoesNotMatch": _KEY_ADVICE,
    "InvalidAccessKeyId": _KEY_ADVICE,
}
_MISCONFIGURED_STATUS: Final[Mapping[int, str]] = {
    401: _KEY_ADVICE,
    402: "the project is over its quota; see its billing page",
    403: _KEY_ADVICE,
    404: "nothing is there; check SUPABASE_URL and that the bucket exists",
    405: "nothing is there; check SUPABASE_URL",
    540: "the project is paused; restore it in the dashboard",
}
_REFUSED_CODES: Final[Mapping[str, str]] = {
    "InvalidMimeType": "the bucket does not allow this content type; allow it in the bucket's settings",
    "EntityTooLarge": "the file is larger than the bucket allows; raise the bucket's size limit",
    "InvalidKey": "the key has characters that are not allowed",
    "NoSuchKey": "there is no such object",
}


def _answer_fault(response: httpx.Response) -> _Fault:
    """Read an answer that is no success.

    The code in the body decides, then the number in the body, then the HTTP status: client errors come as
    HTTP 400 whatever they are.
    """
    try:
        body = response.json()
    except (ValueError, UnicodeDecodeError):
        body = None
    body = body if isinstance(body, dict) else {}
    code = str(body.get("code") or "")
    number = str(body.get("statusCode") or "")
    http_status = response.status_code
    status = int(number) if re.fullmatch(r"\d{3}", number) else http_status
    said = str(body.get("message") or response.text)[:200]
    shown = f"{status}{f' {code}' if code else ''}: {said}"

    if code in _PASSING_CODES or _passes(http_status) or status in _PASSING_STATUS or _passes(status):
        pause = retry_after_seconds(response.headers.get("Retry-After"), time.time())
        return _Fault(ServiceUnavailable, f"the storage cannot do it now ({shown})", pause)
    if code in _REFUSED_CODES:
        return _Fault(ServiceRefused, f"{_REFUSED_CODES[code]} ({shown})")
    if 300 <= status < 400:
        return _Fault(ServiceMisconfigured, f"the address redirects ({status}); set SUPABASE_URL to its end")
    advice = _MISCONFIGURED_CODES.get(code) or _MISCONFIGURED_STATUS.get(status)
    if advice:
        return _Fault(ServiceMisconfigured, f"{advice} ({shown})")
    return _Fault(ServiceRefused, f"the storage refuses it ({shown})")


def _passes(status: int) -> bool:
    return (status >= 500 and status not in _MISCONFIGURED_STATUS) or status == 429


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks to wait, None where it says nothing readable.

    It holds seconds or an HTTP date (RFC 9110, section 10.2.3), which is compared with `now`, the Unix time
    in seconds. At most `MAX_RETRY_AFTER_S`.
    """
    from email.utils import parsedate_to_datetime

    text = (value or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        return min(max(0.0, parsedate_to_datetime(text).timestamp() - now), MAX_RETRY_AFTER_S)
    except (ValueError, OverflowError):
        return None


_SECRETS: Final = re.compile(
    r"eyJ[\w-]+\.[\w-]+\.[\w-]*"  # a JSON Web Token
    r"|sb_(?:secret|publishable)_[\w-]+"
    r"|(?i:(?:token|apikey|signature)=)[^&\s\"']+"
    r"|(?i:bearer\s+)[^\s\"',]+"
)


def without_secrets(text: str, hidden: str = "") -> str:
    """`text` in one line, without `hidden` and without whatever looks like a key or a token."""
    if hidden:
        text = text.replace(hidden, "***")
    return " ".join(_SECRETS.sub("***", text).split())


class _Findings:
    """What a check found, fault by fault, each with the buckets that have it."""

    def __init__(self) -> None:
        self._faults: dict[str, list[str]] = {}
        self._unavailable: dict[str, ServiceUnavailable] = {}

    @contextlib.contextmanager
    def of(self, bucket: str) -> Iterator[None]:
        """Note the service errors of the block instead of raising them."""
        try:
            yield
        except ServiceUnavailable as error:
            self._unavailable[bucket] = error
        except ServiceError as error:
            self.fault(bucket, str(error))

    def fault(self, bucket: str, fault: str) -> None:
        self._faults.setdefault(fault, []).append(bucket)

    def raise_if_any(self) -> None:
        lines = [f"{_named(buckets)}: {fault}" for fault, buckets in self._faults.items()]
        if lines:
            lines += [f"{_named([b])}: not checked, {error}" for b, error in self._unavailable.items()]
            raise ServiceMisconfigured(
                "\n".join(["The storage cannot be used yet:", *(f"  - {line}" for line in lines)])
            )
        for error in self._unavailable.values():
            raise error


def _named(buckets: Sequence[str]) -> str:
    return f"bucket{'s' if len(buckets) > 1 else ''} {', '.join(buckets)}"


_MISCONFIGURED_ERRNO: Final = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.ENOTDIR,
        errno.ENOENT,
        errno.EISDIR,
    }
)


@contextlib.contextmanager
def _folder_errors(doing: str | None) -> Iterator[None]:
    """Translate the errors of the file system."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if error.errno == errno.ENAMETOOLONG:
            fault = _Fault(ServiceRefused, f"{reason}; the key is too long for a file name")
        elif error.errno in _MISCONFIGURED_ERRNO:
            fault = _Fault(ServiceMisconfigured, f"{reason}; see to the storage folder's rights and space")
        else:
            fault = _Fault(ServiceUnavailable, reason)
        raise fault.error(doing) from error


_EXTENSIONS: Final[Mapping[str, str]] = {"image/png": ".png", "video/mp4": ".mp4", "image/webp": ".webp"}


def sample(content_type: str) -> bytes:
    """A small real file of a content type: one black pixel, or a film without a picture."""
    if content_type == "image/png":
        return _png()
    if content_type == "video/mp4":
        return _mp4()
    return b"storage check\n"


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)  # 1x1, 8 bits, grey
    pixels = zlib.compress(b"\0\0")  # filter type and one pixel
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _mp4() -> bytes:
    """The boxes that every MP4 begins with (ISO/IEC 14496-12): file type, and a movie header of no length."""

    def box(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", 8 + len(data)) + kind + data

    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    times = struct.pack(">IIIII", 0, 0, 0, 1000, 0)  # version and flags, dates, time scale, duration
    movie_header = times + struct.pack(">IHHII", 0x10000, 0x0100, 0, 0, 0) + matrix + bytes(24)
    return box(b"ftyp", b"isom\0\0\x02\0isommp42") + box(
        b"moov", box(b"mvhd", movie_header + struct.pack(">I", 1))
    )
