"""Adam."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from farspan._tensor import Tensor
from farspan.optim._functional import adam
from farspan.optim.optimizer import (
    Group,
    Optimizer,
    as_float,
    counter,
    refuse_fused_with,
    refuse_unfusable,
    require_at_least_zero,
    require_betas,
    require_rate,
    zeros_like,
)

__all__ = ["Adam", "adam"]


class Adam(Optimizer):
    """Steps scaled by running moments of the gradient (Kingma and Ba, 2015).

    The step count of each parameter is a tensor that the operator itself advances, so that a
    skipped step does not count. foreach, fused and capturable are kept for torch's state dicts.
    """

    _later: ClassVar[dict[str, Any]] = {
        "amsgrad": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "decoupled_weight_decay": False,
        "fused": None,
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
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
        unread = foreach and not capturable
        if isinstance(lr, Tensor) and unread:
            raise ValueError(
                "lr as a Tensor is not supported for capturable=False and foreach=True"
            )
        require_rate(lr)
        require_at_least_zero("eps", eps)
        require_betas(betas)
        require_at_least_zero("weight_decay", weight_decay)
        _require_kind(betas, bool(unread))
        defaults = {
            "lr": lr,
            "betas": tuple(_scalar(beta) for beta in betas),
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
        refuse_fused_with(defaults)
        self._step_supports_amp_scaling = bool(fused)

    def _begin(self, state: dict[str, Any], param: Tensor, group: Group) -> None:
        state["step"] = counter(param, fused=group["fused"])
        state["exp_avg"] = zeros_like(param)
        state["exp_avg_sq"] = zeros_like(param)
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = zeros_like(param)

    def _step_group(self, group: Group) -> None:
        beta1, beta2 = group["betas"]
        refuse_unfusable(group)
        self._take(
            "adam",
            group,
            beta1=as_float(beta1),
            beta2=as_float(beta2),
            weight_decay=as_float(group["weight_decay"]),
            eps=as_float(group["eps"]),
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
            decoupled=group["decoupled_weight_decay"],
        )


def _require_kind(betas: Any, unread: bool) -> None:
    """Raise unless both betas are floats, or both tensors of one element that a step may read."""
    kinds = {
        float if isinstance(b, float) else Tensor if isinstance(b, Tensor) else 0 for b in betas
    }
    if len(kinds) > 1 or 0 in kinds:
        raise ValueError("betas must be either both floats or both Tensors")
    for i, beta in enumerate(betas):
        if isinstance(beta, Tensor) and unread:
            raise ValueError(
                f"betas[{i}] as a Tensor is not supported for capturable=False and foreach=True"
            )
        if isinstance(beta, Tensor) and beta.numel() != 1:
            raise ValueError(f"Tensor betas[{i}] must be 1-element")


def _scalar(value: Any) -> Any:
    return value.squeeze() if isinstance(value, Tensor) and value.ndim else value
