"""Adafactor."""

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
    counter,
    zeros_like,
)

__all__ = ["Adafactor"]


class Adafactor(Optimizer):
    """Adam with second moments kept as rows times columns (Shazeer and Stern, 2018)."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not lr >= 0.0:
            raise ValueError(f"Learning rate should be >= 0 but is: {lr}")
        if not beta2_decay <= 0.0:
            raise ValueError(f"beta2_decay should be <= 0 but is: {beta2_decay}")
        if eps[0] is not None and not eps[0] >= 0.0:
            raise ValueError(f"epsilon1 should be >= 0 but is: {eps[0]}")
        if not eps[1] >= 0.0:
            raise ValueError(f"epsilon2 should be >= 0 but is: {eps[1]}")
        if not d >= 1.0:
            raise ValueError(f"Clipping threshold d should be >= 1 but is: {d}")
        if not weight_decay >= 0.0:
            raise ValueError(f"weight_decay should be >= 0 but is: {weight_decay}")
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _begin(self, state: dict[str, Any], param: Tensor, group: Group) -> None:
        if param.is_complex():
            raise RuntimeError("Adafactor does not support complex parameters")
        shape = param.shape
        state["step"] = counter(param)
        if len(shape) > 1:
            state["row_var"] = param.new_zeros((*shape[:-1], 1))
            state["col_var"] = param.new_zeros((*shape[:-2], 1, shape[-1]))
        else:
            state["variance"] = zeros_like(param)

    def _step_group(self, group: Group) -> None:
        eps1, eps2 = group["eps"]
        for params in batches(group, lambda param: param.ndim > 1):
            states = [self._ready_state(param, group) for param in params]
            names = ("row_var", "col_var", "variance", "step")
            fn._adafactor_step_(
                params,
                [param.grad for param in params],
                *[[s[n] for s in states] if n in states[0] else [] for n in names],
                **self._rates(group, params[0]),
                beta2_decay=as_float(group["beta2_decay"]),
                eps1=farspan.finfo(params[0].dtype).eps if eps1 is None else as_float(eps1),
                eps2=as_float(eps2),
                d=as_float(group["d"]),
                weight_decay=as_float(group["weight_decay"]),
                maximize=group["maximize"],
            )
