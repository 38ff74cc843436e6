"""The storages: one contract for both, the double proven by recordings, every fault translated."""

from __future__ import annotations

import gc
import json
import logging
import re
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import storage3.exceptions
import storage3.utils
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from storage3.types import SignedUrlJsonResponse
from support.supabase_double import RECORDINGS, Reply, Request, SupabaseDouble

from shared import tus
from shared.errors import (
    ServiceError,
    ServiceMisconfigured,
    ServiceRefused,
    ServiceUnavailable,
    SettingsError,
)
from shared.storage import (
    RESUMABLE_BYTES,
    FolderStorage,
    Storage,
    SupabaseStorage,
    checked_path,
    is_jwt,
    open_storage,
    sample,
    without_secrets,
)

BUCKETS = {"sdxl_image_fast": "image/png", "video_fast": "video/mp4"}


@pytest.fixture
def double() -> Iterator[SupabaseDouble]:
    with SupabaseDouble() as double:
        double.create_bucket("sdxl_image_fast")
        double.create_bucket("video_fast", public=True)
        yield double


def supabase(double: SupabaseDouble, key: str | None = None, **options: Any) -> SupabaseStorage:
    return SupabaseStorage(double.url, SecretStr(key or double.service_key), **options)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(sample("image/png"))
    return path


# One contract for every storage.


@pytest.fixture(params=["supabase", "folder"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "folder":
        yield FolderStorage(tmp_path / "results")
        return
    double: SupabaseDouble = request.getfixturevalue("double")
    adapter = supabase(double)
    yield adapter
    adapter.close()


def fetched(link: str) -> bytes:
    """What somebody with the link gets."""
    if link.startswith("file:"):
        return Path(httpx.URL(link).path).read_bytes()
    response = httpx.get(link, trust_env=False)
    response.raise_for_status()
    return response.content


def test_what_was_uploaded_is_what_a_signed_link_gives(storage: Storage, picture: Path) -> None:
    storage.upload("sdxl_image_fast", "u1/j1_1.png", picture, "image/png")
    assert fetched(storage.link("sdxl_image_fast", "u1/j1_1.png", "signed")) == picture.read_bytes()


def test_what_was_uploaded_is_what_a_public_link_gives(storage: Storage, picture: Path) -> None:
    storage.upload("video_fast", "u1/j1.mp4", picture, "video/mp4")
    assert fetched(storage.link("video_fast", "u1/j1.mp4", "public")) == picture.read_bytes()


def test_a_second_upload_replaces_the_first(storage: Storage, picture: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.png"
    second.write_bytes(b"second")
    for file in (picture, second):
        storage.upload("sdxl_image_fast", "u1/j1_1.png", file, "image/png")
    assert fetched(storage.link("sdxl_image_fast", "u1/j1_1.png", "signed")) == b"second"


def test_an_empty_file_is_stored(storage: Storage, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    storage.upload("sdxl_image_fast", "u1/empty.png", empty, "image/png")
    assert fetched(storage.link("sdxl_image_fast", "u1/empty.png", "signed")) == b""


def test_a_large_file_is_stored_byte_for_byte(storage: Storage, tmp_path: Path) -> None:
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(range(256)) * (2 * RESUMABLE_BYTES // 256) + b"the end")
    storage.upload("video_fast", "u1/large.mp4", large, "video/mp4")
    assert fetched(storage.link("video_fast", "u1/large.mp4", "public")) == large.read_bytes()


def test_a_removed_object_is_gone(storage: Storage, picture: Path) -> None:
    storage.upload("sdxl_image_fast", "u1/j1_1.png", picture, "image/png")
    storage.remove("sdxl_image_fast", ["u1/j1_1.png"])
    with pytest.raises(ServiceRefused):
        storage.link("sdxl_image_fast", "u1/j1_1.png", "signed")


def test_removing_what_is_not_there_changes_nothing(storage: Storage, picture: Path) -> None:
    storage.upload("sdxl_image_fast", "u1/j1_1.png", picture, "image/png")
    storage.remove("sdxl_image_fast", ["u1/none.png"])
    storage.remove("sdxl_image_fast", [])
    assert fetched(storage.link("sdxl_image_fast", "u1/j1_1.png", "signed")) == picture.read_bytes()


def test_a_signed_link_to_a_missing_object_is_refused(storage: Storage) -> None:
    with pytest.raises(ServiceRefused, match="there is no such object"):
        storage.link("sdxl_image_fast", "u1/none.png", "signed")


def test_a_check_that_finds_nothing_leaves_nothing_behind(
    storage: Storage, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    storage.check(BUCKETS)
    left = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    if isinstance(storage, SupabaseStorage):
        left += [b.objects for b in request.getfixturevalue("double").buckets.values() if b.objects]
    assert left == []


BAD_KEYS = [
    "../x.png",
    "u/../../x.png",
    "/x.png",
    "u//x.png",
    "u/",
    "",
    ".",
    "ü.png",
    "a%2e.png",
    "a\\b",
    "a\nb",
]


@pytest.mark.parametrize("key", [*BAD_KEYS, "k" * 1025])
def test_a_key_that_could_lead_elsewhere_is_refused_everywhere(
    storage: Storage, picture: Path, key: str
) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: storage.upload("sdxl_image_fast", key, picture, "image/png"),
        lambda: storage.link("sdxl_image_fast", key, "public"),
        lambda: storage.link("sdxl_image_fast", key, "signed"),
        lambda: storage.remove("sdxl_image_fast", [key]),
    ]
    for attempt in attempts:
        with pytest.raises(ServiceRefused, match="cannot be a key"):
            attempt()


@pytest.mark.parametrize("bucket", ["..", ".", "", "a/b", "a b", "ü", "x" * 101])
def test_a_bucket_that_could_lead_elsewhere_is_refused(storage: Storage, picture: Path, bucket: str) -> None:
    with pytest.raises(ServiceRefused, match="cannot be a bucket"):
        storage.upload(bucket, "u1/j1_1.png", picture, "image/png")


def test_a_local_file_that_is_missing_is_no_fault_of_the_storage(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.upload("sdxl_image_fast", "u1/j1_1.png", tmp_path / "none.png", "image/png")


def test_eight_threads_may_upload_at_once(storage: Storage, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(24)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * (10_000 + number))

    def upload(file: Path) -> None:
        storage.upload("sdxl_image_fast", f"u1/{file.name}", file, "image/png")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upload, files))
    for file in files:
        assert fetched(storage.link("sdxl_image_fast", f"u1/{file.name}", "signed")) == file.read_bytes()


@settings(deadline=None)
@given(st.text(max_size=40))
def test_an_accepted_key_stays_below_its_bucket(key: str) -> None:
    try:
        path = checked_path("bucket", key)
    except ServiceRefused:
        return
    root = Path("/root")
    assert (root / path).resolve().is_relative_to(root / "bucket")
    assert path.isascii()
    assert "%" not in path


@settings(deadline=None)
@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True),
)
def test_every_legal_user_and_job_id_makes_a_legal_key(user_id: str, job_id: str) -> None:
    for ending in ("_1.png", ".mp4", "_1.thumb.webp"):
        checked_path("sdxl_image_fast", f"{user_id}/{job_id}{ending}")


# The double is proven by the recordings.


def _render(call: Callable[[], object]) -> str:
    """A client's result, as the recordings write it."""
    try:
        return repr(call())
    except Exception as error:  # noqa: BLE001  # any error is a result here, and compared
        return f"{type(error).__module__}.{type(error).__qualname__}: {error}"


def _scenario(double: SupabaseDouble) -> dict[str, tuple[str, list[tuple[Request, Reply]]]]:
    """Run every recorded case, in its order, with the real supabase client against the double."""
    from supabase import create_client

    def client(key: str) -> Any:
        with warnings.catch_warnings():
            # The client passes its own storage client options that it has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            return create_client(double.url, key).storage

    service = client(double.service_key)
    pictures = service.from_("sdxl_image_fast")
    png = b"\x89PNG\r\n\x1a\n" + bytes(2000)

    def upload(key: str, content: bytes = png, to: Any = pictures, **options: str) -> object:
        settings = {"content-type": "image/png", "cache-control": "3600", "upsert": "true"}
        return to.upload(key, content, settings | {k.replace("_", "-"): v for k, v in options.items()})

    def from_down() -> object:
        double.database_down = True
        try:
            return upload("u1/z.png", bytes(103))
        finally:
            double.database_down = False

    def from_nobody() -> object:
        double.stop()
        try:
            return upload("u1/y.png")
        finally:
            double.start()

    image_only = {"file_size_limit": 5242880, "allowed_mime_types": ["image/png", "image/webp"]}
    cases: dict[str, Callable[[], object]] = {
        "create private bucket": lambda: service.create_bucket(
            "sdxl_image_fast", options={"public": False, **image_only}
        ),
        "create bucket again": lambda: service.create_bucket("sdxl_image_fast"),
        "create public bucket": lambda: service.create_bucket("video_fast", options={"public": True}),
        "upload png": lambda: upload("u1/j1_1.png", cache_control="31536000"),
        "upload same path, upsert": lambda: upload("u1/j1_1.png"),
        "upload same path, no upsert": lambda: upload("u1/j1_1.png", upsert="false"),
        "upload to a missing bucket": lambda: upload("u1/x.png", to=service.from_("nope")),
        "upload a mime type the bucket refuses": lambda: upload("u1/x.mp4", content_type="video/mp4"),
        "upload larger than the bucket allows": lambda: upload("u1/big.png", bytes(6 * 1024 * 1024)),
        "upload an empty file": lambda: upload("u1/empty.png", b""),
        "key with ..": lambda: upload("../other/x.png"),
        "key with unicode": lambda: upload("u1/ü.png"),
        "key with a space and percent": lambda: upload("u1/a%20b c.png"),
        "signed url": lambda: pictures.create_signed_url("u1/j1_1.png", 3600),
        "signed url of a missing object": lambda: pictures.create_signed_url("u1/none.png", 3600),
        "public url": lambda: service.from_("video_fast").get_public_url("u1/v.mp4"),
        "download": lambda: pictures.download("u1/j1_1.png")[:8],
        "download a missing object": lambda: pictures.download("u1/none.png"),
        "exists": lambda: pictures.exists("u1/j1_1.png"),
        "list": lambda: pictures.list("u1"),
        "signed upload url": lambda: pictures.create_signed_upload_url("u1/signed.png"),
        "anon key upload": lambda: upload("u1/a.png", to=client(double.anon_key).from_("sdxl_image_fast")),
        "wrong signature key upload": lambda: upload(
            "u1/a.png", to=client(double.wrong_key).from_("sdxl_image_fast")
        ),
        "expired key upload": lambda: upload(
            "u1/a.png", to=client(double.expired_key).from_("sdxl_image_fast")
        ),
        "nobody listens": from_nobody,
        "database behind storage is down": from_down,
    }
    results = {}
    for case, call in cases.items():
        before = len(double.exchanges)
        results[case] = (_render(call), double.exchanges[before:])
    return results


@pytest.fixture(scope="module")
def replayed() -> Iterator[tuple[str, dict[str, tuple[str, list[tuple[Request, Reply]]]]]]:
    with SupabaseDouble() as double:
        yield double.url, _scenario(double)


_VOLATILE = [
    (re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+"), "<jwt>"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<time>"),
    (re.compile(r'\\?"[0-9a-f]{32}\\?"'), "<etag>"),
]


def _normal(text: str, url: str) -> str:
    text = text.replace(url, "http://storage")
    for pattern, name in _VOLATILE:
        text = pattern.sub(name, text)
    return text


RECORDED = json.loads(RECORDINGS.read_text())


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda case: case["case"])
def test_the_double_answers_the_real_client_as_the_real_server_did(
    recorded: dict[str, Any], replayed: tuple[str, dict[str, tuple[str, list[tuple[Request, Reply]]]]]
) -> None:
    url, results = replayed
    result, exchanges = results[recorded["case"]]
    # The recordings cut long results.
    assert _normal(result, url).startswith(_normal(recorded["client_result"], url))
    assert len(exchanges) == len(recorded["exchanges"])
    for (request, reply), expected in zip(exchanges, recorded["exchanges"], strict=True):
        headers = expected["request_headers"]
        assert (request.method, request.path) == (expected["method"], expected["path"])
        assert request.headers.get("content-length") == headers.get("content-length")
        assert request.headers.get("x-upsert") == headers.get("x-upsert")
        assert reply.status == expected["status"]
        assert reply.headers["content-type"] == expected["response_headers"]["content-type"]
        if expected["response"] != "<the file>":
            assert _normal(reply.body.decode(), url).startswith(_normal(expected["response"], url))


def test_every_recorded_case_is_replayed(
    replayed: tuple[str, dict[str, tuple[str, list[tuple[Request, Reply]]]]],
) -> None:
    assert set(replayed[1]) == {case["case"] for case in RECORDED}
    assert len(RECORDED) == 26


# What is sent to Supabase.


def test_an_upload_states_content_type_cache_time_and_replacement(
    double: SupabaseDouble, picture: Path
) -> None:
    supabase(double, cache_seconds=86400).upload("sdxl_image_fast", "u1/j1_1.png", picture, "image/png")
    stored = double.stored("sdxl_image_fast", "u1/j1_1.png")
    assert (stored.content_type, stored.cache_control) == ("image/png", "max-age=86400")
    assert double.requests()[-1].headers["x-upsert"] == "true"


def test_a_jwt_is_sent_as_apikey_and_as_bearer(double: SupabaseDouble, picture: Path) -> None:
    supabase(double).upload("sdxl_image_fast", "u1/j1_1.png", picture, "image/png")
    headers = double.requests()[-1].headers
    assert headers["apikey"] == double.service_key
    assert headers["authorization"] == f"Bearer {double.service_key}"


@pytest.mark.parametrize("size", [100, RESUMABLE_BYTES + 1])
def test_a_key_that_is_no_jwt_is_never_sent_as_bearer(
    double: SupabaseDouble, tmp_path: Path, size: int
) -> None:
    file = tmp_path / "file.mp4"
    file.write_bytes(bytes(size))
    storage = supabase(double, double.secret_key)
    storage.check(BUCKETS)
    storage.upload("video_fast", "u1/j1.mp4", file, "video/mp4")
    storage.link("video_fast", "u1/j1.mp4", "signed")
    assert len(double.stored("video_fast", "u1/j1.mp4").content) == size
    assert {request.headers["apikey"] for request in double.requests()} == {double.secret_key}
    assert not any("authorization" in request.headers for request in double.requests())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("eyJhbGciOiJIUzI1NiJ9.e30.c2ln", True),
        ("sb_secret_abc", False),
        ("sb_secret_a.b.c", False),
        ("a.b.c", False),
        ("..", False),
        ("", False),
        ("eyJ0eXAiOiJKV1QifQ.e30.c2ln", False),
    ],
)
def test_a_jwt_has_three_parts_and_names_its_algorithm(value: str, expected: bool) -> None:
    assert is_jwt(value) is expected


@settings(deadline=None)
@given(st.text())
def test_any_text_can_be_asked_whether_it_is_a_jwt(value: str) -> None:
    assert is_jwt(value) in (True, False)


def test_a_signed_link_expires_after_the_stated_seconds(double: SupabaseDouble, picture: Path) -> None:
    storage = supabase(double, link_seconds=1234)
    storage.upload("sdxl_image_fast", "u1/j1_1.png", picture, "image/png")
    storage.link("sdxl_image_fast", "u1/j1_1.png", "signed")
    assert double.requests()[-1].json() == {"expiresIn": "1234"}


def test_an_upload_is_streamed_from_disk(
    double: SupabaseDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory that an upload takes must not grow with the file: nobody reads it in one piece."""
    file = tmp_path / "file.png"
    file.write_bytes(bytes(RESUMABLE_BYTES))
    pieces: list[int] = []
    send = httpx.HTTPTransport.handle_request

    def watched(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        stream = request.stream

        class Watched(httpx.SyncByteStream):
            def __iter__(self) -> Iterator[bytes]:
                for piece in stream:
                    pieces.append(len(piece))
                    yield piece

        request.stream = Watched()
        return send(transport, request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", watched)
    supabase(double).upload("video_fast", "u1/j1.mp4", file, "video/mp4")
    assert sum(pieces) > RESUMABLE_BYTES
    assert max(pieces) <= 1 << 20


def test_the_key_does_not_follow_a_redirect(double: SupabaseDouble, picture: Path) -> None:
    with SupabaseDouble() as other:
        double.scripted.append(Reply(307, b"", {"location": f"{other.url}/storage/v1/object/x/y"}))
        with pytest.raises(ServiceMisconfigured, match="redirects"):
            supabase(double).upload("sdxl_image_fast", "u1/j1_1.png", picture, "image/png")
        assert other.requests() == []


def test_a_server_on_this_machine_is_reached_without_the_proxy_of_the_environment(
    double: SupabaseDouble, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    supabase(double).upload("sdxl_image_fast", "u1/j1_1.png", picture, "image/png")


# Resumable uploads.


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(bytes(range(256)) * (2 * tus.CHUNK_BYTES // 256) + b"the last bytes")
    return path


def test_a_file_above_six_megabytes_is_sent_in_chunks_of_six(double: SupabaseDouble, film: Path) -> None:
    supabase(double, cache_seconds=60).upload("video_fast", "u1/j1.mp4", film, "video/mp4")
    assert [len(r.body) for r in double.requests("PATCH")] == [tus.CHUNK_BYTES, tus.CHUNK_BYTES, 14]
    stored = double.stored("video_fast", "u1/j1.mp4")
    assert stored.content == film.read_bytes()
    assert (stored.content_type, stored.cache_control) == ("video/mp4", "max-age=60")


def test_a_file_of_six_megabytes_is_sent_in_one_piece(double: SupabaseDouble, tmp_path: Path) -> None:
    file = tmp_path / "six.mp4"
    file.write_bytes(bytes(RESUMABLE_BYTES))
    supabase(double).upload("video_fast", "u1/j1.mp4", file, "video/mp4")
    assert double.requests("PATCH") == []


def test_a_broken_connection_is_resumed_where_the_server_stopped(double: SupabaseDouble, film: Path) -> None:
    double.cut_chunks_after.extend([1_000_000, 2_000_000])
    supabase(double).upload("video_fast", "u1/j1.mp4", film, "video/mp4")
    assert double.stored("video_fast", "u1/j1.mp4").content == film.read_bytes()
    offsets = [request.headers["upload-offset"] for request in double.requests("PATCH")]
    assert offsets[0] == "3000000"


def test_a_connection_that_keeps_breaking_is_given_up(double: SupabaseDouble, film: Path) -> None:
    double.cut_chunks_after.extend([1000] * (tus.MAX_RESUMES + 1))
    with pytest.raises(ServiceUnavailable):
        supabase(double).upload("video_fast", "u1/j1.mp4", film, "video/mp4")


def test_a_last_chunk_without_an_answer_proves_nothing(double: SupabaseDouble, tmp_path: Path) -> None:
    file = tmp_path / "film.mp4"
    file.write_bytes(bytes(tus.CHUNK_BYTES + 500))
    storage = supabase(double)

    class LastAnswerLost(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = super().handle_request(request)
            if request.method == "PATCH" and request.headers["upload-offset"] == str(tus.CHUNK_BYTES):
                raise httpx.ReadError("connection lost", request=request)
            return response

    storage._http._mounts = {}
    storage._http._transport = LastAnswerLost()
    with pytest.raises(ServiceUnavailable, match="connection lost"):
        storage.upload("video_fast", "u1/j1.mp4", file, "video/mp4")


def test_resumable_uploads_stay_on_the_host_that_was_set(double: SupabaseDouble, film: Path) -> None:
    """The double answers with a Location on a host that does not exist."""
    supabase(double).upload("video_fast", "u1/j1.mp4", film, "video/mp4")
    assert all(r.path.startswith("/storage/v1/upload/resumable/") for r in double.requests("PATCH"))


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([Reply.text(201, "")], ServiceUnavailable),
        (
            [Reply.text(201, "", Location="http://h/upload/resumable/x"), Reply.text(204, "")],
            ServiceUnavailable,
        ),
        (
            [
                Reply.text(201, "", Location="http://h/upload/resumable/x"),
                Reply.text(204, "", Upload_Offset="0"),
            ],
            ServiceUnavailable,
        ),
        (
            [Reply.text(201, "", Location="http://h/upload/resumable/x"), Reply.text(404, "gone")],
            ServiceUnavailable,
        ),
        ([Reply.text(413, "Maximum size exceeded\n")], ServiceRefused),
        ([Reply.text(415, "mime type video/mp4 is not supported")], ServiceRefused),
        ([Reply.text(404, "Bucket not found")], ServiceMisconfigured),
        ([Reply.text(403, "new row violates row-level security policy")], ServiceMisconfigured),
        ([Reply.text(423, "The resource is locked")], ServiceUnavailable),
        ([Reply.text(500, "Internal Server Error")], ServiceUnavailable),
    ],
)
def test_faults_of_resumable_uploads_are_told_apart(
    double: SupabaseDouble, film: Path, answers: list[Reply], error: type[ServiceError]
) -> None:
    double.scripted.extend(answers)
    with pytest.raises(error):
        supabase(double).upload("video_fast", "u1/j1.mp4", film, "video/mp4")


def test_a_resumable_upload_that_is_too_large_is_refused(double: SupabaseDouble, film: Path) -> None:
    double.buckets["video_fast"].file_size_limit = 7_000_000
    with pytest.raises(ServiceRefused, match="413"):
        supabase(double).upload("video_fast", "u1/j1.mp4", film, "video/mp4")


# Every fault is translated.


def test_a_missing_bucket_is_misconfigured(double: SupabaseDouble, picture: Path) -> None:
    with pytest.raises(ServiceMisconfigured, match=r"uploading nope/u1/x\.png.*create it.*NoSuchBucket"):
        supabase(double).upload("nope", "u1/x.png", picture, "image/png")


@pytest.mark.parametrize("key", ["anon_key", "wrong_key", "expired_key"])
def test_a_key_that_may_not_write_is_misconfigured(double: SupabaseDouble, picture: Path, key: str) -> None:
    with pytest.raises(ServiceMisconfigured, match="set SUPABASE_SERVICE_KEY"):
        supabase(double, getattr(double, key)).upload("sdxl_image_fast", "u1/x.png", picture, "image/png")


def test_a_content_type_or_size_that_the_bucket_refuses_is_refused(
    double: SupabaseDouble, picture: Path
) -> None:
    double.create_bucket("images", allowed_mime_types=["image/png"], file_size_limit=10)
    with pytest.raises(ServiceRefused, match="InvalidMimeType"):
        supabase(double).upload("images", "u1/x.mp4", picture, "video/mp4")
    with pytest.raises(ServiceRefused, match="EntityTooLarge"):
        supabase(double).upload("images", "u1/x.png", picture, "image/png")


def test_a_storage_whose_database_is_down_is_unavailable(double: SupabaseDouble, picture: Path) -> None:
    double.database_down = True
    with pytest.raises(ServiceUnavailable, match="500"):
        supabase(double).upload("sdxl_image_fast", "u1/x.png", picture, "image/png")


def test_a_storage_that_is_down_is_unavailable_and_comes_back(double: SupabaseDouble, picture: Path) -> None:
    storage = supabase(double)
    storage.upload("sdxl_image_fast", "u1/x.png", picture, "image/png")
    double.stop()
    with pytest.raises(ServiceUnavailable):
        storage.upload("sdxl_image_fast", "u1/x.png", picture, "image/png")
    double.start()
    storage.upload("sdxl_image_fast", "u1/x.png", picture, "image/png")


def test_a_storage_that_does_not_answer_in_time_is_unavailable(double: SupabaseDouble, picture: Path) -> None:
    double.scripted.append(Reply(200, delay=30))
    with pytest.raises(ServiceUnavailable, match="no answer in time"):
        supabase(double, timeout=0.05).upload("sdxl_image_fast", "u1/x.png", picture, "image/png")


def test_a_connection_cut_before_the_answer_is_unavailable(double: SupabaseDouble, picture: Path) -> None:
    double.scripted.append(Reply(200, close=True))
    with pytest.raises(ServiceUnavailable):
        supabase(double).upload("sdxl_image_fast", "u1/x.png", picture, "image/png")


def body(status: str, code: str) -> bytes:
    return json.dumps({"statusCode": status, "error": code, "message": "said", "code": code}).encode()


@pytest.mark.parametrize(
    ("status", "content", "error"),
    [
        (429, body("429", "SlowDown"), ServiceUnavailable),
        (429, b"slow down", ServiceUnavailable),
        (500, body("500", "InternalError"), ServiceUnavailable),
        (502, b"<html>Bad Gateway</html>", ServiceUnavailable),
        (503, b"", ServiceUnavailable),
        (544, body("544", "DatabaseTimeout"), ServiceUnavailable),
        (400, body("423", "ResourceLocked"), ServiceUnavailable),
        (400, body("503", "DatabaseReadOnly"), ServiceUnavailable),
        (400, body("409", "KeyAlreadyExists"), ServiceUnavailable),
        (408, b"", ServiceUnavailable),
        (500, body("404", "NoSuchBucket"), ServiceUnavailable),
        (400, body("404", "NoSuchBucket"), ServiceMisconfigured),
        (400, body("400", "InvalidJWT"), ServiceMisconfigured),
        (400, body("400", "ExpiredToken"), ServiceMisconfigured),
        (400, body("400", "TenantNotFound"), ServiceMisconfigured),
        (400, body("403", "SignatureDoesNotMatch"), ServiceMisconfigured),
        (401, b'{"message":"Invalid API key"}', ServiceMisconfigured),
        (402, b"", ServiceMisconfigured),
        (403, b"", ServiceMisconfigured),
        (404, b"<html>Not Found</html>", ServiceMisconfigured),
        (302, b"", ServiceMisconfigured),
        (540, b"", ServiceMisconfigured),
        (200, b"<html>welcome</html>", ServiceMisconfigured),
        (200, b"[]", ServiceMisconfigured),
        (200, b"{}", ServiceMisconfigured),
        (400, body("413", "EntityTooLarge"), ServiceRefused),
        (400, body("415", "InvalidMimeType"), ServiceRefused),
        (400, body("400", "InvalidKey"), ServiceRefused),
        (400, body("404", "NoSuchKey"), ServiceRefused),
        (400, body("400", "SomethingNew"), ServiceRefused),
        (400, body("403", "SomethingNew"), ServiceMisconfigured),
        (400, body("503", "SomethingNew"), ServiceUnavailable),
        (413, b"<html>Too Large</html>", ServiceRefused),
        (400, b"\xff\xfe", ServiceRefused),
        (400, b"[1]", ServiceRefused),
        (400, b'{"statusCode": null, "error": null, "message": null}', ServiceRefused),
    ],
)
def test_the_code_in_the_body_decides_what_a_fault_is(
    double: SupabaseDouble, picture: Path, status: int, content: bytes, error: type[ServiceError]
) -> None:
    double.scripted.append(Reply(status, content))
    with pytest.raises(ServiceError) as caught:
        supabase(double).upload("sdxl_image_fast", "u1/x.png", picture, "image/png")
    assert type(caught.value) is error


def test_the_pause_that_the_storage_asks_for_is_passed_on(double: SupabaseDouble, picture: Path) -> None:
    double.scripted.append(Reply(429, b"", {"Retry-After": "17"}))
    with pytest.raises(ServiceUnavailable) as caught:
        supabase(double).upload("sdxl_image_fast", "u1/x.png", picture, "image/png")
    assert caught.value.retry_after == 17.0


def _vendor_errors() -> list[Exception]:
    """One of every error class that httpx and the storage client define, and the shapes of broken answers."""
    request = httpx.Request("POST", "http://storage/x")
    made: list[Exception] = []
    for name in sorted(vars(httpx)):
        kind = getattr(httpx, name)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            continue
        if kind is httpx.HTTPStatusError:
            made.append(kind("said", request=request, response=httpx.Response(418, request=request)))
        elif issubclass(kind, httpx.StreamError) and kind is not httpx.StreamError:
            made.append(kind())  # type: ignore[call-arg]
        else:
            made.append(kind("said"))
    for module in (storage3.exceptions, storage3.utils):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, storage3.utils.StorageException):
                storage_error = kind is storage3.exceptions.StorageApiError
                made.append(kind("said", "code", 400) if storage_error else kind("said"))
    for broken in (
        lambda: json.loads("{"),
        lambda: SignedUrlJsonResponse.model_validate_json("{}"),
        lambda: dict[str, str]()["Key"],
    ):
        try:
            broken()
        except (ValueError, KeyError) as error:
            made.append(error)
    return made


@pytest.mark.parametrize("vendor_error", _vendor_errors(), ids=lambda error: type(error).__name__)
def test_no_vendor_error_leaves_the_storage_untranslated(
    double: SupabaseDouble, picture: Path, monkeypatch: pytest.MonkeyPatch, vendor_error: Exception
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise vendor_error

    storage = supabase(double)
    monkeypatch.setattr(storage._http, "request", fail)
    for attempt in (
        lambda: storage.upload("sdxl_image_fast", "u1/x.png", picture, "image/png"),
        lambda: storage.link("sdxl_image_fast", "u1/x.png", "signed"),
        lambda: storage.remove("sdxl_image_fast", ["u1/x.png"]),
        lambda: storage.check(BUCKETS),
    ):
        with pytest.raises(ServiceError) as caught:
            attempt()
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None


# Secrets.


def _everything_said(error: BaseException, caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join([str(error), repr(error), *traceback.format_exception(error), caplog.text])


@pytest.mark.parametrize("form", ["jwt", "secret"])
def test_an_echo_of_the_key_reaches_no_message_and_no_log(
    double: SupabaseDouble, picture: Path, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    key = double.service_key if form == "jwt" else double.secret_key
    storage = supabase(double, key)
    caplog.set_level(logging.DEBUG)
    echoes = [
        Reply.json(
            400, {"statusCode": "400", "error": "x", "message": f"bad {key}", "code": "InvalidRequest"}
        ),
        Reply(400, f"headers: apikey={key} Bearer {key}".encode()),
        Reply(200, f"authorization: Bearer {key}".encode()),
        Reply(503, f"token={key}".encode()),
    ]
    for echo in echoes:
        double.scripted.append(echo)
        with pytest.raises(ServiceError) as caught:
            storage.upload("sdxl_image_fast", "u1/x.png", picture, "image/png")
        assert key not in _everything_said(caught.value, caplog)
    assert key not in repr(storage)


def test_a_signed_link_reaches_no_message_and_no_log(
    double: SupabaseDouble, picture: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "shared")
    storage = supabase(double)
    storage.upload("sdxl_image_fast", "u1/x.png", picture, "image/png")
    token = httpx.URL(storage.link("sdxl_image_fast", "u1/x.png", "signed")).params["token"]
    assert token not in caplog.text
    # An answer of another shape, which pydantic's error quotes.
    double.scripted.append(Reply.json(200, {"signedUrl": f"/object/sign/x?token={token}"}))
    with pytest.raises(ServiceMisconfigured) as caught:
        storage.link("sdxl_image_fast", "u1/x.png", "signed")
    assert token not in _everything_said(caught.value, caplog)


@settings(deadline=None)
@given(st.text(), st.text(min_size=1))
def test_a_hidden_text_is_gone_from_what_is_said(around: str, hidden: str) -> None:
    said = without_secrets(f"{around}{hidden}{around}", hidden)
    assert hidden not in said or hidden in "***"


@pytest.mark.parametrize("key", ["", "two words", "k3y\n", "ümlaut", None])
def test_a_key_that_cannot_stand_in_a_header_ends_the_start(key: str | None) -> None:
    with pytest.raises(SettingsError, match="SUPABASE_SERVICE_KEY") as caught:
        open_storage("https://project.supabase.co", None if key is None else SecretStr(key))
    assert not key or key.strip() not in str(caught.value)


# The check.


def test_a_check_lists_every_fault_of_every_bucket(double: SupabaseDouble) -> None:
    double.create_bucket("images_only", allowed_mime_types=["image/png"])
    double.create_bucket("small", file_size_limit=1000)
    double.create_bucket("keeps").removable = False
    wanted = BUCKETS | {
        "missing": "image/png",
        "absent": "image/png",
        "images_only": "video/mp4",
        "small": "video/mp4",
        "keeps": "image/png",
    }
    with pytest.raises(ServiceMisconfigured) as caught:
        supabase(double).check(wanted)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 4
    assert re.search(r"buckets missing, absent: .*create it", lines[0])
    assert re.search(r"bucket images_only: .*allow it", lines[1])
    assert re.search(r"bucket small: .*1000 bytes.*allow at least 5000000", lines[2])
    assert re.search(r"bucket keeps: .*not remove", lines[3])


def test_a_check_writes_a_real_file_of_the_right_type(double: SupabaseDouble) -> None:
    supabase(double).check({"sdxl_image_fast": "image/png", "video_fast": "video/mp4"})
    uploads = double.requests("POST")
    assert [b"image/png" in r.body and b"\x89PNG" in r.body for r in uploads] == [True, False]
    assert [b"video/mp4" in r.body and b"ftyp" in r.body for r in uploads] == [False, True]


@pytest.mark.parametrize("key", ["anon_key", "wrong_key", "expired_key"])
def test_a_check_with_a_wrong_key_says_so_once_for_all_buckets(double: SupabaseDouble, key: str) -> None:
    with pytest.raises(ServiceMisconfigured) as caught:
        supabase(double, getattr(double, key)).check(BUCKETS)
    (line,) = str(caught.value).splitlines()[1:]
    assert "sdxl_image_fast, video_fast" in line
    assert "SUPABASE_SERVICE_KEY" in line


def test_a_check_of_a_storage_that_is_down_says_nothing_about_the_settings(double: SupabaseDouble) -> None:
    double.stop()
    with pytest.raises(ServiceUnavailable):
        supabase(double).check(BUCKETS)


def test_a_check_tells_what_it_found_and_what_it_could_not_look_at(double: SupabaseDouble) -> None:
    bucket_list = Reply.json(200, [])
    double.scripted.extend([bucket_list, Reply(400, body("404", "NoSuchBucket")), Reply(503, b"")])
    with pytest.raises(ServiceMisconfigured) as caught:
        supabase(double).check(BUCKETS)
    lines = str(caught.value).splitlines()[1:]
    assert "bucket sdxl_image_fast: " in lines[0]
    assert "bucket video_fast: not checked" in lines[1]


def test_a_check_for_public_links_faults_a_private_bucket(double: SupabaseDouble) -> None:
    with pytest.raises(ServiceMisconfigured, match="bucket sdxl_image_fast: it is private"):
        supabase(double).check(BUCKETS, public_links=True)
    supabase(double).check({"video_fast": "video/mp4"}, public_links=True)


def test_a_bucket_list_of_an_unknown_shape_leaves_the_rest_of_the_check(
    double: SupabaseDouble, caplog: pytest.LogCaptureFixture
) -> None:
    double.scripted.append(Reply.json(200, [{"id": "x"}]))
    supabase(double).check(BUCKETS)
    assert "size limits" in caplog.text


# The folder.


def test_a_folder_shows_no_half_written_file(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "results")
    target = tmp_path / "results" / "sdxl_image_fast" / "u1" / "j1_1.png"

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        storage._replace(target, fail)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "error"),
    [(28, ServiceMisconfigured), (13, ServiceMisconfigured), (36, ServiceRefused), (5, ServiceUnavailable)],
)
def test_faults_of_the_file_system_are_translated(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[ServiceError]
) -> None:
    def fail(self: Path, *arguments: object, **options: object) -> None:
        raise OSError(number, "the disk says no")

    monkeypatch.setattr(Path, "replace", fail)
    storage = FolderStorage(tmp_path / "results")
    with pytest.raises(error, match="the disk says no"):
        storage.upload("sdxl_image_fast", "u1/j1_1.png", picture, "image/png")
    # What would be refused for ever is for a check a fault of the settings.
    with pytest.raises(ServiceMisconfigured if error is ServiceRefused else error):
        storage.check(BUCKETS)


def test_a_folder_refuses_a_link_that_leads_out_of_it(tmp_path: Path, picture: Path) -> None:
    root = tmp_path / "results"
    (tmp_path / "elsewhere").mkdir()
    root.mkdir()
    (root / "sdxl_image_fast").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ServiceRefused, match="outside"):
        FolderStorage(root).upload("sdxl_image_fast", "u1/j1_1.png", picture, "image/png")


def test_a_folder_gives_the_file_of_an_object_and_nothing_outside(tmp_path: Path, picture: Path) -> None:
    root = tmp_path / "results"
    storage = FolderStorage(root)
    storage.upload("sdxl_image_fast", "u1/j1_1.png", picture, "image/png")
    found = storage.file("sdxl_image_fast", "u1/j1_1.png")
    assert found is not None
    assert found.read_bytes() == picture.read_bytes()
    assert storage.file("sdxl_image_fast", "u1/none.png") is None
    assert storage.file("sdxl_image_fast", "u1") is None
    (root / "sdxl_image_fast" / "link.png").symlink_to(picture)
    for key in ("../secret.png", "u1/../../secret.png", "/etc/passwd", "link.png"):
        with pytest.raises(ServiceRefused):
            storage.file("sdxl_image_fast", key)


def test_a_folder_behind_a_web_server_is_linked_by_its_address(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path, "https://pictures.example/files/")
    link = storage.link("sdxl_image_fast", "u1/j 1.png", "public")
    assert link == "https://pictures.example/files/sdxl_image_fast/u1/j%201.png"


# Opening.


def test_the_address_chooses_the_storage(tmp_path: Path, double: SupabaseDouble, picture: Path) -> None:
    folder = tmp_path / "a folder"
    open_storage(folder.as_uri()).upload("b", "k.png", picture, "image/png")
    assert (folder / "b" / "k.png").read_bytes() == picture.read_bytes()
    for url in (double.url, f"{double.url}/", f"{double.url}/storage/v1"):
        open_storage(url, SecretStr(double.service_key)).upload(
            "sdxl_image_fast", "u1/k.png", picture, "image/png"
        )


@pytest.mark.parametrize(
    "url", ["", "s3://bucket", "project.supabase.co", "https://", "file://host/x", "file:x"]
)
def test_an_address_of_no_storage_ends_the_start_with_what_to_set(url: str) -> None:
    with pytest.raises(SettingsError, match="STORAGE_URL"):
        open_storage(url, SecretStr("sb_secret_x"))


def test_importing_the_storage_loads_no_vendor_library() -> None:
    code = "import sys, shared.webhook; print({'httpx', 'storage3', 'supabase'} & set(sys.modules))"
    root = Path(__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_building_the_storage_does_not_load_the_whole_supabase_client() -> None:
    code = (
        "import sys; from pydantic import SecretStr; from shared.storage import open_storage;"
        "open_storage('https://p.supabase.co', SecretStr('sb_secret_x'));"
        "print({'supabase', 'realtime', 'postgrest', 'supabase_auth'} & set(sys.modules))"
    )
    root = Path(__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_a_closed_storage_leaves_no_open_connection(double: SupabaseDouble, picture: Path) -> None:
    storage = supabase(double)
    storage.upload("sdxl_image_fast", "u1/x.png", picture, "image/png")
    storage.close()
    gc.collect()
    assert storage._http.is_closed


def test_the_samples_are_what_they_claim() -> None:
    import io

    from PIL import Image

    with Image.open(io.BytesIO(sample("image/png"))) as picture:
        picture.load()
        assert (picture.format, picture.size) == ("PNG", (1, 1))
    assert sample("video/mp4")[4:12] == b"ftypisom"
