"""What a reference may cost and where it may come from."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shared.errors import SettingsError

# Lower case: a host name, an IPv4 address or an IPv6 address in brackets; a port where it is not the usual.
_AUTHORITY = re.compile(r"(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)


@dataclass(frozen=True)
class FetchPolicy:
    """The limits of one fetch.

    `allowed_hosts` holds `host` or `host:port` in lower case, compared exactly; `storage_host` is the one of
    them that is our own storage, whose links may be signed afresh. `loopback_http` is for the demo: plain
    http is then accepted, but only to loopback addresses. Times are in seconds; `total_timeout_s` covers
    retries, redirects and name resolution together, `connect_timeout_s` one connection including its TLS
    handshake, `read_timeout_s` one silence on the wire. `retry_pauses_s` are the pauses before each further
    try.
    """

    allowed_hosts: frozenset[str]
    allowed_buckets: frozenset[str]
    storage_host: str | None = None
    loopback_http: bool = False
    max_bytes: int = 20 * 1024 * 1024
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 10.0
    total_timeout_s: float = 30.0
    max_redirects: int = 2
    retry_pauses_s: tuple[float, ...] = (0.5, 1.0)

    def __post_init__(self) -> None:
        problems = [
            f"reference host {host!r}: write it in lower case as host or host:port, without a scheme or path"
            for host in sorted(self.allowed_hosts)
            if not _AUTHORITY.fullmatch(host)
        ]
        if self.storage_host is not None and self.storage_host not in self.allowed_hosts:
            problems.append(f"reference hosts: add the storage's own host {self.storage_host!r} to them")
        if problems:
            raise SettingsError(problems)
