"""The one place that reads a reference's URL.

The grammar below accepts storage links and nothing else, and the request is built from the parts it matched,
so that no second URL parser can understand the same text differently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, cast
from urllib.parse import quote, unquote_to_bytes

from shared.errors import ReferenceRefused
from workers.inputs.policy import FetchPolicy

Access = Literal["sign", "public", "authenticated"]

MAX_URL_CHARACTERS = 4096

_DEFAULT_PORTS = {"https": 443, "http": 80}

_LINK = re.compile(
    r"(?P<scheme>(?i:https?))://"
    r"(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"/storage/v1/object/(?P<access>sign|public|authenticated)"
    r"/(?P<bucket>[A-Za-z0-9_.-]+)"
    r"/(?P<path>(?:[A-Za-z0-9/._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)"
    r"(?P<query>\?(?:[A-Za-z0-9/._~!$&'()*+,;=:@?-]|%[0-9A-Fa-f]{2})*)?",
    re.ASCII,
)

# The characters that Supabase Storage itself accepts in an object's name. A percent sign is not among them,
# so a doubly encoded path cannot become another path further on.
_NAME = re.compile(r"[A-Za-z0-9_!.*'() &$@=;:+,?-]+", re.ASCII)
_SAFE_IN_PATH = "/!*'()&$@=;:+,"


@dataclass(frozen=True)
class StorageLink:
    """A reference's address, already within the rules. `path` is decoded; `target` may hold a token."""

    scheme: Literal["https", "http"]
    host: str
    port: int
    access: Access
    bucket: str
    path: str
    target: bytes = field(repr=False)

    @property
    def authority(self) -> str:
        """`host`, or `host:port` where the port is not the scheme's own."""
        return self.host if self.port == _DEFAULT_PORTS[self.scheme] else f"{self.host}:{self.port}"

    def belongs_to(self, owner: str) -> bool:
        """Whether the object stands in the folder of this user."""
        return self.path.startswith(f"{owner}/")


def parse_link(url: str, policy: FetchPolicy) -> StorageLink:
    """Read `url` under `policy`.

    Raises ReferenceRefused with a sentence that holds nothing of the URL: it may carry a token.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise ReferenceRefused(f"A reference's URL may have at most {MAX_URL_CHARACTERS} characters.")
    match = _LINK.fullmatch(url)
    if match is None:
        raise ReferenceRefused(
            "A reference must be an https link to an object in the storage, of the form "
            "https://<host>/storage/v1/object/{sign,public,authenticated}/<bucket>/<path>."
        )
    scheme = cast(Literal["https", "http"], match["scheme"].lower())
    if scheme == "http" and not policy.loopback_http:
        raise ReferenceRefused("A reference must be an https link; http is not accepted.")
    path = _decoded(match["path"])
    link = StorageLink(
        scheme=scheme,
        host=match["host"].lower(),
        port=int(match["port"] or _DEFAULT_PORTS[scheme]),
        access=cast(Access, match["access"]),
        bucket=match["bucket"],
        path=path,
        target=_target(match["access"], match["bucket"], path, match["query"] or ""),
    )
    if link.authority not in policy.allowed_hosts:
        raise ReferenceRefused(
            "The reference's host is not one of the storage hosts that this worker accepts."
        )
    if link.bucket not in policy.allowed_buckets:
        raise ReferenceRefused("The reference's bucket is not one that references are accepted from.")
    return link


def parse_redirect(link: StorageLink, location: str, policy: FetchPolicy) -> StorageLink:
    """The link that a redirect of `link` leads to, under the same rules. Raises ReferenceRefused."""
    if location.startswith("/"):
        location = f"{link.scheme}://{link.authority}{location}"
    try:
        return parse_link(location, policy)
    except ReferenceRefused:
        raise ReferenceRefused("The reference's link redirects to a place that is not accepted.") from None


def _decoded(path: str) -> str:
    """The object's path, decoded once. Raises ReferenceRefused for anything but plain folders and names."""
    segments = unquote_to_bytes(path).decode("ascii", errors="replace").split("/")
    # An encoded slash would have made a segment that the server does not see as one.
    encoded_slash = "%2f" in path.lower()
    if encoded_slash or any(s in (".", "..") or not _NAME.fullmatch(s) for s in segments):
        raise ReferenceRefused("The path of the reference holds characters or steps that are not accepted.")
    return "/".join(segments)


def _target(access: str, bucket: str, path: str, query: str) -> bytes:
    """The request target, encoded anew from what was checked, so that exactly that is sent."""
    return f"/storage/v1/object/{access}/{bucket}/{quote(path, safe=_SAFE_IN_PATH)}{query}".encode("ascii")
