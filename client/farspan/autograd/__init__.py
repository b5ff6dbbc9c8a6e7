"""farspan.autograd: `backward`, `grad`, Functions with a backward of their own, and the modes."""

from .._autograd import backward, grad
from .._grad_mode import enable_grad, inference_mode, no_grad, set_grad_enabled
from . import function, functional
from .function import Function

__all__ = [
    "Function", "backward", "enable_grad", "function", "functional", "grad", "inference_mode",
    "no_grad", "set_grad_enabled",
]  # fmt: skip
