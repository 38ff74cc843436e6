"""Addresses that a hostile job may name, and answers that a hostile name server may give.

Each is refused, and a hook in the interpreter's socket calls proves that nothing was connected to on the way.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import replace

import httpcore
import pytest
from support.connections import (
    ConnectionAttempted,
    Detour,
    ScriptedNetwork,
    http_answer,
    no_connection_except,
)
from support.dns import StubResolver
from support.loopback_server import OwnAuthority, Serve

from shared.errors import ReferenceRefused
from workers.inputs.fetch import FetchPolicy, ReferenceFetcher

HOST = "storage.example.com"
PUBLIC = "93.184.215.14"
OBJECT = "/storage/v1/object/sign/reference_images/u1/boat.png"
GOOD = f"https://{HOST}{OBJECT}?token=TOPSECRET"

# The system's certificates take long to load, and no connection here gets as far as to look at any.
TRUSTS_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

URLS = [
    # other schemes
    f"http://{HOST}{OBJECT}",
    f"ftp://{HOST}{OBJECT}",
    f"file://{HOST}{OBJECT}",
    "file:///etc/passwd",
    f"gopher://{HOST}:6379/_FLUSHALL",
    f"dict://{HOST}:6379/info",
    f"ldap://{HOST}{OBJECT}",
    f"ws://{HOST}{OBJECT}",
    f"jar:https://{HOST}{OBJECT}!/x",
    f"view-source:https://{HOST}{OBJECT}",
    "data:image/png;base64,iVBORw0KGgo=",
    "javascript:alert(1)",
    f"//{HOST}{OBJECT}",
    f"{HOST}{OBJECT}",
    OBJECT,
    "",
    " ",
    f"https:/{HOST}{OBJECT}",
    f"https:///{HOST}{OBJECT}",
    f"https:\\\\{HOST}{OBJECT}",
    f"https://{HOST}",
    f"https://{HOST}/",
    # other hosts, as an address in all its spellings
    f"https://127.0.0.1{OBJECT}",
    f"https://127.1{OBJECT}",
    f"https://2130706433{OBJECT}",
    f"https://0x7f000001{OBJECT}",
    f"https://0x7f.1{OBJECT}",
    f"https://0177.0.0.1{OBJECT}",
    f"https://0{OBJECT}",
    f"https://0.0.0.0{OBJECT}",
    f"https://localhost{OBJECT}",
    f"https://localhost.localdomain{OBJECT}",
    f"https://LOCALHOST:443{OBJECT}",
    f"https://[::1]{OBJECT}",
    f"https://[::]{OBJECT}",
    f"https://[::ffff:127.0.0.1]{OBJECT}",
    f"https://[::ffff:7f00:1]{OBJECT}",
    f"https://[fe80::1%25eth0]{OBJECT}",
    f"https://[fd00:ec2::254]{OBJECT}",
    f"https://169.254.169.254{OBJECT}",
    f"https://2852039166{OBJECT}",
    f"https://metadata.google.internal{OBJECT}",
    f"https://100.100.100.200{OBJECT}",
    f"https://10.0.0.1{OBJECT}",
    f"https://redis{OBJECT}",
    f"https://①②⑦.⓪.⓪.①{OBJECT}",
    f"https://127.0.0.1.nip.io{OBJECT}",
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "http://127.0.0.1:6379/",
    # hosts that only look allowed
    f"https://{HOST}.evil.example{OBJECT}",
    f"https://evil-{HOST}{OBJECT}",
    f"https://evil.example/{HOST}{OBJECT}",
    f"https://{HOST}@evil.example{OBJECT}",
    f"https://user:password@{HOST}{OBJECT}",
    f"https://evil.example@{HOST}{OBJECT}",
    f"https://@{HOST}{OBJECT}",
    f"https://{HOST}%2eevil.example{OBJECT}",
    f"https://{HOST}%00.evil.example{OBJECT}",
    f"https://evil.example#@{HOST}{OBJECT}",
    f"https://evil.example?@{HOST}{OBJECT}",
    f"https://evil.example\\@{HOST}{OBJECT}",
    f"https://{HOST}\\.evil.example{OBJECT}",
    f"https://{HOST} .evil.example{OBJECT}",
    f"https://{HOST}.{OBJECT}",
    f"https://.{HOST}{OBJECT}",
    f"https://{HOST}:80{OBJECT}",
    f"https://{HOST}:6379{OBJECT}",
    f"https://{HOST}:99999{OBJECT}",
    f"https://{HOST}:-1{OBJECT}",
    f"https://{HOST}:{OBJECT}",
    f"https://stor\u0430ge.example.com{OBJECT}",
    f"https://{HOST}\u3002evil.example{OBJECT}",
    f"https://\u200b{HOST}{OBJECT}",
    f"https://{HOST.upper().replace('S', chr(0x17F))}{OBJECT}",
    # smuggling
    f"\t{GOOD}",
    f" {GOOD}",
    f"{GOOD}\n",
    f"{GOOD}\r\nX-Evil: 1",
    f"https://{HOST}{OBJECT} HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    f"https://{HOST}{OBJECT}%0d%0aX-Evil:1",
    f"https://{HOST}{OBJECT}#fragment",
    f"{GOOD}\x00",
    f"{GOOD}&next=%zz",
    f"{GOOD}{'a' * 5000}",
    # other endpoints and paths of the storage
    f"https://{HOST}/storage/v1/object/reference_images/u1/boat.png",
    f"https://{HOST}/storage/v1/object/list/reference_images/u1/boat.png",
    f"https://{HOST}/storage/v1/object/info/reference_images/u1/boat.png",
    f"https://{HOST}/storage/v1/object/upload/sign/reference_images/u1/boat.png",
    f"https://{HOST}/storage/v1/render/image/sign/reference_images/u1/boat.png",
    f"https://{HOST}/storage/v1/bucket/reference_images",
    f"https://{HOST}/rest/v1/users?select=*",
    f"https://{HOST}/auth/v1/admin/users",
    f"https://{HOST}/functions/v1/job-callback",
    f"https://{HOST}/storage/v2/object/sign/reference_images/u1/boat.png",
    f"https://{HOST}/x/storage/v1/object/sign/reference_images/u1/boat.png",
    f"https://{HOST}//storage/v1/object/sign/reference_images/u1/boat.png",
    f"https://{HOST}/Storage/v1/object/sign/reference_images/u1/boat.png",
    f"https://{HOST}/storage/v1/object/%73ign/reference_images/u1/boat.png",
    f"https://{HOST}/storage/v1/object/sign/sdxl_image_fast/u1/boat.png",
    f"https://{HOST}/storage/v1/object/sign/REFERENCE_IMAGES/u1/boat.png",
    f"https://{HOST}/storage/v1/object/sign/reference_images",
    f"https://{HOST}/storage/v1/object/sign/reference_images/",
    f"https://{HOST}/storage/v1/object/sign/../reference_images/u1/boat.png",
    f"https://{HOST}/storage/v1/object/sign/reference_images/../video_high/u2/boat.mp4",
    f"https://{HOST}/storage/v1/object/sign/reference_images/u1/..",
    f"https://{HOST}/storage/v1/object/sign/reference_images/./boat.png",
    f"https://{HOST}/storage/v1/object/sign/reference_images/%2e%2e/video_high/boat.mp4",
    f"https://{HOST}/storage/v1/object/sign/reference_images/.%2E/video_high/boat.mp4",
    f"https://{HOST}/storage/v1/object/sign/reference_images/%252e%252e/video_high/boat.mp4",
    f"https://{HOST}/storage/v1/object/sign/reference_images/..%2fvideo_high/boat.mp4",
    f"https://{HOST}/storage/v1/object/sign/reference_images/..%5cvideo_high/boat.mp4",
    f"https://{HOST}/storage/v1/object/sign/reference_images/..\\video_high/boat.mp4",
    f"https://{HOST}/storage/v1/object/sign/reference_images/u1%2fboat.png",
    f"https://{HOST}/storage/v1/object/sign/reference_images/u1//boat.png",
    f"https://{HOST}/storage/v1/object/sign/reference_images/u1/boat%00.png",
    f"https://{HOST}/storage/v1/object/sign/reference_images/u1/b%C3%B6at.png",
    f"https://{HOST}/storage/v1/object/sign/reference_images/u1/b%c0%ae%c0%ae.png",
    f"https://{HOST}/storage/v1/object/sign/reference_images/u1/boat%",
    f"https://{HOST}/storage/v1/object/sign/reference_images/u1/böat.png",
]

ANSWERS: list[Sequence[str]] = [
    ["127.0.0.1"],
    ["127.255.255.254"],
    ["0.0.0.0"],
    ["0.1.2.3"],
    ["10.0.0.1"],
    ["10.255.255.255"],
    ["172.16.0.1"],
    ["172.31.255.255"],
    ["192.168.0.1"],
    ["100.64.0.1"],
    ["100.127.255.255"],
    ["100.100.100.200"],
    ["169.254.169.254"],
    ["169.254.170.2"],
    ["168.63.129.16"],
    ["192.0.0.192"],
    ["192.0.0.170"],
    ["192.0.2.1"],
    ["192.88.99.1"],
    ["198.18.0.1"],
    ["198.51.100.7"],
    ["203.0.113.9"],
    ["224.0.0.1"],
    ["239.255.255.250"],
    ["240.0.0.1"],
    ["255.255.255.255"],
    ["::"],
    ["::1"],
    ["::127.0.0.1"],
    ["::ffff:127.0.0.1"],
    ["::ffff:169.254.169.254"],
    ["::ffff:93.184.215.14"],
    ["::ffff:0:127.0.0.1"],
    ["64:ff9b::7f00:1"],
    ["64:ff9b::a9fe:a9fe"],
    ["64:ff9b::5db8:d70e"],
    ["64:ff9b:1::a00:1"],
    ["100::1"],
    ["2001::1"],
    ["2001:0:4136:e378:8000:63bf:3fff:fdd2"],
    ["2001:2::1"],
    ["2001:10::1"],
    ["2001:20::1"],
    ["2001:db8::1"],
    ["2002:7f00:1::"],
    ["2002:a9fe:a9fe::1"],
    ["2002:5db8:d70e::1"],
    ["3fff::1"],
    ["4000::1"],
    ["5f00::1"],
    ["fc00::1"],
    ["fd00:ec2::254"],
    ["fd12:3456:789a::1"],
    ["fe80::1"],
    ["fe80::1%eth0"],
    ["2606:4700::1%eth0"],
    ["fec0::1"],
    ["ff02::1"],
    ["ff0e::1"],
    ["2606:4700::5efe:10.0.0.1"],
    ["2606:4700::200:5efe:7f00:1"],
    # one good answer does not redeem a bad one, whichever comes first
    [PUBLIC, "127.0.0.1"],
    ["10.0.0.1", PUBLIC],
    [PUBLIC, "2606:4700::1111", "::1"],
    # not addresses, though some C libraries would take them for one
    ["2130706433"],
    ["0x7f.1"],
    ["127.1"],
    ["0177.0.0.1"],
    ["localhost"],
    [""],
    ["/var/run/redis.sock"],
]

REDIRECTS = [
    "http://169.254.169.254/latest/meta-data/",
    "http://127.0.0.1:6379/",
    f"http://{HOST}{OBJECT}",
    "https://evil.example/boat.png",
    f"https://evil.example{OBJECT}",
    f"//evil.example{OBJECT}",
    f"/\\evil.example{OBJECT}",
    f"https://{HOST}@evil.example{OBJECT}",
    f"https://{HOST}:8443{OBJECT}",
    "/rest/v1/users",
    "/storage/v1/object/sign/video_high/u2/boat.mp4",
    "/storage/v1/object/sign/reference_images/../video_high/u2/boat.mp4",
    "boat.png",
    "../x.png",
    "?token=other",
    "",
    "file:///etc/passwd",
    "data:image/png;base64,iVBORw0KGgo=",
    "https://[::1]/storage/v1/object/public/reference_images/u1/boat.png",
]


def refusal(fetcher: ReferenceFetcher, url: str = GOOD) -> str:
    with pytest.raises(ReferenceRefused) as caught:
        fetcher.fetch(url, owner="u1")
    return str(caught.value)


def test_the_battery_has_at_least_eighty_different_entries() -> None:
    assert len(set(URLS)) == len(URLS) >= 80
    assert len({tuple(answer) for answer in ANSWERS}) == len(ANSWERS) >= 60


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("loopback_http", [False, True], ids=["", "demo"])
def test_a_hostile_url_is_refused_before_any_look_up(
    url: str, loopback_http: bool, policy: FetchPolicy
) -> None:
    resolver = StubResolver(["10.0.0.1"])
    fetcher = ReferenceFetcher(
        replace(policy, loopback_http=loopback_http), resolver, ssl_context=TRUSTS_NOBODY
    )
    with no_connection_except():
        message = refusal(fetcher, url)
    # In the demo an http link to an allowed host is a link; its address then is not loopback.
    assert resolver.asked == [] or (loopback_http and url.startswith(f"http://{HOST}/"))
    assert "TOPSECRET" not in message
    assert "evil" not in message


@pytest.mark.parametrize("addresses", ANSWERS, ids=lambda addresses: ",".join(addresses) or "empty")
def test_a_name_that_leads_to_a_forbidden_address_is_refused_unconnected(
    addresses: Sequence[str], policy: FetchPolicy
) -> None:
    fetcher = ReferenceFetcher(policy, StubResolver(addresses), ssl_context=TRUSTS_NOBODY)
    with no_connection_except():
        message = refusal(fetcher)
    assert not re.search(r"\d+\.\d+|::|TOPSECRET|example", message)


@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.169.254", "10.0.0.5", "[::1]", "[fd00:ec2::254]"])
def test_an_allow_list_with_a_private_address_in_it_does_not_open_that_address(
    host: str, policy: FetchPolicy
) -> None:
    fetcher = ReferenceFetcher(
        replace(policy, allowed_hosts=frozenset({host}), storage_host=None),
        StubResolver([host.strip("[]")]),
        ssl_context=TRUSTS_NOBODY,
    )
    with no_connection_except():
        refusal(fetcher, f"https://{host}{OBJECT}")


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "10.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", PUBLIC, "2606:4700::1"]
)
def test_plain_http_in_the_demo_reaches_loopback_and_nothing_else(address: str, policy: FetchPolicy) -> None:
    fetcher = ReferenceFetcher(
        replace(policy, loopback_http=True), StubResolver([address]), ssl_context=TRUSTS_NOBODY
    )
    with no_connection_except():
        refusal(fetcher, f"http://{HOST}{OBJECT}")


def test_a_name_that_is_rebound_between_two_tries_is_refused_at_the_second(
    policy: FetchPolicy, serve: Serve, authority: OwnAuthority
) -> None:
    server = serve(http_answer(status=503), context=authority.server_context(HOST))
    detour = Detour(server.port)
    fetcher = ReferenceFetcher(
        policy,
        StubResolver([PUBLIC], ["127.0.0.1"]),
        network=detour,
        ssl_context=authority.client_context(),
        pause=lambda seconds: None,
    )
    with no_connection_except(("127.0.0.1", server.port)) as connected:
        refusal(fetcher)
    assert detour.connected == [(PUBLIC, 443)]
    assert len(connected) == 1


def test_a_name_that_is_rebound_between_a_redirect_and_its_target_is_refused(
    policy: FetchPolicy, serve: Serve, authority: OwnAuthority
) -> None:
    server = serve(
        http_answer(status=302, headers=[("Location", OBJECT)]), context=authority.server_context(HOST)
    )
    detour = Detour(server.port)
    fetcher = ReferenceFetcher(
        policy,
        StubResolver([PUBLIC], ["169.254.169.254"]),
        network=detour,
        ssl_context=authority.client_context(),
    )
    with no_connection_except(("127.0.0.1", server.port)):
        refusal(fetcher)
    assert detour.connected == [(PUBLIC, 443)]


def test_the_address_connected_to_is_the_one_that_was_checked(policy: FetchPolicy) -> None:
    # A second look-up would be answered with loopback, and must therefore not take place.
    resolver = StubResolver([PUBLIC], ["127.0.0.1"])
    network = ScriptedNetwork(http_answer(b"picture"))
    with no_connection_except():
        assert (
            ReferenceFetcher(policy, resolver, network=network, ssl_context=TRUSTS_NOBODY).fetch(
                GOOD, owner="u1"
            )
            == b"picture"
        )
    assert resolver.asked == [(HOST, 443)]
    assert network.connected == [(PUBLIC, 443)]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", REDIRECTS)
def test_a_redirect_to_a_forbidden_place_is_refused_unconnected(
    location: str, status: int, policy: FetchPolicy
) -> None:
    network = ScriptedNetwork(http_answer(status=status, headers=[("Location", location)]))
    fetcher = ReferenceFetcher(policy, StubResolver([PUBLIC]), network=network, ssl_context=TRUSTS_NOBODY)
    with no_connection_except():
        message = refusal(fetcher)
    assert network.connected == [(PUBLIC, 443)]
    assert "evil" not in message


def test_an_allowed_host_may_not_redirect_to_an_allowed_name_at_a_private_address(
    policy: FetchPolicy,
) -> None:
    location = f"https://mirror.example.com{OBJECT}"
    network = ScriptedNetwork(http_answer(status=302, headers=[("Location", location)]))
    resolver = StubResolver([PUBLIC], ["192.168.1.1"])
    with no_connection_except():
        refusal(ReferenceFetcher(policy, resolver, network=network, ssl_context=TRUSTS_NOBODY))
    assert resolver.asked == [(HOST, 443), ("mirror.example.com", 443)]
    assert network.connected == [(PUBLIC, 443)]


def test_the_guard_of_these_tests_sees_a_connection() -> None:
    with no_connection_except(), pytest.raises(ConnectionAttempted):
        httpcore.SyncBackend().connect_tcp("127.0.0.1", 9, 1.0)
