"""Signed links to files, which expire."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime
from urllib.parse import quote, urlencode

from gateway.settings import GatewaySettings


class FileLinks:
    """Makes links and tells the ones that it made.

    `life_s` in seconds is the longest life of a link, half of it the shortest: a link stays the same for half
    of its life, so that a browser that asks for a job again and again finds its pictures in its cache.
    """

    def __init__(self, secret: bytes, life_s: int) -> None:
        self._secret = secret
        self._window_s = max(1, life_s // 2)

    def link(self, bucket: str, key: str, now: datetime) -> str:
        """An address below the gateway's own."""
        expires = (int(now.timestamp()) // self._window_s + 2) * self._window_s
        query = urlencode({"expires": expires, "signature": self._signature(bucket, key, expires)})
        return f"/files/{quote(bucket)}/{quote(key)}?{query}"

    def rest_s(self, bucket: str, key: str, expires: int, signature: str, now: datetime) -> int:
        """Whole seconds for which a link still works; 0 where it does not, or is none of ours."""
        right = hmac.compare_digest(signature.encode(), self._signature(bucket, key, expires).encode())
        return max(0, expires - int(now.timestamp())) if right else 0

    def _signature(self, bucket: str, key: str, expires: int) -> str:
        return hmac.new(self._secret, f"{expires}\n{bucket}/{key}".encode(), hashlib.sha256).hexdigest()


def file_link_secret(settings: GatewaySettings) -> bytes:
    """FILE_LINK_SECRET. Without it one that every gateway of a Supabase project has, or a passing one."""
    if settings.file_link_secret is not None:
        return settings.file_link_secret.get_secret_value().encode()
    if settings.supabase_service_key is not None:
        key = settings.supabase_service_key.get_secret_value().encode()
        return hmac.new(key, b"links to files", hashlib.sha256).digest()
    return secrets.token_bytes(32)
