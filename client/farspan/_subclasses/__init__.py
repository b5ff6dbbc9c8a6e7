"""torch._subclasses: tensors without values for compilers, which nothing here makes."""

from . import fake_tensor
from .fake_tensor import FakeTensor

__all__ = ["FakeTensor", "fake_tensor"]
