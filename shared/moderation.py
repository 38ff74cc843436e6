"""What is noted when the content screen refuses a job: who, which rule, when, and a keyed hash.

No text of a prompt is kept, unless the operator set a public key: then the prompt is encrypted to it, and
only the holder of the private key, who is not this worker, can read it. Nothing is reported to anybody.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis
from pydantic import SecretStr

from shared.configuration import ServiceSettings
from shared.errors import ServiceError, SettingsError
from shared.queue import Keys, translated_redis_errors

log = logging.getLogger(__name__)

KEPT_ENTRIES: Final = 10_000
KEPT_MS: Final = 90 * 24 * 3600 * 1000

Encrypt = Callable[[bytes], str]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A job that was refused, by which rule, and the texts it came with (by name)."""

    job_id: str
    user_id: str
    rule_id: str
    texts: Mapping[str, str | None] = field(repr=False)


class RedisModerationSink:
    """A stream beside the queue with at most `KEPT_ENTRIES` entries, none older than `KEPT_MS`."""

    def __init__(
        self, commands: redis.Redis, keys: Keys, hash_key: SecretStr, encrypt: Encrypt | None = None
    ) -> None:
        self._commands = commands
        self._stream = keys.moderation
        self._hash_key = hash_key.get_secret_value().encode()
        self._encrypt = encrypt

    def refused(self, refusal: Refusal) -> None:
        """Add one entry. A store that does not answer is logged: the refusal itself stands anyway."""
        prompt = (refusal.texts.get("prompt") or "").encode()
        entry: dict[Any, Any] = {
            "job": refusal.job_id,
            "user": refusal.user_id,
            "rule": refusal.rule_id,
            "hash": hmac.new(self._hash_key, prompt, hashlib.sha256).hexdigest(),
        }
        if self._encrypt is not None:
            entry["sealed"] = self._encrypt(json.dumps(dict(refusal.texts)).encode())
        try:
            with translated_redis_errors():
                last: Any = self._commands.xadd(self._stream, entry, maxlen=KEPT_ENTRIES, approximate=True)
                oldest = int(last.split(b"-")[0]) - KEPT_MS
                self._commands.xtrim(self._stream, minid=str(oldest), approximate=True)
        except ServiceError as error:
            log.error("a refusal could not be noted in the moderation stream: %s", error)


def moderation_sink(
    settings: ServiceSettings, commands: redis.Redis, keys: Keys, fallback: str
) -> RedisModerationSink:
    """The stream beside one queue.

    Without MODERATION_KEY the hashes' key is derived from the installation's secrets, or from `fallback`
    where it has none: processes with the same settings have the same key, so that hashes can be compared.
    Raises `SettingsError` for an unusable MODERATION_PUBLIC_KEY.
    """
    hash_key = settings.moderation_key
    if hash_key is None:
        known = "".join(sorted(settings.secrets())) or fallback
        hash_key = SecretStr(hashlib.sha256(f"moderation:{known}".encode()).hexdigest())
    encrypt = encryption_to(settings.moderation_public_key) if settings.moderation_public_key else None
    return RedisModerationSink(commands, keys, hash_key, encrypt)


def encryption_to(public_key_file: Path) -> Encrypt:
    """Encrypt to an RSA public key in PEM: `base64(wrapped AES-256-GCM key || nonce || ciphertext)`.

    The key is wrapped with OAEP and SHA-256 and has the length of the RSA modulus; the nonce has 12 bytes.
    Raises `SettingsError` for a file that holds no such key.
    """
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        key = serialization.load_pem_public_key(public_key_file.read_bytes())
    except (OSError, ValueError):
        key = None
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < 2048:
        raise SettingsError(
            ["MODERATION_PUBLIC_KEY: set a PEM file with an RSA public key of 2048 bits or more."]
        )
    public_key = key

    def encrypt(plain: bytes) -> str:
        content_key, nonce = AESGCM.generate_key(256), os.urandom(12)
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        sealed = AESGCM(content_key).encrypt(nonce, plain, None)
        return base64.b64encode(public_key.encrypt(content_key, oaep) + nonce + sealed).decode()

    return encrypt
