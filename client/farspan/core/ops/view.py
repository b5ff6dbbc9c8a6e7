"""Views: other shapes and strides over the same memory; metadata only, no kernel runs.

A rule returns (spec, offset from self). The reverse of a view is a scatter into zeros: the ops
named `..._backward`, whose own gradients are the views again. Copies are in move.py.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import DType
from ..errors import ShapeError, ValueRangeError
from ..family import view
from ..spec import Spec, view_stride, wrap_dim, wrap_dims

if TYPE_CHECKING:
    from collections.abc import Sequence

_Views = tuple[tuple[Spec, int], ...]


# ---------------------------------------------------------------------------------- same order --
def infer_size(shape: Sequence[int], numel: int) -> tuple[int, ...]:
    """Return the shape with its one -1 replaced by what is left of `numel`. ShapeError."""
    for i, n in enumerate(shape):
        if n < -1:
            raise ShapeError(f"invalid shape dimension {n} at index {i} of shape {list(shape)}")
    known = math.prod(n for n in shape if n != -1)
    if list(shape).count(-1) > 1:
        raise ShapeError("only one dimension can be inferred")
    if -1 in shape:
        if known == 0 and numel == 0:
            raise ShapeError(
                f"cannot reshape tensor of 0 elements into shape {list(shape)} because the "
                "unspecified dimension size -1 can be any value and is ambiguous"
            )
        if known and numel % known == 0:
            return tuple(numel // known if n == -1 else n for n in shape)
    elif known == numel:
        return tuple(shape)
    raise ShapeError(f"shape '{list(shape)}' is invalid for input of size {numel}")


def _view_meta(self: Spec, size: Sequence[int]) -> tuple[Spec, int]:
    shape = infer_size(size, self.numel)
    stride = view_stride(self, shape)
    if stride is None:
        raise ShapeError(
            "view size is not compatible with input tensor's size and stride (at least one "
            "dimension spans across two contiguous subspaces). Use .reshape(...) instead."
        )
    return self.with_(shape=shape, stride=stride), 0


_restore = {"self": lambda g, self_spec: fn.reshape(g, self_spec.shape)}

view("view(Tensor(a) self, SymInt[] size) -> Tensor(a)", _view_meta, _restore)


def _view_dtype_meta(self: Spec, dtype: DType) -> tuple[Spec, int]:
    have, want = self.dtype.itemsize, dtype.itemsize
    if have == want:
        return self.with_(dtype=dtype), 0
    as_what = f"to view {self.dtype.c_name} as {dtype.c_name} (different element sizes)"
    if not self.shape:
        raise ShapeError(f"self.dim() cannot be 0 {as_what}")
    if self.stride[-1] != 1:
        raise ShapeError(f"self.stride(-1) must be 1 {as_what}, but got {self.stride[-1]}")
    if have > want:
        ratio = have // want
        shape = (*self.shape[:-1], self.shape[-1] * ratio)
        stride = (*[s * ratio for s in self.stride[:-1]], 1)
        return self.with_(shape=shape, stride=stride, dtype=dtype), 0
    ratio = want // have
    if self.shape[-1] % ratio:
        raise ShapeError(
            f"self.size(-1) must be divisible by {ratio} {as_what}, but got {self.shape[-1]}"
        )
    for d, s in enumerate(self.stride[:-1]):
        if s % ratio:
            raise ShapeError(
                f"self.stride({d}) must be divisible by {ratio} {as_what}, but got {s}"
            )
    shape = (*self.shape[:-1], self.shape[-1] // ratio)
    stride = (*[s // ratio for s in self.stride[:-1]], 1)
    return self.with_(shape=shape, stride=stride, dtype=dtype), 0


view("view.dtype(Tensor(a) self, ScalarType dtype) -> Tensor(a)", _view_dtype_meta, detaches=True)


def expand_spec(self: Spec, size: Sequence[int], implicit: bool = False) -> tuple[Spec, int]:
    """Return `self` seen as the larger shape: dims of size 1 repeat with stride 0. ShapeError."""
    lead = len(size) - self.ndim
    if lead < 0:
        raise ShapeError(
            f"expand({list(self.shape)}, size={list(size)}): the number of sizes provided "
            f"({len(size)}) must be greater or equal to the number of dimensions in the tensor "
            f"({self.ndim})"
        )
    shape, stride = [], []
    for i, n in enumerate(size):
        own = self.shape[i - lead] if i >= lead else 1
        step = self.stride[i - lead] if i >= lead else 0
        if n == -1:
            if i < lead:
                raise ShapeError(
                    f"The expanded size of the tensor (-1) isn't allowed in a leading, "
                    f"non-existing dimension {i}"
                )
            n = own
        if n != own and own != 1:
            raise ShapeError(
                f"The expanded size of the tensor ({n}) must match the existing size ({own}) at "
                f"non-singleton dimension {i}.  Target sizes: {list(size)}.  "
                f"Tensor sizes: {list(self.shape)}"
            )
        shape.append(n)
        stride.append(step if n == own and i >= lead else 0)
    return self.with_(shape=tuple(shape), stride=tuple(stride)), 0


view(
    "expand(Tensor(a) self, SymInt[] size, *, bool implicit=False) -> Tensor(a)",
    expand_spec,
    {"self": lambda g, self_spec: fn.sum_to_size(g, self_spec.shape)},
)
view("detach(Tensor(a) self) -> Tensor(a)", lambda self: (self, 0), detaches=True)
view(
    "farspan::_data(Tensor(a) self) -> Tensor(a)",
    lambda self: (self, 0),
    detaches=True,
    unversioned=True,
)
view("alias(Tensor(a) self) -> Tensor(a)", lambda self: (self, 0), {"self": lambda g: g})


def _unsqueeze_meta(self: Spec, dim: int) -> tuple[Spec, int]:
    dim = wrap_dim(dim, self.ndim + 1)
    step = self.shape[dim] * self.stride[dim] if dim < self.ndim else 1
    shape = (*self.shape[:dim], 1, *self.shape[dim:])
    stride = (*self.stride[:dim], step, *self.stride[dim:])
    return self.with_(shape=shape, stride=stride), 0


view(
    "unsqueeze(Tensor(a) self, int dim) -> Tensor(a)",
    _unsqueeze_meta,
    {"self": lambda g, dim: fn.squeeze(g, dim)},
)


def _squeezed(self: Spec, dims: Sequence[int]) -> tuple[Spec, int]:
    """Return `self` without those of `dims` that have size 1."""
    kept = [d for d in range(self.ndim) if d not in dims or self.shape[d] != 1]
    return _picked(self, kept), 0


def _picked(self: Spec, order: Sequence[int]) -> Spec:
    shape = tuple(self.shape[i] for i in order)
    return self.with_(shape=shape, stride=tuple(self.stride[i] for i in order))


view(
    "squeeze(Tensor(a) self) -> Tensor(a)",
    lambda self: _squeezed(self, range(self.ndim)),
    _restore,
)
view(
    "squeeze.dim(Tensor(a) self, int dim) -> Tensor(a)",
    lambda self, dim: _squeezed(self, (wrap_dim(dim, self.ndim),)),
    _restore,
)
view(
    "squeeze.dims(Tensor(a) self, int[] dim) -> Tensor(a)",
    lambda self, dim: _squeezed(self, wrap_dims(dim, self.ndim) if dim else ()),
    _restore,
)


# --------------------------------------------------------------------------------- other order --
def _transpose_meta(self: Spec, dim0: int, dim1: int) -> tuple[Spec, int]:
    a, b = wrap_dim(dim0, self.ndim), wrap_dim(dim1, self.ndim)
    order = list(range(self.ndim))
    if order:
        order[a], order[b] = order[b], order[a]
    return _picked(self, order), 0


def _t_meta(self: Spec) -> tuple[Spec, int]:
    if self.ndim > 2:
        raise ShapeError(f"t() expects a tensor with <= 2 dimensions, but self is {self.ndim}D")
    return _picked(self, range(self.ndim)[::-1]), 0


view(
    "transpose.int(Tensor(a) self, int dim0, int dim1) -> Tensor(a)",
    _transpose_meta,
    {"self": lambda g, dim0, dim1: fn.transpose(g, dim0, dim1)},
)
view("t(Tensor(a) self) -> Tensor(a)", _t_meta, {"self": lambda g: fn.t(g)})


def _permute_meta(self: Spec, dims: Sequence[int]) -> tuple[Spec, int]:
    if len(dims) != self.ndim:
        raise ShapeError(
            f"permute(sparse_coo): number of dimensions in the tensor input does not match the "
            f"length of the desired ordering of dimensions i.e. input.dim() = {self.ndim} is not "
            f"equal to len(dims) = {len(dims)}"
        )
    order = [wrap_dim(d, self.ndim) for d in dims]
    if sorted(order) != list(range(self.ndim)):
        raise ShapeError("permute(): duplicate dims are not allowed.")
    return _picked(self, order), 0


def _inverse(dims: Sequence[int], ndim: int) -> list[int]:
    order = [wrap_dim(d, ndim) for d in dims]
    return [order.index(i) for i in range(ndim)]


view(
    "permute(Tensor(a) self, int[] dims) -> Tensor(a)",
    _permute_meta,
    {"self": lambda g, self_spec, dims: fn.permute(g, _inverse(dims, self_spec.ndim))},
)


# --------------------------------------------------------------------------------------- parts --
def _select_meta(self: Spec, dim: int, index: int) -> tuple[Spec, int]:
    if not self.shape:
        raise ValueRangeError("select() cannot be applied to a 0-dim tensor.")
    dim = wrap_dim(dim, self.ndim)
    n = self.shape[dim]
    if not -n <= index < n:
        raise ValueRangeError(
            f"select(): index {index} out of range for tensor of size {list(self.shape)} at "
            f"dimension {dim}"
        )
    kept = [d for d in range(self.ndim) if d != dim]
    return _picked(self, kept), (index % n) * self.stride[dim]


view(
    "select.int(Tensor(a) self, int dim, SymInt index) -> Tensor(a)",
    _select_meta,
    {"self": lambda g, self_spec, dim, index: fn.select_backward(g, self_spec.shape, dim, index)},
)


def _slice_meta(
    self: Spec, dim: int, start: int | None, end: int | None, step: int
) -> tuple[Spec, int]:
    if not self.shape:
        raise ShapeError("slice() cannot be applied to a 0-dim tensor.")
    dim = wrap_dim(dim, self.ndim)
    if step <= 0:
        raise ShapeError("slice step must be positive")
    picked = range(self.shape[dim])[start:end:step]
    shape = (*self.shape[:dim], len(picked), *self.shape[dim + 1 :])
    stride = (*self.stride[:dim], self.stride[dim] * step, *self.stride[dim + 1 :])
    return self.with_(shape=shape, stride=stride), picked.start * self.stride[dim]


def _slice_grad(
    g: Any, self_spec: Spec, dim: int, start: int | None, end: int | None, step: int
) -> Any:
    picked = range(self_spec.shape[dim])[start:end:step]
    return fn.slice_backward(g, self_spec.shape, dim, picked.start, picked.stop, step)


view(
    "slice.Tensor(Tensor(a) self, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1)"
    " -> Tensor(a)",
    _slice_meta,
    {"self": _slice_grad},
)


def _unbind_meta(self: Spec, dim: int) -> _Views:
    if not self.shape:
        raise ValueRangeError("Dimension specified as 0 but tensor has no dimensions")
    return tuple(_select_meta(self, dim, i) for i in range(self.shape[wrap_dim(dim, self.ndim)]))


view(
    "unbind.int(Tensor(a -> *) self, int dim=0) -> Tensor(a)[]",
    _unbind_meta,
    {"self": lambda g, dim: fn.stack(g, dim)},
)


def _split_meta(self: Spec, split_size: int, dim: int) -> _Views:
    if not self.shape:
        raise ShapeError("split expects at least a 1-dimensional tensor")
    if split_size < 0:
        raise ShapeError(
            f"split expects split_size be non-negative, but got split_size={split_size}"
        )
    n = self.shape[wrap_dim(dim, self.ndim)]
    if not split_size and n:
        raise ShapeError(
            f"split_size can only be 0 if dimension size is 0, but got dimension size of {n}"
        )
    starts = range(0, n, split_size) if n else range(1)
    return tuple(_slice_meta(self, dim, s, min(s + split_size, n), 1) for s in starts)


view(
    "split.Tensor(Tensor(a -> *) self, SymInt split_size, int dim=0) -> Tensor(a)[]",
    _split_meta,
    {"self": lambda g, dim: fn.cat(g, dim)},
)


def _split_with_sizes_meta(self: Spec, split_sizes: Sequence[int], dim: int) -> _Views:
    if not self.shape:
        raise ShapeError("split expects at least a 1-dimensional tensor")
    dim = wrap_dim(dim, self.ndim)
    n = self.shape[dim]
    if any(size < 0 for size in split_sizes):
        raise ShapeError(
            "split_with_sizes expects split_sizes have only non-negative entries, but got "
            f"split_sizes={list(split_sizes)}"
        )
    if sum(split_sizes) != n:
        raise ShapeError(
            f"split_with_sizes expects split_sizes to sum exactly to {n} (input tensor's size at "
            f"dimension {dim}), but got split_sizes={list(split_sizes)}"
        )
    parts, start = [], 0
    for size in split_sizes:
        parts.append(_slice_meta(self, dim, start, start + size, 1))
        start += size
    return tuple(parts)


view(
    "split_with_sizes(Tensor(a -> *) self, SymInt[] split_sizes, int dim=0) -> Tensor(a)[]",
    _split_with_sizes_meta,
    {"self": lambda g, dim: fn.cat(g, dim)},
)


def diagonal_size(rows: int, columns: int, offset: int) -> int:
    """Return the number of elements on a diagonal."""
    return max(0, min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns))


def diagonal_dims(ndim: int, dim1: int, dim2: int) -> tuple[int, int]:
    """Return the two dims of the matrices, counted from the front. ShapeError if they are one."""
    a, b = wrap_dim(dim1, ndim), wrap_dim(dim2, ndim)
    if a == b:
        raise ShapeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    return a, b


def _diagonal_meta(self: Spec, offset: int, dim1: int, dim2: int) -> tuple[Spec, int]:
    a, b = diagonal_dims(self.ndim, dim1, dim2)
    n = diagonal_size(self.shape[a], self.shape[b], offset)
    rest = [d for d in range(self.ndim) if d not in (a, b)]
    shape = (*[self.shape[d] for d in rest], n)
    stride = (*[self.stride[d] for d in rest], self.stride[a] + self.stride[b])
    start = offset * self.stride[b] if offset >= 0 else -offset * self.stride[a]
    return self.with_(shape=shape, stride=stride), start if n else 0


view(
    "diagonal(Tensor(a) self, int offset=0, int dim1=0, int dim2=1) -> Tensor(a)",
    _diagonal_meta,
    {
        "self": lambda g, self_spec, offset, dim1, dim2: fn.diagonal_backward(
            g, self_spec.shape, offset, dim1, dim2
        )
    },
)


def _unfold_meta(self: Spec, dimension: int, size: int, step: int) -> tuple[Spec, int]:
    dim = wrap_dim(dimension, self.ndim)
    n, own = (self.shape[dim], self.stride[dim]) if self.shape else (1, 1)
    if size < 0:
        raise ShapeError(f"size is {size} but must be >= 0")
    if size > n:
        raise ShapeError(f"maximum size for tensor at dimension {dim} is {n} but size is {size}")
    if step <= 0:
        raise ShapeError(f"step is {step} but must be > 0")
    if not self.shape:
        return self.with_(shape=(size,), stride=(1,)), 0
    shape = (*self.shape[:dim], (n - size) // step + 1, *self.shape[dim + 1 :], size)
    stride = (*self.stride[:dim], step * own, *self.stride[dim + 1 :], own)
    return self.with_(shape=shape, stride=stride), 0


view(
    "unfold(Tensor(a) self, int dimension, int size, int step) -> Tensor(a)",
    _unfold_meta,
    {
        "self": lambda g, self_spec, dimension, size, step: fn.unfold_backward(
            g, self_spec.shape, dimension, size, step
        )
    },
)


def _strided_meta(
    self: Spec, size: Sequence[int], stride: Sequence[int], offset: int
) -> tuple[Spec, int]:
    if len(size) != len(stride):
        raise ShapeError("mismatch in length of strides and shape")
    if any(s < 0 for s in stride):
        raise ShapeError(
            "as_strided: Negative strides are not supported at the moment, got strides: "
            f"{list(stride)}"
        )
    return self.with_(shape=tuple(size), stride=tuple(stride)), offset


# `as_strided` (reshape.py) turns its absolute offset into one from self, which a formula knows.
view(
    "farspan::_as_strided(Tensor(a) self, int[] size, int[] stride, int offset) -> Tensor(a)",
    _strided_meta,
    {
        "self": lambda g, self_spec, size, stride, offset: fn._window_add(
            g, self_spec.shape, self_spec.stride, size, stride, offset
        )
    },
    anywhere=True,
)


# ------------------------------------------------------------------------------ shape from args --
def section_bounds(n: int, sections: int) -> list[int]:
    """Return where `tensor_split` cuts n elements into sections; the first ones are longer."""
    each, extra = divmod(n, sections)
    sizes = [each + (i < extra) for i in range(sections)]
    return [sum(sizes[:i]) for i in range(sections + 1)]


def as_ints(x: Any) -> list[int]:
    """Return the ints of a list or of a tensor (which waits)."""
    return [operator.index(i) for i in (x.tolist() if hasattr(x, "tolist") else x)]
