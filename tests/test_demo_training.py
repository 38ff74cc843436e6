"""What the demo checkpoints' training scripts share: resuming, schedules, optimizers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from demo_models import training
from demo_models.optimizers import MuonWithAdamW
from demo_models.training import Schedule, fit

STEPS = 8
OPTIMIZERS = [training.adamw, MuonWithAdamW]


class Cut(Exception):
    """The run ends in the middle, as when its process is killed."""


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 6, 3, padding=1), torch.nn.SiLU(), torch.nn.Flatten(), torch.nn.Linear(96, 3)
    )


def channels_last(module: torch.nn.Module) -> torch.nn.Module:
    for value in module.parameters():
        if value.ndim == 4:
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    return module


def train(folder: Path, optimize: training.MakeOptimizer, cut_at: int | None = None) -> torch.nn.Module:
    folder.mkdir(exist_ok=True)
    module = network()

    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        if step == cut_at:
            raise Cut
        noise = torch.randn(4, 2, 4, 4)
        return (module(noise) - noise.sum((2, 3))[:, [0, 1, 0]]).square().mean(), {}

    fit("net", module, Schedule(STEPS, 0.02), loss_at, folder, seed=1, average_decay=0.5, optimize=optimize)
    return module


@pytest.mark.parametrize("optimize", OPTIMIZERS)
def test_a_run_that_is_cut_off_and_resumed_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimize: training.MakeOptimizer
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY_S", 0.0)
    whole = train(tmp_path / "whole", optimize)
    with pytest.raises(Cut):
        train(tmp_path / "cut", optimize, cut_at=5)
    resumed = train(tmp_path / "cut", optimize)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("optimize", OPTIMIZERS)
def test_training_lowers_the_loss_and_moves_every_parameter(
    tmp_path: Path, optimize: training.MakeOptimizer
) -> None:
    trained, fresh = train(tmp_path, optimize), network()
    assert not any(
        torch.equal(one, other) for one, other in zip(trained.parameters(), fresh.parameters(), strict=True)
    )
    noise = torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    aim = noise.sum((2, 3))[:, [0, 1, 0]]
    assert (trained(noise) - aim).square().mean() < (fresh(noise) - aim).square().mean()


def test_kernels_move_alike_in_any_memory_layout() -> None:
    usual, last = network(), channels_last(network())
    for module in (usual, last):
        optimizer = MuonWithAdamW(module, 0.1, 0.0)
        for _ in range(3):
            optimizer.zero_grad()
            noise = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(3))
            module(noise).square().mean().backward()
            optimizer.step()
    for one, other in zip(usual.parameters(), last.parameters(), strict=True):
        # Muon works in bfloat16, and the sums run in another order.
        assert torch.allclose(one, other, atol=0.03)


def train_side_by_side(rank: int, folder: Path) -> None:
    """AdamW, which sees a gradient's memory, on kernels whose channels come last."""
    torch.manual_seed(0)
    module = channels_last(network())
    noise = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(rank))

    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return (module(noise) - noise.sum((2, 3))[:, [0, 1, 0]]).square().mean(), {}

    fit("net", module, Schedule(STEPS, 0.02), loss_at, folder, seed=1, average_decay=0.5, max_norm=1e9)
    torch.save(module.state_dict(), folder / f"of-{rank}.pt")


def test_two_processes_end_with_the_weights_that_one_reaches_with_both_their_parts(tmp_path: Path) -> None:
    training.run_side_by_side(train_side_by_side, tmp_path)
    alone = network()
    noise = torch.cat([torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(k)) for k in (0, 1)])

    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return (alone(noise) - noise.sum((2, 3))[:, [0, 1, 0]]).square().mean(), {}

    (tmp_path / "alone").mkdir()
    fit(
        "net",
        alone,
        Schedule(STEPS, 0.02),
        loss_at,
        tmp_path / "alone",
        seed=1,
        average_decay=0.5,
        max_norm=1e9,
    )
    for rank in (0, 1):
        state = torch.load(tmp_path / f"of-{rank}.pt", weights_only=True)
        for name, value in alone.state_dict().items():
            assert torch.allclose(state[name], value, atol=1e-4), name


def test_what_is_no_map_between_layers_is_left_to_adamw_at_its_share_of_the_rate(tmp_path: Path) -> None:
    module = torch.nn.ModuleDict(
        {
            "conv_in": torch.nn.Conv2d(1, 2, 1, bias=False),
            "gain": torch.nn.ParameterList([torch.ones(4, 1, 1, 1)]),
            "inner": torch.nn.Linear(3, 3, bias=False),
        }
    )
    optimizer = MuonWithAdamW(module, 1.0, 0.0, adamw_share=0.25)
    sizes = {group.get("rate_share", 1.0): len(group["params"]) for group in optimizer.param_groups}
    assert sizes == {1.0: 1, 0.25: 2}

    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return sum((value.square().sum() for value in module.parameters()), torch.zeros(())), {}

    fit(
        "net",
        module,
        Schedule(1, 0.5, warmup=0),
        loss_at,
        tmp_path,
        seed=1,
        average_decay=0.0,
        optimize=lambda *_: optimizer,
    )
    assert {group["lr"] for group in optimizer.param_groups} == {0.5, 0.125}


@given(st.integers(200, 5000), st.integers(200, 5000), st.floats(0, 0.9))
def test_until_the_descent_a_schedule_does_not_depend_on_its_length(
    steps: int, longer: int, hold: float
) -> None:
    one, other = (Schedule(count, 1e-3, warmup=10, hold=hold) for count in (steps, longer))
    for step in range(0, int(hold * min(steps, longer)), 97):
        assert one.rate(step) == other.rate(step)


@given(st.integers(101, 5000), st.floats(0, 0.9))
def test_a_schedule_ends_near_its_floor_and_never_passes_its_peak(steps: int, hold: float) -> None:
    schedule = Schedule(steps, 1e-3, hold=hold)
    rates = [schedule.rate(step) for step in range(0, steps, max(1, steps // 50))]
    assert max(rates) <= 1e-3
    assert schedule.rate(steps) == pytest.approx(1e-3 * schedule.floor)
