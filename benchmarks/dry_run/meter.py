"""Counts what a run on fake tensors would do on a card: arithmetic, synchronisations, live memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(slots=True)
class Stage:
    """`flops` counts a multiplication and an addition as two; `peak_bytes` includes the weights.

    `syncs` are the moments at which the host waits for the card: a value read, or a copy into main memory
    that is not declared non-blocking.
    """

    name: str
    flops: int = 0
    syncs: int = 0
    peak_bytes: int = 0


class Meter:
    """From `start` until it is left, everything is booked on the stage that `begin` named last.

    Values that do not exist are answered where the product asks for them: a scalar read from a fake tensor
    is 1 (True), a fake tensor as a NumPy array is zeros.
    """

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self._flops = FlopCounterMode(display=False)
        self._seen_flops = 0
        self._current = Stage("none")
        self._live: dict[int, tuple[int, int]] = {}
        self._live_bytes = 0
        self._counting = False
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        # The flop counter takes operations apart that a card does in one piece. Memory is therefore watched
        # above it; below it every read of a value arrives in its one elementary form.
        self._stack.enter_context(_Answers(self))
        self._stack.enter_context(self._flops)
        self._stack.enter_context(_Watch(self))
        self._stack.enter_context(patch.object(torch.Tensor, "numpy", _as_zeros))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._book_flops()
        self._stack.close()

    def begin(self, name: str) -> None:
        if self._current.name == name:
            return
        self._book_flops()
        self._current = self.stages.setdefault(name, Stage(name))
        self._note_peak()

    def start(self, modules: Iterable[torch.nn.Module]) -> None:
        """Count from here on, with the modules' weights as live memory."""
        self._counting = True
        self._seen_flops = self._flops.get_total_flops()
        for module in modules:
            self._hold(module)

    def _hold(self, module: torch.nn.Module) -> None:
        for tensor in (*module.parameters(), *module.buffers()):
            self._track(tensor)

    def _track(self, tensor: torch.Tensor) -> None:
        """Count the tensor's storage, once, for as long as a tensor on it lives."""
        if tensor.device.type != "cuda":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        size, users = self._live.get(key, (storage.nbytes(), 0))
        if users == 0:
            self._live_bytes += size
            self._note_peak()
        self._live[key] = (size, users + 1)
        weakref.finalize(tensor, self._dropped, key)

    def called(self, func: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if self._counting:
            self._current.syncs += _waits(func, arguments, options)

    def made(self, inputs: Any, result: Any) -> None:
        if not self._counting:
            return
        known = {id(value) for value in tree_leaves(inputs)}
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and id(value) not in known:
                self._track(value)

    def _dropped(self, key: int) -> None:
        size, users = self._live[key]
        if users > 1:
            self._live[key] = (size, users - 1)
        else:
            del self._live[key]
            self._live_bytes -= size

    def _note_peak(self) -> None:
        self._current.peak_bytes = max(self._current.peak_bytes, self._live_bytes)

    def _book_flops(self) -> None:
        total = self._flops.get_total_flops()
        self._current.flops += total - self._seen_flops
        self._seen_flops = total


def _waits(func: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
    if func is torch.ops.aten.copy_.default:
        target, source, *rest = arguments
        non_blocking = rest[0] if rest else options.get("non_blocking", False)
        return target.device.type == "cpu" and source.device.type == "cuda" and not non_blocking
    first = next((value for value in tree_leaves(arguments) if isinstance(value, torch.Tensor)), None)
    if first is None or first.device.type != "cuda":
        return False
    if func is torch.ops.aten._local_scalar_dense.default:
        return True
    if func is torch.ops.aten._to_copy.default:
        target = options.get("device")
        return target is not None and target.type == "cpu" and not options.get("non_blocking", False)
    return func in (torch.ops.aten.nonzero.default, torch.ops.aten._unique2.default)


class _Answers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers for values that do not exist."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._meter = meter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        self._meter.called(func, args, options)
        if func is torch.ops.aten._local_scalar_dense.default:
            dtype = args[0].dtype
            return True if dtype is torch.bool else (1.0 if dtype.is_floating_point else 1)
        return func(*args, **options)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells the meter of every tensor that an operation makes."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._meter = meter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        result = func(*args, **options)
        self._meter.made((args, options), result)
        return result


def _as_zeros(tensor: torch.Tensor, **_options: Any) -> Any:
    """`Tensor.numpy()` of a fake tensor: zeros of its shape and dtype."""
    return np.zeros(tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
