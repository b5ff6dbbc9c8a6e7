"""Adagrad."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import farspan
from farspan._tensor import Tensor
from farspan.optim._functional import adagrad
from farspan.optim.optimizer import (
    Group,
    Optimizer,
    as_float,
    counter,
    refuse_fused_with,
    refuse_unfusable,
    require_at_least_zero,
    require_rate,
)

__all__ = ["Adagrad", "adagrad"]


class Adagrad(Optimizer):
    """Gradients over the root of the sum of all their squares (Duchi, Hazan and Singer, 2011).

    The state is there from the start, also of parameters that never get a gradient.
    """

    _later: ClassVar[dict[str, Any]] = {
        "foreach": None,
        "maximize": False,
        "differentiable": False,
        "fused": None,
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        require_rate(lr)
        for name, value in (
            ("lr_decay", lr_decay),
            ("weight_decay", weight_decay),
            ("initial_accumulator_value", initial_accumulator_value),
            ("eps", eps),
        ):
            require_at_least_zero(name, value)
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)
        refuse_fused_with(defaults)
        self._step_supports_amp_scaling = bool(fused)
        for group in self.param_groups:
            for param in group["params"]:
                self._begin(self.state[param], param, group)

    def _begin(self, state: dict[str, Any], param: Tensor, group: Group) -> None:
        value = self.defaults["initial_accumulator_value"]
        start = complex(value, value) if param.is_complex() else value
        state["step"] = counter(param, fused=group["fused"])
        state["sum"] = farspan.full_like(param, start, requires_grad=False)

    def share_memory(self) -> None:
        """Do nothing: the state lives in workers, where every process of yours reaches it."""

    def _step_group(self, group: Group) -> None:
        refuse_unfusable(group)
        self._take(
            "adagrad",
            group,
            lr_decay=as_float(group["lr_decay"]),
            eps=as_float(group["eps"]),
            weight_decay=as_float(group["weight_decay"]),
            maximize=group["maximize"],
        )
