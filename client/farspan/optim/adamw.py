"""AdamW."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from farspan._tensor import Tensor
from farspan.optim._functional import adamw
from farspan.optim.adam import Adam

__all__ = ["AdamW", "adamw"]


class AdamW(Adam):
    """Adam whose weight decay acts on the weights, not on the gradient (Loshchilov, 2019)."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # a plain Adam's state may have been loaded
            group["decoupled_weight_decay"] = True
