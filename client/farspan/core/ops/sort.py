"""Order: sort, topk, kthvalue, searchsorted, unique, counts. NaN counts as the largest value.

Ties keep their order in `sort`, in both directions; in `topk` and `kthvalue` they are open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import DType, bool_, float64, int32, int64
from ..errors import DTypeError, ShapeError, UnsupportedError
from ..family import common_device, common_dtype, composite, structured
from ..spec import Spec, wrap_dim

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


# ---------------------------------------------------------------------------------------- sort --
def _check_real(name: str, spec: Spec) -> None:
    if spec.dtype.is_complex:
        raise DTypeError(f"{name} does not support complex dtypes")


def _sort_meta(self: Spec, dim: int) -> tuple[Spec, Spec]:
    _check_real(" Sort", self)
    wrap_dim(dim, self.ndim)
    return self.packed, self.packed.with_(dtype=int64)


def _sort_kernel(xp: Any, self: Any, dim: int, descending: bool) -> tuple[Any, Any]:
    if not self.ndim:
        return self, xp.zeros((), "int64")
    x = xp.flip(self, dim) if descending else self
    order = xp.argsort(x, axis=dim, kind="stable")
    values = xp.take_along_axis(x, order, dim)
    if descending:  # reversed twice, so equal elements keep their order
        values, order = xp.flip(values, dim), self.shape[dim] - 1 - xp.flip(order, dim)
    return values, order


def _scatter_back(g: Any, self_spec: Spec, dim: int, out_1: Any) -> Any:
    """Return the gradient of values that were picked: each goes back to where it came from."""
    return fn.scatter(fn.new_zeros(g[0], self_spec.shape), dim, out_1, g[0])


structured(
    "sort(Tensor self, int dim=-1, bool descending=False) -> (Tensor values, Tensor indices)",
    meta=lambda self, dim, descending: _sort_meta(self, dim),
    kernel=_sort_kernel,
    vjp={"self": _scatter_back},
    moves=True,
)
structured(
    "sort.stable(Tensor self, *, bool? stable, int dim=-1, bool descending=False) -> (Tensor values"
    ", Tensor indices)",
    meta=lambda self, stable, dim, descending: _sort_meta(self, dim),
    kernel=lambda xp, self, stable, dim, descending: _sort_kernel(xp, self, dim, descending),
    vjp={"self": _scatter_back},
    moves=True,
)


@composite("argsort(Tensor self, int dim=-1, bool descending=False) -> Tensor")
def argsort(self: Any, dim: int = -1, descending: bool = False) -> Any:
    return fn.sort(self, dim, descending)[1]


@composite(
    "argsort.stable(Tensor self, *, bool stable, int dim=-1, bool descending=False) -> Tensor"
)
def argsort_stable(self: Any, *, stable: bool, dim: int = -1, descending: bool = False) -> Any:
    return fn.sort(self, dim, descending)[1]


@composite("msort(Tensor self) -> Tensor")
def msort(self: Any) -> Any:
    return fn.sort(self, 0)[0]


# ----------------------------------------------------------------------------- the k-th and up --
def _topk_meta(self: Spec, k: int, dim: int, largest: bool, sorted: bool) -> tuple[Spec, Spec]:
    _check_real("topk", self)
    dim = wrap_dim(dim, self.ndim)
    n = self.shape[dim] if self.shape else 1
    if not 0 <= k <= n:
        raise ShapeError("selected index k out of range")
    shape = (*self.shape[:dim], k, *self.shape[dim + 1 :]) if self.shape else ()
    values = self.with_(shape=shape)
    return values, values.with_(dtype=int64)


def _topk_kernel(
    xp: Any, self: Any, k: int, dim: int, largest: bool, sorted: bool
) -> tuple[Any, Any]:
    if not self.ndim:
        return self, xp.zeros((), "int64")
    n, dim = self.shape[dim], dim % self.ndim
    if 0 < k < n // 4:  # a partition first: n + k log k instead of n log n steps
        at = n - k if largest else k - 1
        parts = xp.argpartition(self, at, axis=dim)
        cut = (slice(None),) * dim + (slice(at, None) if largest else slice(k),)
        places = xp.sort(parts[cut], axis=dim)
        chosen = xp.take_along_axis(self, places, dim)
        values, order = _sort_kernel(xp, chosen, dim, largest)
        return values, xp.take_along_axis(places, order, dim)
    values, order = _sort_kernel(xp, self, dim, largest)
    cut = (slice(None),) * dim + (slice(k),)
    return values[cut], order[cut]


structured(
    "topk(Tensor self, SymInt k, int dim=-1, bool largest=True, bool sorted=True) -> (Tensor values"
    ", Tensor indices)",
    meta=_topk_meta,
    kernel=_topk_kernel,
    vjp={"self": _scatter_back},
)


def _kthvalue_meta(self: Spec, k: int, dim: int, keepdim: bool) -> tuple[Spec, Spec]:
    _check_real("kthvalue", self)
    dim = wrap_dim(dim, self.ndim)
    n = self.shape[dim] if self.shape else 1
    if not 1 <= k <= n:
        raise ShapeError(f"selected number k out of range for dimension {dim}")
    shape = (*self.shape[:dim], *([1] if keepdim else []), *self.shape[dim + 1 :])
    values = self.with_(shape=shape if self.shape else ())
    return values, values.with_(dtype=int64)


def _kthvalue_kernel(xp: Any, self: Any, k: int, dim: int, keepdim: bool) -> tuple[Any, Any]:
    if not self.ndim:
        return self, xp.zeros((), "int64")
    places = xp.take(xp.argsort(self, axis=dim, kind="stable"), [k - 1], axis=dim)
    values = xp.take_along_axis(self, places, dim)
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


def _kthvalue_grad(g: Any, self_spec: Spec, dim: int, keepdim: bool, out_1: Any) -> Any:
    grad, places = g[0], out_1
    if not keepdim and self_spec.shape:
        grad, places = fn.unsqueeze(grad, dim), fn.unsqueeze(places, dim)
    return fn.scatter(fn.new_zeros(grad, self_spec.shape), dim, places, grad)


structured(
    "kthvalue(Tensor self, SymInt k, int dim=-1, bool keepdim=False) -> (Tensor values, Tensor"
    " indices)",
    meta=_kthvalue_meta,
    kernel=_kthvalue_kernel,
    vjp={"self": _kthvalue_grad},
    moves=True,
)


# --------------------------------------------------------------------------- places in an order --
def _check_side(side: str | None, right: bool) -> str:
    if side not in (None, "left", "right"):
        raise ShapeError(f"torch.searchsorted(): side can only be 'left' or 'right' but got {side}")
    if side == "left" and right:
        raise ShapeError(
            "torch.searchsorted(): side and right can't be set to opposites, got side of left "
            "while right was True"
        )
    return side or ("right" if right else "left")


def _search_spec(bounds: Spec, values: Spec | None, out_int32: bool) -> Spec:
    _check_real("torch.searchsorted()", bounds)
    shape = values.shape if values is not None else ()
    if bounds.ndim != 1 and (values is None or bounds.shape[:-1] != values.shape[:-1]):
        raise ShapeError(
            "torch.searchsorted(): boundaries tensor should be 1 dimension or the first N-1 "
            "dimensions of boundaries tensor and input value tensor must match, but we got "
            f"boundaries tensor {list(bounds.shape)} and input value tensor {list(shape)}"
        )
    return Spec.make(shape, int32 if out_int32 else int64, bounds.device)


def _search(xp: Any, bounds: Any, values: Any, side: str, sorter: Any = None) -> Any:
    values = xp.asarray(values)
    if bounds.ndim == 1:
        return xp.searchsorted(bounds if sorter is None else bounds[sorter], values, side)
    if sorter is not None:
        bounds = xp.take_along_axis(bounds, sorter, -1)
    rows = zip(  # one search a row: numpy's takes one row
        bounds.reshape(-1, bounds.shape[-1]), values.reshape(-1, values.shape[-1]), strict=True
    )
    return xp.stack([xp.searchsorted(b, v, side) for b, v in rows]).reshape(values.shape)


def _check_bucketize(self: Any, boundaries: Spec, out_int32: bool) -> Spec:
    if boundaries.ndim != 1:
        raise ShapeError(f"boundaries tensor must be 1 dimension, but got dim({boundaries.ndim})")
    return _search_spec(boundaries, self if isinstance(self, Spec) else None, out_int32)


def _search_dtype(a: int, b: int) -> Callable[..., DType]:
    return lambda *args: common_dtype(args[a], args[b])


structured(
    "bucketize.Tensor(Tensor self, Tensor boundaries, *, bool out_int32=False, bool right=False)"
    " -> Tensor",
    meta=lambda self, boundaries, out_int32, right: _check_bucketize(self, boundaries, out_int32),
    kernel=lambda xp, self, boundaries, out_int32, right: _search(
        xp, boundaries, self, "right" if right else "left"
    ),
    compute=_search_dtype(0, 1),
)
structured(
    "bucketize.Scalar(Scalar self, Tensor boundaries, *, bool out_int32=False, bool right=False)"
    " -> Tensor",
    meta=lambda self, boundaries, out_int32, right: _check_bucketize(self, boundaries, out_int32),
    kernel=lambda xp, self, boundaries, out_int32, right: _search(
        xp, boundaries, self, "right" if right else "left"
    ),
)


def _searchsorted_meta(
    sorted_sequence: Spec, self: Any, out_int32: bool, right: bool, side: str | None, sorter: Any
) -> Spec:
    _check_side(side, right)
    return _search_spec(sorted_sequence, self if isinstance(self, Spec) else None, out_int32)


structured(
    "searchsorted.Tensor(Tensor sorted_sequence, Tensor self, *, bool out_int32=False, bool"
    " right=False, str? side=None, Tensor? sorter=None) -> Tensor",
    meta=_searchsorted_meta,
    kernel=lambda xp, sorted_sequence, self, out_int32, right, side, sorter: _search(
        xp, sorted_sequence, self, _check_side(side, right), sorter
    ),
    compute=_search_dtype(0, 1),
    operands=lambda op: frozenset(("sorted_sequence", "self")),
)
structured(
    "searchsorted.Scalar(Tensor sorted_sequence, Scalar self, *, bool out_int32=False, bool"
    " right=False, str? side=None, Tensor? sorter=None) -> Tensor",
    meta=_searchsorted_meta,
    kernel=lambda xp, sorted_sequence, self, out_int32, right, side, sorter: _search(
        xp, sorted_sequence, self, _check_side(side, right), sorter
    ),
)


# ----------------------------------------------------------------------------------- membership --
def _isin(xp: Any, elements: Any, test: Any, invert: bool) -> Any:
    return xp.isin(elements, test, invert=invert)


structured(
    "isin.Tensor_Tensor(Tensor elements, Tensor test_elements, *, bool assume_unique=False, bool"
    " invert=False) -> Tensor",
    meta=lambda elements, test_elements, assume_unique, invert: Spec.make(
        elements.shape, bool_, common_device((elements, test_elements))
    ),
    kernel=lambda xp, elements, test, assume_unique, invert: _isin(xp, elements, test, invert),
)
structured(
    "isin.Tensor_Scalar(Tensor elements, Scalar test_element, *, bool assume_unique=False, bool"
    " invert=False) -> Tensor",
    meta=lambda elements, test_element, assume_unique, invert: Spec.make(
        elements.shape, bool_, elements.device
    ),
    kernel=lambda xp, elements, test, assume_unique, invert: _isin(xp, elements, test, invert),
)
structured(
    "isin.Scalar_Tensor(Scalar element, Tensor test_elements, *, bool assume_unique=False, bool"
    " invert=False) -> Tensor",
    meta=lambda element, test_elements, assume_unique, invert: Spec.make(
        (), bool_, test_elements.device
    ),
    kernel=lambda xp, element, test, assume_unique, invert: _isin(xp, element, test, invert),
)


# ------------------------------------------------------------------- shapes that values decide --
def _bincount_meta(self: Spec, weights: Spec | None, minlength: int) -> Spec:
    if self.dtype.category != 1:
        raise UnsupportedError(f'"bincount_cpu" not implemented for {self.dtype.c_name!r}')
    if self.ndim != 1:
        raise ShapeError("bincount only supports 1-d non-negative integral inputs.")
    if minlength < 0:
        raise ShapeError("minlength should be >= 0")
    if weights is not None and weights.shape != self.shape:
        raise ShapeError("weights should be 1-d and have the same length as input")
    dtype = int64
    if weights is not None:
        dtype = weights.dtype if weights.dtype.name == "float32" else float64
    return Spec.make((0,), dtype, self.device)


def _bincount_kernel(xp: Any, self: Any, weights: Any, minlength: int) -> Any:
    if self.size and int(self.min()) < 0:
        raise ShapeError("bincount only supports 1-d non-negative integral inputs.")
    if self.size and int(self.max()) >= 2**60:  # of 2^63 - 1 numpy counts before its memory
        raise ShapeError("bincount of more bins than a tensor has elements")
    return xp.bincount(self, weights, minlength)


structured(
    "bincount(Tensor self, Tensor? weights=None, SymInt minlength=0) -> Tensor",
    meta=_bincount_meta,
    kernel=_bincount_kernel,
    dynamic=True,
)


def _repeats_meta(repeats: Spec, output_size: int | None) -> Spec:
    if repeats.ndim != 1:
        raise ShapeError("repeat_interleave only accept 1D vector as repeat")
    if repeats.dtype not in (int32, int64):
        raise UnsupportedError(
            f'"repeat_interleave_cpu" not implemented for {repeats.dtype.c_name!r}'
        )
    return Spec.make((output_size or 0,), repeats.dtype, repeats.device)


def _repeats_kernel(xp: Any, repeats: Any, output_size: int | None) -> Any:
    if repeats.size and int(repeats.min()) < 0:
        raise ShapeError("repeats can not be negative")
    if float(repeats.sum(dtype="float64")) >= 2.0**62:  # numpy adds them up, wrapped, and writes on
        raise ShapeError("repeats come to more elements than a tensor has")
    if output_size is not None and int(repeats.sum()) != output_size:
        raise ShapeError("allocated size does not match required size")
    return xp.repeat(xp.arange(repeats.size), repeats)


structured(
    "repeat_interleave.Tensor(Tensor repeats, *, SymInt? output_size=None) -> Tensor",
    meta=_repeats_meta,
    kernel=_repeats_kernel,
    dynamic=True,
)


def _check_sliced(self: Spec, dim: int) -> None:
    """Raise unless there are slices along dim to compare, or none at all."""
    dim = wrap_dim(dim, self.ndim)
    if not self.numel and any(not n for d, n in enumerate(self.shape) if d != dim):
        if not self.shape[dim] and self.shape.count(0) == 1:
            return
        raise ShapeError(
            "There are 0 sized dimensions, and they aren't selected, so unique cannot be applied"
        )


def _unique_dim_meta(self: Spec, dim: int, *_: Any) -> tuple[Spec, Spec, Spec]:
    _check_sliced(self, dim)
    return _unique_meta(self)


def _unique_consecutive_meta(
    self: Spec, return_inverse: bool, return_counts: bool, dim: int | None
) -> tuple[Spec, Spec, Spec]:
    if dim is not None:
        _check_sliced(self, dim)
    return _unique_meta(self)


def _unique_meta(self: Spec, *_: Any) -> tuple[Spec, Spec, Spec]:
    _check_real("unique", self)
    places = Spec.make((0,), int64, self.device)
    return self.with_(shape=(0,)), places, places


def _maybe(xp: Any, inverse: Any, counts: Any, wants: Sequence[bool]) -> tuple[Any, Any]:
    none = xp.empty(0, "int64")
    return (inverse if wants[0] else none), (counts if wants[1] else none)


def _unique_kernel(
    xp: Any, self: Any, sorted: bool, return_inverse: bool, return_counts: bool
) -> tuple[Any, Any, Any]:
    values, inverse, counts = xp.unique(
        self.reshape(-1), return_inverse=True, return_counts=True, equal_nan=False
    )
    wants = (return_inverse, return_counts)
    return (values, *_maybe(xp, inverse.reshape(self.shape), counts, wants))


structured(
    "_unique2(Tensor self, bool sorted=True, bool return_inverse=False, bool return_counts=False)"
    " -> (Tensor, Tensor, Tensor)",
    meta=_unique_meta,
    kernel=_unique_kernel,
    dynamic=True,
)


def _unique_dim_kernel(
    xp: Any, self: Any, dim: int, sorted: bool, return_inverse: bool, return_counts: bool
) -> tuple[Any, Any, Any]:
    values, inverse, counts = xp.unique(
        self, return_inverse=True, return_counts=True, axis=dim, equal_nan=False
    )
    return values, inverse.reshape(-1), counts  # all of them, asked for or not, as in torch


structured(
    "unique_dim(Tensor self, int dim, bool sorted=True, bool return_inverse=False, bool"
    " return_counts=False) -> (Tensor, Tensor, Tensor)",
    meta=_unique_dim_meta,
    kernel=_unique_dim_kernel,
    dynamic=True,
)


def _unique_consecutive_kernel(
    xp: Any, self: Any, return_inverse: bool, return_counts: bool, dim: int | None
) -> tuple[Any, Any, Any]:
    x = self.reshape(-1) if dim is None else xp.moveaxis(self, dim, 0)
    changed = xp.ones(x.shape[0], bool)
    if x.shape[0]:
        differs = x[1:] != x[:-1]
        changed[1:] = differs.any(axis=tuple(range(1, x.ndim))) if x.ndim > 1 else differs
    starts = xp.flatnonzero(changed)
    counts = xp.diff(xp.append(starts, x.shape[0]))
    inverse = xp.cumsum(changed) - 1
    values = x[starts] if dim is None else xp.moveaxis(x[starts], 0, dim)
    inverse = inverse.reshape(self.shape) if dim is None else inverse
    return (values, *_maybe(xp, inverse, counts, (return_inverse, return_counts)))


structured(
    "unique_consecutive(Tensor self, bool return_inverse=False, bool return_counts=False, int?"
    " dim=None) -> (Tensor, Tensor, Tensor)",
    meta=_unique_consecutive_meta,
    kernel=_unique_consecutive_kernel,
    dynamic=True,
)
