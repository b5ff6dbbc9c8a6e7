"""Scans: results of the input's shape that accumulate along one dim.

As torch does on the CPU, float32 accumulates in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import DType, int64
from ..errors import UnsupportedError
from ..family import integral_to_int64, structured
from ..op import Op
from ..spec import Spec, wrap_dim
from .functions import add_exponentials

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def scan(
    line: str,
    kernel: Callable[..., Any],
    vjp: Mapping[str, Any],
    dtype: Callable[[DType], DType],
    indices: bool = False,
) -> Op:
    """Declare a scan along `dim`; `dtype` overrides, `indices` come as a second result."""

    def compute(self: Spec, dim: int, asked: DType | None = None) -> DType:
        return asked or dtype(self.dtype)

    def meta(*args: Any) -> Spec | tuple[Spec, Spec]:
        self, dim = args[:2]
        wrap_dim(dim, self.ndim)
        out = self.contiguous_.with_(dtype=compute(*args))
        return (out, out.with_(dtype=int64)) if indices else out

    return structured(line, meta=meta, kernel=kernel, vjp=vjp, compute=compute)


def _accumulate(xp: Any, ufunc: Any, x: Any, dim: int) -> Any:
    if not x.ndim:
        return x
    wide = {"float32": xp.float64, "complex64": xp.complex128}.get(x.dtype.name, x.dtype)
    return ufunc.accumulate(x, axis=dim, dtype=wide).astype(x.dtype)


def _reversed_sum(xp: Any, self: Any, dim: int) -> Any:
    if not self.ndim:
        return self
    return xp.flip(_accumulate(xp, xp.add, xp.flip(self, dim), dim), dim)


scan(
    "cumsum(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor",
    lambda xp, self, dim, dtype: _accumulate(xp, xp.add, self, dim),
    {"self": lambda g, dim: fn._reversed_cumsum(g, dim)},
    integral_to_int64,
)
scan(
    "farspan::_reversed_cumsum(Tensor self, int dim) -> Tensor",
    _reversed_sum,
    {"self": lambda g, dim: fn.cumsum(g, dim)},
    integral_to_int64,
)


def _cumprod_grad(g: Any, self: Any, out: Any, dim: int) -> Any:
    """Each element's share is (later gradients times products) over itself.

    From the first zero on every product is 0, so the zero itself takes the products without it,
    and what follows gets nothing.
    """
    if not self._spec.shape:
        return g
    zero = fn.eq(self, 0)
    seen = fn.cumsum(zero, dim)
    first = fn.logical_and(zero, fn.eq(seen, 1))
    without = fn.cumprod(fn.masked_fill(self, first, 1), dim)
    at_zero = fn._reversed_cumsum(fn.mul(g, fn.conj(without)), dim)
    safe = fn.conj(fn.masked_fill(self, zero, 1))
    before = fn.div(fn._reversed_cumsum(fn.mul(g, fn.conj(out)), dim), safe)
    return fn.where(first, at_zero, fn.masked_fill(before, fn.gt(seen, 0), 0))


scan(
    "cumprod(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor",
    lambda xp, self, dim, dtype: _accumulate(xp, xp.multiply, self, dim),
    {"self": _cumprod_grad},
    integral_to_int64,
)


def _inexact(dtype: DType) -> DType:
    if dtype.category < 2:
        raise UnsupportedError(f'"logcumsumexp_out_cpu" not implemented for {dtype.c_name!r}')
    return dtype


def _logcumsumexp(xp: Any, self: Any, dim: int) -> Any:
    if self.dtype.kind != "c":
        return _accumulate(xp, xp.logaddexp, self, dim)
    if not self.size or not self.ndim:
        return self
    moved = xp.moveaxis(self, dim, 0).astype(xp.complex128)
    steps = [moved[0]]
    for x in moved[1:]:  # step by step along dim, so that the phase is not wrapped to +-pi
        steps.append(add_exponentials(xp, steps[-1], x))
    return xp.moveaxis(xp.stack(steps), 0, dim)


def _logcumsumexp_grad(g: Any, self: Any, out: Any, dim: int) -> Any:
    """exp(x_j) times the sum over i >= j of g_i exp(-out_i); both moved by the largest out."""
    if not self._spec.numel:
        return g
    top = fn.detach(fn.amax(fn.real(out), [dim], True))
    later = fn._reversed_cumsum(fn.mul(g, fn.conj(fn.exp(fn.rsub(out, top)))), dim)
    return fn.mul(fn.conj(fn.exp(fn.sub(self, top))), later)


scan(
    "logcumsumexp(Tensor self, int dim) -> Tensor",
    _logcumsumexp,
    {"self": _logcumsumexp_grad},
    _inexact,
)


def _running(name: str) -> Any:
    """Return the kernel of cummax or cummin: the extreme so far and where it stood last."""

    def kernel(xp: Any, self: Any, dim: int) -> Any:
        if not self.ndim:
            return self, xp.asarray(0)
        ufunc = getattr(xp, name)
        values = ufunc.accumulate(self, axis=dim)
        shape = [-1 if d == dim % self.ndim else 1 for d in range(self.ndim)]
        place = xp.arange(self.shape[dim]).reshape(shape)
        hit = self == values
        if self.dtype.kind == "f":
            hit = hit | xp.isnan(self)
        return values, xp.maximum.accumulate(xp.where(hit, place, 0), axis=dim)

    return kernel


def _running_grad(g: Any, self_spec: Spec, out_1: Any, dim: int) -> Any:
    if not self_spec.shape:
        return g[0]
    return fn.scatter_add(fn.zeros_like(g[0]), dim, out_1, g[0])


for _name, _ufunc in {"cummax": "maximum", "cummin": "minimum"}.items():
    scan(
        f"{_name}(Tensor self, int dim) -> (Tensor values, Tensor indices)",
        _running(_ufunc),
        {"self": _running_grad},
        lambda d: d,
        indices=True,
    )
