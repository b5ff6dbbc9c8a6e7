"""Products of matrices on a GPU by cuBLASLt, into memory that is there: bias and activation too.

Half precision stays half in memory and adds up in float32. What the library does not take, or
where it is missing, is cupy's product. TF32 is used only where the session allows it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from . import lt

if TYPE_CHECKING:
    from collections.abc import Callable

    from .device import Cuda

log = logging.getLogger("farspan.worker")
_DTYPES: Final = ("float32", "float64", "float16", "bfloat16")


class Products:
    """The products of one backend. The library is opened at the first."""

    def __init__(self, backend: Cuda, library: Any = None) -> None:
        self._backend = backend
        self._library = library
        self._lt: lt.Lt | None = None
        self.missing = ""  # why there is no cuBLASLt
        self._workspace: Any = None
        self.refused = 0  # products that cuBLASLt has no way to compute

    def into(self, out: Any, a: Any, b: Any, bias: Any = None, activation: str = "") -> bool:
        """Compute out = activation(a @ b + bias); False, and nothing is done, if it cannot be.

        a: (m, k) or (batch, m, k); b: (k, n) or with the batch; out: (..., m, n); bias: (n,).
        """
        if self.missing or not out.size or not a.size:
            return False
        product = describe(out, a, b, bias, activation, self._backend.math.matmul_tf32)
        if product is None:
            return False
        try:
            library = self._open()
            work = self._workspace
            bias_at = 0 if bias is None else bias.data.ptr
            library.run(product, b.data.ptr, a.data.ptr, out.data.ptr, bias_at, work.data.ptr,
                        self._backend.stream.ptr)  # fmt: skip
        except lt.LtError as error:
            self.refused += 1
            if self._lt is None:
                self.missing = str(error)
                log.warning("products without cuBLASLt: %s", error)
            return False
        return True

    def close(self) -> None:
        """Give back what the library holds."""
        if self._lt is not None:
            self._lt.close()
        self._lt, self._workspace = None, None

    def _open(self) -> lt.Lt:
        if self._lt is None:
            self._lt = lt.Lt(self._library or lt.find())
            self._workspace = self._backend.xp.empty(lt.WORKSPACE_BYTES, np.uint8)
        return self._lt


def describe(out: Any, a: Any, b: Any, bias: Any, activation: str, tf32: bool) -> lt.Product | None:
    """Return out = a @ b as the library sees it, by columns: out' = b' a'. None: it cannot."""
    if a.dtype != b.dtype or a.dtype != out.dtype or str(a.dtype.name) not in _DTYPES:
        return None
    batch = out.shape[0] if out.ndim == 3 else 1
    if out.ndim not in (2, 3) or not out.flags.c_contiguous:
        return None
    if bias is not None and (
        bias.dtype != out.dtype or bias.shape != out.shape[-1:] or bias.strides != (out.itemsize,)
        or bias.data.ptr % 16
    ):  # fmt: skip
        return None
    m, n = out.shape[-2:]
    if any(x.ndim != out.ndim or (x.ndim == 3 and x.shape[0] != batch) for x in (a, b)):
        return None
    if a.shape[-2:] != (m, b.shape[-2]) or b.shape[-1] != n:
        return None
    left, right = _operand(b), _operand(a)
    if left is None or right is None:
        return None
    d = lt.Matrix(n, m, n, str(out.dtype.name), m * n)
    aligned = (_alignment(b), _alignment(a), _alignment(out))
    return lt.Product(left[0], right[0], d, left[1], right[1], bias is not None, activation,
                      batch, tf32, aligned)  # fmt: skip


def _alignment(x: Any) -> int:
    """Return the largest power of two up to 256 that divides an array's address."""
    address = int(x.data.ptr) | 256
    return address & -address


def _operand(x: Any) -> tuple[lt.Matrix, bool] | None:
    """Return a matrix by columns, and whether it is to be transposed; None: it has gaps."""
    size, (rows, columns) = x.itemsize, x.shape[-2:]
    if any(s % size for s in x.strides):
        return None
    down, right = (s // size for s in x.strides[-2:])
    stride = x.strides[0] // size if x.ndim == 3 else 0
    if min(down, right) < 0 or stride < 0:
        return None
    name = str(x.dtype.name)
    if right == 1 and (down >= columns or rows == 1):  # by rows: its transpose by columns
        return lt.Matrix(columns, rows, max(down, columns), name, stride), False
    if down == 1 and (right >= rows or columns == 1):
        return lt.Matrix(rows, columns, max(right, rows), name, stride), True
    return None


# ------------------------------------------------------------------------------------- kernels --
def _plain(kernel: Callable[..., Any], xp: Any, *args: Any) -> Any:
    """Return what the table's kernel makes; half precision computes in float32 there."""
    wide = [x.astype(np.float32) if _is_half(x) else x for x in args]
    return kernel(xp, *wide)


def _is_half(x: Any) -> bool:
    return getattr(x, "dtype", None) is not None and x.dtype.name in ("float16", "bfloat16")


def matmul(backend: Cuda, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return the kernel of mm and bmm."""

    def run(xp: Any, a: Any, b: Any) -> Any:
        out = xp.empty((*a.shape[:-1], b.shape[-1]), a.dtype)
        return out if backend.products.into(out, a, b) else _plain(kernel, xp, a, b)

    return run


def linear(backend: Cuda, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return the kernel of linear: rows of any number of dims times a matrix, and the bias."""

    def run(xp: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        if weight.ndim == 2 and x.ndim >= 1 and x.flags.c_contiguous:
            out = xp.empty((*x.shape[:-1], weight.shape[0]), x.dtype)
            if linear_into(backend, out, x, weight, bias):
                return out
        return _plain(kernel, xp, x, weight, bias)

    return run


def linear_into(
    backend: Cuda, out: Any, x: Any, weight: Any, bias: Any, activation: str = ""
) -> bool:
    """Compute a linear layer into `out`; False, and nothing is done, if it cannot be."""
    if weight.ndim != 2 or not x.size or not (x.flags.c_contiguous and out.flags.c_contiguous):
        return False
    rows, flat = x.reshape(-1, x.shape[-1]), out.reshape(-1, out.shape[-1])
    return backend.products.into(flat, rows, weight.T, bias, activation)


PRODUCTS: Final = {"mm": matmul, "bmm": matmul, "linear": linear}
