from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sdxl import TINY_SDXL

from shared.plan import fit_terms
from shared.sdxl_config import SHIPPED_CONFIG
from workers.engines.device import quiet_libraries
from workers.engines.sdxl_text import ClipTokenizers, encode_text


def load(folder: Any) -> list[Any]:
    quiet_libraries()
    from transformers import CLIPTokenizer

    return [
        CLIPTokenizer.from_pretrained(folder / name, local_files_only=True)
        for name in ("tokenizer", "tokenizer_2")
    ]


@pytest.fixture(scope="module")
def tokenizers() -> list[Any]:
    return load(SHIPPED_CONFIG)


@pytest.fixture(scope="module")
def window(tokenizers: list[Any]) -> ClipTokenizers:
    return ClipTokenizers(tokenizers)


def test_clip_reads_75_tokens_beside_its_marks(window: ClipTokenizers) -> None:
    assert window.limit == 75
    assert window.count("") == 0
    assert window.count("a photo of a cat") == 5


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=400))
def test_ids_are_those_that_transformers_makes(
    tokenizers: list[Any], window: ClipTokenizers, text: str
) -> None:
    expected = [
        tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
        for tokenizer in tokenizers
    ]
    assert window.ids(text) == expected


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet="abc é日,! ", max_size=600))
def test_a_text_that_was_fitted_is_read_to_its_end(window: ClipTokenizers, text: str) -> None:
    fitted = fit_terms(text, window)
    assert window.count(fitted) <= window.limit
    assert all(len(ids) == 77 for ids in window.ids(fitted))


def test_long_texts_are_counted_whole_without_a_word_in_the_log(
    window: ClipTokenizers, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert window.count("boat " * 1000) == 1000
        assert len(window.ids("boat " * 1000)[0]) == 77
    assert not caplog.records


def test_many_threads_may_count_at_once(window: ClipTokenizers) -> None:
    texts = ["boat " * length for length in range(1, 200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(window.count, texts)) == list(range(1, 200))


def test_a_text_is_encoded_as_diffusers_does_it() -> None:
    tokenizers = load(TINY_SDXL)
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(
        TINY_SDXL, dtype=torch.float32, local_files_only=True, use_safetensors=True, add_watermarker=False
    )
    window = ClipTokenizers(tokenizers)
    text = "a red boat, calm lake!"
    with torch.inference_mode():
        expected, negative, pooled, negative_pooled = pipeline.encode_prompt(
            text, negative_prompt="blurry", device=torch.device("cpu")
        )
        encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
        positive = encode_text(text, window, encoders)
        other = encode_text("blurry", window, encoders)
    assert torch.equal(positive.hidden, expected)
    assert torch.equal(positive.pooled, pooled)
    assert torch.equal(other.hidden, negative)
    assert torch.equal(other.pooled, negative_pooled)
    assert positive.nbytes == 4 * (expected.numel() + pooled.numel())
