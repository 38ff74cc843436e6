"""A card that is not there: torch's answers about one, and the real checkpoints' shapes on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

CARD: Final = torch.device("cuda:0")
NAME: Final = "no card (fake tensors)"


class _Mode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Never touches a driver, although torch is told that there is a card."""

    @property
    def avoid_device_init(self) -> bool:
        return True


class Done:
    """An event or a stream of a card on which everything has happened."""

    def __init__(self, *_arguments: Any, **_options: Any) -> None: ...

    def record(self, *_arguments: Any) -> None: ...

    def wait(self, *_arguments: Any) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


@contextlib.contextmanager
def fake_card(memory_bytes: int, capability: tuple[int, int] = (9, 0)) -> Iterator[FakeTensorMode]:
    """Inside, torch sees one card of that size, and every tensor is fake.

    A fake tensor has a shape, a dtype and a device but no numbers. Operations between tensors of different
    devices or dtypes fail as they do on a card. The schedulers' tables are the exception: they are made of
    real numbers on the CPU, because NumPy calculates them.
    """
    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: NAME,
        "get_device_capability": lambda *_: capability,
        "get_device_properties": lambda *_: SimpleNamespace(
            total_memory=memory_bytes, name=NAME, major=capability[0], minor=capability[1]
        ),
        "mem_get_info": lambda *_: (memory_bytes, memory_bytes),
        "current_stream": lambda *_: Done(),
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "Event": Done,
        "Stream": Done,
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, answer))
        for scheduler in _schedulers():
            stack.enter_context(
                patch.object(scheduler, "set_timesteps", _really_timed(scheduler.set_timesteps))
            )
        functional = torch.nn.functional
        original = functional.scaled_dot_product_attention
        stack.enter_context(patch.object(functional, "scaled_dot_product_attention", _fused(original)))
        # Modules move fake weights by swapping, which refuses tensors that somebody remembers weakly; the
        # mode's own bookkeeping does.
        no_memory = SimpleNamespace(getweakrefs=lambda _tensor: [])
        stack.enter_context(patch.object(torch.utils, "weakref", no_memory))
        yield stack.enter_context(_Mode(allow_non_fake_inputs=True))


def _schedulers() -> tuple[Any, ...]:
    from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

    return EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler


def _really_timed(original: Callable[..., None]) -> Callable[..., None]:
    def set_timesteps(
        self: Any, num_inference_steps: int | None = None, device: Any = None, **options: Any
    ) -> None:
        with unset_fake_temporarily():
            original(self, num_inference_steps, device="cpu", **options)
        if device is not None:
            self.timesteps = self.timesteps.to(device)

    return set_timesteps


def _fused(original: Callable[..., Any]) -> Callable[..., Any]:
    """Attention by the kernel that a card since Ampere takes; without a driver torch takes the plain one.

    Flash attention takes half precision, heads up to 256 wide and no mask (Dao 2023, and the conditions in
    torch's sdp_utils); the memory-efficient kernel takes the rest. Neither holds the matrix of all pairs.
    """

    def attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **options: Any,
    ) -> torch.Tensor:
        if query.device.type != "cuda":
            return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)  # type: ignore[no-any-return]
        half = query.dtype in (torch.float16, torch.bfloat16)
        if half and attn_mask is None and query.shape[-1] <= 256:
            flash = torch.ops.aten._scaled_dot_product_flash_attention
            return flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]  # type: ignore[no-any-return]
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention
        return efficient(query, key, value, attn_mask, False, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]

    return attention


def made_on_card(make: Callable[[], Any], dtype: torch.dtype) -> Any:
    """A module of fake weights on the card, in `dtype`. Called inside `fake_card`."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with CARD:
            return make().requires_grad_(False).eval()
    finally:
        torch.set_default_dtype(usual)
