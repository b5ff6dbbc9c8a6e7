"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import farspan
from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.optim.optimizer import (
    Group,
    Optimizer,
    as_float,
    batches,
    refuse_differentiable,
    require_at_least_zero,
)

__all__ = ["SGD"]


class SGD(Optimizer):
    """``p -= lr * g``, where g may carry momentum: ``SGD(model.parameters(), lr=0.1)``.

    foreach and fused are kept for torch's state dicts and change nothing: a step is one operator.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        require_at_least_zero("lr", lr)
        require_at_least_zero("momentum", momentum)
        require_at_least_zero("weight_decay", weight_decay)
        refuse_differentiable(differentiable)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def _step_group(self, group: Group) -> None:
        momentum = as_float(group["momentum"])
        for params in batches(group, lambda param: momentum != 0 and self._is_first(param)):
            first = momentum != 0 and self._is_first(params[0])
            buffers = [self._buffer(param) for param in params] if momentum != 0 else []
            fn._sgd_step_(
                params,
                [param.grad for param in params],
                buffers,
                lr=as_float(group["lr"]),
                momentum=momentum,
                dampening=float(group["dampening"]),
                weight_decay=as_float(group["weight_decay"]),
                nesterov=group["nesterov"],
                maximize=group["maximize"],
                first=first,
            )

    def _is_first(self, param: Tensor) -> bool:
        return self.state[param].get("momentum_buffer") is None

    def _buffer(self, param: Tensor) -> Tensor:
        # Zeros, not uninitialized memory: the first step may be skipped for a poisoned gradient.
        state = self.state[param]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = farspan.zeros_like(param, requires_grad=False)
        return state["momentum_buffer"]
