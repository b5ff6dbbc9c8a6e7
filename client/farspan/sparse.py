"""torch.sparse: there are no sparse tensors; what also takes strided ones works on those."""

from __future__ import annotations

from typing import Any

from .core.call import fn, unsupported

__all__ = ["addmm", "log_softmax", "mm", "softmax", "sum"]


def mm(mat1: Any, mat2: Any) -> Any:
    """Return the matrix product, as torch.sparse.mm does of strided tensors too."""
    return fn.mm(mat1, mat2)


def addmm(mat: Any, mat1: Any, mat2: Any, *, beta: float = 1.0, alpha: float = 1.0) -> Any:
    """Return beta * mat + alpha * mat1 @ mat2."""
    return fn.addmm(mat, mat1, mat2, beta=beta, alpha=alpha)


softmax, log_softmax, sum = (
    unsupported(f"sparse.{name}", "farspan has no sparse tensors; its tensors are strided")
    for name in ("softmax", "log_softmax", "sum")
)
