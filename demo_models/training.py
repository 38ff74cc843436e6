"""What the training scripts share: resumable checkpoints, a schedule, a running average of weights.

Data and noise of step k are drawn from (seed, k, process) alone, so a run resumed from a checkpoint goes on
with the steps an uninterrupted run would have taken.

Where several processes train one model, each takes its part of a step's data on one thread and the
gradients are averaged: one meeting a step instead of one an operation, which loses little time on busy cores.
"""

from __future__ import annotations

import functools
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

CHECKPOINT_EVERY_S = 120.0
LOG_EVERY_STEPS = 50
# As many as the machine for which times are stated has cores. Another number makes another run: clips and
# pictures of a step are stated by process.
PROCESSES = 2


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, `peak` until `hold` of the steps are done, then a cosine down to `peak * floor`.

    What comes before the descent does not depend on `steps`: a run that holds can be made longer or shorter
    from any checkpoint before it and stays the run that its number of steps describes.
    """

    steps: int
    peak: float
    warmup: int = 100
    floor: float = 0.02
    hold: float = 0.0

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        held = max(self.warmup, int(self.hold * self.steps))
        progress = max(0.0, (step - held) / max(1, self.steps - held))
        return self.peak * (
            self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        )


class Optimizer(Protocol):
    """What `fit` needs of torch's optimizers. A group's `rate_share`, if any, is its part of the rate."""

    param_groups: list[dict[str, Any]]

    def zero_grad(self) -> None: ...
    def step(self) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


# Of a module, the highest learning rate and the weight decay.
MakeOptimizer = Callable[[torch.nn.Module, float, float], Optimizer]


def adamw(module: torch.nn.Module, rate: float, weight_decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        module.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )


class Average:
    """Exponential moving average of a module's parameters, with a warm-up of the decay."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self._decay = decay
        self.weights = {name: value.detach().clone() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module, step: int) -> None:
        decay = min(self._decay, (1 + step) / (10 + step))
        parameters = dict(module.named_parameters())
        torch._foreach_lerp_(
            list(self.weights.values()), [parameters[name] for name in self.weights], 1 - decay
        )

    @torch.no_grad()
    def copy_to(self, module: torch.nn.Module) -> None:
        for name, value in module.named_parameters():
            value.copy_(self.weights[name])


def _average_gradients(module: torch.nn.Module, processes: int) -> None:
    gradients = [value.grad for value in module.parameters() if value.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= processes
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        # In place: fused AdamW takes for granted that a gradient is laid out in memory as its parameter is.
        gradient.copy_(part.view_as(gradient))


def fit(
    name: str,
    module: torch.nn.Module,
    schedule: Schedule,
    loss_at: Callable[[int], tuple[torch.Tensor, dict[str, float]]],
    folder: Path,
    *,
    seed: int,
    average_decay: float,
    weight_decay: float = 0.01,
    max_norm: float = 1.0,
    optimize: MakeOptimizer = adamw,
) -> float:
    """Train `module` for `schedule.steps` steps, resuming from `folder/<name>.pt` where it exists.

    `loss_at(step)` returns the loss and figures to log. Afterwards the module holds the averaged weights.

    Returns:
        Seconds of training over all resumed parts.
    """
    checkpoint = folder / f"{name}.pt"
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    optimizer = optimize(module, schedule.peak, weight_decay)
    average = Average(module, average_decay)
    first, seconds = 0, 0.0
    if checkpoint.exists():
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        average.weights = state["average"]
        first, seconds = int(state["step"]), float(state["seconds"])
        if rank == 0:
            print(f"{name}: resumed at step {first} after {seconds:.0f} s", flush=True)

    started = time.monotonic() - seconds
    saved = time.monotonic()
    sums: dict[str, float] = {}
    counted = 0
    for step in range(first, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step) * group.get("rate_share", 1.0)
        torch.manual_seed((seed * 1_000_003 + step) * processes + rank)
        loss, figures = loss_at(step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if processes > 1:
            _average_gradients(module, processes)
        torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm)
        optimizer.step()
        if rank > 0:
            continue
        average.update(module, step)
        for key, value in {"loss": float(loss.detach()), **figures}.items():
            sums[key] = sums.get(key, 0.0) + value
        counted += 1
        if (step + 1) % LOG_EVERY_STEPS == 0:
            told = "  ".join(f"{key} {value / counted:.5f}" for key, value in sums.items())
            print(
                f"{name} {step + 1}/{schedule.steps}  {time.monotonic() - started:.0f} s  {told}", flush=True
            )
            sums, counted = {}, 0
        if time.monotonic() - saved > CHECKPOINT_EVERY_S or step + 1 == schedule.steps:
            state = {
                "module": module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average.weights,
                "step": step + 1,
                "seconds": time.monotonic() - started,
            }
            save_whole(state, checkpoint)
            saved = time.monotonic()
    if rank == 0:
        average.copy_to(module)
    if processes > 1:
        # The average is kept by the first process alone.
        for parameter in module.parameters():
            dist.broadcast(parameter.data, 0)
    return time.monotonic() - started


class Part(Protocol):
    """One of several descents."""

    @property
    def name(self) -> str: ...
    @property
    def schedule(self) -> Schedule: ...


def fit_parts(
    parts: Sequence[Part],
    module: torch.nn.Module,
    loss_at: Callable[[int, int], tuple[torch.Tensor, dict[str, float]]],
    folder: Path,
    *,
    seed: int,
    **settings: Any,
) -> float:
    """`fit` one part after the other, each from the averaged weights of the one before.

    `loss_at(number, step)` is the loss in a part. The parts' seeds count from `seed`; `settings` are `fit`'s.

    Returns:
        Seconds of training of all parts.
    """
    return sum(
        fit(
            part.name,
            module,
            part.schedule,
            functools.partial(loss_at, number),
            folder,
            seed=seed + number,
            **settings,
        )
        for number, part in enumerate(parts)
    )


def save_whole(value: Any, file: Path) -> None:
    """`torch.save` that leaves the file as it was where it is cut off."""
    part = file.with_name(f"{file.name}.part")
    torch.save(value, part)
    part.replace(file)


def run_side_by_side(work: Callable[[int, Path], None], folder: Path, processes: int = PROCESSES) -> None:
    """Run `work(rank, folder)` in processes of one thread each, which `fit` joins step by step."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    spawn(_run_part, args=(work, folder, processes), nprocs=processes)  # type: ignore[no-untyped-call]


def _run_part(rank: int, work: Callable[[int, Path], None], folder: Path, processes: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=processes)
    work(rank, folder)
    dist.destroy_process_group()
