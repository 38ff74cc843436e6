"""Image screens refuse what is listed, what the classifier does not allow, and what could not be decided."""

from __future__ import annotations

import io
import logging
import math
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpcore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import SecretStr
from support.connections import ScriptedNetwork, http_answer
from support.image_screens import StubImageScreen

from shared.errors import SettingsError
from workers import image_screen
from workers.image_screen import (
    ALLOWED,
    ClassifierOverHttp,
    HashBlocklist,
    ImageScreen,
    ImageVerdict,
    Picture,
    ScreenChain,
    phash,
    phash_variants,
    pixel_sha256,
)

REFUSED = ImageVerdict(False, "test")
# The system's certificates take long to load, and no connection here looks at any.
TRUSTS_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def scene(seed: int, width: int = 320, height: int = 240) -> Picture:
    """A smooth picture with a structure of its own, as photographs have one: low frequencies, then noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = smooth + random.integers(-6, 7, smooth.shape)
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


def edited(
    picture: Picture, form: str = "PNG", size: tuple[int, int] | None = None, **options: int
) -> Picture:
    """The picture after a round trip through a file of this form, at another size if one is given."""
    image = Image.fromarray(picture)
    if size is not None:
        image = image.resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, form, **options)
    result: Picture = np.array(Image.open(file).convert("RGB"))
    return result


def blocklist(tmp_path: Path, *lines: str, radius: int = 6) -> HashBlocklist:
    file = tmp_path / "hashes.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    return HashBlocklist(file, radius)


def classifier(*answers: bytes | Exception, token: str | None = "planted-token") -> ClassifierOverHttp:
    return ClassifierOverHttp(
        "https://classifier.example/check",
        SecretStr(token) if token else None,
        network=ScriptedNetwork(*answers),
        ssl_context=TRUSTS_NOBODY,
    )


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


# The chain


def test_a_chain_allows_what_every_screen_allows_and_asks_them_in_order() -> None:
    screens = [StubImageScreen(ALLOWED), StubImageScreen(ALLOWED)]
    assert ScreenChain(screens).check([scene(1), scene(2)], "frame") == ALLOWED
    assert [screen.asked for screen in screens] == [[(2, "frame")]] * 2


def test_the_first_refusal_stands_and_ends_the_chain() -> None:
    last = StubImageScreen(ALLOWED)
    assert ScreenChain([StubImageScreen(REFUSED), last]).check([scene(1)], "generated") == REFUSED
    assert last.asked == []


@pytest.mark.parametrize("error", [RuntimeError("boat"), MemoryError(), OSError(), KeyError("x")])
def test_a_screen_that_fails_has_refused(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    verdict = ScreenChain([StubImageScreen(error)]).check([scene(1)], "generated")
    assert verdict == ImageVerdict(False, "screen.failed")
    assert "boat" not in caplog.text


def test_a_chain_without_screens_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="without screens"):
        ScreenChain([])


@pytest.mark.parametrize(
    "pictures",
    [
        [],
        [np.zeros((4, 4), np.uint8)],
        [np.zeros((4, 4, 4), np.uint8)],
        [np.zeros((4, 4, 3), np.float32)],
        [np.zeros((0, 4, 3), np.uint8)],
        [scene(1), None],
    ],
    ids=["none", "grey", "four channels", "floats", "empty", "not an array"],
)
def test_what_is_not_a_picture_is_refused_unseen(pictures: list[Picture]) -> None:
    screen = StubImageScreen(ALLOWED)
    assert not ScreenChain([screen]).check(pictures, "reference").allowed
    assert screen.asked == []


# The blocklist


def test_an_exact_copy_is_refused_at_any_place_among_others(tmp_path: Path) -> None:
    screen = blocklist(tmp_path, f"sha256:{pixel_sha256(scene(1))}")
    assert screen.check([scene(2), scene(1)], "generated") == ImageVerdict(False, "blocklist.exact")
    assert screen.check([scene(2), scene(3)], "generated") == ALLOWED


def test_the_exact_hash_covers_shape_and_every_pixel_and_not_the_memory_layout() -> None:
    picture = scene(1, 20, 10)
    changed = picture.copy()
    changed[9, 19, 2] ^= 1
    assert pixel_sha256(picture) == pixel_sha256(np.asfortranarray(picture))
    assert len({pixel_sha256(p) for p in (picture, changed, picture.reshape(20, 10, 3))}) == 3


COPIES: dict[str, Callable[[Picture], Picture]] = {
    "the same": lambda picture: picture,
    "jpeg of quality 90": partial(edited, form="JPEG", quality=90),
    "jpeg of quality 40": partial(edited, form="JPEG", quality=40),
    "webp": partial(edited, form="WEBP", quality=60),
    "half the size": partial(edited, size=(160, 120)),
    "twice the size": partial(edited, size=(640, 480)),
    "another shape": partial(edited, size=(300, 300)),
    "brighter": lambda picture: np.clip(picture.astype(int) + 20, 0, 255).astype(np.uint8),
    "less contrast": lambda picture: (picture * 0.8 + 20).astype(np.uint8),
    "mirrored": lambda picture: picture[:, ::-1],
    "upside down": lambda picture: picture[::-1],
    "turned by 90 degrees": lambda picture: np.rot90(picture, 1),
    "turned by 180 degrees": lambda picture: np.rot90(picture, 2),
    "turned by 270 degrees": lambda picture: np.rot90(picture, 3),
    "mirrored and turned": lambda picture: np.rot90(picture[:, ::-1], 1),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_near_copy_is_refused(name: str, tmp_path: Path) -> None:
    scenes = [scene(seed) for seed in range(6)]
    for picture in scenes:
        screen = blocklist(tmp_path, f"phash:{phash(picture):016x}")
        copy = np.ascontiguousarray(COPIES[name](picture))
        assert screen.check([copy], "generated") == ImageVerdict(False, "blocklist.perceptual")


def test_other_pictures_are_far_from_a_listed_one(tmp_path: Path) -> None:
    screen = blocklist(tmp_path, *(f"phash:{phash(scene(seed)):016x}" for seed in range(100)))
    assert all(screen.check([scene(seed)], "generated").allowed for seed in range(1000, 1100))


def test_the_radius_is_the_number_of_bits_that_may_differ(tmp_path: Path) -> None:
    value = phash(scene(1))
    for bits in range(12):
        listed = value ^ ((1 << bits) - 1)
        nearest = min(distance(int(variant), listed) for variant in phash_variants(scene(1)))
        for radius in (0, 3, 6):
            screen = blocklist(tmp_path, f"phash:{listed:016x}", radius=radius)
            assert screen.check([scene(1)], "generated").allowed == (nearest > radius)


def test_the_transform_is_the_plain_sum_that_the_definition_writes() -> None:
    picture = scene(3, 64, 96)
    luma = np.asarray(Image.fromarray(picture).convert("L"), np.float64)
    cells = luma.reshape(32, 3, 32, 2).mean(axis=(1, 3))

    def coefficient(v: int, u: int) -> float:
        return sum(
            float(cells[y, x])
            * math.cos(math.pi * v * (2 * y + 1) / 64)
            * math.cos(math.pi * u * (2 * x + 1) / 64)
            for y in range(32)
            for x in range(32)
        )

    found = image_screen._coefficients(picture)
    assert found.shape == (8, 8)
    for v, u in ((1, 1), (1, 8), (5, 2), (8, 8)):
        assert math.isclose(float(found[v - 1, u - 1]), coefficient(v, u), abs_tol=1e-6)


@pytest.mark.parametrize("size", [(33, 47), (320, 240), (1000, 31), (5, 300)])
def test_mirroring_and_turning_change_which_variant_matches_and_not_how_well(size: tuple[int, int]) -> None:
    value = phash(scene(4, *size))
    for quarters in range(4):
        for mirrored in (scene(4, *size), scene(4, *size)[:, ::-1]):
            turned = np.ascontiguousarray(np.rot90(mirrored, quarters))
            assert min(distance(value, int(variant)) for variant in phash_variants(turned)) <= 1


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_the_first_variant_is_the_picture_itself_and_half_of_the_bits_are_set(seed: int) -> None:
    value = phash(scene(seed))
    variants = phash_variants(scene(seed))
    assert int(variants[0]) == value
    assert len(variants) == 8
    assert value.bit_count() == 32


def test_comments_blank_lines_and_capitals_are_read(tmp_path: Path) -> None:
    screen = blocklist(
        tmp_path,
        "# a list",
        "",
        f"SHA256:{pixel_sha256(scene(1)).upper()}  # boat",
        " phash:0000000000000000",
    )
    assert not screen.check([scene(1)], "reference").allowed


@pytest.mark.parametrize(
    "line", ["sha256:abc", "phash:xyz", "md5:" + "0" * 32, "boat.png", "phash:" + "0" * 15 + "g", "sha256:"]
)
def test_a_line_that_cannot_be_read_stops_the_start_and_is_named(line: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="line 2"):
        blocklist(tmp_path, "phash:0000000000000000", line)


def test_an_empty_or_missing_list_and_a_wild_radius_stop_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no hash"):
        blocklist(tmp_path, "# nothing")
    with pytest.raises(SettingsError, match="cannot be read"):
        HashBlocklist(tmp_path / "missing.txt")
    with pytest.raises(SettingsError, match="radius"):
        blocklist(tmp_path, "phash:0000000000000000", radius=33)


def test_entries_written_for_a_file_refuse_that_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "boat.png"
    Image.fromarray(scene(1)).save(file)
    assert image_screen._write_entries([str(file)]) == 0
    written = capsys.readouterr().out.splitlines()
    for line in written:
        assert not blocklist(tmp_path, line).check([scene(1)], "generated").allowed
    assert len(written) == 2

    file.write_bytes(b"no picture")
    assert image_screen._write_entries([str(file), str(tmp_path / "missing.png")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == [str(file), str(tmp_path / "missing.png")]


# The classifier


def test_the_classifier_is_sent_each_picture_as_png_with_token_and_purpose() -> None:
    network = ScriptedNetwork(*[http_answer(b'{"allowed": true, "score": 0.1}')] * 2)
    screen = ClassifierOverHttp(
        "https://classifier.example/check?v=2",
        SecretStr("planted-token"),
        network=network,
        ssl_context=TRUSTS_NOBODY,
    )
    pictures = [scene(1), scene(2)]
    assert screen.check(pictures, "frame") == ALLOWED
    assert network.connected == [("classifier.example", 443)] * 2
    for request, picture in zip(network.requests, pictures, strict=True):
        head, _, body = bytes(request).partition(b"\r\n\r\n")
        assert head.startswith(b"POST /check?v=2 HTTP/1.1\r\n")
        for line in (
            b"Authorization: Bearer planted-token",
            b"X-Image-Purpose: frame",
            b"Content-Type: image/png",
        ):
            assert line in head.split(b"\r\n")
        assert (np.asarray(Image.open(io.BytesIO(body))) == picture).all()


def test_without_a_token_no_authorization_is_sent() -> None:
    network = ScriptedNetwork(http_answer(b'{"allowed": true}'))
    screen = ClassifierOverHttp("http://127.0.0.1:9000/", network=network, ssl_context=TRUSTS_NOBODY)
    assert screen.check([scene(1)], "reference").allowed
    assert b"authorization" not in bytes(network.requests[0]).lower()


def test_a_picture_that_the_classifier_refuses_is_refused_and_ends_the_check() -> None:
    answers = [http_answer(b'{"allowed": true}'), http_answer(b'{"allowed": false}')]
    verdict = classifier(*answers).check([scene(1), scene(2), scene(3)], "frame")
    assert verdict == ImageVerdict(False, "classifier.refused")


UNDECIDED: dict[str, bytes | Exception] = {
    "an error": http_answer(b'{"allowed": true}', status=500),
    "another success": http_answer(b'{"allowed": true}', status=202),
    "a redirect": http_answer(status=307, headers=[("Location", "https://elsewhere.example/")]),
    "a wrong token": http_answer(status=401),
    "no body": http_answer(b""),
    "no json": http_answer(b"allowed"),
    "a bare true": http_answer(b"true"),
    "a list": http_answer(b'[{"allowed": true}]'),
    "no decision": http_answer(b"{}"),
    "null": http_answer(b'{"allowed": null}'),
    "a number": http_answer(b'{"allowed": 1}'),
    "a word": http_answer(b'{"allowed": "true"}'),
    "another case": http_answer(b'{"Allowed": true}'),
    "deep nesting": http_answer(b"[" * 60_000),
    "too long an answer": http_answer(b'{"allowed": true}' + b" " * 70_000),
    "a cut answer": http_answer(b'{"allowed": true}', length=100),
    "not unicode": http_answer(b'{"allowed": true, "x": "\xff"}'),
    "not http": b"+PONG\r\n",
    "a hang-up": b"",
    "nobody there": httpcore.ConnectError("https://classifier.example/ planted-token"),
    "a timeout": httpcore.ConnectTimeout(),
}


@pytest.mark.parametrize("name", UNDECIDED)
def test_any_other_answer_is_a_refusal(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="workers")
    verdict = classifier(UNDECIDED[name]).check([scene(1)], "generated")
    assert verdict == ImageVerdict(False, "classifier.undecided")
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("workers")]
    assert len(logged) == 1
    assert "planted-token" not in logged[0]
    assert "classifier.example" not in logged[0]


def test_a_late_answer_is_a_refusal_however_steadily_it_drips() -> None:
    seconds = [0.0]

    def tick() -> None:
        seconds[0] += 1.0

    screen = ClassifierOverHttp(
        "https://classifier.example/",
        timeout_s=10.0,
        network=ScriptedNetwork(http_answer(b'{"allowed": true}'), piece=1, tick=tick),
        ssl_context=TRUSTS_NOBODY,
        clock=lambda: seconds[0],
    )
    assert screen.check([scene(1)], "generated") == ImageVerdict(False, "classifier.undecided")
    assert seconds[0] == 10.0


@pytest.mark.parametrize(
    "url",
    ["", "classifier.example", "http://classifier.example/", "ftp://localhost/", "https://", "https:///x"],
)
def test_a_classifier_that_pictures_would_reach_in_the_clear_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(SettingsError, match="https"):
        ClassifierOverHttp(url, ssl_context=TRUSTS_NOBODY)


def test_the_screens_have_one_face(tmp_path: Path) -> None:
    screens: list[ImageScreen] = [
        blocklist(tmp_path, "phash:0000000000000000"),
        classifier(http_answer(b'{"allowed": true}')),
        StubImageScreen(ALLOWED),
    ]
    chain: ImageScreen = ScreenChain(screens)
    assert chain.check([scene(1)], "reference") == ALLOWED
