"""Pruning is not here: every name says so, and what to do instead."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise NotImplementedError(
        f"torch.nn.utils.prune.{name} is not part of this service. A mask is a parametrization: "
        "register_parametrization(module, 'weight', Mask()) with a module whose forward multiplies "
        "by the mask"
    )
