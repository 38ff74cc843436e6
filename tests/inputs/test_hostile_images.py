"""Pictures that strangers upload: what is decoded is right, everything else is refused within its limits."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from shared.errors import JobError, ReferenceRefused, ReferenceUnavailable
from workers.inputs import decode, decode_child
from workers.inputs.decode import DecodeLimits, decode_image

MIB = 1024 * 1024
PNG = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def drawn(width: int = 48, height: int = 32, mode: str = "RGB") -> Image.Image:
    """A picture whose four corners differ: red, green, blue, black."""
    image = Image.new("RGB", (width, height), (128, 128, 128))
    for box, colour in (
        ((0, 0), (255, 0, 0)),
        ((width - 8, 0), (0, 255, 0)),
        ((0, height - 8), (0, 0, 255)),
        ((width - 8, height - 8), (0, 0, 0)),
    ):
        image.paste(colour, (*box, box[0] + 8, box[1] + 8))
    return image.convert(mode)


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(width: int, height: int, *extra: bytes, rows: bytes | None = None, colour: int = 2) -> bytes:
    """A PNG made by hand: `extra` chunks stand before the pixels, `rows` is the packed pixel data."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    if rows is None:
        rows = zlib.compress(bytes((3 * width + 1) * height))
    return PNG + chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def with_size(picture: bytes, width: int, height: int) -> bytes:
    """The same PNG, claiming another size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + picture[8 + 25 :]


def jpeg_with_size(width: int, height: int) -> bytes:
    data = bytearray(encoded(drawn(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated: little to send, much to decode."""
    data = encoded(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + data[-2:]


def zip_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("boat.txt", "boat")
    return file.getvalue()


def text_bomb(kind: bytes) -> bytes:
    packed = zlib.compress(bytes(64 * MIB), 9)
    body = b"k\0\0" + packed if kind == b"zTXt" else b"k\0\1\0\0\0" + packed
    return chunk(kind, body)


def frames() -> list[Image.Image]:
    return [Image.new("RGB", (32, 32), (shade, 0, 0)) for shade in (0, 80, 160)]


def webp_with_size(width: int, height: int) -> bytes:
    data = bytearray(encoded(drawn(), "WEBP", lossless=True))
    bits = (width - 1) | (height - 1) << 14
    data[21:25] = struct.pack("<I", bits | 1 << 28)
    return bytes(data)


PIXELS = encoded(drawn())
PHOTO = encoded(drawn(), "JPEG")
WEBP = encoded(drawn(), "WEBP")

REFUSED: dict[str, Callable[[], bytes]] = {
    # not one of the three formats, whatever a name or a header says
    "gif": lambda: encoded(drawn(), "GIF"),
    "animated gif": lambda: encoded(frames()[0], "GIF", save_all=True, append_images=frames()[1:]),
    "tiff": lambda: encoded(drawn(), "TIFF"),
    "bmp": lambda: encoded(drawn(), "BMP"),
    "ico": lambda: encoded(drawn(), "ICO"),
    "ppm": lambda: encoded(drawn(), "PPM"),
    "tga": lambda: encoded(drawn(), "TGA"),
    "jpeg 2000": lambda: encoded(drawn(), "JPEG2000"),
    "avif": lambda: bytes.fromhex("0000001c66747970617669660000000061766966") + bytes(200),
    "heic": lambda: bytes.fromhex("0000001c6674797068656963000000006d696631") + bytes(200),
    "psd": lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 32, 32, 8, 3) + bytes(100),
    "pdf": lambda: encoded(drawn(), "PDF"),
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n(/etc/passwd) run\n",
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "svg with an entity": lambda: b'<!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
    "html": lambda: b"<html><img src=x onerror=alert(1)></html>",
    "script": lambda: b"#!/bin/sh\ntouch /tmp/x\n",
    "mp4": lambda: bytes.fromhex("0000002066747970") + b"isom" + bytes(100),
    "zip": zip_file,
    "pickle": lambda: (
        b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    ),
    "gzip": lambda: zlib.compress(PIXELS, wbits=31),
    "zip before a png": lambda: zip_file() + PIXELS,
    "gif header before a png": lambda: b"GIF89a" + PIXELS,
    "empty": lambda: b"",
    "one byte": lambda: b"\x89",
    # several pictures
    "animated png": lambda: encoded(frames()[0], "PNG", save_all=True, append_images=frames()[1:]),
    "animated png with a hidden cover": lambda: encoded(
        frames()[0], "PNG", save_all=True, default_image=True, append_images=frames()[1:]
    ),
    "animated webp": lambda: encoded(frames()[0], "WEBP", save_all=True, append_images=frames()[1:]),
    "multi-picture jpeg": lambda: encoded(frames()[0], "MPO", save_all=True, append_images=frames()[1:]),
    # too many pixels
    "png of 100,000 columns": lambda: png(100_000, 8, rows=zlib.compress(bytes(300_001 * 8))),
    "png of 100,000 rows": lambda: png(8, 100_000),
    "png of one row": lambda: png(5000, 1),
    "png of two gigapixels": lambda: with_size(PIXELS, 46_000, 46_000),
    "png of the largest size there is": lambda: with_size(PIXELS, 0x7FFF_FFFF, 0x7FFF_FFFF),
    "png just over the limit": lambda: with_size(PIXELS, 5001, 5000),
    "png bomb of 100 megapixels": lambda: encoded(Image.new("1", (10_000, 10_000)), "PNG"),
    "jpeg of 65,500 squared": lambda: jpeg_with_size(65_500, 65_500),
    "jpeg of 60,000 columns": lambda: jpeg_with_size(60_000, 16),
    "picture of 7 pixels": lambda: encoded(drawn(7, 7)),
}

DAMAGED: dict[str, Callable[[], bytes]] = {
    "truncated png": lambda: PIXELS[: len(PIXELS) // 2],
    "truncated jpeg": lambda: encoded(drawn(400, 400), "JPEG")[:1500],
    "truncated webp": lambda: WEBP[: len(WEBP) // 2],
    "png of its signature alone": lambda: PNG,
    "jpeg of its first bytes": lambda: b"\xff\xd8\xff\xe0",
    "webp of its first bytes": lambda: b"RIFF\x10\0\0\0WEBPVP8 ",
    "png with a wrong checksum": lambda: PIXELS[:29] + b"\0\0\0\0" + PIXELS[33:],
    "png without pixels": lambda: PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)),
    "png of no columns": lambda: with_size(PIXELS, 0, 32),
    "png of a larger claim": lambda: with_size(PIXELS, 4000, 4000),
    "png of a negative size": lambda: with_size(PIXELS, 0xFFFF_FFFF, 32),
    "png with an endless chunk": lambda: PIXELS[:33] + struct.pack(">I", 0x7FFF_FFFF) + b"tEXt" + PIXELS[33:],
    "png whose pixels are no zlib stream": lambda: png(32, 32, rows=b"\0" * 500),
    "png with a text bomb": lambda: png(32, 32, text_bomb(b"zTXt")),
    "png with an international text bomb": lambda: png(32, 32, text_bomb(b"iTXt")),
    "png with a profile bomb": lambda: png(
        32, 32, chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(64 * MIB), 9))
    ),
    "png with colours but no palette": lambda: png(32, 32, rows=zlib.compress(bytes(33 * 32)), colour=3)[
        :-40
    ],
    "png header in a webp": lambda: b"RIFF" + struct.pack("<I", len(PIXELS) + 4) + b"WEBP" + PIXELS,
    "png header on a jpeg": lambda: PNG + PHOTO,
    "jpeg header on a png": lambda: b"\xff\xd8\xff" + PIXELS,
    "jpeg without tables": lambda: PHOTO[:2] + PHOTO[PHOTO.index(b"\xff\xda") :],
    "jpeg with a frame of no components": lambda: PHOTO.replace(b"\xff\xc0\x00\x11", b"\xff\xc0\x00\x08"),
    "webp of the largest size there is": lambda: webp_with_size(16_384, 16_384),
}

ACCEPTED: dict[str, Callable[[], bytes]] = {
    "png": lambda: PIXELS,
    "jpeg": lambda: PHOTO,
    "webp": lambda: WEBP,
    "lossless webp": lambda: encoded(drawn(), "WEBP", lossless=True),
    "cmyk jpeg": lambda: encoded(drawn(mode="CMYK"), "JPEG"),
    "progressive jpeg": lambda: encoded(drawn(), "JPEG", progressive=True),
    "palette png": lambda: encoded(drawn(mode="P")),
    "png with a zip after it": lambda: PIXELS + zip_file(),
    "jpeg with a script in its comment": lambda: encoded(drawn(), "JPEG", comment=b"<?php system($_GET[0]);"),
    "png with a script in its text": lambda: png_with_text("<script>alert(1)</script>"),
    "png with a workflow in its text": lambda: png_with_text("x" * 200_000),
    "jpeg with a large profile": lambda: encoded(drawn(), "JPEG", icc_profile=bytes(500_000)),
    "png with rubbish for a profile": lambda: encoded(drawn(), icc_profile=b"rubbish" * 1000),
    "jpeg with rubbish for exif": lambda: encoded(drawn(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
    "jpeg with an exif directory that points at itself": lambda: encoded(
        drawn(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0"
    ),
    "jpeg with an impossible orientation": lambda: encoded(drawn(), "JPEG", exif=orientation(99)),
}


def png_with_text(text: str) -> bytes:
    information = PngImagePlugin.PngInfo()
    information.add_text("note", text)
    return encoded(drawn(), pnginfo=information)


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def corners(picture: np.ndarray[Any, Any]) -> list[str]:
    """The colours in the corners, clockwise from the upper left, by their nearest name."""
    names = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}
    inside = [picture[2, 2], picture[2, -3], picture[-3, -3], picture[-3, 2]]
    return [min(names, key=lambda n: float(np.abs(pixel - np.array(names[n])).sum())) for pixel in inside]


UPRIGHT = ["red", "green", "black", "blue"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_against_the_rules_is_refused(name: str) -> None:
    with pytest.raises(ReferenceRefused):
        decode_image(REFUSED[name]())


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_picture_brings_no_pixels(name: str) -> None:
    # Whether a file is damaged or too large depends on how far its decoder got; both end the job.
    with pytest.raises((ReferenceUnavailable, ReferenceRefused)):
        decode_image(DAMAGED[name]())


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_picture_with_odd_company_yields_its_pixels_and_nothing_else(name: str) -> None:
    picture = decode_image(ACCEPTED[name]())
    assert picture.dtype == np.uint8
    assert picture.shape == (32, 48, 3)
    assert picture.flags.writeable
    assert corners(picture) == UPRIGHT


def test_there_are_at_least_thirty_hostile_pictures() -> None:
    assert len(REFUSED) + len(DAMAGED) >= 30


# What is made of a picture


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(value: int, form: str) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = drawn() if value == 1 else drawn().transpose(undo[value])
    picture = decode_image(encoded(stored, form, exif=orientation(value)))
    assert picture.shape == (32, 48, 3)
    assert corners(picture) == UPRIGHT


def test_transparency_is_laid_over_white() -> None:
    half = decode_image(encoded(Image.new("RGBA", (16, 16), (0, 0, 0, 128))))
    assert np.abs(half.astype(int) - 127).max() <= 1
    assert (decode_image(encoded(Image.new("RGBA", (16, 16), (9, 9, 9, 0)))) == 255).all()
    assert (decode_image(encoded(Image.new("LA", (16, 16), (9, 0)))) == 255).all()
    assert (decode_image(encoded(Image.new("RGB", (16, 16), (9, 8, 7)), transparency=(9, 8, 7))) == 255).all()
    clear_entry = Image.new("P", (16, 16), 1)
    clear_entry.putpalette([0, 0, 0, 200, 0, 0])
    assert (decode_image(encoded(clear_entry, transparency=1)) == 255).all()


def test_sixteen_bits_a_sample_keep_their_upper_eight() -> None:
    ramp = (np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)
    picture = decode_image(encoded(Image.fromarray(ramp)))
    assert (picture == (ramp >> 8)[..., None]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_png_becomes_three_channels(mode: str) -> None:
    assert decode_image(encoded(Image.new(mode, (20, 10)))).shape == (10, 20, 3)


def test_lossless_pixels_come_through_exactly() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    assert (decode_image(encoded(Image.fromarray(noise))) == noise).all()


def test_a_profile_is_ignored() -> None:
    assert (decode_image(encoded(drawn(), icc_profile=bytes(400))) == decode_image(PIXELS)).all()


# Limits


def test_too_many_bytes_are_refused_without_a_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_COMMAND", ("/nonexistent",))
    with pytest.raises(ReferenceRefused, match="1000 bytes"):
        decode_image(bytes(1001), DecodeLimits(max_bytes=1000))


def test_a_picture_of_exactly_the_limit_passes() -> None:
    limits = DecodeLimits(max_pixels=100 * 100, max_side=200)
    assert decode_image(encoded(drawn(100, 100)), limits).shape == (100, 100, 3)
    with pytest.raises(ReferenceRefused, match="megapixels"):
        decode_image(encoded(drawn(101, 100)), limits)
    with pytest.raises(ReferenceRefused, match="200 on a side"):
        decode_image(encoded(drawn(201, 8)), limits)


def test_a_picture_that_needs_too_much_memory_is_refused() -> None:
    with pytest.raises(ReferenceRefused, match="memory"):
        decode_image(
            encoded(Image.new("RGBA", (5000, 5000)), compress_level=1), DecodeLimits(memory_bytes=150 * MIB)
        )


def test_a_picture_that_needs_too_much_processor_time_is_refused() -> None:
    with pytest.raises(ReferenceRefused, match="time"):
        decode_image(many_scans(2000), DecodeLimits(cpu_s=1))


def test_a_helper_that_takes_too_long_is_killed() -> None:
    with pytest.raises(ReferenceUnavailable, match="time"):
        decode_image(PIXELS, DecodeLimits(wall_s=0.0))


def test_the_default_limits_let_a_camera_of_24_megapixels_pass() -> None:
    photo = encoded(Image.new("RGBA", (6000, 4000)), compress_level=1)
    assert decode_image(photo).shape == (4000, 6000, 3)


# The helper


def test_the_helper_has_no_secrets_no_files_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = """
import os, resource, runpy, socket, sys
child = runpy.run_path(sys.argv[1])
child["confine"](512 * 2**20, 7)
def tried(what):
    try:
        what()
    except OSError as error:
        return error.errno
    return 0
sys.stdout.write(repr([
    sorted(os.environ), os.getcwd(), tried(lambda: open("/etc/passwd")), tried(socket.socket),
    [resource.getrlimit(getattr(resource, "RLIMIT_" + name))
     for name in ("AS", "CPU", "FSIZE", "CORE", "NOFILE")],
    [name for name in sys.modules if name.split(".")[0] in ("shared", "workers")],
]))
"""
    started: dict[str, Any] = {}
    popen = subprocess.Popen

    def remember(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        started.update(options)
        return popen(command, **options)

    monkeypatch.setenv("SUPABASE_SERVICE_KEY", "sb_secret_planted")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/lib")
    monkeypatch.setattr(subprocess, "Popen", remember)
    decode_image(PIXELS)
    done = subprocess.run(
        [sys.executable, "-I", "-c", probe, decode_child.__file__],
        env=started["env"],
        cwd=started["cwd"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    names, folder, file_error, socket_error, limits, own_modules = eval(done.stdout)
    assert set(names) <= {"LD_LIBRARY_PATH", "LC_CTYPE"}
    assert folder == "/"
    assert file_error == socket_error == 24  # EMFILE
    assert limits == [(512 * MIB,) * 2, (7, 8), (0, 0), (0, 0), (3, 3)]
    assert own_modules == []
    assert started["start_new_session"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", ReferenceUnavailable),
        (b"\0\0", ReferenceUnavailable),
        (decode_child.HEADER.pack(0, 10, 10) + bytes(299), ReferenceUnavailable),
        (decode_child.HEADER.pack(0, 10, 10) + bytes(301), ReferenceUnavailable),
        (decode_child.HEADER.pack(0, 0, 0), ReferenceUnavailable),
        (decode_child.HEADER.pack(0, 0xFFFF_FFFF, 0xFFFF_FFFF), ReferenceUnavailable),
        (decode_child.HEADER.pack(0, 4, 4) + bytes(48), ReferenceUnavailable),
        (decode_child.HEADER.pack(0, 9000, 9000) + bytes(100), ReferenceUnavailable),
        (decode_child.HEADER.pack(200, 10, 10) + bytes(300), ReferenceUnavailable),
        (decode_child.HEADER.pack(decode_child.ANIMATED, 10, 10) + bytes(300), ReferenceRefused),
    ],
)
def test_an_answer_of_a_helper_gone_wrong_is_not_believed(
    answer: bytes, kind: type[JobError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "_run_helper", lambda data, limits: answer)
    with pytest.raises(kind):
        decode_image(PIXELS)


def test_a_helper_that_writes_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    flood = "import sys\nsys.stdin.buffer.read()\nwhile True: sys.stdout.buffer.write(bytes(65536))"
    monkeypatch.setattr(decode, "_COMMAND", (sys.executable, "-I", "-c", flood))
    with pytest.raises(ReferenceUnavailable):
        decode_image(PIXELS, DecodeLimits(max_pixels=1000))


def test_a_helper_that_reads_nothing_and_dies_is_no_error_of_another_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decode, "_COMMAND", (sys.executable, "-I", "-c", "pass"))
    with pytest.raises(ReferenceUnavailable):
        decode_image(PIXELS + bytes(4 * MIB))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([PIXELS, PHOTO, WEBP]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 2000),
)
def test_whatever_is_changed_in_a_file_the_decoder_returns_a_picture_or_an_ordinary_error(
    data: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    """The helper's own code, run here without its limits: nothing but exceptions that it catches."""
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(changed)] = value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
        try:
            image = decode_child.decode(bytes(changed[: len(changed) - cut or None]), 10_000, 400, 8)
        except Exception:  # noqa: BLE001 - as in the helper: whatever a decoder raises
            return
    assert image.mode == "RGB"
    assert image.width * image.height <= 10_000
