"""WAN's text side: the window of its encoder, and embeddings that are made once a prompt."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from shared.plan import Plan
from workers.engines.cache import ByteBoundedCache

if TYPE_CHECKING:
    import torch

TEXT_LENGTH: Final = 512
"""Tokens that the transformer attends to, the end mark included: the length that WAN was trained with."""

EMBEDDING_CACHE_BYTES: Final = 64 * 2**20
"""Bound of the cached embeddings. A token takes 8 KB: 16 prompts of the full length, or 160 of 50."""


class Umt5Window:
    """UMT5's window in its own tokens. The lock is there because a tokenizer refuses two threads at once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()

    @property
    def limit(self) -> int:
        return TEXT_LENGTH - 1

    def count(self, text: str) -> int:
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        cleaned = prompt_clean(text)  # what the pipeline reads: mended Unicode, single spaces
        with self._lock:
            return len(self._tokenizer(cleaned, add_special_tokens=False, verbose=False).input_ids)


@dataclass(frozen=True)
class PromptPair:
    """Embeddings of shape (n, 512, width), a row each; `negative` is None where no guidance needs it."""

    positive: torch.Tensor
    negative: torch.Tensor | None


class PromptEmbeddings:
    """Embeddings of prompts, each encoded once while the cache holds it."""

    def __init__(self, tokenizer: Any, text_encoder: Any, window: Umt5Window, device: torch.device) -> None:
        from diffusers import WanPipeline

        # The library's pipeline is only asked for its way to encode.
        self._pipeline = WanPipeline(tokenizer, text_encoder, vae=None, scheduler=None)
        self._window = window
        self._device = device
        self._cache: ByteBoundedCache[str, torch.Tensor] = ByteBoundedCache(EMBEDDING_CACHE_BYTES)

    @property
    def hit_rate(self) -> float:
        return self._cache.hit_rate

    def of(self, plans: Sequence[Plan]) -> PromptPair:
        """A row for each plan. Texts are encoded one by one, so that no embedding depends on the others."""
        positive = self._rows([plan.prompt for plan in plans])
        guided = plans[0].guidance_scale > 1
        return PromptPair(positive, self._rows([plan.negative_prompt for plan in plans]) if guided else None)

    def _rows(self, prompts: Sequence[str]) -> torch.Tensor:
        import torch

        embeddings = {prompt: self._padded(prompt) for prompt in dict.fromkeys(prompts)}
        return torch.cat([embeddings[prompt] for prompt in prompts])

    def _padded(self, prompt: str) -> torch.Tensor:
        from torch.nn.functional import pad

        embedding = self._cache.get_or_make(prompt, lambda: self._encode(prompt))
        return pad(embedding, (0, 0, 0, TEXT_LENGTH - embedding.shape[1]))

    def _encode(self, prompt: str) -> torch.Tensor:
        """Shape (1, tokens, width), the end mark included.

        The encoder runs at the prompt's own length: what it makes of padding is masked and then replaced by
        zeros, so 40 tokens cost 40 and not 512.
        """
        import torch

        length = min(self._window.count(prompt) + 1, TEXT_LENGTH)
        with torch.no_grad():
            embedding: torch.Tensor = self._pipeline.encode_prompt(
                prompt, do_classifier_free_guidance=False, max_sequence_length=length, device=self._device
            )[0]
        return embedding
