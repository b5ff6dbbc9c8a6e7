"""Masks and look-ups: nonzero, masked_select, where, embeddings, one-hot.

Ops whose result has as many elements as are true are `dynamic`: the client waits for their shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import bool_, int32, int64
from ..errors import DTypeError, ShapeError
from ..family import common_device, composite, structured
from ..spec import Spec, broadcast_shapes
from .index import add_rows, in_self, taken

if TYPE_CHECKING:
    from collections.abc import Sequence

# ------------------------------------------------------------------------------------- dynamic --
structured(
    "nonzero(Tensor self) -> Tensor",
    meta=lambda self: Spec.make((0, self.ndim), int64, self.device),
    kernel=lambda xp, self: (
        xp.argwhere(self) if self.ndim else xp.zeros((int(bool(self)), 0), "int64")
    ),
    dynamic=True,
)


@composite("argwhere(Tensor self) -> Tensor")
def argwhere(self: Any) -> Any:
    return fn.nonzero(self)


@composite("nonzero_numpy(Tensor self) -> Tensor[]")
def nonzero_numpy(self: Any) -> Any:
    if not self._spec.ndim:
        self = fn.unsqueeze(self, 0)
    return fn.unbind(fn.nonzero(self), 1)


@composite("where(Tensor condition) -> Tensor[]")
def where(condition: Any) -> Any:
    return fn.nonzero_numpy(condition)


def _check_mask(name: str, mask: Spec) -> None:
    if mask.dtype is not bool_:
        raise DTypeError(f"{name}: expected BoolTensor for mask")


def _masked_select_meta(self: Spec, mask: Spec) -> Spec:
    _check_mask("masked_select", mask)
    broadcast_shapes(self.shape, mask.shape)
    return Spec.make((0,), self.dtype, common_device((self, mask)))


def _masked_select_kernel(xp: Any, self: Any, mask: Any) -> Any:
    shape = broadcast_shapes(self.shape, mask.shape)
    return xp.broadcast_to(self, shape)[xp.broadcast_to(mask, shape)]


def _masked_select_grad(g: Any, self_spec: Spec, mask: Any) -> Any:
    shape = broadcast_shapes(self_spec.shape, mask._spec.shape)
    return fn.masked_scatter(fn.new_zeros(g, shape), mask, g)


structured(
    "masked_select(Tensor self, Tensor mask) -> Tensor",
    meta=_masked_select_meta,
    kernel=_masked_select_kernel,
    vjp={"self": _masked_select_grad},
    moves=True,
    dynamic=True,
)


# --------------------------------------------------------------------------------------- masks --
def _masked_scatter_meta(self: Spec, mask: Spec, source: Spec) -> Spec:
    _check_mask("masked_scatter_ only supports boolean masks", mask)
    if self.dtype is not source.dtype:
        raise DTypeError(
            "masked_scatter: expected self and source to have same dtypes but got "
            f"{self.dtype.name} and {source.dtype.name}"
        )
    return self.with_(shape=broadcast_shapes(self.shape, mask.shape))


def _masked_scatter_kernel(xp: Any, self: Any, mask: Any, source: Any) -> Any:
    shape = broadcast_shapes(self.shape, mask.shape)
    out = xp.array(xp.broadcast_to(self, shape), order="C")
    mask = xp.broadcast_to(mask, shape)
    count = int(xp.count_nonzero(mask))
    if count > source.size:
        raise ShapeError("Number of elements of source < number of ones in mask")
    out[mask] = source.reshape(-1)[:count]
    return out


structured(
    "masked_scatter(Tensor self, Tensor mask, Tensor source) -> Tensor",
    meta=_masked_scatter_meta,
    kernel=_masked_scatter_kernel,
    vjp={
        "self": lambda g, mask: fn.masked_fill(g, mask, 0),
        "source": lambda g, mask, source_spec: fn.masked_scatter_backward(
            g, mask, source_spec.shape
        ),
    },
    moves=True,
)


def _masked_scatter_backward(xp: Any, grad_output: Any, mask: Any, sizes: Sequence[int]) -> Any:
    out = xp.zeros(sizes, grad_output.dtype)
    picked = grad_output[xp.broadcast_to(mask, grad_output.shape)]
    out.reshape(-1)[: picked.size] = picked
    return out


structured(
    "masked_scatter_backward(Tensor grad_output, Tensor mask, SymInt[] sizes) -> Tensor",
    meta=lambda grad_output, mask, sizes: Spec.make(
        tuple(sizes), grad_output.dtype, grad_output.device
    ),
    kernel=_masked_scatter_backward,
    vjp={
        "grad_output": lambda g, grad_output_spec, mask: fn.masked_scatter(
            fn.new_zeros(g, grad_output_spec.shape), mask, g
        )
    },
    moves=True,
)


# ------------------------------------------------------------------------------------ look-ups --
def _embedding_meta(
    weight: Spec, indices: Spec, padding_idx: int, scale_grad_by_freq: bool, sparse: bool
) -> Spec:
    if weight.ndim != 2:
        raise ShapeError("'weight' must be 2-D")
    if indices.dtype not in (int32, int64):
        raise DTypeError(
            "Expected tensor for argument #1 'indices' to have one of the following scalar types: "
            f"Long, Int; but got {indices.dtype.name} instead (while checking arguments for "
            "embedding)"
        )
    shape = (*indices.shape, weight.shape[1])
    return Spec.make(shape, weight.dtype, common_device((weight, indices)))


def _embedding_grad(
    g: Any, weight_spec: Spec, indices: Any, padding_idx: int, scale_grad_by_freq: bool
) -> Any:
    return fn.embedding_dense_backward(
        g, indices, weight_spec.shape[0], padding_idx, scale_grad_by_freq
    )


structured(
    "embedding(Tensor weight, Tensor indices, SymInt padding_idx=-1, bool scale_grad_by_freq=False,"
    " bool sparse=False) -> Tensor",
    meta=_embedding_meta,
    kernel=lambda xp, weight, indices, padding_idx, scale, sparse: taken(
        xp, weight, in_self(indices, weight.shape[0]), 0
    ),
    vjp={"weight": _embedding_grad},
    moves=True,
)


def _embedding_backward_kernel(
    xp: Any, grad_output: Any, indices: Any, num_weights: int, padding_idx: int, scale: bool
) -> Any:
    width = grad_output.shape[-1]
    rows = in_self(indices.reshape(-1), num_weights)
    values = grad_output.reshape(-1, width)
    if scale:
        counts = xp.bincount(rows, minlength=num_weights)
        values = values / counts[rows][:, None].astype(values.dtype)
    if padding_idx >= 0:
        kept = rows != padding_idx
        rows, values = rows[kept], values[kept]
    out = xp.zeros((num_weights, width), grad_output.dtype)
    add_rows(xp, out, rows, values)
    return out


def _embedding_backward_grad(
    g: Any, indices: Any, padding_idx: int, scale_grad_by_freq: bool
) -> Any:
    if scale_grad_by_freq:
        raise ShapeError("double backward for embedding with scale_grad_by_freq is not supported")
    picked = fn.embedding(g, indices)
    if padding_idx >= 0:
        picked = fn.masked_fill(picked, fn.unsqueeze(fn.eq(indices, padding_idx), -1), 0)
    return picked


def _embedding_backward_meta(
    grad_output: Spec, indices: Spec, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> Spec:
    width = grad_output.shape[-1] if grad_output.shape else 1
    if not grad_output.shape or grad_output.numel != indices.numel * width:
        raise ShapeError(
            f"shape '[{indices.numel}, {width}]' is invalid for input of size {grad_output.numel}"
        )
    return Spec.make((num_weights, width), grad_output.dtype, grad_output.device)


structured(
    "embedding_dense_backward(Tensor grad_output, Tensor indices, SymInt num_weights, SymInt"
    " padding_idx, bool scale_grad_by_freq) -> Tensor",
    meta=_embedding_backward_meta,
    kernel=_embedding_backward_kernel,
    vjp={"grad_output": _embedding_backward_grad},
)


def _one_hot_kernel(xp: Any, self: Any, num_classes: int) -> Any:
    if self.size:
        if int(self.min()) < 0:
            raise ShapeError("Class values must be non-negative.")
        if int(self.max()) >= num_classes:
            raise ShapeError("Class values must be smaller than num_classes.")
    return self[..., None] == xp.arange(num_classes)


structured(
    "farspan::_one_hot(Tensor self, int num_classes) -> Tensor",
    meta=lambda self, num_classes: self.with_(shape=(*self.shape, num_classes)),
    kernel=_one_hot_kernel,
)


@composite("one_hot(Tensor self, int num_classes=-1) -> Tensor")
def one_hot(self: Any, num_classes: int = -1) -> Any:
    """Without `num_classes` this waits: the largest class is a value."""
    spec = self._spec
    if spec.dtype is not int64:
        raise DTypeError("one_hot is only applicable to index tensor of type LongTensor.")
    if not spec.numel and num_classes <= 0:
        raise ShapeError(
            "Can not infer total number of classes from empty tensor."
            if num_classes == -1
            else "num_classes should be positive"
        )
    if num_classes == -1:
        num_classes = int(fn.max(self).item()) + 1
    elif num_classes < 1:
        raise ShapeError("num_classes should be positive")
    return fn._one_hot(self, num_classes)
