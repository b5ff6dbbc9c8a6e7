"""Reductions over parts of a dim: by index, by segment; renorm, norms, nonzero_static.

Composites of scatters and norms, whose derivatives they inherit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import float32, int32, int64
from ..errors import DTypeError, ShapeError, UnsupportedError, ValueRangeError
from ..family import composite, structured
from ..spec import Spec, wrap_dim

if TYPE_CHECKING:
    from collections.abc import Sequence


# --------------------------------------------------------------------------------- by an index --
def _check_index_reduce(self: Spec, dim: int, index: Spec, source: Spec, reduce: str) -> None:
    name = "index_reduce_()"
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise ShapeError(
            "index_reduce(): Expected reduce to be one of prod, mean, amax or amin but got "
            f"{reduce}."
        )
    if index.ndim > 1:
        raise ValueRangeError(
            f"{name}: Index is supposed to be a vector, but got dim: {index.ndim} with type: "
            f"{index.dtype.c_name} and size: {list(index.shape)}"
        )
    if index.dtype not in (int32, int64):
        raise DTypeError(
            f"{name}: Expected dtype int32/int64 for index but got: {index.dtype.c_name}"
        )
    if self.dtype is not source.dtype:
        raise DTypeError(
            f"{name}: self ({self.dtype.c_name}) and source ({source.dtype.c_name}) must have "
            "the same scalar type"
        )
    along = source.shape[dim] if source.shape else 1
    if self.ndim == source.ndim and index.numel != along:
        raise ShapeError(
            f"{name}: Number of indices ({index.numel}) should be equal to source.size(dim): "
            f"({along}), for dim: {dim}"
        )
    own, other = (s.shape[:dim] + s.shape[dim + 1 :] for s in (self, source))
    if self.ndim != source.ndim or own != other:
        raise ShapeError(
            "source tensor shape must match self tensor shape, excluding the specified dimension. "
            f"Got self.shape = {list(self.shape)} source.shape = {list(source.shape)}"
        )


@composite(
    "index_reduce(Tensor self, int dim, Tensor index, Tensor source, str reduce, *, bool"
    " include_self=True) -> Tensor"
)
def index_reduce(
    self: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True
) -> Any:
    spec = source._spec
    dim = wrap_dim(dim, self._spec.ndim)
    _check_index_reduce(self._spec, dim, index._spec, spec, reduce)
    places = [-1 if d == dim else 1 for d in range(spec.ndim)]
    every = fn.expand(fn.reshape(index, places), spec.shape)
    return fn.scatter_reduce(self, dim, every, source, reduce, include_self=include_self)


# --------------------------------------------------------------------------------- by segments --
def _ids_meta(lengths: Spec, size: int, offsets: bool, unsafe: bool) -> Spec:
    return Spec.make((*lengths.shape[:-1], size), int64, lengths.device)


def _ids_kernel(xp: Any, lengths: Any, size: int, offsets: bool, unsafe: bool) -> Any:
    """Return which segment each of `size` elements is in; one past the last for none."""
    rows = lengths.reshape(math.prod(lengths.shape[:-1]), -1).astype("int64")
    if offsets:
        ends, starts = rows[:, 1:], rows[:, :1]
    else:
        if not unsafe and rows.size and int(rows.min()) < 0:
            raise ShapeError("lengths contains negative value!")
        ends, starts = xp.cumsum(rows, axis=1), 0
        if not unsafe and (rows.sum(axis=1) != size).any():
            raise ShapeError(
                "segment_reduce(): Expected all rows of lengths along axis to sum to "
                "data.size(lengths.dim()-1) when !unsafe."
            )
    count, apart = ends.shape[1], xp.arange(len(rows))[:, None] * (size + 1)
    at = xp.arange(size)[None, :]
    # One search for all rows: each row's numbers stand apart from those of the row before.
    found = xp.searchsorted((xp.minimum(ends, size) + apart).reshape(-1), (at + apart), "right")
    ids = found - xp.arange(len(rows))[:, None] * count
    return xp.where(at < starts, count, ids).reshape(*lengths.shape[:-1], size)


structured(
    "farspan::_segment_ids(Tensor lengths, int size, bool offsets, bool unsafe) -> Tensor",
    meta=_ids_meta,
    kernel=_ids_kernel,
)
_REDUCTIONS = {"sum": "sum", "mean": "sum", "prod": "prod", "max": "amax", "min": "amin",
               "amax": "amax", "amin": "amin"}  # fmt: skip
_IDENTITIES = {"sum": 0.0, "prod": 1.0, "amax": -math.inf, "amin": math.inf}


def _check_segments(data: Spec, reduce: str, lengths: Any, indices: Any, axis: int) -> int:
    name = "segment_reduce()"
    if reduce not in _REDUCTIONS:
        raise ShapeError(
            f"reduce argument must be either sum, prod, mean, amax or amin, got {reduce}"
        )
    if indices is not None:
        raise ShapeError(f"{name}: indices based reduction is not supported yet.")
    if lengths is None:
        raise ShapeError(f"{name}: Either lengths or offsets must be defined.")
    if not data.dtype.is_floating_point:
        raise UnsupportedError(f'"_segment_reduce_cpu" not implemented for {data.dtype.c_name!r}')
    axis = wrap_dim(axis, data.ndim)
    if data.ndim < lengths._spec.ndim:
        raise ShapeError("Expected data.dim() >= lengths_value.dim() to be true, but got false.")
    if axis != lengths._spec.ndim - 1:
        raise ShapeError(
            f"{name}: Expected axis to be the last dimension of lengths but got {axis}."
        )
    return axis


@composite(
    "segment_reduce(Tensor data, str reduce, *, Tensor? lengths=None, Tensor? indices=None, Tensor?"
    " offsets=None, int axis=0, bool unsafe=False, Scalar? initial=None) -> Tensor"
)
def segment_reduce(
    data: Any,
    reduce: str,
    *,
    lengths: Any = None,
    indices: Any = None,
    offsets: Any = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: Any = None,
) -> Any:
    """A scatter into one row a segment, and one more for what is in none."""
    spec = data._spec
    given = lengths if lengths is not None else offsets
    axis = _check_segments(spec, reduce, given, indices, axis)
    by_offsets = lengths is None
    size = spec.shape[axis]
    ids = fn._segment_ids(given, size, by_offsets, unsafe)
    count = given._spec.shape[-1] - int(by_offsets)
    how = _REDUCTIONS[reduce]
    start = _IDENTITIES[how] if initial is None else initial
    shape = (*spec.shape[:axis], count + 1, *spec.shape[axis + 1 :])
    wide = fn.reshape(ids, ids._spec.shape + (1,) * (spec.ndim - axis - 1))
    made = fn.scatter_reduce(
        fn.new_full(data, shape, start), axis, fn.expand(wide, spec.shape), data, how,
        include_self=initial is not None,
    )  # fmt: skip
    made = fn.narrow(made, axis, 0, count)
    if reduce != "mean":
        return made
    many = given if not by_offsets else fn.diff(given)
    many = fn.reshape(many, many._spec.shape + (1,) * (spec.ndim - axis - 1))
    empty = fn.eq(many, 0)
    mean = fn.div(made, fn.masked_fill(many, empty, 1))
    return mean if initial is not None else fn.masked_fill(mean, empty, math.nan)


# ---------------------------------------------------------------------------------------- norms --
@composite("renorm(Tensor self, Scalar p, int dim, Scalar maxnorm) -> Tensor")
def renorm(self: Any, p: Any, dim: int, maxnorm: Any) -> Any:
    """Slices along dim whose p-norm is over maxnorm are scaled to it."""
    spec = self._spec
    for name, number in (("p", p), ("maxnorm", maxnorm)):
        if isinstance(number, complex):
            raise ShapeError(f"renorm: {name} must be real-valued")
    if p <= 0:
        raise ShapeError("renorm: non-positive-norm not supported")
    if maxnorm < 0:
        raise ShapeError(f"renorm: expected maxnorm to be >= 0 but got {maxnorm}")
    if spec.ndim < 2:
        raise ShapeError(f"renorm: input needs at least 2 dimensions, got {spec.ndim} dimensions")
    dim = wrap_dim(dim, spec.ndim)
    others = [d for d in range(spec.ndim) if d != dim]
    wide = float32 if spec.dtype.is_reduced else spec.dtype
    norm = fn.linalg_vector_norm(self, p, others, True, dtype=wide)
    scale = fn.mul(fn.reciprocal(fn.add(norm, 1e-7)), maxnorm)
    scale = fn.where(fn.gt(norm, maxnorm), scale, 1.0)
    real = spec.dtype.to_real()
    return fn.mul(self, scale if scale._spec.dtype is real else fn._cast(scale, real))


@composite("nuclear_norm(Tensor self, bool keepdim=False) -> Tensor")
def nuclear_norm(self: Any, keepdim: bool = False) -> Any:
    return fn.linalg_matrix_norm(self, "nuc", (-2, -1), keepdim)


@composite("nuclear_norm.dim(Tensor self, int[2] dim, bool keepdim=False) -> Tensor")
def nuclear_norm_dim(self: Any, dim: Sequence[int], keepdim: bool = False) -> Any:
    return fn.linalg_matrix_norm(self, "nuc", dim, keepdim)


@composite("frobenius_norm.dim(Tensor self, int[1] dim, bool keepdim=False) -> Tensor")
def frobenius_norm(self: Any, dim: Sequence[int], keepdim: bool = False) -> Any:
    if len(dim) > 2:
        raise ShapeError(f"Expected at most 2 dimensions, but got {len(dim)} dimensions instead.")
    return fn.linalg_vector_norm(self, 2.0, dim, keepdim)


# -------------------------------------------------------------------------------- odds and ends --
def _nonzero_static_meta(self: Spec, size: int, fill_value: int) -> Spec:
    if size < 0:
        raise ShapeError("nonzero_static: 'size' must be an non-negative integer")
    return Spec.make((size, self.ndim), int64, self.device)


def _nonzero_static(xp: Any, self: Any, size: int, fill_value: int) -> Any:
    out = xp.full((size, self.ndim), fill_value, "int64")
    if self.ndim:
        found = xp.argwhere(self)[:size]
        out[: len(found)] = found
    return out


structured(
    "nonzero_static(Tensor self, *, SymInt size, int fill_value=-1) -> Tensor",
    meta=_nonzero_static_meta,
    kernel=_nonzero_static,
)
