"""Muon for the matrices of a module, AdamW for the rest, as one optimizer."""

from __future__ import annotations

from typing import Any

import torch

# Parts of names of parameters that are no maps between layers: lookup tables and the outermost layers.
OUTER = ("embedding", "conv_in", "conv_out")


class MuonWithAdamW:
    """Muon (Jordan et al. 2024) moves matrices and the kernels of convolutions, AdamW all other parameters.

    A small network trained for minutes gets about twice as far a step as with AdamW alone. Muon's updates
    are scaled to the size of AdamW's (Liu et al. 2025), so one learning rate serves both; `adamw_share` is
    AdamW's part of it. A kernel (out, in, h, w) counts as a matrix (out, in h w). What has one of `outer` in
    its name is AdamW's.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        rate: float,
        weight_decay: float,
        *,
        outer: tuple[str, ...] = OUTER,
        adamw_share: float = 1.0,
    ) -> None:
        kernels: list[torch.nn.Parameter] = []
        rest: list[torch.nn.Parameter] = []
        for name, value in module.named_parameters():
            # Gains of a norm may be (n, 1, 1, 1).
            maps = value.ndim > 1 and value[0].numel() > 1 and not any(part in name for part in outer)
            (kernels if maps else rest).append(value)
        self._kernels = [(value, torch.nn.Parameter(_as_matrix(value.data))) for value in kernels]
        for value, view in self._kernels:
            # What Muon does to the view has to happen to the module.
            assert view.data_ptr() == value.data_ptr()
        self._muon = torch.optim.Muon(
            [view for _, view in self._kernels],
            lr=rate,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adamw = torch.optim.AdamW(
            [{"params": rest, "rate_share": adamw_share}],
            lr=rate,
            betas=(0.9, 0.99),
            weight_decay=weight_decay,
            fused=True,
        )
        self.param_groups: list[dict[str, Any]] = [*self._muon.param_groups, *self._adamw.param_groups]

    def zero_grad(self) -> None:
        for value, view in self._kernels:
            value.grad = view.grad = None
        self._adamw.zero_grad()

    def step(self) -> None:
        for value, view in self._kernels:
            view.grad = None if value.grad is None else _as_matrix(value.grad, like=value)
        self._muon.step()  # type: ignore[no-untyped-call]
        self._adamw.step()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = [*self._muon.param_groups, *self._adamw.param_groups]


def _as_matrix(kernel: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
    """(out, in h w), or (out, h w in) where `like`, or the kernel itself, keeps its channels last."""
    layout = kernel if like is None else like
    return (kernel if layout.is_contiguous() else kernel.movedim(1, -1)).flatten(1)
