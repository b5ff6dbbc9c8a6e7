"""Gather and scatter: an index for every element; take and put, which see a flat tensor.

Where an index names a place twice, `scatter` keeps the last and the reductions take both in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..call import fn
from ..dtype import int32, int64
from ..errors import DTypeError, ShapeError, ValueRangeError
from ..family import common_device, composite, structured
from ..places import as_element, assign
from ..spec import Spec, broadcast_shapes, wrap_dim
from .index import checked_forward

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


# -------------------------------------------------------------------------------------- gather --
def _check_index(name: str, self: Spec, dim: int, index: Spec) -> int:
    """Return `dim` from the front; raise unless the index fits within self but for that dim."""
    dim = wrap_dim(dim, self.ndim)
    if index.dtype not in (int32, int64):
        raise DTypeError(f"{name}(): Expected dtype int32/int64 for index")
    if index.numel and max(index.ndim, 1) != max(self.ndim, 1):
        raise ShapeError("Index tensor must have the same number of dimensions as input tensor")
    return dim


def _gather_meta(self: Spec, dim: int, index: Spec, sparse_grad: bool) -> Spec:
    dim = _check_index("gather", self, dim, index)
    for d, (n, m) in enumerate(zip(index.shape, self.shape, strict=False)):
        if index.numel and d != dim and n > m:
            raise ShapeError(
                f"Size does not match at dimension {d} expected index {list(index.shape)} to be no "
                f"larger than self {list(self.shape)} apart from dimension {dim}"
            )
    return Spec.make(index.shape, self.dtype, common_device((self, index)))


def _within(x: Any, index: Any, dim: int) -> Any:
    """Return the part of x that the index reaches: as large as the index in the other dims."""
    return x[tuple(slice(None if d == dim else n) for d, n in enumerate(index.shape))]


def _aligned(x: Any, dim: int, index: Any) -> tuple[Any, int, Any]:
    """Return x and index with at least one dim, and the dim; the index is in range."""
    x, index = x.reshape(x.shape or (1,)), index.reshape(index.shape or (1,))
    dim = dim % x.ndim
    return x, dim, checked_forward(index, x.shape[dim], dim)


def _gather_kernel(xp: Any, self: Any, dim: int, index: Any, sparse_grad: bool) -> Any:
    shape = index.shape
    if not index.size:
        return xp.empty(shape, self.dtype)
    x, dim, index = _aligned(self, dim, index)
    return xp.take_along_axis(_within(x, index, dim), index, dim).reshape(shape)


structured(
    "gather(Tensor self, int dim, Tensor index, *, bool sparse_grad=False) -> Tensor",
    meta=_gather_meta,
    kernel=_gather_kernel,
    vjp={
        "self": lambda g, self_spec, dim, index: fn.scatter_add(
            fn.new_zeros(g, self_spec.shape), dim, index, g
        )
    },
    moves=True,
)


structured(
    "farspan::_from_front(Tensor self, int size) -> Tensor",
    meta=lambda self, size: self.packed,
    kernel=lambda xp, self, size: xp.where(self < 0, self + size, self),
)


@composite("take_along_dim(Tensor self, Tensor indices, int? dim=None) -> Tensor")
def take_along_dim(self: Any, indices: Any, dim: int | None = None) -> Any:
    if dim is None:
        return fn.gather(fn.flatten(self), 0, fn._from_front(fn.flatten(indices), self._spec.numel))
    have, want = self._spec, indices._spec
    if want.dtype is not int64:
        raise DTypeError(
            "torch.take_along_dim(): dtype of indices should be Long but got "
            f"{want.dtype.name.capitalize()}"
        )
    if have.ndim != want.ndim:
        raise ShapeError(
            "torch.take_along_dim(): input and indices should have the same number of dimensions, "
            f"but got {have.ndim} dimensions for input, and {want.ndim} dimensions for indices"
        )
    dim = wrap_dim(dim, have.ndim)
    shape = list(broadcast_shapes((*have.shape[:dim], 1, *have.shape[dim + 1 :]),
                                  (*want.shape[:dim], 1, *want.shape[dim + 1 :])))  # fmt: skip
    own, other = list(shape), list(shape)
    own[dim], other[dim] = have.shape[dim], want.shape[dim]
    places = fn._from_front(indices, have.shape[dim])
    return fn.gather(fn.expand(self, own), dim, fn.expand(places, other))


# ------------------------------------------------------------------------------------- scatter --
def _scatter_meta(name: str) -> Callable[..., Spec]:
    def meta(self: Spec, dim: int, index: Spec, src: Any, *rest: Any) -> Spec:
        dim = _check_index(name, self, dim, index)
        if isinstance(src, Spec):
            if src.dtype is not self.dtype:
                raise DTypeError(f"{name}(): Expected self.dtype to be equal to src.dtype")
            if index.numel and max(src.ndim, 1) != max(self.ndim, 1):
                raise ShapeError(
                    "Index tensor must have the same number of dimensions as src tensor"
                )
        src_shape = src.shape if isinstance(src, Spec) else None
        for d, n in enumerate(index.shape):
            over = d != dim and d < self.ndim and n > self.shape[d]
            if index.numel and (over or (src_shape and n > src_shape[d])):
                more = f" and to be no larger size than src {list(src_shape)}" if src_shape else ""
                raise ShapeError(
                    f"Expected index {list(index.shape)} to be no larger than self "
                    f"{list(self.shape)} apart from dimension {dim}{more}"
                )
        if "reduce" in name:
            _check_reduce(rest[0])
        return self.contiguous_

    return meta


def _cut(src: Any, index: Any) -> Any:
    """Return the part of src that an index of this shape sends; a number goes as it is."""
    if not getattr(src, "shape", ()):
        return src
    return src[tuple(slice(n) for n in index.shape)]


def _scatter_kernel(xp: Any, self: Any, dim: int, index: Any, src: Any) -> Any:
    out = self.copy(order="C")
    _scatter_into(xp, out, dim, index, src)
    return out


def _scatter_into(xp: Any, out: Any, dim: int, index: Any, src: Any) -> None:
    if index.size:
        x, dim, index = _aligned(out, dim, index)
        values = as_element(_cut(src, index), out.dtype)
        if xp is np:
            xp.put_along_axis(_within(x, index, dim), index, values, dim)
        else:
            assign(xp, x.reshape(-1), flat_places(xp, x.shape, dim, index), values)


structured(
    "scatter.src(Tensor self, int dim, Tensor index, Tensor src) -> Tensor",
    meta=_scatter_meta("scatter"),
    kernel=_scatter_kernel,
    into=_scatter_into,
    vjp={
        "self": lambda g, dim, index: fn.scatter(g, dim, index, 0),
        "src": lambda g, dim, index, src_spec: _back_to(fn.gather(g, dim, index), src_spec),
    },
    moves=True,
)
structured(
    "scatter.value(Tensor self, int dim, Tensor index, Scalar value) -> Tensor",
    meta=_scatter_meta("scatter"),
    kernel=_scatter_kernel,
    into=_scatter_into,
    vjp={"self": lambda g, dim, index: fn.scatter(g, dim, index, 0)},
    moves=True,
)


def _back_to(gathered: Any, src_spec: Spec) -> Any:
    """Return the gradient of a src larger than the index: zero where nothing was sent."""
    have = gathered._spec.shape
    if have == src_spec.shape:
        return gathered
    if len(have) != src_spec.ndim:
        return fn.reshape(gathered, src_spec.shape)
    pad = [x for n, m in zip(have[::-1], src_spec.shape[::-1], strict=True) for x in (0, m - n)]
    return fn.constant_pad_nd(gathered, pad, 0)


def flat_places(xp: Any, shape: Sequence[int], dim: int, index: Any) -> Any:
    """Return the place in a C-ordered array of `shape` that each entry of the index names."""
    step, places = 1, xp.zeros((1,) * index.ndim, "int64")
    for d in range(len(shape) - 1, -1, -1):
        along = index
        if d != dim:
            along = xp.arange(index.shape[d]).reshape(
                [-1 if i == d else 1 for i in range(index.ndim)]
            )
        places = places + along * step
        step *= shape[d]
    return xp.broadcast_to(places, index.shape).reshape(-1)


def _scatter_with(
    xp: Any, ufunc: Any, self: Any, dim: int, index: Any, src: Any, start: Any = None
) -> Any:
    """Return self with src folded in by a ufunc; `start`, if given, replaces what is reached."""
    out = self.copy(order="C")
    _fold_into(xp, ufunc, out, dim, index, src, start)
    return out


def _fold_into(
    xp: Any, ufunc: Any, out: Any, dim: int, index: Any, src: Any, start: Any = None
) -> None:
    if not index.size:
        return
    x, dim, index = _aligned(out, dim, index)
    flat, places = x.reshape(-1), flat_places(xp, x.shape, dim, index)
    if start is not None:
        flat[places] = start
    values = _cut(src, index)
    ufunc.at(flat, places, values.reshape(-1) if getattr(values, "shape", ()) else values)


def _sum_of(xp: Any, dtype: Any) -> Any:
    return xp.logical_or if dtype.kind == "b" else xp.add


structured(
    "scatter_add(Tensor self, int dim, Tensor index, Tensor src) -> Tensor",
    meta=_scatter_meta("scatter"),
    kernel=lambda xp, self, dim, index, src: _scatter_with(
        xp, _sum_of(xp, self.dtype), self, dim, index, src
    ),
    into=lambda xp, self, dim, index, src: _fold_into(
        xp, _sum_of(xp, self.dtype), self, dim, index, src
    ),
    vjp={
        "self": lambda g: g,
        "src": lambda g, dim, index, src_spec: _back_to(fn.gather(g, dim, index), src_spec),
    },
)


# --------------------------------------------------------------------------- scatter by reducing --
def _check_reduce(reduce: str) -> None:
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise ShapeError(
            f"reduce argument must be either sum, prod, mean, amax or amin, got {reduce}"
        )


def _check_old_reduce(reduce: str) -> None:
    if reduce not in ("add", "multiply"):
        raise ShapeError("reduce argument must be either add or multiply.")


def _start_of(xp: Any, reduce: str, dtype: Any) -> Any:
    """Return the value that a reduction without self begins at."""
    if reduce in ("sum", "mean"):
        return 0
    if reduce == "prod":
        return 1
    if dtype.kind == "f":
        return -xp.inf if reduce == "amax" else xp.inf
    if dtype.kind == "b":
        return reduce == "amin"
    limits = xp.iinfo(dtype)
    return limits.min if reduce == "amax" else limits.max


def _scatter_reduce_kernel(
    xp: Any, self: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool
) -> Any:
    ufunc = {"sum": xp.add, "mean": xp.add, "prod": xp.multiply, "amax": xp.maximum,
             "amin": xp.minimum}[reduce]  # fmt: skip
    start = None if include_self else _start_of(xp, reduce, self.dtype)
    out = _scatter_with(xp, ufunc, self, dim, index, src, start)
    if reduce == "mean" and index.size:
        counts = xp.full(self.shape, int(include_self), "int64")
        one = xp.ones((1,) * max(index.ndim, 1), "int64")
        ones = xp.broadcast_to(one, index.shape or (1,))
        counts = xp.maximum(_scatter_with(xp, xp.add, counts, dim, index, ones), 1)
        out = out // counts if out.dtype.kind in "iu" else out / counts.astype(out.dtype)
    return out


def _counts(g: Any, dim: int, index: Any, src: Any, include_self: bool) -> Any:
    """Return by how many contributions each mean was divided."""
    start = fn.ones_like(g) if include_self else fn.zeros_like(g)
    n = fn.scatter_add(start, dim, index, fn.ones_like(src))
    return fn.masked_fill(n, fn.eq(n, 0), 1)


def _scatter_reduce_grad(
    g: Any, self: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool, out: Any
) -> tuple[Any, Any]:
    """Return the gradients of self and src; amax and amin share theirs among equals."""
    if reduce in ("sum", "mean"):
        part = g if reduce == "sum" else fn.div(g, _counts(g, dim, index, src, include_self))
        own, sent = part, fn.gather(part, dim, index)
    elif reduce == "prod":
        own, sent = _prod_grad(g, self, dim, index, src, include_self, out)
    else:
        mine = fn._cast(fn.eq(self, out), g._spec.dtype)
        theirs = fn._cast(fn.eq(src, fn.gather(out, dim, index)), g._spec.dtype)
        shares = fn.scatter_add(mine, dim, index, theirs)
        each = fn.div(g, shares)
        own, sent = fn.mul(mine, each), fn.mul(theirs, fn.gather(each, dim, index))
    if not include_self:
        own = fn.scatter(own, dim, index, 0)
    return own, sent


def _prod_grad(
    g: Any, self: Any, dim: int, index: Any, src: Any, include_self: bool, out: Any
) -> tuple[Any, Any]:
    """Return the gradients of a product: of src by division, where one zero alone needs care."""
    start = self if include_self else fn.scatter(self, dim, index, 1)
    masked_self = fn.masked_fill(self, fn.eq(self, 0), 1)
    own_product = fn.scatter_reduce(masked_self, dim, index, src, "prod", include_self=include_self)
    own = fn.div(fn.mul(g, own_product), masked_self)
    is_zero = fn.eq(src, 0)
    zeros = fn.scatter_add(fn.zeros_like(self), dim, index, fn._cast(is_zero, self._spec.dtype))
    single = fn.bitwise_and(is_zero, fn.eq(fn.gather(zeros, dim, index), 1))
    others = fn.scatter_reduce(
        start, dim, index, fn.masked_fill(src, single, 1), "prod", include_self=True
    )
    divided = fn.div(fn.gather(fn.mul(g, out), dim, index), fn.masked_fill(src, is_zero, 1))
    sent = fn.where(single, fn.gather(fn.mul(g, others), dim, index), divided)
    return own, sent


structured(
    "scatter_reduce.two(Tensor self, int dim, Tensor index, Tensor src, str reduce, *, bool"
    " include_self=True) -> Tensor",
    meta=_scatter_meta("scatter_reduce"),
    kernel=_scatter_reduce_kernel,
    vjp={"self src": _scatter_reduce_grad},
)


@composite(
    "scatter.reduce(Tensor self, int dim, Tensor index, Tensor src, *, str reduce) -> Tensor"
)
def scatter_reducing(self: Any, dim: int, index: Any, src: Any, *, reduce: str) -> Any:
    _check_old_reduce(reduce)
    how = "sum" if reduce == "add" else "prod"
    return fn.scatter_reduce(self, dim, index, src, how, include_self=True)


@composite(
    "scatter.value_reduce(Tensor self, int dim, Tensor index, Scalar value, *, str reduce)"
    " -> Tensor"
)
def scatter_reducing_value(self: Any, dim: int, index: Any, value: Any, *, reduce: str) -> Any:
    src = fn.new_full(self, index._spec.shape, value)
    return fn.scatter(self, dim, index, src, reduce=reduce)


# ------------------------------------------------------------------------------- flat: take, put --
def _flat_index(index: Any, n: int) -> Any:
    if index.size:
        low, high = int(index.min()), int(index.max())
        if low < -n or high >= n:
            raise ValueRangeError(
                f"out of range: tried to access index {high if high >= n else low} on a tensor of "
                f"{n} elements."
            )
    return index


def _take_meta(self: Spec, index: Spec) -> Spec:
    if index.dtype is not int64:
        raise DTypeError(f"take(): Expected a long tensor for index, but got {index.dtype.name}")
    if not self.numel and index.numel:
        raise ValueRangeError("take(): tried to take from an empty tensor")
    return Spec.make(index.shape, self.dtype, common_device((self, index)))


structured(
    "take(Tensor self, Tensor index) -> Tensor",
    meta=_take_meta,
    kernel=lambda xp, self, index: self.reshape(-1)[_flat_index(index, self.size)],
    vjp={
        "self": lambda g, self_spec, index: fn.put(fn.new_zeros(g, self_spec.shape), index, g, True)
    },
    moves=True,
)


def _put_meta(self: Spec, index: Spec, source: Spec, accumulate: bool) -> Spec:
    if index.dtype is not int64:
        raise DTypeError(f"put_(): Expected a long tensor for index, but got {index.dtype.name}")
    if source.dtype is not self.dtype:
        raise DTypeError(
            "put_(): self and source expected to have the same dtype, but got self.dtype = "
            f"{self.dtype.name} and source.dtype = {source.dtype.name}"
        )
    if source.numel != index.numel:
        raise ValueRangeError(
            "put_(): Expected source and index to have the same number of elements, but got "
            f"source.numel() = {source.numel}, index.numel() = {index.numel}"
        )
    return self.packed


def _put_kernel(xp: Any, self: Any, index: Any, source: Any, accumulate: bool) -> Any:
    out = self.copy(order="C")
    flat, places = out.reshape(-1), _flat_index(index, self.size).reshape(-1)
    if accumulate:
        xp.add.at(flat, places, source.reshape(-1))
    else:
        assign(xp, flat, places, source.reshape(-1))
    return out


structured(
    "put(Tensor self, Tensor index, Tensor source, bool accumulate=False) -> Tensor",
    meta=_put_meta,
    kernel=_put_kernel,
    vjp={
        "self": lambda g, index, source_spec, accumulate: (
            g if accumulate else fn.put(g, index, fn.new_zeros(g, source_spec.shape))
        ),
        "source": lambda g, index, source_spec: fn.reshape(fn.take(g, index), source_spec.shape),
    },
)
