"""Rprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import farspan
from farspan._tensor import Tensor
from farspan.optim._functional import rprop
from farspan.optim.optimizer import (
    Group,
    Optimizer,
    as_float,
    counter,
    require_rate,
    zeros_like,
)

__all__ = ["Rprop", "rprop"]


class Rprop(Optimizer):
    """Steps by the signs of gradients, of a size that each element finds (Riedmiller, 1993)."""

    _later: ClassVar[dict[str, Any]] = {
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        require_rate(lr)
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        defaults = {
            "lr": lr,
            "etas": etas,
            "step_sizes": step_sizes,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _begin(self, state: dict[str, Any], param: Tensor, group: Group) -> None:
        lr = as_float(group["lr"])
        state["step"] = counter(param)
        state["prev"] = zeros_like(param)
        # The two parts of a complex number step on their own.
        size = complex(lr, lr) if param.is_complex() else lr
        state["step_size"] = farspan.full_like(param.grad, size, requires_grad=False)

    def _step_group(self, group: Group) -> None:
        (etaminus, etaplus), (smallest, largest) = group["etas"], group["step_sizes"]
        self._take(
            "rprop",
            group,
            etaminus=as_float(etaminus),
            etaplus=as_float(etaplus),
            step_size_min=as_float(smallest),
            step_size_max=as_float(largest),
            maximize=group["maximize"],
        )
