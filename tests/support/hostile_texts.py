"""Texts made to cost a matcher time, by name; each of the length that is asked for."""

from __future__ import annotations

from collections.abc import Mapping

_UNITS: Mapping[str, str] = {
    "single letters": "t e e m ",
    "one letter": "e ",
    "alternating lookalikes": "l i ",
    "one run": "e",
    "near misses": "ten ",
    "class words": "young cute tiny ",
    "allowed compounds": "baby blue, ",
    "numbers": "1 ",
    "ages": "aged 20 looks 30 ",
    "almost ages": "15 year ",
    "letters for digits": "l5 ",
    "digits for letters": "t3n k1t b0n ",
    "signs for letters": "t$n k@t ",
    "signs alone": "!t@$ ",
    "split words": "t.e.e.x.",
    "prefixes": "schoolgir ",
    "stars": "k*z ",
    "weights": "(a:1.2)",
    "brackets": "[",
    "weighted adults": "[a](adult) ",
    "percent escapes": "%74%6f ",
    "html escapes": "&#116;",
    "ampersands": "&a",
    "accents": "t\u00e9n ",
    "stacked marks": "t\u0301\u0323",
    "mathematical letters": "\U0001d565\U0001d556\U0001d55f ",
    "mixed scripts": "т\u0435n ",
    "Cyrillic": "тот дом ",
    "turned letters": "\u0250\u01dd ",
    "Arabic": "طفو ",
    "Hindi": "बचल ",
    "kana": "ろまり",
    "katakana": "カラ",
    "invisible": "a\u200b\u202e",
    "tag characters": "\U000e0074",
    "prose": "a wide shot of a harbour at dawn, fishing boats, soft light, 35mm, highly detailed, ",
}  # fmt: skip


def hostile_texts(length: int) -> dict[str, str]:
    """Texts of `length` characters, by name."""
    texts = {name: (unit * (length // len(unit) + 1))[:length] for name, unit in _UNITS.items()}
    texts["many ideographs"] = "".join(chr(0x4E00 + i % 1190) for i in range(length))
    texts["many syllables"] = "".join(chr(0xAC00 + i % 1190) for i in range(length))
    texts["too many characters"] = "".join(chr(0x4E00 + i % 9000) for i in range(length))
    return texts
