"""Times what the gateway does with a prompt, beside transformers' tokenizers in the same run.

    python -m benchmarks.prompts

The texts are the screen's benign corpus, joined to 70 words each and cut to half of that for enhancing.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from gateway.enhance.orchestrator import Orchestrator
from gateway.enhance.templates import Context
from gateway.negative import generate_negative_prompt
from gateway.tokens import EstimatedWindow, sdxl_window
from shared.presets import SDXL, WAN
from shared.screen import Screen
from shared.sdxl_config import SHIPPED_CONFIG

# The corpus belongs to the tests.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.screen_corpora import lines

WORDS = 70
ROUNDS = 5


def main() -> None:
    texts = list(_texts())
    halves = [" ".join(text.split()[: WORDS // 2]) for text in texts]
    clip, estimate = sdxl_window(None), EstimatedWindow()
    enhancer = Orchestrator(Screen.standard(), {SDXL.name: clip, WAN.name: estimate})
    measured: dict[str, float] = {}

    def measure(name: str, work: Callable[[str], Any], given: list[str]) -> None:
        measured[name] = _median_ms(work, given)
        print(f"{name:<44} {measured[name]:8.3f} ms")

    print(f"{len(texts)} texts of {WORDS} words, median of {ROUNDS} rounds\n")
    measure("count, transformers (both tokenizers)", _transformers_count(), texts)
    measure("count, the gateway's CLIP window", clip.count, texts)
    measure("count, WAN's estimate", estimate.count, texts)
    measure("negative prompt", lambda text: generate_negative_prompt(text, clip), texts)
    measure(
        "negative prompt with the user's own", lambda text: generate_negative_prompt(text, clip, text), texts
    )
    for context in (Context(SDXL, "image", "fast"), Context(WAN, "video", "high")):
        measure(f"enhance, {context.template.name}", partial(enhancer.enhance, context=context), halves)
    first, second = list(measured.values())[:2]
    print(f"\nThe window counts {first / second:.0f} times as fast as transformers' tokenizers.")


def _texts() -> Iterator[str]:
    words = iter(" , ".join(lines("benign")).split())
    while len(text := list(islice(words, WORDS))) == WORDS:
        yield " ".join(text)


def _median_ms(work: Callable[[str], Any], texts: list[str]) -> float:
    """Milliseconds for one text; the first round, which fills the caches, does not count."""
    rounds = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        for text in texts:
            work(text)
        rounds.append((time.perf_counter() - started) / len(texts) * 1000)
    return statistics.median(rounds[1:])


def _transformers_count() -> Callable[[str], int]:
    from transformers import CLIPTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    tokenizers = [
        CLIPTokenizer.from_pretrained(SHIPPED_CONFIG / name, local_files_only=True)
        for name in ("tokenizer", "tokenizer_2")
    ]
    return lambda text: max(len(each(text, add_special_tokens=False).input_ids) for each in tokenizers)


if __name__ == "__main__":
    main()
