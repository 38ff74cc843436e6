"""Pixels on their way into main memory; the card's part on stand-ins, as no test has a card."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from shared.errors import GenerationFailed
from workers.engines.download import Download

CPU = torch.device("cpu")


def downloaded(decoded: torch.Tensor) -> Any:
    frames, _, height, width = decoded.shape
    download = Download(frames, height, width, CPU)
    download.put(decoded)
    return download.frames()


def test_pixels_from_minus_one_to_one_become_0_to_255_and_rgb_comes_last() -> None:
    pixels = downloaded(torch.tensor([-1.5, -1.0, 0.0, 1.0, 2.0, 0.5]).view(2, 3, 1, 1))
    assert pixels.shape == (2, 1, 1, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flatten().tolist() == [0, 0, 128, 255, 255, 191]
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_output_that_is_not_finite_is_never_a_picture(value: float) -> None:
    decoded = torch.zeros(1, 3, 4, 4)
    decoded[0, 1, 2, 3] = value
    with pytest.raises(GenerationFailed, match="not a picture"):
        downloaded(decoded)


@pytest.mark.parametrize("spoiled", [0, 1, 2])
def test_one_group_of_frames_that_is_not_finite_spoils_the_video_wherever_it_stands(spoiled: int) -> None:
    download = Download(3, 2, 2, CPU)
    for group in range(3):
        download.put(torch.full((1, 3, 2, 2), float("nan") if group == spoiled else 0.5))
    with pytest.raises(GenerationFailed):
        download.frames()


def test_frames_are_never_taken_before_all_are_on_their_way() -> None:
    download = Download(2, 2, 2, CPU)
    download.put(torch.zeros(1, 3, 2, 2))
    with pytest.raises(AssertionError, match="1 of 2 frames"):
        download.frames()


def test_what_is_decoded_next_does_not_change_frames_that_are_on_their_way() -> None:
    decoded = torch.zeros(1, 3, 2, 2)
    download = Download(1, 2, 2, CPU)
    download.put(decoded)
    decoded.fill_(1.0)
    assert download.frames().tolist() == [[[[128] * 3] * 2] * 2]


def test_on_a_card_copies_go_to_page_locked_memory_without_waiting_and_one_event_ends_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    empty, copy = torch.empty, torch.Tensor.copy_

    class Event:
        def record(self) -> None:
            done.append("record")

        def synchronize(self) -> None:
            done.append("synchronize")

    def page_locked(*arguments: Any, pin_memory: bool, **options: Any) -> torch.Tensor:
        assert pin_memory
        return empty(*arguments, **options)

    def copied(self: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        assert non_blocking
        done.append("copy")
        return copy(self, source)

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch, "empty", page_locked)
        download = Download(2, 2, 2, torch.device("cuda"))
        patch.setattr(torch.Tensor, "copy_", copied)
        download.put(torch.zeros(1, 3, 2, 2))
        download.put(torch.zeros(1, 3, 2, 2))
        assert done == ["copy", "copy", "copy", "record"], "two groups of frames and whether they are finite"
        assert download.frames().shape == (2, 2, 2, 3)
    assert done[4:] == ["synchronize"]
