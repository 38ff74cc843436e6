from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import FastAPI
from fastapi.testclient import TestClient
from support.gateway import ISSUER, USER_ID, authorization, gateway_settings, make_token

from gateway.app import create_app
from gateway.parts import CurrentUser
from gateway.settings import GatewaySettings
from gateway.users import DEMO_USER_ID

EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_EC_KEY = ec.generate_private_key(ec.SECP256R1())


def published(key: Any, algorithm: str, name: str) -> dict[str, Any]:
    implementation = jwt.get_algorithm_by_name(algorithm)
    document: dict[str, Any] = json.loads(implementation.to_jwk(key.public_key()))
    return document | {"kid": name, "alg": algorithm, "use": "sig"}


class KeyServer:
    """Publishes keys; counts how often it was asked."""

    def __init__(self) -> None:
        self.keys = [published(EC_KEY, "ES256", "ec"), published(RSA_KEY, "RS256", "rsa")]
        self.asked = 0
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.asked += 1
                body = json.dumps({"keys": served.keys}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    server = KeyServer()
    thread = threading.Thread(target=server.server.serve_forever, args=[0.01])
    thread.start()
    yield server
    server.server.shutdown()
    thread.join()
    server.server.server_close()


def asking(settings: GatewaySettings, **client: Any) -> TestClient:
    """A client of a gateway that tells who is asking."""
    app: FastAPI = create_app(settings)

    @app.get("/whoami")
    async def whoami(user: CurrentUser) -> str:
        return user.id

    return TestClient(app, **client)


@pytest.fixture
def who(sqlite_url: str, tmp_path: Path, key_server: KeyServer) -> TestClient:
    settings = gateway_settings("redis://127.0.0.1:1", sqlite_url, tmp_path, JWT_JWKS_URL=key_server.url)
    return asking(settings)


def ask(client: TestClient, token: str) -> Any:
    return client.get("/whoami", headers={"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize(
    "token",
    [
        make_token(),
        make_token(USER_ID.upper()),
        make_token(key=EC_KEY, algorithm="ES256", headers={"kid": "ec"}),
        make_token(key=RSA_KEY, algorithm="RS256", headers={"kid": "rsa"}),
        make_token(aud=["authenticated", "other"]),
    ],
)
def test_a_users_token_tells_the_user(token: str, who: TestClient) -> None:
    answer = ask(who, token)
    assert (answer.status_code, answer.json()) == (200, USER_ID)


PUBLIC_PEM = RSA_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


def unsigned(header: dict[str, str]) -> str:
    """A token with the claims of a good one and no signature."""
    parts = make_token().split(".")
    encoded = jwt.utils.base64url_encode(json.dumps(header).encode()).decode()
    return f"{encoded}.{parts[1]}."


def signed_with_public_key(key: bytes) -> str:
    """HS256 with the bytes of a public key, which a careless verifier would take for the secret."""

    _, claims, _ = make_token().split(".")
    encoded = jwt.utils.base64url_encode(b'{"alg":"HS256","typ":"JWT","kid":"rsa"}').decode()
    signature = hmac.new(key, f"{encoded}.{claims}".encode(), hashlib.sha256).digest()
    return f"{encoded}.{claims}.{jwt.utils.base64url_encode(signature).decode()}"


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="no token"),
        pytest.param("nonsense", id="no JWT"),
        pytest.param("a.b.c", id="no JSON"),
        pytest.param(unsigned({"alg": "none"}), id="alg none"),
        pytest.param(unsigned({"alg": "None"}), id="alg None"),
        pytest.param(unsigned({"alg": "HS256"}), id="HS256 without a signature"),
        pytest.param(make_token(algorithm="HS512"), id="another algorithm with the right secret"),
        pytest.param(signed_with_public_key(PUBLIC_PEM), id="HS256 with the public key"),
        pytest.param(make_token(key="x" * 40), id="another secret"),
        pytest.param(
            make_token(key=OTHER_EC_KEY, algorithm="ES256", headers={"kid": "ec"}), id="another EC key"
        ),
        pytest.param(
            make_token(key=RSA_KEY, algorithm="RS256", headers={"kid": "ec"}),
            id="RS256 with an EC key's name",
        ),
        pytest.param(
            make_token(key=OTHER_EC_KEY, algorithm="ES256", headers={"kid": "unknown"}), id="unknown key"
        ),
        pytest.param(make_token(key=EC_KEY, algorithm="ES256"), id="no key named"),
        pytest.param(make_token(iss="https://other.example/auth/v1"), id="another issuer"),
        pytest.param(make_token(iss=None), id="no issuer"),
        pytest.param(make_token(aud="anon"), id="another audience"),
        pytest.param(make_token(aud=None), id="no audience"),
        pytest.param(make_token(role="anon", sub=None), id="the project's public key"),
        pytest.param(make_token(role="anon"), id="the role anon with a user"),
        pytest.param(make_token(role="service_role"), id="the service key"),
        pytest.param(make_token(role=None), id="no role"),
        pytest.param(make_token(exp=int(time.time()) - 60), id="expired"),
        pytest.param(make_token(exp=None), id="never expires"),
        pytest.param(make_token(nbf=int(time.time()) + 600), id="not valid yet"),
        pytest.param(make_token("someone"), id="the user is no UUID"),
        pytest.param(make_token(f"{{{USER_ID}}}"), id="the UUID in another form"),
        pytest.param(make_token(""), id="no user"),
    ],
)
def test_any_other_token_is_refused_and_told_nothing(token: str, who: TestClient) -> None:
    answer = ask(who, token)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    if token:
        assert token not in answer.text


@pytest.mark.parametrize("header", ["", "Basic abc", "Bearer", f"Token {make_token()}"])
def test_a_request_without_a_bearer_token_is_refused(header: str, who: TestClient) -> None:
    headers = {"Authorization": header} if header else {}
    assert who.get("/whoami", headers=headers).status_code == 401


def test_a_token_in_the_address_or_as_the_api_key_is_not_read(who: TestClient) -> None:
    token = make_token()
    assert who.get(f"/whoami?token={token}", headers={"apikey": token}).status_code == 401


def test_without_a_secret_no_token_of_hs256_is_accepted(
    sqlite_url: str, tmp_path: Path, key_server: KeyServer
) -> None:
    settings = gateway_settings(
        "redis://127.0.0.1:1",
        sqlite_url,
        tmp_path,
        JWT_JWKS_URL=key_server.url,
        SUPABASE_JWT_SECRET=None,
    )
    client = asking(settings)
    assert ask(client, make_token()).status_code == 401
    assert ask(client, signed_with_public_key(PUBLIC_PEM)).status_code == 401
    assert key_server.asked == 0
    assert ask(client, make_token(key=EC_KEY, algorithm="ES256", headers={"kid": "ec"})).status_code == 200


def test_published_keys_are_asked_for_once_however_many_unknown_ones_are_named(
    who: TestClient, key_server: KeyServer
) -> None:
    good = make_token(key=EC_KEY, algorithm="ES256", headers={"kid": "ec"})
    for number in range(5):
        assert ask(who, good).status_code == 200
        unknown = make_token(key=EC_KEY, algorithm="ES256", headers={"kid": f"unknown-{number}"})
        assert ask(who, unknown).status_code == 401
    assert key_server.asked == 1


def test_keys_that_cannot_be_had_are_a_fault_that_passes(sqlite_url: str, tmp_path: Path) -> None:
    settings = gateway_settings(
        "redis://127.0.0.1:1", sqlite_url, tmp_path, JWT_JWKS_URL="http://127.0.0.1:1/keys"
    )
    answer = ask(asking(settings), make_token(key=EC_KEY, algorithm="ES256", headers={"kid": "ec"}))
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


# --- the demo


def demo(sqlite_url: str, tmp_path: Path, peer: str, host: str = "localhost:8000") -> TestClient:
    settings = gateway_settings("redis://127.0.0.1:1", sqlite_url, tmp_path, DEMO=True)
    return asking(settings, client=(peer, 50000), base_url=f"http://{host}")


@pytest.mark.parametrize(
    ("peer", "host"),
    [("127.0.0.1", "localhost:8000"), ("127.0.0.1", "127.0.0.1:8000"), ("::1", "[::1]:8000")],
)
def test_the_demo_knows_one_user_on_this_machine(
    peer: str, host: str, sqlite_url: str, tmp_path: Path
) -> None:
    answer = demo(sqlite_url, tmp_path, peer, host).get("/whoami")
    assert (answer.status_code, answer.json()) == (200, DEMO_USER_ID)


@pytest.mark.parametrize("peer", ["10.0.0.7", "93.184.216.34", "2001:db8::1", "testclient", ""])
def test_the_demo_refuses_everybody_else_whatever_they_say_they_are(
    peer: str, sqlite_url: str, tmp_path: Path
) -> None:
    client = demo(sqlite_url, tmp_path, peer)
    forged = {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"}
    assert client.get("/whoami", headers=forged).status_code == 403
    assert client.get("/whoami", headers=authorization()).status_code == 403


@pytest.mark.parametrize("host", ["demo.example:8000", "127.0.0.1.demo.example", "10.0.0.7:8000"])
def test_a_foreign_page_that_resolves_to_this_machine_is_refused(
    host: str, sqlite_url: str, tmp_path: Path
) -> None:
    assert demo(sqlite_url, tmp_path, "127.0.0.1", host).get("/whoami").status_code == 403


def test_the_issuer_follows_from_the_project(sqlite_url: str, tmp_path: Path) -> None:
    settings = gateway_settings(
        "redis://127.0.0.1:1",
        sqlite_url,
        tmp_path,
        SUPABASE_URL="https://project.example/",
        JWT_ISSUER=None,
    )
    assert settings.resolved_jwt_issuer == ISSUER
    assert settings.resolved_jwks_url == f"{ISSUER}/.well-known/jwks.json"
