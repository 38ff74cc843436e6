"""Text for SDXL: counted with both of CLIP's tokenizers, encoded by both encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class TextEmbedding:
    """Encoded texts, a row each: `hidden` of shape (n, 77, width of both encoders), `pooled` of shape
    (n, width of the second)."""

    hidden: torch.Tensor
    pooled: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.hidden.nbytes + self.pooled.nbytes

    @classmethod
    def stacked(cls, embeddings: Sequence[TextEmbedding]) -> TextEmbedding:
        """All rows of the embeddings in one."""
        import torch

        return cls(
            torch.cat([each.hidden for each in embeddings]), torch.cat([each.pooled for each in embeddings])
        )


class ClipTokenizers:
    """Both tokenizers of a pipeline as one `PromptWindow`.

    Made of private copies that nothing alters afterwards: transformers' own set their truncation anew at
    every call, which two threads must not do at once, and warn with the text that they cut.
    """

    def __init__(self, tokenizers: Sequence[Any]) -> None:
        from tokenizers import Tokenizer

        self._window = min(int(tokenizer.model_max_length) for tokenizer in tokenizers)
        self._marks = [
            (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
            for tokenizer in tokenizers
        ]
        self._copies = [Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()) for tokenizer in tokenizers]
        for copy in self._copies:
            copy.no_truncation()
            copy.no_padding()

    @property
    def limit(self) -> int:
        """Tokens that fit, without the start and end marks."""
        return self._window - 2

    def count(self, text: str) -> int:
        """Tokens of `text`, without the start and end marks; the larger count of both tokenizers."""
        return max(len(copy.encode(text, add_special_tokens=False).ids) for copy in self._copies)

    def ids(self, text: str) -> list[list[int]]:
        """For each encoder the window's token ids: start, at most `limit` tokens of `text`, end, padding."""
        rows = []
        for copy, (start, end, pad) in zip(self._copies, self._marks, strict=True):
            tokens = copy.encode(text, add_special_tokens=False).ids[: self.limit]
            rows.append([start, *tokens, end] + [pad] * (self.limit - len(tokens)))
        return rows


def encode_text(text: str, tokenizers: ClipTokenizers, encoders: Sequence[Any]) -> TextEmbedding:
    """What SDXL reads of a text: the last but one hidden states of both encoders, and the second's pooled
    output (Podell et al. 2023, arXiv 2307.01952, section 2.1)."""
    import torch

    hidden, pooled = [], None
    for ids, encoder in zip(tokenizers.ids(text), encoders, strict=True):
        output = encoder(torch.tensor([ids], device=encoder.device), output_hidden_states=True)
        hidden.append(output.hidden_states[-2])
        pooled = output[0]
    assert pooled is not None
    return TextEmbedding(torch.cat(hidden, dim=-1), pooled)
