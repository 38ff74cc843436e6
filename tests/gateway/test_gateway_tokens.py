"""Which tokenizers the gateway counts with; `tests/engines/test_gateway_counts.py` compares the counts."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
from support.screen_corpora import lines
from support.sdxl import TINY_SDXL

from gateway.tokens import WAN_LIMIT, EstimatedWindow, sdxl_window, wan_window
from shared.enhance import terms
from shared.errors import SettingsError
from shared.plan import PromptWindow
from shared.sdxl_config import SHIPPED_CONFIG

TINY_WAN = TINY_SDXL.parent / "wan-tiny"


@cache
def shipped() -> PromptWindow:
    return sdxl_window(None)


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
def tiny_wan_window() -> PromptWindow:
    return wan_window(str(TINY_WAN))


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
