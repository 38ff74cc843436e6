"""Muon for the matrices of a module, AdamW for the rest, as one optimizer."""

from __future__ import annotations

from typing import Any

import torch


class MuonWithAdamW:
    """Muon (Jordan et al. 2024) moves matrices and the kernels of convolutions, AdamW all other parameters.

    Muon's updates are scaled to the size of AdamW's (Liu et al. 2025), so one learning rate serves both.
    A kernel (out, in, h, w) counts as a matrix (out, in h w).
    """

    def __init__(self, module: torch.nn.Module, rate: float, weight_decay: float) -> None:
        kernels: list[torch.nn.Parameter] = []
        rest: list[torch.nn.Parameter] = []
        for name, value in module.named_parameters():
            outer = "embedding" in name or "conv_in" in name or "conv_out" in name or value.ndim < 2
            (rest if outer else kernels).append(value)
        # Views on the kernels' storage: what Muon does to them happens to the module.
        self._kernels = [(value, torch.nn.Parameter(value.data.flatten(1))) for value in kernels]
        self._muon = torch.optim.Muon(
            [view for _, view in self._kernels],
            lr=rate,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adamw = torch.optim.AdamW(
            rest, lr=rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
        )
        self.param_groups: list[dict[str, Any]] = [*self._muon.param_groups, *self._adamw.param_groups]

    def zero_grad(self) -> None:
        for value, view in self._kernels:
            value.grad = view.grad = None
        self._adamw.zero_grad()

    def step(self) -> None:
        for value, view in self._kernels:
            view.grad = None if value.grad is None else value.grad.flatten(1)
        self._muon.step()  # type: ignore[no-untyped-call]
        self._adamw.step()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = [*self._muon.param_groups, *self._adamw.param_groups]
