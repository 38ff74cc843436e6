"""Who may send callbacks: a worker that signs them, or that shows a key which only workers have."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping

from gateway.errors import ApiError
from gateway.settings import GatewaySettings
from shared.webhook import verify_signature

log = logging.getLogger(__name__)


def authenticate(settings: GatewaySettings, headers: Mapping[str, str], body: bytes, now: float) -> None:
    """`body` is the request's as it came in, `now` the Unix time in seconds.

    Any one of the three ways that are configured suffices; none configured lets nobody in. Raises `ApiError`
    401, which workers answer with another try after a pause: a person can mend the credentials meanwhile.
    """
    if _signed(settings, headers, body, now) or _shows_key(settings, headers):
        return
    log.error(
        "a callback was refused: neither its signature nor its key is right; JOB_CALLBACK_SECRET,"
        " SUPABASE_SERVICE_KEY or CALLBACK_TOKEN has to be the workers' own"
    )
    raise ApiError(401, "unauthorized", "The callback is neither signed nor does it show the workers' key.")


def _signed(settings: GatewaySettings, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    secret = settings.job_callback_secret
    return secret is not None and verify_signature(secret, headers, body, now)


def _shows_key(settings: GatewaySettings, headers: Mapping[str, str]) -> bool:
    """Every comparison is made, each in constant time, so that the time taken tells nothing."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    shown = {"apikey": headers.get("apikey", ""), "bearer": bearer if scheme.lower() == "bearer" else ""}
    service_key, token = settings.supabase_service_key, settings.callback_token
    pairs = [
        (shown["apikey"], service_key),
        (shown["bearer"], service_key),
        (shown["bearer"], token),
    ]
    matches = [
        hmac.compare_digest(given.encode(), secret.get_secret_value().encode())
        for given, secret in pairs
        if secret is not None and secret.get_secret_value()
    ]
    return any(matches)
