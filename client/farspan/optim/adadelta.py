"""Adadelta."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from farspan._tensor import Tensor
from farspan.optim._functional import adadelta
from farspan.optim.optimizer import (
    Group,
    Optimizer,
    as_float,
    counter,
    require_at_least_zero,
    require_rate,
    zeros_like,
)

__all__ = ["Adadelta", "adadelta"]


class Adadelta(Optimizer):
    """Steps in units that past steps and gradients give (Zeiler, 2012); ``lr`` only scales them."""

    _later: ClassVar[dict[str, Any]] = {
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        require_rate(lr)
        if not 0.0 <= rho <= 1.0:
            raise ValueError(f"Invalid rho value: {rho}")
        require_at_least_zero("eps", eps)
        require_at_least_zero("weight_decay", weight_decay)
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
            "foreach": foreach,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _begin(self, state: dict[str, Any], param: Tensor, group: Group) -> None:
        state["step"] = counter(param)
        state["square_avg"] = zeros_like(param)
        state["acc_delta"] = zeros_like(param)

    def _step_group(self, group: Group) -> None:
        self._take(
            "adadelta",
            group,
            rho=as_float(group["rho"]),
            eps=as_float(group["eps"]),
            weight_decay=as_float(group["weight_decay"]),
            maximize=group["maximize"],
        )
