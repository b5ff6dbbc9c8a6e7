"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from farspan._tensor import Tensor
from farspan.optim._functional import rmsprop
from farspan.optim.optimizer import (
    Group,
    Optimizer,
    as_float,
    counter,
    require_at_least_zero,
    require_rate,
    zeros_like,
)

__all__ = ["RMSprop", "rmsprop"]


class RMSprop(Optimizer):
    """Gradients over the root of their running mean square (Hinton's lecture 6e; Graves, 2013)."""

    _later: ClassVar[dict[str, Any]] = {
        "momentum": 0,
        "centered": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        require_rate(lr)
        for name, value in (
            ("eps", eps),
            ("momentum", momentum),
            ("weight_decay", weight_decay),
            ("alpha", alpha),
        ):
            require_at_least_zero(name, value)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _begin(self, state: dict[str, Any], param: Tensor, group: Group) -> None:
        state["step"] = counter(param)
        state["square_avg"] = zeros_like(param)
        if as_float(group["momentum"]) > 0:
            state["momentum_buffer"] = zeros_like(param)
        if group["centered"]:
            state["grad_avg"] = zeros_like(param)

    def _step_group(self, group: Group) -> None:
        self._take(
            "rmsprop",
            group,
            alpha=as_float(group["alpha"]),
            eps=as_float(group["eps"]),
            weight_decay=as_float(group["weight_decay"]),
            momentum=as_float(group["momentum"]),
            centered=group["centered"],
            maximize=group["maximize"],
        )
