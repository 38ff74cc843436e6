"""`GET /files/…`: the files of finished jobs, by signed links that expire.

A link is made by whoever may see the job and works without a token, because a browser's <img> and <video>
send none. A local folder's files are served from here; for Supabase a link leads on to one that the storage
signs at that moment, so that showing a list of jobs costs no request to the storage.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from fastapi.responses import FileResponse, RedirectResponse, Response

from gateway.errors import ApiError, not_found, responses
from gateway.parts import GivenParts
from shared.errors import ServiceRefused
from shared.storage import FolderStorage

router = APIRouter(tags=["files"])

CONTENT_TYPES: Final = {".png": "image/png", ".mp4": "video/mp4", ".webp": "image/webp"}
"""By extension, never by content: a browser must not take a file for anything else."""

# No script runs and nothing else is loaded. A browser that shows a film by itself asks for it from a page of
# its own making, which has to keep this origin for that.
_POLICY: Final = (
    "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline';"
    " sandbox allow-same-origin"
)
_SAFE_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "the file", "content": {kind: {} for kind in CONTENT_TYPES.values()}},
    206: {"description": "a part of it", "content": {kind: {} for kind in CONTENT_TYPES.values()}},
    307: {"description": "where the storage has it"},
    416: {"description": "no such part", "content": {"text/plain": {}}},
}


@router.get(
    "/files/{bucket}/{path:path}",
    response_class=Response,
    responses={**_ANSWERS, **responses(400, 403, 404, 503)},
)
def file(
    bucket: Annotated[str, Path(max_length=100)],
    path: Annotated[str, Path(max_length=1024)],
    expires: Annotated[int, Query(ge=0, le=2**53, description="Unix time, seconds")],
    signature: Annotated[str, Query(pattern="^[0-9a-f]{64}$")],
    parts: GivenParts,
) -> Response:
    rest_s = parts.file_links.rest_s(bucket, path, expires, signature, parts.clock())
    if rest_s <= 0:
        raise ApiError(403, "forbidden", "The link has expired or is not complete: ask for the job again.")
    try:
        if not isinstance(parts.storage, FolderStorage):
            return RedirectResponse(
                parts.storage.link(bucket, path, "signed"), 307, {"Cache-Control": "no-store"}
            )
        found = parts.storage.file(bucket, path)
    except ServiceRefused:
        raise not_found("file") from None
    kind = CONTENT_TYPES.get(found.suffix) if found is not None else None
    if found is None or kind is None:
        raise not_found("file")
    cached = {"Cache-Control": f"private, max-age={rest_s}"}
    return FileResponse(found, media_type=kind, headers=_SAFE_HEADERS | cached)
