"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from farspan._tensor import Tensor
from farspan.optim._functional import sgd
from farspan.optim.optimizer import (
    Group,
    Optimizer,
    as_float,
    batches,
    issue_step,
    record_step,
    refuse_fused_with,
    refuse_unfusable,
    require_at_least_zero,
    zeros_like,
)

__all__ = ["SGD", "sgd"]


class SGD(Optimizer):
    """``p -= lr * g``, where g may carry momentum: ``SGD(model.parameters(), lr=0.1)``.

    foreach and fused are kept for torch's state dicts and change nothing: a step is one operator.
    """

    _later: ClassVar[dict[str, Any]] = {
        "nesterov": False,
        "maximize": False,
        "foreach": None,
        "differentiable": False,
        "fused": False,
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
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
        refuse_fused_with(defaults)
        self._step_supports_amp_scaling = bool(fused)

    def _step_group(self, group: Group) -> None:
        refuse_unfusable(group)
        momentum = as_float(group["momentum"])
        options = {
            "momentum": momentum,
            "dampening": as_float(group["dampening"]),
            "nesterov": group["nesterov"],
            "maximize": group["maximize"],
        }
        for params in batches(group, lambda param: momentum != 0 and self._is_first(param)):
            first = momentum != 0 and self._is_first(params[0])
            buffers = [self._buffer(param) for param in params] if momentum != 0 else []
            if group["differentiable"]:
                options.update(lr=group["lr"], weight_decay=group["weight_decay"], first=first)
                for param in params:
                    record_step(
                        "sgd", param, param.grad, self.state[param] if momentum else {}, options
                    )
                continue
            issue_step(
                "_sgd_step_",
                params,
                [param.grad for param in params],
                buffers,
                **self._rates(group, params[0]),
                **options,
                weight_decay=as_float(group["weight_decay"]),
                first=first,
            )

    def _is_first(self, param: Tensor) -> bool:
        return self.state[param].get("momentum_buffer") is None

    def _buffer(self, param: Tensor) -> Tensor:
        # Zeros, not uninitialized memory: the first step may be skipped for a poisoned gradient.
        state = self.state[param]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = zeros_like(param)
        return state["momentum_buffer"]  # type: ignore[no-any-return]
