"""What the tests of references share."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
from support.loopback_server import LoopbackServer, OwnAuthority, Serve

from workers.inputs.policy import FetchPolicy


@pytest.fixture
def policy() -> FetchPolicy:
    return FetchPolicy(
        allowed_hosts=frozenset({"storage.example.com", "mirror.example.com"}),
        allowed_buckets=frozenset({"reference_images", "workspace_assets"}),
        storage_host="storage.example.com",
    )


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> OwnAuthority:
    return OwnAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[LoopbackServer] = []

    def start(*answers: bytes, context: ssl.SSLContext | None = None) -> LoopbackServer:
        servers.append(LoopbackServer(list(answers), context))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
