"""Content Credentials (C2PA): a signed manifest that says what made a file. Needs the extra `c2pa`."""

from __future__ import annotations

import importlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shared.errors import SettingsError
from workers.encode.mark import TRAINED_ALGORITHMIC_MEDIA
from workers.encode.png import encode_png
from workers.encode.types import C2paSigner, MediaFault


def sign_file(path: Path, content_type: str, signer: C2paSigner, generator: str, version: str) -> None:
    """Replace the file by a signed one and check its manifest. Raises `MediaFault`.

    A certificate that nobody trusts yet signs too: whom to trust is the reader's decision.
    """
    signed = path.with_suffix(".signed")
    try:
        with path.open("rb") as source, signed.open("w+b") as target:
            _sign(source, target, content_type, signer, generator, version)
        signed.replace(path)
    finally:
        with suppress(FileNotFoundError):
            signed.unlink()


def check_signer(signer: C2paSigner) -> None:
    """Sign a picture of one pixel, so that a wrong certificate shows at the start and not after a job.

    Raises `SettingsError`.
    """
    picture = encode_png(np.zeros((1, 1, 3), np.uint8), {})
    try:
        _sign(BytesIO(picture), BytesIO(), "image/png", signer, "start-up check", "0")
    except ImportError as error:
        raise SettingsError(
            ["C2PA signing is configured but c2pa-python is missing; install the extra `c2pa`"]
        ) from error
    except MediaFault as error:
        raise SettingsError(
            [f"C2PA signing does not work with the configured certificate and key: {error}"]
        ) from error


def _sign(
    source: BinaryIO, target: BinaryIO, content_type: str, signer: C2paSigner, generator: str, version: str
) -> None:
    c2pa: Any = importlib.import_module("c2pa")  # untyped, and loads 50 MB of native code
    info = c2pa.C2paSignerInfo(
        signer.algorithm,
        signer.certificate_chain.encode(),
        signer.private_key.encode(),
        signer.timestamp_url,
    )
    try:
        # The files have thumbnails of their own beside them.
        settings = c2pa.Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}})
        with (
            c2pa.Context(settings) as context,
            c2pa.Signer.from_info(info) as native_signer,
            c2pa.Builder(_manifest(generator, version), context) as builder,
        ):
            builder.sign(native_signer, content_type, source, target)
        target.seek(0)
        with c2pa.Reader(content_type, target) as reader:
            state = reader.get_validation_state()
    except c2pa.C2paError as error:
        raise MediaFault(f"C2PA signing failed: {error}") from error
    if state not in {"Valid", "Trusted"}:
        raise MediaFault(f"the C2PA manifest reads back as {state}")


def _manifest(generator: str, version: str) -> dict[str, Any]:
    tool = {"name": generator, "version": version}
    created = {
        "action": "c2pa.created",
        "softwareAgent": tool,
        "digitalSourceType": TRAINED_ALGORITHMIC_MEDIA,
    }
    return {
        "claim_generator_info": [tool],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }
