"""The gateway counts what the workers count, without their libraries."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.screen_corpora import lines
from support.sdxl import TINY_SDXL

from gateway.tokens import WAN_LIMIT, EstimatedWindow, clean_for_wan, sdxl_window, wan_window
from shared.enhance import terms
from shared.errors import SettingsError
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
def shipped() -> PromptWindow:
    return sdxl_window(None)


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


@settings(max_examples=300, deadline=None)
@given(texts)
@example("!!! hello!! !")
@example("<|endoftext|>a <|startoftext|>")
@example("Å Å ﬁ ΑΣ İ \u0301 \u2000x")
def test_the_shipped_window_counts_what_transformers_counts(text: str) -> None:
    assert shipped().count(text) == counted_by_transformers(SHIPPED_CONFIG, text)


@settings(max_examples=100, deadline=None)
@given(texts)
def test_a_checkpoints_folder_is_counted_with_its_own_tokenizers(text: str) -> None:
    window = own_window()
    assert window.count(text) == counted_by_transformers(TINY_SDXL, text)


@cache
def own_window() -> PromptWindow:
    return sdxl_window(str(TINY_SDXL))


def test_clip_reads_75_tokens_beside_its_marks() -> None:
    assert shipped().limit == own_window().limit == 75
    assert shipped().count("") == 0
    assert shipped().count("a photo of a cat") == 5


@pytest.mark.parametrize("model", ["/models/lustify.safetensors", "owner/checkpoint"])
def test_a_single_file_and_a_hub_repository_are_counted_with_the_shipped_vocabulary(model: str) -> None:
    assert sdxl_window(model).count("a photo of a cat") == 5


def test_a_single_files_configuration_brings_its_tokenizers() -> None:
    window = sdxl_window("/models/lustify.safetensors", TINY_SDXL)
    text = "a photorealistic lighthouse"
    assert window.count(text) == own_window().count(text) != shipped().count(text)


def test_special_tokens_written_as_objects_are_read(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED_CONFIG, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "tokenizer_2" / "tokenizer_config.json"
    configuration = json.loads(file.read_text())
    configuration["pad_token"] = {"__type": "AddedToken", "content": "!", "normalized": False}
    file.write_text(json.dumps(configuration))
    assert sdxl_window(str(tmp_path)).count("!!!") == 3


@pytest.mark.parametrize(
    ("model", "found"),
    [("/nowhere/at/all", "neither a folder"), (str(TINY_WAN), "tokenizers cannot be read")],
)
def test_an_sdxl_model_that_cannot_be_read_is_named(model: str, found: str) -> None:
    with pytest.raises(SettingsError, match=found) as raised:
        sdxl_window(model)
    assert f'SDXL_MODEL is "{model}"' in str(raised.value)


def test_threads_count_the_same() -> None:
    text = "a red boat on a calm lake, photorealistic, " * 4
    with ThreadPoolExecutor(8) as pool:
        counts = set(pool.map(lambda _: sdxl_window(None).count(text), range(2)))
        assert counts | set(pool.map(shipped().count, [text] * 200)) == {shipped().count(text)}


# --- WAN ----------------------------------------------------------------------------------------------


@cache
def wan_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY_WAN, subfolder="tokenizer", local_files_only=True)


@cache
def tiny_wan_window() -> PromptWindow:
    return wan_window(str(TINY_WAN))


@settings(max_examples=100, deadline=None)
@given(texts)
@example("a &amp; b &amp;lt; \u00a0 cafÃ©\n")
def test_wan_is_counted_as_its_worker_counts(text: str) -> None:
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    cleaned = prompt_clean(text)
    assert clean_for_wan(text) == cleaned
    expected = wan_tokenizer()(cleaned, add_special_tokens=False, verbose=False).input_ids
    assert tiny_wan_window().count(text) == len(expected)


def test_wan_reads_511_tokens_beside_its_mark() -> None:
    assert tiny_wan_window().limit == EstimatedWindow().limit == WAN_LIMIT == 511


def test_without_a_checkpoint_wans_tokens_are_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(wan_window(None), EstimatedWindow)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert isinstance(wan_window("owner/not-fetched"), EstimatedWindow)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("a red boat", 1 + 1 + 2),
        ("photorealistic", 5),
        ("it's 81 frames", 1 + 1 + 1 + 2 + 2),
        ("été", 3),
        ("日本語", 3),
        ("🙂", 4),
        ("a  \n b", 2),
    ],
)
def test_the_estimate_follows_its_rule(text: str, tokens: int) -> None:
    assert EstimatedWindow().count(text) == tokens


def test_the_estimate_is_never_below_the_count_by_clips_vocabulary_for_english_prompts() -> None:
    """The nearest vocabulary at hand. For other scripts it is no measure: it spells them in bytes."""
    sentences = [
        *(
            text
            for aspects in terms.ADDITIONS.values()
            for topics in aspects.values()
            for choices in topics.values()
            for text in choices
        ),
        *lines("benign"),
    ]
    estimated = EstimatedWindow()
    english = [text for text in sentences if text.isascii()]
    assert len(english) > 1000
    assert [text for text in english if estimated.count(text) < shipped().count(text)] == []


@pytest.mark.parametrize("model", ["/nowhere/at/all", str(TINY_SDXL)])
def test_a_wan_model_that_cannot_be_read_is_named(model: str) -> None:
    with pytest.raises(SettingsError, match="WAN_MODEL"):
        wan_window(model)
