"""Resumable uploads by the TUS protocol, version 1.0.0 (https://tus.io/protocols/resumable-upload).

Only what Supabase Storage asks for: creation, and chunks of a fixed size. Errors of httpx pass through; the
caller translates them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    import httpx

CHUNK_BYTES: Final = 6 * 1024 * 1024
"""The chunk that Supabase Storage demands: all but the last must have just this size (its upload guide)."""

MAX_RESUMES: Final = 3
_VERSION: Final = {"Tus-Resumable": "1.0.0"}


def upload_resumably(
    client: httpx.Client,
    endpoint: str,
    file: BinaryIO,
    size: int,
    *,
    headers: Mapping[str, str],
    metadata: Mapping[str, str],
) -> None:
    """Send the first `size` bytes of `file`, going on after a broken connection where the server stopped.

    `metadata` describes the upload to the server. A broken connection is resumed at once and at most
    `MAX_RESUMES` times; pauses are the caller's matter. Raises `httpx.HTTPError`.
    """
    import httpx

    common = {**headers, **_VERSION}
    created = client.post(
        endpoint, headers={**common, "Upload-Length": str(size), "Upload-Metadata": _encoded(metadata)}
    )
    created.raise_for_status()
    upload_url = _upload_url(endpoint, created)
    offset, resumes = 0, 0
    while offset < size:
        try:
            reached = _send_chunk(client, upload_url, file, offset, common)
        except httpx.TransportError:
            resumes += 1
            stopped_at = _stopped_at(client, upload_url, common)
            # All bytes may have arrived, but nobody has said that the object exists now: only an answer to
            # the last chunk says so. Then, and where the server forgot the upload, the caller starts again.
            if resumes > MAX_RESUMES or stopped_at is None or stopped_at >= size:
                raise
            reached = stopped_at
        else:
            if reached <= offset:
                raise httpx.RemoteProtocolError("the server took a chunk and its offset did not move")
        offset = reached


def _send_chunk(
    client: httpx.Client, upload_url: str, file: BinaryIO, offset: int, headers: Mapping[str, str]
) -> int:
    """Send one chunk and return the offset that the server has reached."""
    import httpx

    file.seek(offset)
    response = client.patch(
        upload_url,
        content=file.read(CHUNK_BYTES),
        headers={
            **headers,
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
        },
    )
    if response.status_code in (404, 410):
        raise httpx.RemoteProtocolError("the server has forgotten the upload")
    return _offset(response)


def _stopped_at(client: httpx.Client, upload_url: str, headers: Mapping[str, str]) -> int | None:
    """The offset that the server has reached, None where it does not know the upload."""
    import httpx

    try:
        return _offset(client.head(upload_url, headers=headers))
    except httpx.HTTPStatusError:
        return None


def _offset(response: httpx.Response) -> int:
    import httpx

    response.raise_for_status()
    offset = response.headers.get("Upload-Offset", "")
    if not offset.isdecimal():
        raise httpx.RemoteProtocolError("the server's answer has no upload offset")
    return int(offset)


def _upload_url(endpoint: str, created: httpx.Response) -> str:
    """The address of the new upload, always below `endpoint`.

    A storage behind a proxy often names itself by a scheme or host that is not reachable from outside, and
    the key must go to no host but the one that the operator has set: of its answer only the last part counts.
    """
    import httpx

    path = httpx.URL(created.headers.get("Location", "")).path
    upload_id = path.rstrip("/").rpartition("/")[2]
    if not upload_id:
        raise httpx.RemoteProtocolError("the server's answer names no upload")
    return f"{endpoint}/{upload_id}"


def _encoded(metadata: Mapping[str, str]) -> str:
    return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in metadata.items())
