"""Adam and AdamW."""

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

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Steps scaled by running moments of the gradient (Kingma and Ba, 2015).

    The step count of each parameter is a tensor that the operator itself advances, so that a
    skipped step does not count. foreach, fused and capturable are kept for torch's state dicts.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        require_at_least_zero("lr", lr)
        require_at_least_zero("eps", eps)
        for i, beta in enumerate(betas):
            if not 0.0 <= as_float(beta) < 1.0:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        require_at_least_zero("weight_decay", weight_decay)
        refuse_differentiable(differentiable)
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def _step_group(self, group: Group) -> None:
        beta1, beta2 = group["betas"]
        amsgrad = group["amsgrad"]
        for params in batches(group):
            states = [self._initialized_state(param, amsgrad) for param in params]
            fn._adam_step_(
                params,
                [param.grad for param in params],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [state["max_exp_avg_sq"] for state in states] if amsgrad else [],
                [state["step"] for state in states],
                lr=as_float(group["lr"]),
                beta1=as_float(beta1),
                beta2=as_float(beta2),
                weight_decay=as_float(group["weight_decay"]),
                eps=float(group["eps"]),
                amsgrad=amsgrad,
                maximize=group["maximize"],
                decoupled=group["decoupled_weight_decay"],
            )

    def _initialized_state(self, param: Tensor, amsgrad: bool) -> dict[str, Any]:
        state = self.state[param]
        if not state:
            state["step"] = farspan.zeros((), dtype=farspan.float32, device=param.device)
            state["exp_avg"] = farspan.zeros_like(param, requires_grad=False)
            state["exp_avg_sq"] = farspan.zeros_like(param, requires_grad=False)
            if amsgrad:
                state["max_exp_avg_sq"] = farspan.zeros_like(param, requires_grad=False)
        return state


class AdamW(Adam):
    """Adam whose weight decay acts on the weights, not on the gradient (Loshchilov, 2019)."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for group in self.param_groups:  # a plain Adam's state may have been loaded
            group["decoupled_weight_decay"] = True
