"""Who asks: a user of Supabase by a signed token, or the one local user of the demo."""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
from fastapi import Request
from starlette.concurrency import run_in_threadpool

from gateway.errors import ApiError
from gateway.settings import GatewaySettings
from shared.errors import ServiceUnavailable

DEMO_USER_ID: Final = "00000000-0000-4000-8000-000000000001"
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ROLE: Final = "authenticated"
_REQUIRED: Final = ["exp", "sub", "aud", "iss", "role"]
LEEWAY_S: Final = 10
"""Clocks of two services may differ by so much."""


@dataclass(frozen=True, slots=True)
class User:
    """`id` is a UUID in its canonical form."""

    id: str


def unauthorized(message: str) -> ApiError:
    return ApiError(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})


class Tokens:
    """Verifies access tokens of Supabase Auth.

    A token's header chooses among the configured verifiers and nothing else: HS256 is only ever verified
    with the shared secret, ES256 and RS256 only with a published key of that very kind.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        secret = settings.supabase_jwt_secret
        self._secret = _shared_key(secret.get_secret_value()) if secret else None
        url = settings.resolved_jwks_url
        self._published = jwt.PyJWKClient(url, lifespan=600, timeout=5, cooldown_duration=30) if url else None
        self._issuer = settings.resolved_jwt_issuer
        self._audience = settings.jwt_audience

    async def user(self, token: str) -> User:
        """Raises `ApiError` 401, and `ServiceUnavailable` where the published keys cannot be had."""
        try:
            algorithm = jwt.get_unverified_header(token).get("alg")
            if algorithm == "HS256" and self._secret is not None:
                claims = self._claims(token, self._secret, algorithm)
            elif algorithm in {"ES256", "RS256"} and self._published is not None:
                # May ask for the keys over the network.
                key = await run_in_threadpool(self._published.get_signing_key_from_jwt, token)
                claims = self._claims(token, key, algorithm)
            else:
                raise unauthorized("The token is signed in a way that is not accepted here.")
        except jwt.PyJWKClientConnectionError as error:
            raise ServiceUnavailable("the keys that verify users' tokens cannot be had") from error
        except jwt.ExpiredSignatureError:
            raise unauthorized("The token has expired: sign in again.") from None
        except jwt.PyJWTError:
            raise unauthorized("The token is not valid here.") from None
        return _user_of(claims)

    def _claims(self, token: str, key: jwt.PyJWK, algorithm: str) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=LEEWAY_S,
            options={"require": _REQUIRED},
        )
        return claims


def _shared_key(secret: str) -> jwt.PyJWK:
    """Prepared once: from a text PyJWT would find out at every token that it is no public key."""
    encoded = base64.urlsafe_b64encode(secret.encode()).rstrip(b"=").decode()
    return jwt.PyJWK({"kty": "oct", "k": encoded}, algorithm="HS256")


def _user_of(claims: dict[str, Any]) -> User:
    # The public key of a project is a valid token too, with the role `anon` and no user.
    if claims["role"] != _ROLE:
        raise unauthorized("The token belongs to no signed-in user.")
    if not isinstance(claims["sub"], str) or not _UUID.fullmatch(claims["sub"].lower()):
        raise unauthorized("The token names no user.")
    return User(claims["sub"].lower())


class Users:
    """Finds the user of a request."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._tokens = None if settings.demo else Tokens(settings)

    async def of(self, request: Request) -> User:
        """Raises `ApiError` 401 or 403, and `ServiceUnavailable`."""
        if self._tokens is None:
            return _local_user(request)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise unauthorized("Send a user's access token: Authorization: Bearer <token>.")
        return await self._tokens.user(token.strip())


def _local_user(request: Request) -> User:
    """The demo's user, for this machine alone.

    The peer's address counts, no header that it sends. A page elsewhere whose name resolves to this machine
    is told by the name it asks for.
    """
    peer = request.client.host if request.client else ""
    named = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    if not (_is_loopback(peer) and (named == "localhost" or _is_loopback(named))):
        raise ApiError(403, "forbidden", "The demo serves its own machine only, as localhost or 127.0.0.1.")
    return User(DEMO_USER_ID)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
