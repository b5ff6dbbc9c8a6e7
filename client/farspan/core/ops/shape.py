"""Views - strides over the same memory - and ops that only move elements."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..errors import ShapeError, ValueRangeError
from ..family import common_device, common_dtype, composite, structured, view
from ..spec import Spec, view_stride, wrap_dim

if TYPE_CHECKING:
    from collections.abc import Sequence


# --------------------------------------------------------------------------------------- views --
def infer_size(shape: Sequence[int], numel: int) -> tuple[int, ...]:
    """Return the shape with its one -1 replaced by what is left of `numel`. ShapeError."""
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


view(
    "view(Tensor(a) self, SymInt[] size) -> Tensor(a)",
    _view_meta,
    {"self": lambda g, self_spec: fn.reshape(g, self_spec.shape)},
)


@composite("reshape(Tensor(a) self, SymInt[] shape) -> Tensor(a)")
def reshape(self: Any, shape: Sequence[int]) -> Any:
    size = infer_size(shape, self._spec.numel)
    if view_stride(self._spec, size) is None:
        self = fn.clone(self, memory_format=0)
    return fn.view(self, size)


def _expand_meta(self: Spec, size: Sequence[int], implicit: bool) -> tuple[Spec, int]:
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
    _expand_meta,
    {"self": lambda g, self_spec: fn.sum_to_size(g, self_spec.shape)},
)


@composite("sum_to_size(Tensor self, SymInt[] size) -> Tensor")
def sum_to_size(self: Any, size: Sequence[int]) -> Any:
    have = self._spec.shape
    size = tuple(size)
    lead = len(have) - len(size)
    if lead < 0 or any(n not in (1, m) for n, m in zip(size, have[lead:], strict=True)):
        raise ShapeError(f"size {list(size)} is not expandable to size {list(have)}.")
    dims = [i for i in range(len(have)) if i < lead or (size[i - lead] == 1 and have[i] != 1)]
    if dims:
        self = fn.sum(self, dims, True)
    return fn.view(self, size) if lead else self


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
    shape = self.shape[:dim] + self.shape[dim + 1 :]
    stride = self.stride[:dim] + self.stride[dim + 1 :]
    return self.with_(shape=shape, stride=stride), (index % n) * self.stride[dim]


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
    first = picked.start if len(picked) or picked.start < self.shape[dim] else self.shape[dim]
    return self.with_(shape=shape, stride=stride), first * self.stride[dim]


view(
    "slice.Tensor(Tensor(a) self, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1)"
    " -> Tensor(a)",
    _slice_meta,
    {
        "self": lambda g, self_spec, dim, start, end, step: fn.slice_backward(
            g, self_spec.shape, dim, *_bounds(self_spec.shape[dim], start, end, step)
        )
    },
)


def _bounds(n: int, start: int | None, end: int | None, step: int) -> tuple[int, int, int]:
    picked = range(n)[start:end:step]
    return picked.start, picked.stop, step


view("detach(Tensor(a) self) -> Tensor(a)", lambda self: (self, 0), detaches=True)
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


def _squeeze_meta(self: Spec, dim: int) -> tuple[Spec, int]:
    dim = wrap_dim(dim, self.ndim)
    if not self.shape or self.shape[dim] != 1:
        return self, 0
    shape = self.shape[:dim] + self.shape[dim + 1 :]
    return self.with_(shape=shape, stride=self.stride[:dim] + self.stride[dim + 1 :]), 0


view(
    "squeeze.dim(Tensor(a) self, int dim) -> Tensor(a)",
    _squeeze_meta,
    {"self": lambda g, self_spec: fn.reshape(g, self_spec.shape)},
)


def _unbind_meta(self: Spec, dim: int) -> tuple[tuple[Spec, int], ...]:
    if not self.shape:
        raise ShapeError("Dimension specified as 0 but tensor has no dimensions")
    return tuple(_select_meta(self, dim, i) for i in range(self.shape[wrap_dim(dim, self.ndim)]))


view(
    "unbind.int(Tensor(a -> *) self, int dim=0) -> Tensor(a)[]",
    _unbind_meta,
    {"self": lambda g, dim: fn.stack(g if isinstance(g, list) else [g], dim)},
)


def _transpose_meta(self: Spec, dim0: int, dim1: int) -> tuple[Spec, int]:
    a, b = wrap_dim(dim0, self.ndim), wrap_dim(dim1, self.ndim)
    order = list(range(self.ndim))
    if order:
        order[a], order[b] = order[b], order[a]
    return _permuted(self, order), 0


def _permuted(self: Spec, order: Sequence[int]) -> Spec:
    shape = tuple(self.shape[i] for i in order)
    return self.with_(shape=shape, stride=tuple(self.stride[i] for i in order))


view(
    "transpose.int(Tensor(a) self, int dim0, int dim1) -> Tensor(a)",
    _transpose_meta,
    {"self": lambda g, dim0, dim1: fn.transpose(g, dim0, dim1)},
)
view(
    "t(Tensor(a) self) -> Tensor(a)",
    lambda self: (self if self.ndim < 2 else _transpose_meta(self, 0, 1)[0], 0),
    {"self": lambda g: fn.t(g)},
)


def _permute_meta(self: Spec, dims: Sequence[int]) -> tuple[Spec, int]:
    order = [wrap_dim(d, self.ndim) for d in dims]
    if sorted(order) != list(range(self.ndim)):
        raise ShapeError(
            f"permute(sparse_coo): number of dimensions in the tensor input does not match the "
            f"length of the desired ordering of dimensions i.e. input.dim() = {self.ndim} is not "
            f"equal to len(dims) = {len(order)}"
            if len(order) != self.ndim
            else "permute(): duplicate dims are not allowed."
        )
    return _permuted(self, order), 0


def _inverse(dims: Sequence[int], ndim: int) -> list[int]:
    order = [wrap_dim(d, ndim) for d in dims]
    return [order.index(i) for i in range(ndim)]


view(
    "permute(Tensor(a) self, int[] dims) -> Tensor(a)",
    _permute_meta,
    {"self": lambda g, self_spec, dims: fn.permute(g, _inverse(dims, self_spec.ndim))},
)


@composite("movedim.int(Tensor(a) self, int source, int destination) -> Tensor(a)")
def movedim(self: Any, source: int, destination: int) -> Any:
    ndim = self._spec.ndim
    order = [d for d in range(ndim) if d != wrap_dim(source, ndim)]
    if ndim:
        order.insert(wrap_dim(destination, ndim), wrap_dim(source, ndim))
    return fn.permute(self, order)


# -------------------------------------------------------------------------- windows (see tape) --
def _flat_of(xp: Any, x: Any, base_stride: Sequence[int]) -> Any:
    """Return x's elements as they lie in a tensor with these (dense) strides."""
    order = sorted(range(x.ndim), key=lambda d: (-base_stride[d], -x.shape[d]))
    return xp.ascontiguousarray(x.transpose(order)).reshape(-1)


def _window_of(xp: Any, flat: Any, size: Any, stride: Any, offset: int) -> Any:
    steps = tuple(s * flat.itemsize for s in stride)
    return xp.lib.stride_tricks.as_strided(flat[offset:], tuple(size), steps)


def _window_scatter_kernel(
    xp: Any, self: Any, src: Any, base_stride: Any, size: Any, stride: Any, offset: int
) -> Any:
    flat = _flat_of(xp, self, base_stride).copy()
    if src.size:
        _window_of(xp, flat, size, stride, offset)[...] = src
    order = sorted(range(self.ndim), key=lambda d: (-base_stride[d], -self.shape[d]))
    back = [order.index(d) for d in range(self.ndim)]
    return flat.reshape([self.shape[d] for d in order]).transpose(back)


structured(
    "farspan::_window(Tensor self, int[] base_stride, int[] size, int[] stride, int offset)"
    " -> Tensor",
    meta=lambda self, base_stride, size, stride, offset: self.with_(shape=tuple(size)),
    kernel=lambda xp, self, base_stride, size, stride, offset: _window_of(
        xp, _flat_of(xp, self, base_stride), size, stride, offset
    ).copy(),
    vjp={
        "self": lambda g, self_spec, base_stride, size, stride, offset: fn._window_scatter(
            fn.new_zeros(g, self_spec.shape), g, base_stride, size, stride, offset
        )
    },
    moves=True,
)
structured(
    "farspan::_window_scatter(Tensor self, Tensor src, int[] base_stride, int[] size, int[] stride,"
    " int offset) -> Tensor",
    meta=lambda self, src, base_stride, size, stride, offset: self.contiguous_,
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


# -------------------------------------------------------------------------------------- copies --
def _clone_meta(self: Spec, memory_format: int | None) -> Spec:
    if memory_format in (None, 1) and self.dense:
        return self
    return self.contiguous_


structured(
    "clone(Tensor self, *, MemoryFormat? memory_format=None) -> Tensor",
    meta=_clone_meta,
    kernel=lambda xp, self, memory_format: self,
    vjp={"self": lambda g: g},
    moves=True,
)
structured(
    "copy(Tensor self, Tensor src, bool non_blocking=False) -> Tensor",
    meta=lambda self, src, non_blocking: _expand_meta(src, self.shape, False)[0].with_(
        dtype=self.dtype, shape=self.shape, stride=self.stride if self.dense else None
    ),
    kernel=lambda xp, self, src, non_blocking: xp.broadcast_to(src, self.shape).astype(self.dtype),
    vjp={"self": lambda g: fn.zeros_like(g), "src": lambda g: g},
    moves=True,
    overwrites=True,
)


@composite("contiguous(Tensor(a) self, *, MemoryFormat memory_format=contiguous_format)"
           " -> Tensor(a)")  # fmt: skip
def contiguous(self: Any, *, memory_format: Any = None) -> Any:
    return self if self._spec.contiguous else fn.clone(self, memory_format=0)


def _cat_meta(tensors: Sequence[Spec], dim: int) -> Spec:
    if not tensors:
        raise ShapeError("torch.cat(): expected a non-empty list of Tensors")
    real = [t for t in tensors if t.shape != (0,)] or list(tensors)
    first = real[0]
    if not first.shape:
        raise ShapeError("zero-dimensional tensor (at position 0) cannot be concatenated")
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
    return Spec.make(shape, common_dtype(*tensors), common_device(tensors))


def _cat_grad(g: Any, tensors_spec: Sequence[Spec], dim: int) -> list[Any]:
    start, parts = 0, []
    for spec in tensors_spec:
        if spec.shape == (0,):
            parts.append(fn.new_zeros(g, (0,)))
            continue
        n = spec.shape[dim]
        parts.append(fn.narrow(g, dim, start, n))
        start += n
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


@composite("stack(Tensor[] tensors, int dim=0) -> Tensor")
def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    for t in tensors:
        if t._spec.shape != tensors[0]._spec.shape:
            raise ShapeError(
                f"stack expects each tensor to be equal size, but got "
                f"{list(tensors[0]._spec.shape)} at entry 0 and {list(t._spec.shape)}"
            )
    return fn.cat([fn.unsqueeze(t, dim) for t in tensors],
                  wrap_dim(dim, tensors[0]._spec.ndim + 1))  # fmt: skip


@composite("narrow(Tensor(a) self, int dim, SymInt start, SymInt length) -> Tensor(a)")
def narrow(self: Any, dim: int, start: int, length: int) -> Any:
    n = self._spec.shape[wrap_dim(dim, self._spec.ndim)]
    if length < 0:
        raise ShapeError("narrow(): length must be non-negative.")
    if not -n <= start <= n:
        raise ValueRangeError(
            f"start out of range (expected to be in range of [{-n}, {n}], but got {start})"
        )
    start = start + n if start < 0 else start
    if start + length > n:
        raise ShapeError(f"start ({start}) + length ({length}) exceeds dimension size ({n}).")
    return fn.slice(self, dim, start, start + length, 1)
