"""The helper process that decodes one picture. Started by `decode`, as a file, with nothing else of the
project.

It reads the picture's bytes from standard input and writes a header and the pixels to standard output. Before
it looks at the first byte it takes its own rights away: memory, processor time, any new file or socket.

This bounds what a hostile file can cost and keeps it from secrets in the environment. It is no full sandbox:
code that took over the process would still run as the worker's user.
"""

from __future__ import annotations

import struct
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

# Big-endian: a status byte, then width and height in pixels (0 unless the status is DECODED).
# After DECODED follow height * width * 3 bytes, rows from the top, RGB.
HEADER = struct.Struct(">BII")

DECODED = 0
WRONG_FORMAT = 1
ANIMATED = 2
TOO_LARGE = 3
TOO_SMALL = 4
DAMAGED = 5
OUT_OF_MEMORY = 6

FORMATS = ("PNG", "JPEG", "WEBP")

_ORIENTATION_TAG = 0x0112
_WHITE = (255, 255, 255, 255)


class Refusal(Exception):
    """The picture is not accepted; `status` is one of the codes above."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def confine(memory_bytes: int, cpu_s: int) -> None:
    """Take rights away for good. `memory_bytes` bounds the address space, `cpu_s` the processor time in
    seconds.

    With standard input, output and error open, a limit of three descriptors leaves none: no file can be
    opened and no socket made.
    """
    import resource

    for kind, soft, hard in (
        (resource.RLIMIT_AS, memory_bytes, memory_bytes),
        # The soft limit ends the process with SIGXCPU, which tells the parent why; the hard one with SIGKILL.
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 3, 3),
    ):
        resource.setrlimit(kind, (soft, hard))


def decode(data: bytes, max_pixels: int, max_side: int, min_side: int) -> Image.Image:
    """The picture in `data` as upright RGB on white.

    EXIF orientation is applied. An ICC profile is ignored: the values are taken for sRGB, as the pipelines
    that use them do. Transparency is laid over white. Raises Refusal.
    """
    import io

    from PIL import Image, UnidentifiedImageError

    # Pillow's own limit only warns; it raises at twice the number, which is early enough for formats that
    # allocate while they are opened. The exact limit follows below, before any pixel is decoded.
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise Refusal(TOO_LARGE) from None
    except UnidentifiedImageError:
        raise Refusal(DAMAGED if _claims_format(data) else WRONG_FORMAT) from None
    # This holds for a JPEG of several pictures too, which Pillow opens as MPO.
    if getattr(image, "n_frames", 1) != 1:
        raise Refusal(ANIMATED)
    width, height = image.size
    if max(width, height) > max_side or width * height > max_pixels:
        raise Refusal(TOO_LARGE)
    if min(width, height) < min_side:
        raise Refusal(TOO_SMALL)
    image.load()
    return _upright(_on_white(image))


def _claims_format(data: bytes) -> bool:
    """Whether the first bytes are those of an accepted format, so that the fault lies further on."""
    return data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (
        data.startswith(b"RIFF") and data[8:12] == b"WEBP"
    )


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):
        # Sixteen bits a sample: keep the high byte. Pillow's own conversion clips everything above 255 to
        # white.
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    from PIL import Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    turn = turns.get(image.getexif().get(_ORIENTATION_TAG, 1))
    return image if turn is None else image.transpose(turn)


def _preload() -> None:
    """Import all that decoding needs, since nothing can be opened afterwards."""
    import PIL.ImageFile
    import PIL.JpegImagePlugin
    import PIL.MpoImagePlugin
    import PIL.PngImagePlugin
    import PIL.TiffImagePlugin
    import PIL.WebPImagePlugin  # noqa: F401
    from PIL import Image

    Image.preinit()  # otherwise run by the first Image.open


def main(arguments: list[str]) -> None:
    """Decode standard input. `arguments`: memory bytes, cpu seconds, max pixels, max side, min side."""
    memory_bytes, cpu_s, max_pixels, max_side, min_side = (int(argument) for argument in arguments)
    warnings.simplefilter("ignore")
    _preload()
    confine(memory_bytes, cpu_s)
    answer: Any = b""
    try:
        image = decode(sys.stdin.buffer.read(), max_pixels, max_side, min_side)
        header = HEADER.pack(DECODED, image.width, image.height)
        answer = image.tobytes()
    except Refusal as refusal:
        header = HEADER.pack(refusal.status, 0, 0)
    except MemoryError:
        header = HEADER.pack(OUT_OF_MEMORY, 0, 0)
    # A hostile file makes a decoder raise nearly anything, and all of it means the same.
    except Exception:  # noqa: BLE001
        header = HEADER.pack(DAMAGED, 0, 0)
    sys.stdout.buffer.write(header)
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
