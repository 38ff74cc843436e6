"""How many tokens a text has: the checkpoints' own tokenizers, without the libraries that run the models.

Each window counts what the worker of its family counts (`workers.engines` holds the tokenizers that
transformers builds; the tests compare the two).
"""

from __future__ import annotations

import functools
import html
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ftfy
from huggingface_hub import try_to_load_from_cache
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from shared.errors import SettingsError
from shared.plan import PromptWindow
from shared.sdxl_config import SHIPPED_CONFIG

WAN_LIMIT: Final = 511
"""Tokens that WAN 2.1 reads, without the end mark: it was trained with 512."""

_MARKS: Final = 2
_REMEMBERED_WORDS: Final = 16_384
_LONGEST_REMEMBERED: Final = 32
_SPECIAL: Final = ("bos_token", "eos_token", "unk_token", "pad_token")
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# CLIP's own pattern (Radford et al. 2021): marks, contractions, words, single digits, runs of anything else.
_CLIP_PIECES: Final = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)

_log = logging.getLogger(__name__)


class ClipWindow:
    """What both of CLIP's encoders read; the larger count of their tokenizers holds. Thread-safe.

    No token goes over a space, whatever stands on either side: neither the pattern that splits a text nor a
    special token holds one, and no Unicode normalisation joins anything with it. So a text has the tokens of
    what stands between its spaces, and the words of prompts, which recur, are tokenized once.
    """

    def __init__(self, limit: int, tokenizers: Sequence[Tokenizer]) -> None:
        self.limit = limit
        self._tokenizers = tokenizers
        self._counts = functools.lru_cache(_REMEMBERED_WORDS)(self._tokenized)

    def count(self, text: str) -> int:
        counts = [
            self._counts(word) if len(word) <= _LONGEST_REMEMBERED else self._tokenized(word)
            for word in text.split(" ")
        ]
        return max(map(sum, zip(*counts, strict=True)))

    def _tokenized(self, word: str) -> tuple[int, ...]:
        """The number of tokens by each tokenizer."""
        return tuple(len(each.encode(word, add_special_tokens=False).ids) for each in self._tokenizers)


@dataclass(frozen=True, slots=True)
class WanWindow:
    """What WAN's encoder reads, counted with the checkpoint's tokenizer. Thread-safe."""

    tokenizer: Tokenizer
    limit: int = WAN_LIMIT

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode(clean_for_wan(text), add_special_tokens=False).ids)


@dataclass(frozen=True, slots=True)
class EstimatedWindow:
    """A `PromptWindow` for WAN where its tokenizer is not at hand: it rather counts too many than too few.

    A word of ASCII letters counts a token for each three letters begun, every other visible character in the
    Basic Multilingual Plane counts one, and one beyond it four. Reasons: UMT5's 256,000 pieces spell common
    words of many languages in one to two pieces, and a piece of an English word holds four to five letters on
    average, so three leave a margin; a digit, a mark or an ideograph is at most one piece; a character
    without a piece of its own may be spelled in its bytes of UTF-8, of which those beyond the plane have
    four. It is an estimate, not a bound: a word of letters nobody writes together may have more pieces.
    """

    limit: int = WAN_LIMIT

    def count(self, text: str) -> int:
        return sum(
            -(-len(piece) // 3) if piece.isascii() and piece.isalpha() else 4 if ord(piece) > 0xFFFF else 1
            for piece in re.findall(r"[A-Za-z]+|\S", clean_for_wan(text))
        )


def sdxl_window(model: str | None, config: Path | None = None) -> PromptWindow:
    """The window of both CLIP encoders of SDXL. `model` and `config` are SDXL_MODEL and SDXL_CONFIG.

    A checkpoint's folder on this machine brings its own tokenizers. A single file is read with those of
    `config` or with the shipped ones, and those are a hub repository's too: every SDXL checkpoint has CLIP's
    vocabulary. A folder is read once in a process. Raises `SettingsError` where `model` is none of these.
    """
    folder = Path(model).expanduser() if model else None
    if folder is not None and folder.is_dir():
        return _clip_window("SDXL_MODEL", folder)
    if model and not model.endswith(".safetensors") and not _HUB_ID.fullmatch(model):
        raise _unusable(
            "SDXL_MODEL", model, "it is neither a folder, a .safetensors file nor the id of a model"
        )
    return _clip_window("SDXL_CONFIG", config or SHIPPED_CONFIG)


def wan_window(model: str | None) -> PromptWindow:
    """The window of WAN's encoder. `model` is WAN_MODEL: a folder, or a hub repository's id.

    Where the repository was not fetched to this machine, or nothing is configured, the window is estimated.
    Raises `SettingsError` where `model` names a folder without a tokenizer.
    """
    if model is None:
        return EstimatedWindow()
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _wan_window(model, folder / "tokenizer" / "tokenizer.json")
    if not _HUB_ID.fullmatch(model):
        raise _unusable("WAN_MODEL", model, "it is neither a folder nor the id of a model")
    cached = try_to_load_from_cache(model, "tokenizer/tokenizer.json")
    if not isinstance(cached, str):
        _log.warning("the tokenizer of WAN_MODEL is not on this machine; the length of prompts is estimated")
        return EstimatedWindow()
    return _wan_window(model, Path(cached))


def clean_for_wan(text: str) -> str:
    """What WAN's pipeline makes of a text before it counts: mended Unicode, no HTML, single spaces."""
    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", mended).strip()


@functools.cache
def _clip_window(variable: str, folder: Path) -> ClipWindow:
    parts = [folder / "tokenizer", folder / "tokenizer_2"]
    try:
        configurations = [json.loads((part / "tokenizer_config.json").read_text("utf-8")) for part in parts]
        tokenizers = [_clip_tokenizer(*pair) for pair in zip(parts, configurations, strict=True)]
        limit = min(int(each["model_max_length"]) for each in configurations) - _MARKS
    # Broad because the tokenizers library raises bare `Exception`: whatever it is, a person has to mend it.
    except Exception as error:
        raise _unusable(variable, str(folder), f"its tokenizers cannot be read ({error})") from error
    return ClipWindow(limit, tokenizers)


def _clip_tokenizer(folder: Path, configuration: dict[str, Any]) -> Tokenizer:
    """CLIP's byte pair encoding, read as transformers' `CLIPTokenizer` reads it.

    A special token is found wherever it stands in a text. OpenCLIP pads with "!", so that each "!" is a token
    of its own for SDXL's second encoder.
    """
    special = {name: _content(configuration[name]) for name in _SPECIAL if configuration.get(name)}
    tokenizer = Tokenizer(
        BPE.from_file(
            str(folder / "vocab.json"),
            str(folder / "merges.txt"),
            unk_token=special["unk_token"],
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in dict.fromkeys(special.values())])
    return tokenizer


def _content(token: str | dict[str, Any]) -> str:
    """A special token as configurations spell it: the text, or an object that holds it."""
    return token if isinstance(token, str) else str(token["content"])


def _wan_window(model: str, file: Path) -> WanWindow:
    try:
        tokenizer = Tokenizer.from_file(str(file))
    # The library raises bare `Exception`, as above.
    except Exception as error:
        raise _unusable("WAN_MODEL", model, f"its tokenizer cannot be read ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return WanWindow(tokenizer)


def _unusable(variable: str, value: str, found: str) -> SettingsError:
    return SettingsError(
        [
            f'{variable} is "{value}": {found}. Prompts are counted with its tokenizers; set it to what the'
            " worker has, or leave it out where the gateway runs without the checkpoints."
        ]
    )
