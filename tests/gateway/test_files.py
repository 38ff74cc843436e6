"""Links to files: what they show, to whom, and for how long."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import assume, given
from hypothesis import strategies as st
from support.gateway import gateway_settings
from support.serving import serving
from support.supabase_double import SupabaseDouble

from gateway.app import create_app
from gateway.links import FileLinks, file_link_secret
from shared.storage import sample

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
LIFE_S = 3600
LINKS = FileLinks(b"a secret of tests", LIFE_S)
BUCKET, KEY = "sdxl_image_fast", "user-1/job-1_1.png"
FILMS, FILM = "video_fast", "user-1/job-1.mp4"
CONTENT = {"png": sample("image/png"), "mp4": bytes(range(256)) * 64}


def rest_s(link: str, now: datetime, links: FileLinks = LINKS, *, of: str | None = None) -> int:
    parts = urlsplit(link)
    bucket, _, key = (of or parts.path.removeprefix("/files/")).partition("/")
    query = dict(parse_qsl(parts.query))
    return links.rest_s(bucket, key, int(query["expires"]), query["signature"], now)


# --- links


@given(st.integers(0, 10**6))
def test_a_link_lives_between_half_and_all_of_its_time(second: int) -> None:
    now = NOW + timedelta(seconds=second)
    link = LINKS.link(BUCKET, KEY, now)
    assert LIFE_S / 2 < rest_s(link, now) <= LIFE_S
    assert rest_s(link, now + timedelta(seconds=LIFE_S)) == 0


def test_a_link_stays_the_same_for_a_while() -> None:
    assert LINKS.link(BUCKET, KEY, NOW) == LINKS.link(BUCKET, KEY, NOW + timedelta(seconds=LIFE_S / 2 - 1))
    assert LINKS.link(BUCKET, KEY, NOW) != LINKS.link(BUCKET, KEY, NOW + timedelta(seconds=LIFE_S / 2))


@given(st.text(max_size=40), st.text(max_size=40), st.integers(0, 2**53))
def test_a_link_opens_one_file_until_one_moment(bucket: str, key: str, expires: int) -> None:
    link = LINKS.link(BUCKET, KEY, NOW)
    query = dict(parse_qsl(urlsplit(link).query))
    assume((bucket, key, expires) != (BUCKET, KEY, int(query["expires"])))
    assert LINKS.rest_s(bucket, key, expires, query["signature"], NOW) == 0


def test_a_link_of_another_secret_opens_nothing() -> None:
    assert rest_s(FileLinks(b"another", LIFE_S).link(BUCKET, KEY, NOW), NOW) == 0


def test_a_link_is_an_address_whatever_its_file_is_called() -> None:
    link = LINKS.link(BUCKET, "user 1/job?&#_1.png", NOW)
    assert urlsplit(link).path == f"/files/{BUCKET}/user%201/job%3F%26%23_1.png"


def test_gateways_of_one_project_open_each_others_links(tmp_path: Path) -> None:
    def secret(**changes: Any) -> bytes:
        return file_link_secret(gateway_settings("redis://h", "sqlite:///x.db", tmp_path, **changes))

    supabase = {"FILE_LINK_SECRET": None, "SUPABASE_SERVICE_KEY": "a-key", "STORAGE_URL": "https://p.example"}
    assert secret() == b"a-link-secret-of-tests-with-32-bytes"
    assert secret(**supabase) == secret(**supabase) != secret(**supabase | {"SUPABASE_SERVICE_KEY": "other"})
    demo = {"FILE_LINK_SECRET": None, "DEMO": True}
    assert secret(**demo) != secret(**demo)


# --- a folder's files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    storage = tmp_path / "storage"
    for bucket, key in ((BUCKET, KEY), (FILMS, FILM)):
        (storage / bucket / "user-1").mkdir(parents=True)
        (storage / bucket / key).write_bytes(CONTENT[key.rpartition(".")[2]])
    return storage


def link_of(client: TestClient, bucket: str, key: str) -> str:
    parts = client.app.state.parts  # type: ignore[attr-defined]
    return str(parts.file_links.link(bucket, key, parts.clock()))


def test_a_link_shows_its_file_without_a_token_and_safely(sqlite_client: TestClient, folder: Path) -> None:
    answer = sqlite_client.get(link_of(sqlite_client, BUCKET, KEY), headers={"Authorization": ""})
    assert (answer.status_code, answer.content) == (200, CONTENT["png"])
    headers = answer.headers
    assert headers["Content-Type"] == "image/png"
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "script" not in policy
    visibility, age = headers["Cache-Control"].split(", max-age=")
    assert visibility == "private"
    assert LIFE_S / 2 - 60 < int(age) <= LIFE_S


def test_a_player_can_wind_through_a_video(sqlite_client: TestClient, folder: Path) -> None:
    link = link_of(sqlite_client, FILMS, FILM)
    whole = sqlite_client.get(link)
    assert (whole.headers["Content-Type"], whole.headers["Accept-Ranges"]) == ("video/mp4", "bytes")
    part = sqlite_client.get(link, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, CONTENT["mp4"][100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(CONTENT['mp4'])}"
    assert part.headers["X-Content-Type-Options"] == "nosniff"
    assert sqlite_client.get(link, headers={"Range": "bytes=-10"}).content == CONTENT["mp4"][-10:]
    assert sqlite_client.get(link, headers={"Range": "bytes=999999-"}).status_code == 416
    changed = {"Range": "bytes=100-199", "If-Range": '"another file"'}
    assert sqlite_client.get(link, headers=changed).status_code == 200


def test_what_is_not_signed_is_not_shown(sqlite_client: TestClient, folder: Path) -> None:
    link = link_of(sqlite_client, BUCKET, KEY)
    path, _, query = link.partition("?")
    other = link_of(sqlite_client, FILMS, FILM).partition("?")[2]
    expired = query.replace("expires=", "expires=1", 1)
    for altered in (f"{path}?{other}", f"{path}?{expired}", f"/files/{FILMS}/{FILM}?{query}"):
        answer = sqlite_client.get(altered)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    for incomplete in (path, f"{path}?expires=1", f"{path}?{query}x", f"{path}?{query[:-1]}"):
        assert sqlite_client.get(incomplete).status_code == 400


def test_an_expired_link_says_so(redis_url: str, sqlite_url: str, tmp_path: Path, folder: Path) -> None:
    now = NOW
    app = create_app(gateway_settings(redis_url, sqlite_url, tmp_path), clock=lambda: now)
    with TestClient(app) as client:
        link = link_of(client, BUCKET, KEY)
        assert client.get(link).status_code == 200
        now = NOW + timedelta(seconds=LIFE_S)
        assert client.get(link).status_code == 403


NOT_SERVED = [
    (BUCKET, "user-1/none.png"),
    (BUCKET, "user-1"),
    (BUCKET, "../secret.png"),
    (BUCKET, "user-1/../../../secret.png"),
    (BUCKET, "/etc/passwd"),
    (BUCKET, "user-1//job-1_1.png"),
    (BUCKET, "user-1/\0.png"),
    (BUCKET, "user-1/elsewhere.png"),
    (BUCKET, "user-1/page.html"),
    (BUCKET, "user-1/page.svg"),
    (BUCKET, "user-1/PICTURE.PNG.html"),
    ("..", "secret.png"),
    (".", "secret.png"),
    ("sdxl_image_fast/..", "secret.png"),
]


def test_even_a_signed_link_opens_nothing_but_a_file_of_a_known_kind_in_its_bucket(
    sqlite_client: TestClient, folder: Path
) -> None:
    (folder / "secret.png").write_bytes(b"secret")
    for name in ("page.html", "page.svg", "PICTURE.PNG.html"):
        (folder / BUCKET / "user-1" / name).write_text("secret")
    (folder / BUCKET / "user-1" / "elsewhere.png").symlink_to("/etc/passwd")
    with serving(sqlite_client.app) as gateway:  # type: ignore[arg-type]
        # Sent as it is: a client of a higher level would tidy the path up.
        connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc)
        for bucket, key in NOT_SERVED:
            connection.request("GET", link_of(sqlite_client, bucket, key))
            answer = connection.getresponse()
            assert answer.status in {403, 404}, (bucket, key)
            assert not {b"secret", b"root"} & set(answer.read().split())
        connection.close()


# --- Supabase's files


@pytest.fixture
def double() -> Iterator[SupabaseDouble]:
    with SupabaseDouble() as double:
        double.create_bucket(BUCKET)
        yield double


@pytest.fixture
def supabase_client(
    redis_url: str, sqlite_url: str, tmp_path: Path, double: SupabaseDouble
) -> Iterator[TestClient]:
    changes = {
        "STORAGE_URL": double.url,
        "SUPABASE_SERVICE_KEY": double.service_key,
        "FILE_LINK_SECRET": None,
    }
    app = create_app(gateway_settings(redis_url, sqlite_url, tmp_path, **changes))
    with TestClient(app, follow_redirects=False) as client:
        yield client


def test_a_link_leads_on_to_one_that_supabase_signs(
    supabase_client: TestClient, double: SupabaseDouble, tmp_path: Path
) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(CONTENT["png"])
    supabase_client.app.state.parts.storage.upload(BUCKET, KEY, file, "image/png")  # type: ignore[attr-defined]
    answer = supabase_client.get(link_of(supabase_client, BUCKET, KEY))
    assert (answer.status_code, answer.headers["Cache-Control"]) == (307, "no-store")
    assert httpx.get(answer.headers["Location"], trust_env=False).content == CONTENT["png"]


def test_a_file_that_supabase_does_not_have_is_told(supabase_client: TestClient) -> None:
    assert supabase_client.get(link_of(supabase_client, BUCKET, KEY)).status_code == 404


def test_while_supabase_is_away_a_link_asks_for_another_try(
    supabase_client: TestClient, double: SupabaseDouble
) -> None:
    double.stop()
    answer = supabase_client.get(link_of(supabase_client, BUCKET, KEY))
    assert (answer.status_code, bool(answer.headers["Retry-After"])) == (503, True)
