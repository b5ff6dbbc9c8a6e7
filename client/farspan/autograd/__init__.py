"""farspan.autograd: `backward`, `grad`, Functions with a backward of their own, and the modes."""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import Any as _Any

from .._autograd import backward, grad
from .._grad_mode import (
    enable_grad,
    enforce_grad_layout_policy,
    inference_mode,
    no_grad,
    set_grad_enabled,
    set_multithreading_enabled,
)
from . import function, functional
from .function import Function, NestedIOFunction
from .gradcheck import gradcheck, gradgradcheck  # at once: the module has the function's name

__all__ = [
    "Function", "NestedIOFunction", "Variable", "backward", "detect_anomaly", "enable_grad",
    "enforce_grad_layout_policy", "function", "functional", "grad", "grad_mode", "gradcheck",
    "gradgradcheck", "inference_mode", "no_grad", "set_detect_anomaly", "set_grad_enabled",
    "set_multithreading_enabled", "variable",
]  # fmt: skip

#: Where a name lives that few programs use; its module is imported at first use.
_LAZY = {
    "Variable": "variable",
    "detect_anomaly": "anomaly_mode", "set_detect_anomaly": "anomaly_mode",
}  # fmt: skip
_MODULES = ("anomaly_mode", "forward_ad", "grad_mode", "graph", "profiler", "variable")


def __getattr__(name: str) -> _Any:
    if name in _LAZY:
        found: _Any = getattr(_import_module(f"{__name__}.{_LAZY[name]}"), name)
    elif name in _MODULES:
        found = _import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module 'farspan.autograd' has no attribute {name!r}")
    globals()[name] = found
    return found
