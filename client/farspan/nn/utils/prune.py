"""Pruning is not here: every name says so when it is used, and what to do instead."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = [  # noqa: F822  (made at first use)
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name[0].isupper():
        found: Any = type(name, (BasePruningMethod,), {})
    else:

        def found(*args: Any, **kwargs: Any) -> NoReturn:
            _refuse(name)

        found.__name__ = name
    globals()[name] = found
    return found
