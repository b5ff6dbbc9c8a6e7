"""Reductions: sums, means, products, extremes, norms and variances over dims.

float32 sums over many rows are taken in float64: numpy adds pairwise only along the axis that lies
contiguous in memory, and elsewhere loses a digit per thousand rows. Scans are in scan.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import DType, bool_, int64, uint8
from ..errors import DTypeError, ShapeError, ValueRangeError
from ..family import axes, composite, integral_to_int64, reduction, structured
from ..spec import wrap_dims

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..spec import Spec

_LONG = 1_024  # elements in one strided sum from which float32 needs a wider accumulator


def spread(g: Any, spec: Spec, dim: Any, keepdim: bool) -> Any:
    """Return the gradient of a sum, given back to every element that went into it."""
    return fn.expand(restored(g, spec, dim, keepdim), spec.shape)


def restored(x: Any, spec: Spec, dim: Any, keepdim: bool) -> Any:
    """Return the result of a reduction of `spec` with its dims back, at size 1."""
    if not keepdim and spec.shape:
        for d in wrap_dims(dim, spec.ndim):
            x = fn.unsqueeze(x, d)
    return x


def total(xp: Any, x: Any, axis: tuple[int, ...], keepdims: bool = False) -> Any:
    """Return the sum over axes, accurate to the last digits of x's type however long."""
    if x.ndim > 1 and x.dtype.char in "fF":
        count = math.prod(x.shape[d] for d in axis)
        if count > _LONG and not _is_pairwise(x, axis):
            wide = xp.complex128 if x.dtype.kind == "c" else xp.float64
            return xp.sum(x, axis=axis, dtype=wide, keepdims=keepdims).astype(x.dtype)
    return xp.sum(x, axis=axis, keepdims=keepdims)


def _is_pairwise(x: Any, axis: tuple[int, ...]) -> bool:
    """Whether numpy's inner loop runs along a reduced axis that does most of the adding."""
    inner = min((d for d in range(x.ndim) if x.shape[d] > 1), key=lambda d: abs(x.strides[d]),
                default=None)  # fmt: skip
    if inner not in axis:
        return False
    rest = math.prod(x.shape[d] for d in axis if d != inner)
    return len(axis) == x.ndim or bool(rest <= _LONG)


# ------------------------------------------------------------------------------ sums and means --
reduction(
    "sum(Tensor self, *, ScalarType? dtype=None) -> Tensor",
    lambda xp, self, dtype: total(xp, self, tuple(range(self.ndim))),
    {"self": lambda g, self_spec: fn.expand(g, self_spec.shape)},
    dtype=integral_to_int64,
)
reduction(
    "sum.dim_IntList(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None)"
    " -> Tensor",
    lambda xp, self, dim, keepdim, dtype: total(xp, self, axes(dim, self), keepdim),
    {"self": lambda g, self_spec, dim, keepdim: spread(g, self_spec, dim, keepdim)},
    dtype=integral_to_int64,
)


def _inexact(what: str) -> Any:
    def check(dtype: DType) -> DType:
        if dtype.category < 2:
            raise DTypeError(
                f"mean(): could not infer output dtype. {what} dtype must be either a floating "
                f"point or complex dtype. Got: {dtype.c_name}"
            )
        return dtype

    return check


def _size(spec: Spec, dim: Any) -> int:
    """Return how many elements go into one of a reduction over dim."""
    return math.prod(spec.shape[d] for d in wrap_dims(dim, spec.ndim)) if spec.shape else 1


def _mean(xp: Any, self: Any, dim: Any, keepdim: bool) -> Any:
    """The mean of nothing is nan, without Python's own complaint about 0."""
    over = axes(dim, self)
    count = self.dtype.type(math.prod(self.shape[d] for d in over))
    return total(xp, self, over, keepdim) / count


reduction(
    "mean(Tensor self, *, ScalarType? dtype=None) -> Tensor",
    lambda xp, self, dtype: _mean(xp, self, None, False),
    {"self": lambda g, self_spec: fn.div(fn.expand(g, self_spec.shape), self_spec.numel)},
    dtype=_inexact("Input"),
    asked=_inexact("Optional"),
)
reduction(
    "mean.dim(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor",
    lambda xp, self, dim, keepdim, dtype: _mean(xp, self, dim, keepdim),
    {
        "self": lambda g, self_spec, dim, keepdim: fn.div(
            spread(g, self_spec, dim, keepdim), _size(self_spec, dim)
        )
    },
    dtype=_inexact("Input"),
    asked=_inexact("Optional"),
)
reduction(
    "nansum(Tensor self, int[1]? dim=None, bool keepdim=False, *, ScalarType? dtype=None)"
    " -> Tensor",
    lambda xp, self, dim, keepdim, dtype: total(
        xp, xp.where(xp.isnan(self), 0, self).astype(self.dtype), axes(dim, self), keepdim
    ),
    {
        "self": lambda g, self, self_spec, dim, keepdim: fn.masked_fill(
            spread(g, self_spec, dim, keepdim), fn.isnan(self), 0
        )
    },
    dtype=integral_to_int64,
    refuses="c",
)


@composite("nanmean(Tensor self, int[1]? dim=None, bool keepdim=False, *, ScalarType? dtype=None)"
           " -> Tensor")  # fmt: skip
def nanmean(self: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    count = fn.sum(fn.logical_not(fn.isnan(fn.detach(self))), dim, keepdim)
    return fn.div(fn.nansum(self, dim, keepdim, dtype=dtype), count)


def _prod_grad(g: Any, self: Any, self_spec: Spec, out: Any, dim: Any, keepdim: bool) -> Any:
    """Each element gets the product of the others; where one is zero, that is taken without it."""
    g = restored(g, self_spec, dim, keepdim)
    zero = fn.eq(self, 0)
    dims = list(wrap_dims(dim, self_spec.ndim))
    single = fn.eq(fn.sum(zero, dims, True), 1)
    rest = fn.masked_fill(self, zero, 1)
    others = rest
    for d in dims:
        others = fn.prod(others, d, True)
    usual = fn.div(restored(out, self_spec, dim, keepdim), rest)
    factor = fn.where(zero, fn.mul(others, single), usual)
    return fn.mul(g, fn.conj(factor))


reduction(
    "prod(Tensor self, *, ScalarType? dtype=None) -> Tensor",
    lambda xp, self, dtype: xp.prod(self),
    {
        "self": lambda g, self, self_spec, out: _prod_grad(g, self, self_spec, out, None, False),
    },
    dtype=integral_to_int64,
)
reduction(
    "prod.dim_int(Tensor self, int dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor",
    lambda xp, self, dim, keepdim, dtype: xp.prod(self, axis=axes(dim, self), keepdims=keepdim),
    {"self": _prod_grad},
    dtype=integral_to_int64,
)


def _truth(dtype: DType) -> DType:
    return uint8 if dtype is uint8 else bool_


for _name in ("any", "all"):
    reduction(
        f"{_name}(Tensor self) -> Tensor",
        lambda xp, self, f=_name: getattr(xp, f)(self),
        result=_truth,
    )
    for _line in (".dim(Tensor self, int dim,", ".dims(Tensor self, int[]? dim=None,"):
        reduction(
            f"{_name}{_line} bool keepdim=False) -> Tensor",
            lambda xp, self, dim, keepdim, f=_name: getattr(xp, f)(
                self, axis=axes(dim, self), keepdims=keepdim
            ),
            result=_truth,
        )
for _line in ("(Tensor self, int? dim=None)", ".dim_IntList(Tensor self, int[] dim)"):
    reduction(
        f"count_nonzero{_line} -> Tensor",
        lambda xp, self, dim: xp.sum(self != 0, axis=axes(dim, self)),
        result=int64,
    )


# ------------------------------------------------------------------------------------ extremes --
def _refuse_empty(name: str) -> Any:
    def check(spec: Spec, dims: Sequence[int]) -> None:
        for d in dims:
            if spec.shape[d] == 0:
                raise ValueRangeError(
                    f"{name}(): Expected reduction dim {d} to have non-zero size."
                )

    return check


def _refuse_none(name: str) -> Any:
    def check(spec: Spec, dims: Sequence[int]) -> None:
        if not spec.numel:
            raise ShapeError(
                f"{name}(): Expected reduction dim to be specified for input.numel() == 0. Specify "
                "the reduction dim with the 'dim' argument."
            )

    return check


def _shared(g: Any, self: Any, self_spec: Spec, out: Any, dim: Any, keepdim: bool) -> Any:
    """Divide the gradient evenly among the elements that are the extreme."""
    best = restored(out, self_spec, dim, keepdim)
    chosen = fn.logical_or(fn.eq(self, best), fn.logical_and(fn.isnan(self), fn.isnan(best)))
    count = fn.sum(chosen, list(wrap_dims(dim, self_spec.ndim)), True)
    return fn.mul(fn.div(restored(g, self_spec, dim, keepdim), count), chosen)


def _with_index(name: str) -> Any:
    """Return the kernel of max.dim and its kind: the value and where it is first."""

    def kernel(xp: Any, self: Any, dim: int, keepdim: bool) -> Any:
        if not self.ndim:
            return self, xp.asarray(0)
        at = xp.expand_dims(getattr(xp, f"arg{name}")(self, axis=dim), dim)
        values = xp.take_along_axis(self, at, dim)
        return (values, at) if keepdim else (xp.squeeze(values, dim), xp.squeeze(at, dim))

    return kernel


def selected(g: Any, dim: int, self_spec: Spec, indices: Any, keepdim: bool) -> Any:
    """Return the gradient of picking one element along dim: zero elsewhere."""
    g = g[0] if isinstance(g, (list, tuple)) else g
    return fn.value_selecting_reduction_backward(g, dim, indices, self_spec.shape, keepdim)


def _put_kernel(xp: Any, grad: Any, dim: int, indices: Any, sizes: Any, keepdim: bool) -> Any:
    if not sizes:
        return grad
    if not keepdim:
        grad, indices = xp.expand_dims(grad, dim), xp.expand_dims(indices, dim)
    result = xp.zeros(tuple(sizes), grad.dtype)
    xp.put_along_axis(result, indices, grad, dim)
    return result


def _put_grad(g: Any, dim: int, indices: Any, sizes: Any, keepdim: bool) -> Any:
    if not sizes:
        return g
    if keepdim:
        return fn.gather(g, dim, indices)
    return fn.squeeze(fn.gather(g, dim, fn.unsqueeze(indices, dim)), dim)


structured(
    "value_selecting_reduction_backward(Tensor grad, int dim, Tensor indices, SymInt[] sizes, bool"
    " keepdim) -> Tensor",
    meta=lambda grad, dim, indices, sizes, keepdim: grad.with_(shape=tuple(sizes)),
    kernel=_put_kernel,
    vjp={"grad": _put_grad},
    moves=True,
)

for _name in ("max", "min"):
    reduction(
        f"{_name}(Tensor self) -> Tensor",
        lambda xp, self, f=_name: getattr(xp, f)(self),
        {"self": lambda g, self, self_spec, out: _shared(g, self, self_spec, out, None, False)},
        refuses="c",
        check=_refuse_none(_name),
    )
    composite(f"{_name}.other(Tensor self, Tensor other) -> Tensor")(
        lambda self, other, f=_name: getattr(fn, f"{f}imum")(self, other)
    )
    reduction(
        f"{_name}.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)",
        _with_index(_name),
        {
            "self": lambda g, self_spec, out_1, dim, keepdim: selected(
                g, dim, self_spec, out_1, keepdim
            )
        },
        refuses="c",
        check=_refuse_empty(_name),
        more=(int64,),
    )
    reduction(
        f"a{_name}(Tensor self, int[1] dim=[], bool keepdim=False) -> Tensor",
        lambda xp, self, dim, keepdim, f=_name: getattr(xp, f)(
            self, axis=axes(dim, self), keepdims=keepdim
        ),
        {"self": _shared},
        refuses="c",
        check=_refuse_empty(f"a{_name}"),
    )


def _arg_kernel(name: str) -> Any:
    def kernel(xp: Any, self: Any, dim: int | None, keepdim: bool) -> Any:
        axis = None if dim is None or not self.ndim else dim
        found = getattr(xp, f"arg{name}")(self, axis=axis)
        if not keepdim:
            return found
        shape = [1 if axis is None or d == axis % self.ndim else n
                 for d, n in enumerate(self.shape)]  # fmt: skip
        return xp.reshape(found, shape)

    return kernel


def _refuse_arg(name: str) -> Any:
    def check(spec: Spec, dims: Sequence[int]) -> None:
        if not spec.numel and len(dims) == spec.ndim:
            raise ValueRangeError(
                f"{name}(): Expected reduction dim to be specified for input.numel() == 0."
            )
        _refuse_empty(name)(spec, dims)

    return check


for _name in ("max", "min"):
    reduction(
        f"arg{_name}(Tensor self, int? dim=None, bool keepdim=False) -> Tensor",
        _arg_kernel(_name),
        result=int64,
        refuses="bc",
        check=_refuse_arg(f"arg{_name}"),
    )


def _aminmax_grad(
    g: Any, self: Any, self_spec: Spec, out: Any, dim: int | None, keepdim: bool
) -> Any:
    low, high = (_shared(g[i], self, self_spec, out[i], dim, keepdim) for i in range(2))
    return fn.add(low, high)


reduction(
    "aminmax(Tensor self, *, int? dim=None, bool keepdim=False) -> (Tensor min, Tensor max)",
    lambda xp, self, dim, keepdim: (
        xp.min(self, axis=axes(dim, self), keepdims=keepdim),
        xp.max(self, axis=axes(dim, self), keepdims=keepdim),
    ),
    {"self": _aminmax_grad},
    refuses="c",
    check=_refuse_empty("aminmax"),
    more=(None,),
)


# ---------------------------------------------------------------------------- order statistics --
def _ordered(xp: Any, self: Any, dim: int, keepdim: bool, pick: Any) -> Any:
    """Pick by rank along dim, nan counting as the largest; return values and indices."""
    if not self.ndim:
        return self, xp.asarray(0)
    order = xp.argsort(self, axis=dim, kind="stable")
    at = xp.take(order, xp.asarray([pick(self.shape[dim])]), axis=dim)
    values = xp.take_along_axis(self, at, dim)
    return (values, at) if keepdim else (xp.squeeze(values, dim), xp.squeeze(at, dim))


def _median_dim(xp: Any, self: Any, dim: int, keepdim: bool) -> Any:
    """The lower of two middle elements, or the first nan."""
    values, at = _ordered(xp, self, dim, True, lambda n: (n - 1) // 2)
    if self.ndim and self.dtype.kind == "f":
        bad = xp.isnan(self)
        hit = xp.any(bad, axis=dim, keepdims=True)
        at = xp.where(hit, xp.expand_dims(xp.argmax(bad, axis=dim), dim), at)
        values = xp.where(hit, self.dtype.type(xp.nan), values)
    if keepdim or not self.ndim:
        return values, at
    return xp.squeeze(values, dim), xp.squeeze(at, dim)


def _median(xp: Any, self: Any) -> Any:
    if not self.size:
        return xp.asarray(xp.nan).astype(self.dtype)
    return _median_dim(xp, self.reshape(-1), 0, False)[0]


reduction(
    "median(Tensor self) -> Tensor",
    _median,
    {"self": lambda g, self, self_spec, out: _shared(g, self, self_spec, out, None, False)},
    refuses="bc",
)
reduction(
    "median.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)",
    _median_dim,
    {"self": lambda g, self_spec, out_1, dim, keepdim: selected(g, dim, self_spec, out_1, keepdim)},
    refuses="bc",
    check=_refuse_empty("median"),
    more=(int64,),
)


def _nanmedian_dim(xp: Any, self: Any, dim: int, keepdim: bool) -> Any:
    """The lower of two middle elements among those that are not nan: sorted, nan comes last."""
    if not self.ndim or self.dtype.kind != "f":
        return _median_dim(xp, self, dim, keepdim)
    order = xp.argsort(self, axis=dim, kind="stable")
    count = xp.sum(~xp.isnan(self), axis=dim, keepdims=True)
    at = xp.take_along_axis(order, xp.maximum((count - 1) // 2, 0), dim)
    values = xp.take_along_axis(self, at, dim)
    return (values, at) if keepdim else (xp.squeeze(values, dim), xp.squeeze(at, dim))


def _nanmedian(xp: Any, self: Any) -> Any:
    if not self.size:
        return xp.asarray(xp.nan).astype(self.dtype)
    return _nanmedian_dim(xp, self.reshape(-1), 0, False)[0]


reduction(
    "nanmedian(Tensor self) -> Tensor",
    _nanmedian,
    {"self": lambda g, self, self_spec, out: _shared(g, self, self_spec, out, None, False)},
    refuses="bc",
)
reduction(
    "nanmedian.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)",
    _nanmedian_dim,
    {"self": lambda g, self_spec, out_1, dim, keepdim: selected(g, dim, self_spec, out_1, keepdim)},
    refuses="bc",
    check=_refuse_empty("nanmedian"),
    more=(int64,),
)


def _mode(xp: Any, self: Any, dim: int, keepdim: bool) -> Any:
    """The most frequent value, the smallest of several, and the last place where it stands.

    In sorted order, equal elements form runs; each element counts how long its run is so far.
    """
    if not self.ndim:
        return self, xp.asarray(0)
    moved = xp.moveaxis(self, dim, -1)
    order = xp.argsort(moved, axis=-1, kind="stable")
    ranked = xp.take_along_axis(moved, order, -1)
    place = xp.broadcast_to(xp.arange(moved.shape[-1]), moved.shape)
    starts = xp.ones(moved.shape, bool)
    starts[..., 1:] = ranked[..., 1:] != ranked[..., :-1]
    length = place - xp.maximum.accumulate(xp.where(starts, place, 0), axis=-1)
    at = xp.take_along_axis(order, xp.expand_dims(xp.argmax(length, axis=-1), -1), -1)
    values = xp.take_along_axis(moved, at, -1)
    if keepdim:
        return xp.moveaxis(values, -1, dim), xp.moveaxis(at, -1, dim)
    return values[..., 0], at[..., 0]


reduction(
    "mode(Tensor self, int dim=-1, bool keepdim=False) -> (Tensor values, Tensor indices)",
    _mode,
    {"self": lambda g, self_spec, out_1, dim, keepdim: selected(g, dim, self_spec, out_1, keepdim)},
    refuses="c",
    check=_refuse_empty("mode"),
    more=(int64,),
)
