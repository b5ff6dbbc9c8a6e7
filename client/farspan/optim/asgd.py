"""Averaged stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from farspan._tensor import Tensor
from farspan.optim._functional import asgd
from farspan.optim.optimizer import (
    Group,
    Optimizer,
    as_float,
    counter,
    require_at_least_zero,
    require_rate,
    zeros_like,
)

__all__ = ["ASGD", "asgd"]


class ASGD(Optimizer):
    """Gradient descent that also averages its way, in ``ax`` (Polyak and Juditsky, 1992)."""

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
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        require_rate(lr)
        require_at_least_zero("weight_decay", weight_decay)
        defaults = {
            "lr": lr,
            "lambd": lambd,
            "alpha": alpha,
            "t0": t0,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _begin(self, state: dict[str, Any], param: Tensor, group: Group) -> None:
        state["step"] = counter(param)
        state["eta"] = counter(param, as_float(group["lr"]))
        state["mu"] = counter(param, 1.0)
        state["ax"] = zeros_like(param)

    def _step_group(self, group: Group) -> None:
        self._take(
            "asgd",
            group,
            lambd=as_float(group["lambd"]),
            alpha=as_float(group["alpha"]),
            t0=as_float(group["t0"]),
            weight_decay=as_float(group["weight_decay"]),
            maximize=group["maximize"],
        )
