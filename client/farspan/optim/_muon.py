"""Muon."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.optim.optimizer import (
    Group,
    Optimizer,
    as_float,
    batches,
    zeros_like,
)

__all__ = ["Muon"]


class Muon(Optimizer):
    """Momentum made orthogonal by Newton and Schulz's iteration (Jordan et al., 2024).

    For matrices only: biases, embeddings and the like belong to another optimizer.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not lr >= 0.0:
            raise ValueError(f"Learning rate should be >= 0 but is: {lr}")
        if not momentum >= 0.0:
            raise ValueError(f"momentum should be >= 0 but is: {momentum}")
        if not weight_decay >= 0.0:
            raise ValueError(f"weight decay should be >= 0 but is: {weight_decay}")
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"Adjust learning rate function {adjust_lr_fn} is not supported")
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for param in group["params"]:
                if param.ndim != 2:
                    raise ValueError(
                        "Muon only supports 2D parameters whereas we found a parameter with size: "
                        f"{param.size()}"
                    )

    def _begin(self, state: dict[str, Any], param: Tensor, group: Group) -> None:
        if param.is_complex():
            raise RuntimeError("Muon does not support complex parameters")
        state["momentum_buffer"] = zeros_like(param)

    def _step_group(self, group: Group) -> None:
        if group["ns_steps"] >= 100:
            raise ValueError("Number of steps must be less than 100 for computational efficiency")
        if len(group["ns_coefficients"]) != 3:
            raise ValueError("Coefficients must be a tuple of exactly 3 values")
        a, b, c = group["ns_coefficients"]
        for params in batches(group):
            fn._muon_step_(
                params,
                [param.grad for param in params],
                [self._ready_state(param, group)["momentum_buffer"] for param in params],
                **self._rates(group, params[0]),
                weight_decay=as_float(group["weight_decay"]),
                momentum=as_float(group["momentum"]),
                nesterov=group["nesterov"],
                ns_a=a,
                ns_b=b,
                ns_c=c,
                eps=as_float(group["eps"]),
                ns_steps=group["ns_steps"],
                adjust=group["adjust_lr_fn"] or "original",
            )
