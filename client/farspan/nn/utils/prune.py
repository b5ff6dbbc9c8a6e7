"""Pruning is not here: every name says so when it is used, and what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

__all__ = [
    "BasePruningMethod", "CustomFromMask", "Identity", "L1Unstructured", "LnStructured",
    "PruningContainer", "RandomStructured", "RandomUnstructured", "custom_from_mask",
    "global_unstructured", "identity", "is_pruned", "l1_unstructured", "ln_structured",
    "random_structured", "random_unstructured", "remove",
]  # fmt: skip


def _refuse(name: str) -> NoReturn:
    raise NotImplementedError(
        f"torch.nn.utils.prune.{name} is not part of this service. A mask is a parametrization: "
        "register_parametrization(module, 'weight', Mask()) with a module whose forward multiplies "
        "by the mask"
    )


class BasePruningMethod:
    """The class that no object has: ``isinstance(hook, BasePruningMethod)`` is False."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse(type(self).__name__)


def is_pruned(module: Any) -> bool:
    """Return False: no module is."""
    return False


class CustomFromMask(BasePruningMethod):
    """A mask that was given, in torch."""


class Identity(BasePruningMethod):
    """A mask of ones, in torch."""


class L1Unstructured(BasePruningMethod):
    """A mask of the largest entries, in torch."""


class LnStructured(BasePruningMethod):
    """A mask of the channels of the largest norm, in torch."""


class PruningContainer(BasePruningMethod):
    """Masks one upon the other, in torch."""


class RandomStructured(BasePruningMethod):
    """A mask of random channels, in torch."""


class RandomUnstructured(BasePruningMethod):
    """A mask of random entries, in torch."""


def _refused(name: str) -> Callable[..., NoReturn]:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        _refuse(name)

    refuse.__name__ = name
    return refuse


custom_from_mask, global_unstructured, identity, remove = map(
    _refused, ("custom_from_mask", "global_unstructured", "identity", "remove")
)
l1_unstructured, ln_structured, random_structured, random_unstructured = map(
    _refused, ("l1_unstructured", "ln_structured", "random_structured", "random_unstructured")
)
