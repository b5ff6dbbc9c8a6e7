"""farspan.autograd: `backward` and `grad`, and the modes that switch recording."""

from .._autograd import backward, grad
from .._grad_mode import enable_grad, inference_mode, no_grad, set_grad_enabled

__all__ = [
    "backward", "enable_grad", "grad", "inference_mode", "no_grad", "set_grad_enabled",
]  # fmt: skip
