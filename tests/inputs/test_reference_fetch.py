"""What the fetcher does with the answers of hosts that it may talk to."""

from __future__ import annotations

import gzip
import logging
import socket
import ssl
import threading
from dataclasses import replace
from functools import partial

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.connections import Detour, ScriptedNetwork, http_answer, no_connection_except
from support.dns import FailingResolver, StubResolver
from support.loopback_server import OwnAuthority, Serve

from shared.errors import ReferenceRefused, ReferenceUnavailable, SettingsError
from workers.inputs.fetch import FetchPolicy, ReferenceFetcher
from workers.inputs.links import parse_link
from workers.inputs.network import SystemResolver

HOST = "storage.example.com"
PUBLIC = "93.184.215.14"
PREFIX = f"https://{HOST}/storage/v1/object"
SIGNED = f"{PREFIX}/sign/reference_images/u1/boat.png?token=TOPSECRET"
FRESH = f"{PREFIX}/sign/reference_images/u1/boat.png?token=FRESH"
PICTURE = b"not looked at here"

NO_LIMITS = FetchPolicy(
    allowed_hosts=frozenset({HOST}), allowed_buckets=frozenset({"reference_images", "workspace_assets"})
)


# The system's certificates take long to load, and only the tests of TLS look at any.
TRUSTS_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Signer:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def __call__(self, bucket: str, path: str) -> str:
        self.asked.append((bucket, path))
        return FRESH


def fetcher_for(
    policy: FetchPolicy, network: ScriptedNetwork, sign: Signer | None = None
) -> ReferenceFetcher:
    clock = Clock()
    return ReferenceFetcher(
        policy,
        StubResolver([PUBLIC]),
        sign,
        network=network,
        ssl_context=TRUSTS_NOBODY,
        clock=clock,
        pause=clock.advance,
    )


# TLS


def test_tls_is_made_for_the_name_over_a_connection_to_the_checked_address(
    policy: FetchPolicy, serve: Serve, authority: OwnAuthority
) -> None:
    server = serve(http_answer(PICTURE), context=authority.server_context(HOST))
    detour = Detour(server.port)
    fetcher = ReferenceFetcher(
        policy, StubResolver([PUBLIC]), network=detour, ssl_context=authority.client_context()
    )
    assert fetcher.fetch(SIGNED, owner="u1") == PICTURE
    assert detour.connected == [(PUBLIC, 443)]
    assert server.server_names == [HOST]
    assert server.requests[0].startswith(
        b"GET /storage/v1/object/sign/reference_images/u1/boat.png?token=TOPSECRET HTTP/1.1\r\n"
    )


@pytest.mark.parametrize("certified", ["other.example.com", "example.com"])
def test_a_certificate_for_another_name_brings_no_request(
    certified: str, policy: FetchPolicy, serve: Serve, authority: OwnAuthority
) -> None:
    server = serve(context=authority.server_context(certified))
    fetcher = ReferenceFetcher(
        replace(policy, retry_pauses_s=()),
        StubResolver([PUBLIC]),
        network=Detour(server.port),
        ssl_context=authority.client_context(),
    )
    with pytest.raises(ReferenceUnavailable):
        fetcher.fetch(SIGNED, owner="u1")
    assert server.requests == []


def test_a_certificate_of_an_unknown_authority_brings_no_request(
    policy: FetchPolicy, serve: Serve, authority: OwnAuthority
) -> None:
    server = serve(context=authority.server_context(HOST))
    fetcher = ReferenceFetcher(
        replace(policy, retry_pauses_s=()), StubResolver([PUBLIC]), network=Detour(server.port)
    )
    with pytest.raises(ReferenceUnavailable):
        fetcher.fetch(SIGNED, owner="u1")
    assert server.requests == []


# Redirects


def test_a_redirect_within_the_rules_is_followed_over_a_real_connection(
    policy: FetchPolicy, serve: Serve, authority: OwnAuthority
) -> None:
    server = serve(
        http_answer(status=302, headers=[("Location", FRESH)]),
        http_answer(
            status=307, headers=[("Location", "/storage/v1/object/public/workspace_assets/a%20b.png")]
        ),
        http_answer(PICTURE),
        context=authority.server_context(HOST),
    )
    resolver = StubResolver([PUBLIC])
    fetcher = ReferenceFetcher(
        policy, resolver, network=Detour(server.port), ssl_context=authority.client_context()
    )
    assert fetcher.fetch(SIGNED, owner="u1") == PICTURE
    assert [request.split()[1] for request in server.requests] == [
        b"/storage/v1/object/sign/reference_images/u1/boat.png?token=TOPSECRET",
        b"/storage/v1/object/sign/reference_images/u1/boat.png?token=FRESH",
        b"/storage/v1/object/public/workspace_assets/a%20b.png",
    ]
    assert len(resolver.asked) == 3


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_redirects_are_counted(limit: int, policy: FetchPolicy) -> None:
    again = http_answer(status=302, headers=[("Location", SIGNED)])
    network = ScriptedNetwork(*[again] * 5)
    with pytest.raises(ReferenceRefused):
        fetcher_for(replace(policy, max_redirects=limit), network).fetch(SIGNED, owner="u1")
    assert len(network.connected) == limit + 1


def test_a_redirect_without_a_location_is_refused(policy: FetchPolicy) -> None:
    with pytest.raises(ReferenceRefused):
        fetcher_for(policy, ScriptedNetwork(http_answer(status=302))).fetch(SIGNED, owner="u1")


# What is sent


def test_neither_credentials_nor_cookies_nor_proxies_of_the_environment_are_used(
    policy: FetchPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://user:hunter2@10.9.9.9:3128")
    network = ScriptedNetwork(
        http_answer(status=302, headers=[("Location", SIGNED), ("Set-Cookie", "session=1")]),
        http_answer(PICTURE),
    )
    with no_connection_except():
        fetcher_for(policy, network).fetch(SIGNED, owner="u1")
    assert network.connected == [(PUBLIC, 443)] * 2
    for request in network.requests:
        names = {line.split(b":")[0].lower() for line in bytes(request).split(b"\r\n")[1:] if line}
        assert names == {b"host", b"accept", b"accept-encoding", b"connection", b"user-agent"}


def test_a_host_that_does_not_answer_at_one_address_is_tried_at_the_next(policy: FetchPolicy) -> None:
    network = ScriptedNetwork(httpcore.ConnectError(), http_answer(PICTURE))
    fetcher = ReferenceFetcher(
        policy, StubResolver(["2606:4700::1", PUBLIC]), network=network, ssl_context=TRUSTS_NOBODY
    )
    assert fetcher.fetch(SIGNED, owner="u1") == PICTURE
    assert network.connected == [("2606:4700::1", 443), (PUBLIC, 443)]


def test_the_demo_fetches_over_http_from_loopback(policy: FetchPolicy, serve: Serve) -> None:
    server = serve(http_answer(PICTURE))
    demo = replace(
        policy,
        loopback_http=True,
        allowed_hosts=frozenset({f"localhost:{server.port}"}),
        storage_host=None,
    )
    fetcher = ReferenceFetcher(demo, StubResolver(["127.0.0.1"]))
    url = f"http://localhost:{server.port}/storage/v1/object/public/reference_images/u1/boat.png"
    with no_connection_except(("127.0.0.1", server.port)):
        assert fetcher.fetch(url, owner="u1") == PICTURE


# Sizes and encodings


def test_a_body_of_exactly_the_limit_passes_and_one_byte_more_does_not(policy: FetchPolicy) -> None:
    small = replace(policy, max_bytes=1000)
    assert (
        len(fetcher_for(small, ScriptedNetwork(http_answer(b"x" * 1000))).fetch(SIGNED, owner="u1")) == 1000
    )
    with pytest.raises(ReferenceRefused, match="1000"):
        fetcher_for(small, ScriptedNetwork(http_answer(b"x" * 1001))).fetch(SIGNED, owner="u1")


def test_a_body_that_announces_too_much_is_not_read(policy: FetchPolicy) -> None:
    network = ScriptedNetwork(http_answer(b"x" * 10**6), piece=200)
    with pytest.raises(ReferenceRefused):
        fetcher_for(replace(policy, max_bytes=1000), network).fetch(SIGNED, owner="u1")
    assert network.bytes_read <= 400


def test_a_body_without_an_announced_length_is_cut_off_at_the_limit(policy: FetchPolicy) -> None:
    network = ScriptedNetwork(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10**6, piece=200)
    with pytest.raises(ReferenceRefused):
        fetcher_for(replace(policy, max_bytes=1000), network).fetch(SIGNED, owner="u1")
    assert network.bytes_read <= 1600


def test_a_chunked_body_is_cut_off_at_the_limit(policy: FetchPolicy) -> None:
    chunks = b"64\r\n" + b"x" * 100 + b"\r\n"
    network = ScriptedNetwork(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks * 10_000, piece=500
    )
    with pytest.raises(ReferenceRefused):
        fetcher_for(replace(policy, max_bytes=1000), network).fetch(SIGNED, owner="u1")
    assert network.bytes_read <= 2500


def test_a_body_shorter_than_announced_is_unavailable_and_never_used(policy: FetchPolicy) -> None:
    network = ScriptedNetwork(*[http_answer(PICTURE, length=len(PICTURE) + 1)] * 3)
    with pytest.raises(ReferenceUnavailable):
        fetcher_for(policy, network).fetch(SIGNED, owner="u1")


def test_what_follows_the_announced_length_is_not_part_of_the_body(policy: FetchPolicy) -> None:
    network = ScriptedNetwork(http_answer(PICTURE, length=3))
    assert fetcher_for(policy, network).fetch(SIGNED, owner="u1") == PICTURE[:3]


def test_an_empty_body_is_unavailable(policy: FetchPolicy) -> None:
    with pytest.raises(ReferenceUnavailable):
        fetcher_for(policy, ScriptedNetwork(http_answer(b""))).fetch(SIGNED, owner="u1")


@pytest.mark.parametrize(
    "encoding", ["gzip", "x-gzip", "deflate", "br", "zstd", "gzip, gzip", "identity, gzip"]
)
def test_a_compressed_body_is_refused_and_never_unpacked(encoding: str, policy: FetchPolicy) -> None:
    bomb = gzip.compress(bytes(10**7))
    network = ScriptedNetwork(http_answer(bomb, headers=[("Content-Encoding", encoding)]))
    with pytest.raises(ReferenceRefused, match="compressed"):
        fetcher_for(policy, network).fetch(SIGNED, owner="u1")


def test_a_compressed_body_that_does_not_say_so_stays_as_it_is(policy: FetchPolicy) -> None:
    bomb = gzip.compress(bytes(10**7))
    assert fetcher_for(policy, ScriptedNetwork(http_answer(bomb))).fetch(SIGNED, owner="u1") == bomb


# Time


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_slow_drip_ends_at_the_total_deadline(part: str, policy: FetchPolicy) -> None:
    clock = Clock()
    whole = http_answer(b"x" * 10_000) if part == "body" else b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000
    piece = 100 if part == "body" else 1
    network = ScriptedNetwork(*[whole] * 3, piece=piece, tick=partial(clock.advance, 1.0))
    fetcher = ReferenceFetcher(
        policy,
        StubResolver([PUBLIC]),
        network=network,
        ssl_context=TRUSTS_NOBODY,
        clock=clock,
        pause=clock.advance,
    )
    with pytest.raises(ReferenceUnavailable, match="in time"):
        fetcher.fetch(SIGNED, owner="u1")
    assert clock.now <= policy.total_timeout_s + 1.0


def test_a_caller_can_shorten_the_deadline_and_not_lengthen_it(policy: FetchPolicy) -> None:
    for asked, expected in ((5.0, 5.0), (1000.0, policy.total_timeout_s)):
        clock = Clock()
        network = ScriptedNetwork(http_answer(b"x" * 10_000), piece=1, tick=partial(clock.advance, 1.0))
        fetcher = ReferenceFetcher(
            policy, StubResolver([PUBLIC]), network=network, ssl_context=TRUSTS_NOBODY, clock=clock
        )
        with pytest.raises(ReferenceUnavailable):
            fetcher.fetch(SIGNED, owner="u1", timeout_s=asked)
        assert clock.now == expected


def test_no_single_wait_is_longer_than_what_is_left(policy: FetchPolicy) -> None:
    clock = Clock()
    network = ScriptedNetwork(http_answer(b"x" * 30), piece=20, tick=partial(clock.advance, 1.0))
    fetcher = ReferenceFetcher(
        policy, StubResolver([PUBLIC]), network=network, ssl_context=TRUSTS_NOBODY, clock=clock
    )
    fetcher.fetch(SIGNED, owner="u1", timeout_s=8.0)
    connect, *rest = network.timeouts
    reads = rest[-4:]
    assert connect == policy.connect_timeout_s
    assert max(rest) == 8.0 < policy.read_timeout_s
    assert reads == sorted(reads, reverse=True)
    assert reads[-1] < 8.0


# Faults


def _faults() -> list[type[Exception]]:
    """Every error that httpcore may raise out of a request."""
    kinds = [getattr(httpcore, name) for name in httpcore.__all__]
    return [
        kind
        for kind in kinds
        if isinstance(kind, type)
        and issubclass(kind, Exception)
        and kind is not httpcore.ConnectionNotAvailable
    ]


@pytest.mark.parametrize("fault", _faults())
def test_no_error_of_the_http_library_gets_out_untranslated(
    fault: type[Exception], policy: FetchPolicy
) -> None:
    network = ScriptedNetwork(*[fault("to 10.0.0.1, token TOPSECRET")] * 3)
    with pytest.raises(ReferenceUnavailable) as caught:
        fetcher_for(policy, network).fetch(SIGNED, owner="u1")
    assert "TOPSECRET" not in str(caught.value)
    assert "10.0.0.1" not in str(caught.value)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_passing_fault_is_tried_again(status: int, policy: FetchPolicy) -> None:
    network = ScriptedNetwork(http_answer(status=status), http_answer(status=status), http_answer(PICTURE))
    assert fetcher_for(policy, network).fetch(SIGNED, owner="u1") == PICTURE


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 410, 416])
def test_another_answer_is_final(status: int, policy: FetchPolicy) -> None:
    network = ScriptedNetwork(http_answer(status=status))
    with pytest.raises(ReferenceUnavailable):
        fetcher_for(policy, network).fetch(SIGNED, owner="u1")
    assert len(network.connected) == 1


def test_an_unknown_name_is_unavailable(policy: FetchPolicy) -> None:
    fetcher = ReferenceFetcher(
        policy, FailingResolver(), ssl_context=TRUSTS_NOBODY, pause=lambda seconds: None
    )
    with no_connection_except(), pytest.raises(ReferenceUnavailable) as caught:
        fetcher.fetch(SIGNED, owner="u1")
    assert HOST not in str(caught.value)


def test_a_name_without_an_address_is_unavailable(policy: FetchPolicy) -> None:
    fetcher = ReferenceFetcher(
        policy, StubResolver([]), ssl_context=TRUSTS_NOBODY, pause=lambda seconds: None
    )
    with no_connection_except(), pytest.raises(ReferenceUnavailable):
        fetcher.fetch(SIGNED, owner="u1")


@pytest.mark.parametrize(
    "rubbish", [b"", b"\x00\xff" * 50, b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n", b"+PONG\r\n"]
)
def test_a_service_that_does_not_speak_http_is_unavailable(rubbish: bytes, policy: FetchPolicy) -> None:
    with pytest.raises(ReferenceUnavailable):
        fetcher_for(policy, ScriptedNetwork(*[rubbish] * 3)).fetch(SIGNED, owner="u1")


def test_nothing_of_a_link_is_logged(policy: FetchPolicy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="workers")
    fetcher_for(policy, ScriptedNetwork(http_answer(PICTURE))).fetch(SIGNED, owner="u1")
    own = [record for record in caplog.records if record.name.startswith("workers")]
    assert own == []


# Links of our own storage


@pytest.mark.parametrize("status", [400, 401, 403])
def test_an_expired_link_of_our_own_storage_is_signed_afresh_once(status: int, policy: FetchPolicy) -> None:
    sign = Signer()
    network = ScriptedNetwork(http_answer(status=status), http_answer(PICTURE))
    assert fetcher_for(policy, network, sign).fetch(SIGNED, owner="u1") == PICTURE
    assert sign.asked == [("reference_images", "u1/boat.png")]
    assert b"token=FRESH" in network.requests[1]

    network = ScriptedNetwork(*[http_answer(status=status)] * 2)
    with pytest.raises(ReferenceUnavailable):
        fetcher_for(policy, network, Signer()).fetch(SIGNED, owner="u1")


def test_an_authenticated_link_is_signed_before_the_first_request(policy: FetchPolicy) -> None:
    sign = Signer()
    network = ScriptedNetwork(http_answer(PICTURE))
    url = f"{PREFIX}/authenticated/reference_images/u1/my%20boat.png"
    assert fetcher_for(policy, network, sign).fetch(url, owner="u1") == PICTURE
    assert sign.asked == [("reference_images", "u1/my boat.png")]
    assert b"token=FRESH" in network.requests[0]


@pytest.mark.parametrize("owner", ["u2", "u", "u11", "U1", "reference_images", "."])
def test_nothing_is_signed_for_a_user_that_the_object_does_not_belong_to(
    owner: str, policy: FetchPolicy
) -> None:
    sign = Signer()
    with no_connection_except(), pytest.raises(ReferenceRefused):
        fetcher_for(policy, ScriptedNetwork(), sign).fetch(
            f"{PREFIX}/authenticated/reference_images/u1/boat.png", owner=owner
        )
    with pytest.raises(ReferenceUnavailable):
        fetcher_for(policy, ScriptedNetwork(http_answer(status=400)), sign).fetch(SIGNED, owner=owner)
    assert sign.asked == []


def test_nothing_is_signed_for_another_host_or_without_a_signer(policy: FetchPolicy) -> None:
    sign = Signer()
    elsewhere = SIGNED.replace(HOST, "mirror.example.com")
    with pytest.raises(ReferenceUnavailable):
        fetcher_for(policy, ScriptedNetwork(http_answer(status=400)), sign).fetch(elsewhere, owner="u1")
    for url in (elsewhere, SIGNED):
        authenticated = url.replace("/sign/", "/authenticated/")
        signer = sign if url == elsewhere else None
        with pytest.raises(ReferenceRefused):
            fetcher_for(policy, ScriptedNetwork(), signer).fetch(authenticated, owner="u1")
    assert sign.asked == []


def test_a_freshly_signed_link_is_held_to_the_same_rules(policy: FetchPolicy) -> None:
    fetcher = ReferenceFetcher(
        policy,
        StubResolver([PUBLIC]),
        lambda bucket, path: "http://169.254.169.254/",
        network=ScriptedNetwork(),
    )
    with pytest.raises(ReferenceRefused):
        fetcher.fetch(f"{PREFIX}/authenticated/reference_images/u1/boat.png", owner="u1")


# Settings and the system's name service


@pytest.mark.parametrize("host", ["https://x.example", "X.example", "x.example/", "x example", ""])
def test_a_host_that_could_never_match_is_a_wrong_setting(host: str) -> None:
    with pytest.raises(SettingsError):
        FetchPolicy(allowed_hosts=frozenset({host}), allowed_buckets=frozenset())


def test_the_storages_own_host_must_be_an_allowed_one() -> None:
    with pytest.raises(SettingsError, match=r"own\.example"):
        FetchPolicy(frozenset({"x.example"}), frozenset(), storage_host="own.example")


def test_the_systems_name_service_answers_with_addresses_and_says_when_it_has_none() -> None:
    assert SystemResolver().resolve("127.0.0.1", 443, 5.0) == ["127.0.0.1"]
    with pytest.raises(OSError, match="not a host name"):
        SystemResolver().resolve("a" * 70, 443, 5.0)


def test_a_name_service_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    finished = threading.Event()

    def hang(*arguments: object, **options: object) -> list[object]:
        finished.wait(timeout=30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(OSError, match="in time"):
        SystemResolver().resolve(HOST, 443, 0.01)
    finished.set()


# The grammar of links


@given(st.text(alphabet=st.sampled_from("./%25fFeE\\@:?#;&+ ~a1\n\x00é"), max_size=30))
def test_whatever_a_path_holds_the_request_stays_in_its_bucket(tail: str) -> None:
    try:
        link = parse_link(f"{PREFIX}/public/reference_images/{tail}", NO_LIMITS)
    except ReferenceRefused:
        return
    target, _, _ = link.target.decode("ascii").partition("?")
    assert link.authority == HOST
    assert target.startswith("/storage/v1/object/public/reference_images/")
    assert not {"", ".", ".."} & set(target.split("/")[1:])
    assert not any(part in target for part in ("\\", "//", "%2f", "%2F", "%25", "%00"))


@given(st.text(max_size=60), st.text(max_size=10))
def test_no_text_before_the_path_leads_to_another_host(start: str, end: str) -> None:
    try:
        link = parse_link(f"{start}{HOST}{end}/storage/v1/object/public/reference_images/a.png", NO_LIMITS)
    except ReferenceRefused:
        return
    assert (link.scheme, link.host, link.port) == ("https", HOST, 443)


def test_a_link_does_not_show_its_token() -> None:
    assert "TOPSECRET" not in repr(parse_link(SIGNED, NO_LIMITS))


def test_host_and_scheme_are_compared_without_case() -> None:
    assert parse_link(SIGNED.replace("https://storage", "HTTPS://Storage"), NO_LIMITS).host == HOST
