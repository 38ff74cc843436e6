"""A small vocabulary for the real CLIP tokenizer: byte-pair merges learnt from a few hundred words.

Laid out as CLIP's own: 256 byte symbols ("!" is id 0, which the second SDXL tokenizer pads with), the same
with the end-of-word mark, the merges, then start and end of text. Every listed word is one token; any other
text falls into smaller pieces and in the last resort into bytes, so nothing is unknown.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from demo_models import shapes

END_OF_WORD = "</w>"
START_OF_TEXT = "<|startoftext|>"
END_OF_TEXT = "<|endoftext|>"
MAX_LENGTH = 77

CAPTION_WORDS: tuple[str, ...] = (
    *shapes.PALETTE,
    *shapes.SHAPES,
    *(size for size in shapes.RADII if size is not None),
    *("a", "an", "the", "on", "background", ",", "."),
)
# Terms that stand in negative prompts and say nothing about what is drawn here.
NEGATIVE_TERMS: tuple[str, ...] = (
    *("child", "minor", "bad anatomy", "extra limbs", "deformed", "missing limbs", "worst quality"),
    *("low quality", "normal quality", "lowres", "deformed hands", "extra fingers", "deformed face"),
    *("malformed", "bad hands", "bad fingers", "missing fingers", "distorted features", "text"),
    *("watermark", "logo", "signature", "contact info", "username", "artist name", "title", "caption"),
    *("anime", "cartoon", "graphic", "render", "cgi", "3d", "painting", "drawing", "illustration"),
    *("sketch", "wrong number of people", "unnatural pose", "wrong position", "incorrect pose"),
    *("blurry", "noise", "jpeg artifacts", "cropped", "out of frame", "duplicate", "ugly", "grainy"),
    *("oversaturated", "overexposed", "monochrome", "error", "poorly drawn", "mutated"),
)
# Words of ordinary prompts: decoration around a caption, or something this world cannot draw.
OTHER_WORDS: tuple[str, ...] = tuple(
    """
    photo picture image photograph of with and in at by to from for very high best masterpiece sharp detailed
    clean simple flat bright dark soft light warm cold beautiful nice good great big tiny little new old
    realistic professional studio style art modern minimal vector poster icon colour color colours colors
    plain centered close up wide angle shot camera lens focus depth field resolution hd 4k 8k ultra
    cinematic natural lighting shadow sun sunset sunrise moon night day morning evening summer winter spring
    autumn rain snow fog cloud clouds sky sea ocean lake river mountain hill forest tree trees flower flowers
    grass garden field beach island boat boats ship sail harbour bridge road street city town village house
    castle tower window door room table chair lamp book cup bowl apple orange lemon bread cake coffee tea
    cat cats dog dogs bird birds fish horse cow sheep fox rabbit bear owl robot car bus train bicycle plane
    balloon kite ball box map clock guitar piano violin wood stone glass metal paper water fire air ice
    one two three four many some left right top bottom over under behind near far between around
    is it its this that there are no not without only all
    """.split()
)


def pick(options: Sequence[str], rng: np.random.Generator) -> str:
    """One of the options, all alike."""
    return options[int(rng.integers(len(options)))]


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins of the bytes, in the order of CLIP's (and GPT-2's) vocabulary."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(rest))]


def learn_merges(words: dict[str, int]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until every word (with its weight) is one symbol."""
    pieces = {word: (*word[:-1], word[-1] + END_OF_WORD) for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in pieces.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = {word: _merge(symbols, best) for word, symbols in pieces.items()}


def _merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    index = 0
    while index < len(symbols):
        if symbols[index : index + 2] == pair:
            merged.append(pair[0] + pair[1])
            index += 2
        else:
            merged.append(symbols[index])
            index += 1
    return tuple(merged)


def build() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(symbol → id, merges in order of rank) of the demo vocabulary."""
    weights = dict.fromkeys(OTHER_WORDS, 1)
    weights |= {word: 2 for term in NEGATIVE_TERMS for word in term.replace("3d", "d").split()}
    weights |= dict.fromkeys(CAPTION_WORDS, 20)
    weights = {word: weight for word, weight in weights.items() if not any(c.isdigit() for c in word)}
    merges = learn_merges(weights)
    symbols = byte_symbols()
    symbols += [symbol + END_OF_WORD for symbol in symbols]
    symbols += [first + second for first, second in merges]
    symbols += [START_OF_TEXT, END_OF_TEXT]
    return {symbol: index for index, symbol in enumerate(symbols)}, merges


def write(folder: Path, pad_token: str) -> None:
    """The files of a CLIPTokenizer: vocab.json, merges.txt and their configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = build()
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokens = {
        "bos_token": START_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "pad_token": pad_token,
    }
    config: dict[str, Any] = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        **tokens,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens, indent=2) + "\n", encoding="utf-8")
