"""What the page is made of: its files, the policy that goes with them, and what it is told."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from support.gateway import gateway_settings

from gateway.app import create_app
from gateway.page import FILES
from shared.presets import PRESETS

PAGE = resources.files("gateway.page")


@pytest.fixture
def client(redis_url: str, sqlite_url: str, tmp_path: Path) -> TestClient:
    """Nobody is signed in."""
    return TestClient(create_app(gateway_settings(redis_url, sqlite_url, tmp_path)))


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in FILES)])
def test_every_file_comes_with_a_policy_that_allows_its_own_scripts_alone(
    client: TestClient, path: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = dict(rule.partition(" ")[::2] for rule in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    for kind in ("script-src", "style-src", "img-src", "media-src", "connect-src"):
        assert policy[kind] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page/app.js", "text/javascript; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ],
)
def test_a_file_is_sent_again_only_after_it_changed(client: TestClient, path: str, content_type: str) -> None:
    first = client.get(path)
    assert first.headers["Content-Type"] == content_type
    again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "Content-Security-Policy" in again.headers
    assert client.get(path, headers={"If-None-Match": '"another"'}).content == first.content


@pytest.mark.parametrize("name", ["__init__.py", "index.htm", "..%2Fapp.py", "x", ""])
def test_nothing_else_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


def test_every_file_in_the_folder_is_served() -> None:
    present = {file.name for file in PAGE.iterdir() if file.is_file()} - {"__init__.py", "index.html"}
    assert present == set(FILES)


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere() -> None:
    text = PAGE.joinpath("index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", text)
    for name in ("index.html", *FILES):
        addresses = set(re.findall(r"https?://[^\s\"']+", PAGE.joinpath(name).read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}


def test_no_script_turns_text_into_markup_or_code() -> None:
    for name in (name for name in FILES if name.endswith(".js")):
        script = PAGE.joinpath(name).read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|Function\(", script
        )


def test_files_of_a_supabase_storage_may_be_shown(redis_url: str, sqlite_url: str, tmp_path: Path) -> None:
    settings = gateway_settings(
        redis_url,
        sqlite_url,
        tmp_path,
        STORAGE_URL=None,
        SUPABASE_URL="https://project.supabase.co",
        SUPABASE_SERVICE_KEY="a-service-key",
    )
    policy = TestClient(create_app(settings)).get("/").headers["Content-Security-Policy"]
    assert "img-src 'self' https://project.supabase.co;" in policy
    assert "media-src 'self' https://project.supabase.co;" in policy
    assert "connect-src 'self';" in policy


def test_whoever_asks_is_told_what_may_be_made_here(client: TestClient) -> None:
    told = client.get("/config").json()
    assert told["demo"] is False
    assert [each["job_type"] for each in told["job_types"]] == list(PRESETS)
    assert told["job_types"][0]["credits"] == 1
    combinations = {
        (each["family"], each["medium"], each["quality"], each["enhanced"]) for each in told["job_types"]
    }
    assert len(combinations) == len(PRESETS)
