"""Ops that only move elements: clone, cat, repeat, flip, triangles, and the reverses of views.

All `move`: any dtype, bit for bit. Padding and pixels are in pad.py, views in view.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..errors import BadValueError, ShapeError
from ..family import common_device, common_dtype, structured
from ..spec import Spec, is_dense, wrap_dim, wrap_dims
from .view import diagonal_dims, diagonal_size, expand_spec

if TYPE_CHECKING:
    from collections.abc import Sequence


# -------------------------------------------------------------------------------------- copies --
structured(
    "clone(Tensor self, *, MemoryFormat? memory_format=None) -> Tensor",
    meta=lambda self, memory_format: self.in_format(memory_format),
    kernel=lambda xp, self, memory_format: self,
    vjp={"self": lambda g: g},
    moves=True,
)


def _copy_kernel(xp: Any, self: Any, src: Any, non_blocking: bool) -> Any:
    if src.dtype.kind == "c" and self.dtype.kind != "c":
        src = src != 0 if self.dtype.kind == "b" else src.real
    return xp.broadcast_to(src, self.shape).astype(self.dtype)


structured(
    "copy(Tensor self, Tensor src, bool non_blocking=False) -> Tensor",
    meta=lambda self, src, non_blocking: expand_spec(src, self.shape)[0].with_(
        dtype=self.dtype, shape=self.shape, stride=self.packed.stride
    ),
    kernel=_copy_kernel,
    vjp={"self": lambda g: fn.zeros_like(g), "src": lambda g: g},
    moves=True,
    overwrites=True,
)


def _cat_meta(tensors: Sequence[Spec], dim: int) -> Spec:
    if not tensors:
        raise BadValueError("torch.cat(): expected a non-empty list of Tensors")
    for i, t in enumerate(tensors):
        if not t.shape:
            raise ShapeError(f"zero-dimensional tensor (at position {i}) cannot be concatenated")
    real = [t for t in tensors if t.shape != (0,)] or list(tensors)
    first = real[0]
    dim = wrap_dim(dim, first.ndim)
    total = 0
    for i, t in enumerate(real):
        if t.ndim != first.ndim:
            raise ShapeError(
                f"Tensors must have same number of dimensions: got {first.ndim} and {t.ndim}"
            )
        for d in range(first.ndim):
            if d != dim and t.shape[d] != first.shape[d]:
                raise ShapeError(
                    f"Sizes of tensors must match except in dimension {dim}. Expected size "
                    f"{first.shape[d]} but got size {t.shape[d]} for tensor number {i} in the list."
                )
        total += t.shape[dim]
    shape = (*first.shape[:dim], total, *first.shape[dim + 1 :])
    out = Spec.make(shape, common_dtype(*tensors), common_device(tensors))
    formats = {t.suggested_format for t in tensors}
    return out.in_format(formats.pop() if len(formats) == 1 else 0)


def _cat_grad(g: Any, tensors_spec: Sequence[Spec], dim: int) -> list[Any]:
    dim = wrap_dim(dim, g._spec.ndim)
    start, parts = 0, []
    for spec in tensors_spec:
        if spec.shape == (0,):
            parts.append(fn.new_zeros(g, (0,)))
            continue
        parts.append(fn.narrow(g, dim, start, spec.shape[dim]))
        start += spec.shape[dim]
    return parts


def _cat_kernel(xp: Any, tensors: Sequence[Any], dim: int) -> Any:
    parts = [t for t in tensors if t.shape != (0,)] or list(tensors[:1])
    return xp.concatenate(parts, axis=dim)


structured(
    "cat(Tensor[] tensors, int dim=0) -> Tensor",
    meta=_cat_meta,
    kernel=_cat_kernel,
    vjp={"tensors": _cat_grad},
    compute=lambda tensors, dim: common_dtype(*tensors),
)


def _stack_meta(tensors: Sequence[Spec], dim: int) -> Spec:
    if not tensors:
        raise ShapeError("stack expects a non-empty TensorList")
    first = tensors[0]
    for i, t in enumerate(tensors):
        if t.shape != first.shape:
            raise ShapeError(
                f"stack expects each tensor to be equal size, but got {list(first.shape)} at "
                f"entry 0 and {list(t.shape)} at entry {i}"
            )
    dim = wrap_dim(dim, first.ndim + 1)
    shape = (*first.shape[:dim], len(tensors), *first.shape[dim:])
    return Spec.make(shape, common_dtype(*tensors), common_device(tensors))


structured(
    "stack(Tensor[] tensors, int dim=0) -> Tensor",
    meta=_stack_meta,
    kernel=lambda xp, tensors, dim: xp.stack(tensors, axis=dim),
    vjp={"tensors": lambda g, dim: list(fn.unbind(g, dim))},
    compute=lambda tensors, dim: common_dtype(*tensors),
)


# ---------------------------------------------------------------------------- reverses of views --
def _like_grad(grad: Spec, sizes: Sequence[int]) -> Spec:
    return Spec.make(tuple(sizes), grad.dtype, grad.device)


def _select_backward(xp: Any, grad_output: Any, input_sizes: Any, dim: int, index: int) -> Any:
    out = xp.zeros(input_sizes, grad_output.dtype)
    out[(slice(None),) * wrap_dim(dim, out.ndim) + (index,)] = grad_output
    return out


structured(
    "select_backward(Tensor grad_output, SymInt[] input_sizes, int dim, SymInt index) -> Tensor",
    meta=lambda grad_output, input_sizes, dim, index: _like_grad(grad_output, input_sizes),
    kernel=_select_backward,
    vjp={"grad_output": lambda g, dim, index: fn.select(g, dim, index)},
    moves=True,
)


def _slice_backward(
    xp: Any, grad_output: Any, input_sizes: Any, dim: int, start: int, end: int, step: int
) -> Any:
    out = xp.zeros(input_sizes, grad_output.dtype)
    out[(slice(None),) * wrap_dim(dim, out.ndim) + (slice(start, end, step),)] = grad_output
    return out


structured(
    "slice_backward(Tensor grad_output, SymInt[] input_sizes, int dim, SymInt start, SymInt end,"
    " SymInt step) -> Tensor",
    meta=lambda grad_output, input_sizes, dim, start, end, step: _like_grad(
        grad_output, input_sizes
    ),
    kernel=_slice_backward,
    vjp={"grad_output": lambda g, dim, start, end, step: fn.slice(g, dim, start, end, step)},
    moves=True,
)


def diagonal_of(xp: Any, x: Any, offset: int, dim1: int, dim2: int) -> Any:
    """Return a writable view of a diagonal, its elements along the last axis."""
    a, b = dim1 % x.ndim, dim2 % x.ndim
    if a == b:  # the steps below would lead out of x
        raise ShapeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    n = diagonal_size(x.shape[a], x.shape[b], offset)
    rest = [d for d in range(x.ndim) if d not in (a, b)]
    corner = [slice(None)] * x.ndim
    if n:
        corner[a], corner[b] = slice(max(-offset, 0), None), slice(max(offset, 0), None)
    shape = (*[x.shape[d] for d in rest], n)
    steps = (*[x.strides[d] for d in rest], x.strides[a] + x.strides[b])
    return xp.lib.stride_tricks.as_strided(x[tuple(corner)], shape, steps)


def _diagonal_backward(
    xp: Any, grad_output: Any, input_sizes: Any, offset: int, dim1: int, dim2: int
) -> Any:
    out = xp.zeros(input_sizes, grad_output.dtype)
    diagonal_of(xp, out, offset, dim1, dim2)[...] = grad_output
    return out


structured(
    "diagonal_backward(Tensor grad_output, SymInt[] input_sizes, int offset, int dim1, int dim2)"
    " -> Tensor",
    meta=lambda grad_output, input_sizes, offset, dim1, dim2: _like_grad(grad_output, input_sizes),
    kernel=_diagonal_backward,
    vjp={"grad_output": lambda g, offset, dim1, dim2: fn.diagonal(g, offset, dim1, dim2)},
    moves=True,
)


def _unfold_backward(
    xp: Any, grad_in: Any, input_sizes: Any, dim: int, size: int, step: int
) -> Any:
    out = xp.zeros(input_sizes, grad_in.dtype)
    if not out.ndim:
        return grad_in.sum().reshape(())
    dim = wrap_dim(dim, out.ndim)
    windows = grad_in.shape[dim]
    for k in range(size):  # as many as one window has elements
        at = (slice(None),) * dim + (slice(k, k + (windows - 1) * step + 1, step),)
        out[at] += grad_in[..., k]
    return out


structured(
    "unfold_backward(Tensor grad_in, SymInt[] input_sizes, int dim, int size, int step) -> Tensor",
    meta=lambda grad_in, input_sizes, dim, size, step: _like_grad(grad_in, input_sizes),
    kernel=_unfold_backward,
    vjp={"grad_in": lambda g, dim, size, step: fn.unfold(g, dim, size, step)},
)


# ------------------------------------------------------------------------------------- windows --
def _addresses(xp: Any, size: Sequence[int], stride: Sequence[int], offset: int) -> Any:
    """Return the place in memory of each element of a strided tensor."""
    at = xp.asarray(offset)
    for n, s in zip(size, stride, strict=True):
        at = at[..., None] + xp.arange(n) * s
    return at


def _row_of(
    xp: Any, x: Any, base_stride: Any, size: Any, stride: Any, offset: int
) -> tuple[Any, int]:
    """Return x's elements in a row as they lie in memory, and where the window begins in it.

    The row reaches over x and over the window, whichever is larger, in both directions.
    """
    spans = [
        1 + sum((n - 1) * s for n, s in zip(shape, steps, strict=True)) if 0 not in shape else 0
        for shape, steps in ((x.shape, base_stride), (size, stride))
    ]
    low = min(0, offset)
    row = xp.zeros(max(spans[0], offset + spans[1]) - low, x.dtype)
    if x.size:
        _strided(xp, row, x.shape, base_stride, -low)[...] = x
    return row, offset - low


def _strided(xp: Any, row: Any, size: Any, stride: Any, offset: int) -> Any:
    """Return a window on a row. numpy would make one that reaches into other memory."""
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if min(size, default=0) < 0 or min(stride, default=0) < 0 or offset < 0:
        raise ShapeError(f"a window of {list(size)} with strides {list(stride)} at {offset}")
    if 0 not in size and last >= row.size:
        raise ShapeError(f"a window that ends at {last}, in a row of {row.size} elements")
    steps = tuple(s * row.itemsize for s in stride)
    return xp.lib.stride_tricks.as_strided(row[offset:], tuple(size), steps)


def _check_window(base: Sequence[int], base_stride: Any, size: Any, stride: Any) -> None:
    """Raise unless strides belong to sizes, and none leads backwards."""
    if len(base) != len(base_stride) or len(size) != len(stride):
        raise ShapeError(
            f"a window of {list(size)} with strides {list(stride)} on a tensor of {list(base)} "
            f"with strides {list(base_stride)}: as many strides as sizes are needed"
        )
    if min((*size, *stride, *base_stride), default=0) < 0:
        raise ShapeError(f"a window of {list(size)} with strides {list(stride)}: none below zero")


def _window_meta(self: Spec, base_stride: Any, size: Any, stride: Any, offset: int) -> Spec:
    _check_window(self.shape, base_stride, size, stride)
    return self.with_(shape=tuple(size))


def _window_add_meta(
    grad: Spec, base_size: Any, base_stride: Any, size: Any, stride: Any, offset: int
) -> Spec:
    _check_window(base_size, base_stride, size, stride)
    if grad.shape != tuple(size):
        raise ShapeError(f"a gradient of shape {list(grad.shape)} for a window of {list(size)}")
    return _like_grad(grad, base_size)


def _window_scatter_meta(
    self: Spec, src: Spec, base_stride: Any, size: Any, stride: Any, offset: int
) -> Spec:
    _check_window(self.shape, base_stride, size, stride)
    if src.shape != tuple(size):
        raise ShapeError(f"a source of shape {list(src.shape)} for a window of {list(size)}")
    return self.contiguous_


def _window_kernel(
    xp: Any, self: Any, base_stride: Any, size: Any, stride: Any, offset: int
) -> Any:
    row, start = _row_of(xp, self, base_stride, size, stride, offset)
    return _strided(xp, row, size, stride, start).copy()


def _window_scatter_kernel(
    xp: Any, self: Any, src: Any, base_stride: Any, size: Any, stride: Any, offset: int
) -> Any:
    row, start = _row_of(xp, self, base_stride, size, stride, offset)
    if src.size:
        _strided(xp, row, size, stride, start)[...] = src
    return _strided(xp, row, self.shape, base_stride, start - offset).copy()


def _shared_out(xp: Any, out: Any, length: int, stride: Any, offset: int) -> Any:
    """Return a gradient of which elements that share a place in memory have a part each.

    So torch shares them out: together, in what the tensor is a view of, they are the whole.
    """
    if not out.size:
        return out
    apart = [(n, s) for n, s in zip(out.shape, stride, strict=True) if s]
    sizes, steps = [n for n, _ in apart], [s for _, s in apart]
    parts = out.size // math.prod(sizes)
    if parts > 1:
        out = out / out.dtype.type(parts)
    if not is_dense(sizes, steps):
        times = xp.zeros(length, out.dtype)
        xp.add.at(times, _addresses(xp, sizes, steps, offset).reshape(-1), out.dtype.type(1))
        out = out / _strided(xp, times, out.shape, stride, offset)
    return out


def _window_add_kernel(
    xp: Any, grad: Any, base_size: Any, base_stride: Any, size: Any, stride: Any, offset: int
) -> Any:
    zeros = xp.zeros(base_size, grad.dtype)
    row, start = _row_of(xp, zeros, base_stride, size, stride, offset)
    if is_dense(size, stride):
        _strided(xp, row, size, stride, start)[...] = grad
    else:
        xp.add.at(row, _addresses(xp, size, stride, start).reshape(-1), grad.reshape(-1))
    out = _strided(xp, row, base_size, base_stride, start - offset).copy()
    return _shared_out(xp, out, row.size, base_stride, start - offset)


structured(
    "farspan::_window(Tensor self, int[] base_stride, int[] size, int[] stride, int offset)"
    " -> Tensor",
    meta=_window_meta,
    kernel=_window_kernel,
    vjp={
        "self": lambda g, self_spec, base_stride, size, stride, offset: fn._window_add(
            g, self_spec.shape, base_stride, size, stride, offset
        )
    },
    moves=True,
)
structured(
    "farspan::_window_add(Tensor grad, int[] base_size, int[] base_stride, int[] size,"
    " int[] stride, int offset) -> Tensor",
    meta=_window_add_meta,
    kernel=_window_add_kernel,
    vjp={
        "grad": lambda g, base_stride, size, stride, offset: fn._window(
            g, base_stride, size, stride, offset
        )
    },
)
structured(
    "farspan::_window_scatter(Tensor self, Tensor src, int[] base_stride, int[] size, int[] stride,"
    " int offset) -> Tensor",
    meta=_window_scatter_meta,
    kernel=_window_scatter_kernel,
    vjp={
        "self": lambda g, src_spec, base_stride, size, stride, offset: fn._window_scatter(
            g, fn.new_zeros(g, src_spec.shape), base_stride, size, stride, offset
        ),
        "src": lambda g, base_stride, size, stride, offset: fn._window(
            g, base_stride, size, stride, offset
        ),
    },
    moves=True,
)


# -------------------------------------------------------------------------------- rearrangement --
def _repeat_meta(self: Spec, repeats: Sequence[int]) -> Spec:
    lead = len(repeats) - self.ndim
    if lead < 0:
        raise ShapeError(
            "Number of dimensions of repeat dims can not be smaller than number of dimensions of "
            "tensor"
        )
    padded = (1,) * lead + self.shape
    if any(r < 0 for r in repeats):
        shape = [r * n for r, n in zip(repeats, padded, strict=True)]
        raise ShapeError(f"Trying to create tensor with negative dimension {min(shape)}: {shape}")
    return self.with_(shape=tuple(r * n for r, n in zip(repeats, padded, strict=True)))


def _repeat_grad(g: Any, self_spec: Spec, repeats: Sequence[int]) -> Any:
    lead = len(repeats) - self_spec.ndim
    if 0 in repeats:
        return fn.new_zeros(g, self_spec.shape)
    padded = (1,) * lead + self_spec.shape
    pairs = [x for pair in zip(repeats, padded, strict=True) for x in pair]
    if not pairs:
        return g
    summed = fn.sum(fn.reshape(g, pairs), list(range(0, len(pairs), 2)))
    return fn.reshape(summed, self_spec.shape)


def _repeat(xp: Any, self: Any, repeats: Sequence[int]) -> Any:
    # One copy. `tile` makes one a dim, and so needs memory for (10**9, 0), which comes to nothing.
    shape = (1,) * (len(repeats) - self.ndim) + self.shape
    narrow = [n for size in shape for n in (1, size)]
    wide = [n for pair in zip(repeats, shape, strict=True) for n in pair]
    whole = [times * size for times, size in zip(repeats, shape, strict=True)]
    return xp.broadcast_to(self.reshape(narrow), wide).reshape(whole)


structured(
    "repeat(Tensor self, SymInt[] repeats) -> Tensor",
    meta=_repeat_meta,
    kernel=_repeat,
    vjp={"self": _repeat_grad},
    moves=True,
)


def _flip_meta(self: Spec, dims: Sequence[int]) -> Spec:
    wrap_dims(dims, self.ndim)
    return self.packed


structured(
    "flip(Tensor self, int[] dims) -> Tensor",
    meta=_flip_meta,
    kernel=lambda xp, self, dims: xp.flip(self, [d % self.ndim for d in dims] if self.ndim else ()),
    vjp={"self": lambda g, dims: fn.flip(g, dims)},
    moves=True,
)


def _roll_meta(self: Spec, shifts: Sequence[int], dims: Sequence[int]) -> Spec:
    if not shifts:
        raise ShapeError("`shifts` required")
    if dims or len(shifts) != 1:
        if len(shifts) != len(dims):
            raise ShapeError(
                f"shifts and dimensions must align. shifts: {len(shifts)}, dims:{len(dims)}"
            )
    for d in dims:
        wrap_dim(d, self.ndim)
    return self.in_format(self.suggested_format)  # as cat of its two pieces


structured(
    "roll(Tensor self, SymInt[1] shifts, int[1] dims=[]) -> Tensor",
    meta=_roll_meta,
    kernel=lambda xp, self, shifts, dims: (
        xp.roll(self, tuple(shifts), tuple(dims)) if dims else xp.roll(self, shifts[0])
    ),
    vjp={"self": lambda g, shifts, dims: fn.roll(g, [-s for s in shifts], dims)},
    moves=True,
)


def _triangle_meta(self: Spec, diagonal: int) -> Spec:
    if self.ndim < 2:
        raise ShapeError("input tensor must have at least 2 dimensions")
    return self.contiguous_


structured(
    "tril(Tensor self, SymInt diagonal=0) -> Tensor",
    meta=_triangle_meta,
    kernel=lambda xp, self, diagonal: xp.tril(self, diagonal),
    vjp={"self": lambda g, diagonal: fn.tril(g, diagonal)},
    moves=True,
)
structured(
    "triu(Tensor self, SymInt diagonal=0) -> Tensor",
    meta=_triangle_meta,
    kernel=lambda xp, self, diagonal: xp.triu(self, diagonal),
    vjp={"self": lambda g, diagonal: fn.triu(g, diagonal)},
    moves=True,
)


def _diag_embed_meta(self: Spec, offset: int, dim1: int, dim2: int) -> Spec:
    if not self.shape:
        raise ShapeError("diag_embed expects a tensor with at least one dimension")
    a, b = diagonal_dims(self.ndim + 1, dim1, dim2)
    n = self.shape[-1] + abs(offset)
    rest = iter(self.shape[:-1])
    return self.with_(shape=tuple(n if d in (a, b) else next(rest) for d in range(self.ndim + 1)))


def _diag_embed_kernel(xp: Any, self: Any, offset: int, dim1: int, dim2: int) -> Any:
    ndim = self.ndim + 1
    a, b = dim1 % ndim, dim2 % ndim
    n = self.shape[-1] + abs(offset)
    rest = iter(self.shape[:-1])
    out = xp.zeros([n if d in (a, b) else next(rest) for d in range(ndim)], self.dtype)
    diagonal_of(xp, out, offset, a, b)[...] = self
    return out


structured(
    "diag_embed(Tensor self, int offset=0, int dim1=-2, int dim2=-1) -> Tensor",
    meta=_diag_embed_meta,
    kernel=_diag_embed_kernel,
    vjp={"self": lambda g, offset, dim1, dim2: fn.diagonal(g, offset, dim1, dim2)},
    moves=True,
)
