"""The gateway counts what the workers count, without their libraries."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.sdxl import TINY_SDXL

from gateway.tokens import clean_for_wan, sdxl_window, wan_window
from shared.plan import PromptWindow
from shared.sdxl_config import SHIPPED_CONFIG

TINY_WAN = TINY_SDXL.parent / "wan-tiny"

pieces = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="aZé ǅßİΣσ\u0301\u200d日🙂!!,.''-_<|>1٣ \t\n\u00a0\x1c\x85", max_size=60),
    st.sampled_from(
        ["<|endoftext|>", "<|startoftext|>", "<|EndOfText|>", "it's", "!!!", "(lake:1.2)", "…", " "]
    ),
    st.sampled_from("a red boat on the calm lake, photorealistic, 8k, chiaroscuro".split(" ")),
)
texts = st.one_of(
    st.text(max_size=300), st.lists(pieces, max_size=30).map("".join), st.lists(pieces).map(" ".join)
)


@cache
def tiny_wan_window() -> PromptWindow:
    return wan_window(str(TINY_WAN))


@cache
def transformers_tokenizers(folder: Path) -> list[Any]:
    from transformers import CLIPTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    names = ("tokenizer", "tokenizer_2")
    return [CLIPTokenizer.from_pretrained(folder / name, local_files_only=True) for name in names]


def counted_by_transformers(folder: Path, text: str) -> int:
    tokenizers = transformers_tokenizers(folder)
    return max(len(each(text, add_special_tokens=False).input_ids) for each in tokenizers)


@settings(max_examples=200, deadline=None)
@given(texts)
@example("!!! hello!! !")
@example("<|endoftext|>a <|startoftext|>")
@example("Å Å ﬁ ΑΣ İ \u0301 \u2000x")
def test_the_shipped_window_counts_what_transformers_counts(text: str) -> None:
    assert sdxl_window(None).count(text) == counted_by_transformers(SHIPPED_CONFIG, text)


@settings(max_examples=100, deadline=None)
@given(texts)
def test_a_checkpoints_folder_is_counted_with_its_own_tokenizers(text: str) -> None:
    assert sdxl_window(str(TINY_SDXL)).count(text) == counted_by_transformers(TINY_SDXL, text)


@cache
def wan_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY_WAN, subfolder="tokenizer", local_files_only=True)


@settings(max_examples=100, deadline=None)
@given(texts)
@example("a &amp; b &amp;lt; \u00a0 cafÃ©\n")
def test_wan_is_counted_as_its_worker_counts(text: str) -> None:
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    cleaned = prompt_clean(text)
    assert clean_for_wan(text) == cleaned
    expected = wan_tokenizer()(cleaned, add_special_tokens=False, verbose=False).input_ids
    assert tiny_wan_window().count(text) == len(expected)
