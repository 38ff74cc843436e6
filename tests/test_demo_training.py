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
