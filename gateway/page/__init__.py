"""The page at `/`: a few static files, and what they have to know of this gateway.

No build step and nothing from elsewhere. The policy that goes with each file lets a browser run these
scripts alone; texts reach the page as text only, which `require-trusted-types-for` makes the browser hold.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, Field

from gateway.errors import not_found
from gateway.parts import GivenParts
from gateway.prices import price_of
from gateway.settings import GatewaySettings
from shared.presets import PRESETS, Medium, Quality

router = APIRouter(tags=["page"])

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
FILES: Final = ("api.js", "app.js", "compose.js", "icon.svg", "job.js", "style.css", "viewer.js", "watch.js")


class JobType(BaseModel):
    job_type: str
    family: Literal["sdxl", "wan"]
    medium: Medium
    quality: Quality
    enhanced: bool
    expected_seconds: int = Field(description="on a GPU")
    credits: int = Field(description="the price of one picture or one video")


class Config(BaseModel):
    """`demo`: there is one user without a token, and what is made is small."""

    demo: bool
    demo_size: int = Field(description="pixels, both sides, of SDXL's pictures")
    demo_wan_size: int = Field(description="the same of what WAN makes")
    demo_frames: int
    job_types: list[JobType]


@router.get("/config")
async def config(parts: GivenParts) -> Config:
    """What a client may ask for here. Needs no token."""
    settings = parts.settings
    return Config(
        demo=settings.demo,
        demo_size=settings.demo_size,
        demo_wan_size=settings.demo_wan_size,
        demo_frames=settings.demo_frames,
        job_types=[
            JobType(
                job_type=preset.job_type,
                family=preset.family.name,
                medium=preset.medium,
                quality=preset.quality,
                enhanced=preset.enhanced,
                expected_seconds=preset.expected_seconds,
                credits=price_of(preset, 1, settings.credit_prices),
            )
            for preset in PRESETS.values()
        ],
    )


@router.get("/", include_in_schema=False)
async def index(parts: GivenParts, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    return _file("index.html", parts.settings, if_none_match)


@router.get("/page/{name}", include_in_schema=False)
async def file(
    name: str, parts: GivenParts, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    if name not in FILES:
        raise not_found("file")
    return _file(name, parts.settings, if_none_match)


def _file(name: str, settings: GatewaySettings, known: str | None) -> Response:
    body, tag = _read(name)
    headers = {
        "ETag": tag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": _policy(settings),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    if known == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=_TYPES[name.rpartition(".")[2]], headers=headers)


@cache
def _read(name: str) -> tuple[bytes, str]:
    body = resources.files(__package__).joinpath(name).read_bytes()
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def _policy(settings: GatewaySettings) -> str:
    """Links to files of Supabase lead on to its own address; all else is the gateway's."""
    storage = urlsplit(settings.resolved_storage_url or "")
    media = f"'self' {storage.scheme}://{storage.netloc}" if storage.netloc else "'self'"
    return "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            f"img-src {media}",
            f"media-src {media}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )
