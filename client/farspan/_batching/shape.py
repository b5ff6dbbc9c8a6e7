"""Rules for views, for what moves elements, and for tensors made in the likeness of others."""

from __future__ import annotations

from typing import Any

from ..core.call import fn
from ..core.op import OPS
from ..core.spec import wrap_dim
from .apply import Batch, rule, run
from .tensor import value


# --------------------------------------------------------------------------------------- views --
@rule("view")
def view(b: Batch) -> Any:
    return fn.view(value(b.tensors[0]), (*b.sizes, *b.outs[0].shape))


@rule("expand")
def expand(b: Batch) -> Any:
    shape = b.outs[0].shape
    return fn.expand(b.front(b.tensors[0], len(shape)), (*b.sizes, *shape))


@rule("unsqueeze")
def unsqueeze(b: Batch) -> Any:
    x, dim = b.args
    return fn.unsqueeze(value(x), wrap_dim(dim, x._spec.ndim + 1) + b.k)


@rule("squeeze")
def squeeze(b: Batch) -> Any:
    x = b.tensors[0]
    shape = x._spec.shape
    ndim = len(shape)
    if b.op.name == "squeeze":
        dims = [i for i, n in enumerate(shape) if n == 1]
    else:
        given = b["dim"]
        given = [given] if isinstance(given, int) else list(given)
        dims = [wrap_dim(d, ndim) for d in given] if ndim else []
    return run(OPS["squeeze.dims"], value(x), [d + b.k for d in dims])


@rule("transpose.int")
def transpose(b: Batch) -> Any:
    x, first, second = b.args
    ndim = x._spec.ndim
    if not ndim:
        return fn.alias(value(x))
    return fn.transpose(value(x), wrap_dim(first, ndim) + b.k, wrap_dim(second, ndim) + b.k)


@rule("t")
def t(b: Batch) -> Any:
    x = b.tensors[0]
    return fn.alias(value(x)) if x._spec.ndim < 2 else fn.transpose(value(x), -2, -1)


@rule("permute")
def permute(b: Batch) -> Any:
    x, dims = b.args
    ndim = x._spec.ndim
    return fn.permute(value(x), [*range(b.k), *[wrap_dim(d, ndim) + b.k for d in dims]])


@rule("select.int", "slice.Tensor", "unbind.int", "split.Tensor", "split_with_sizes", "unfold")
def along_one(b: Batch) -> Any:
    args = list(b.args)
    x = args[0]
    at = max(b.position("dim"), b.position("dimension"))
    if not x._spec.ndim:
        return NotImplemented
    args[0], args[at] = value(x), wrap_dim(args[at], x._spec.ndim) + b.k
    return run(b.op, *args)


@rule("diagonal", "diag_embed")
def diagonal(b: Batch) -> Any:
    x, offset, first, second = b.args
    ndim = x._spec.ndim + (b.op.base == "diag_embed")
    return run(b.op, value(x), offset, wrap_dim(first, ndim) + b.k, wrap_dim(second, ndim) + b.k)


@rule("_as_strided")
def as_strided(b: Batch) -> Any:
    x, size, stride, offset = b.args
    physical = value(x)
    lead = physical._spec.stride[: b.k]
    return run(b.op, physical, [*b.sizes, *size], [*lead, *stride], offset)


@rule("select_backward", "slice_backward", "unfold_backward")
def along_one_backward(b: Batch) -> Any:
    args = list(b.args)
    shape = args[1]
    if not len(shape):
        return NotImplemented
    args[0], args[1] = value(args[0]), [*b.sizes, *shape]
    args[2] = wrap_dim(args[2], len(shape)) + b.k
    return run(b.op, *args)


@rule("diagonal_backward")
def diagonal_backward(b: Batch) -> Any:
    grad, shape, offset, first, second = b.args
    n = len(shape)
    return run(b.op, value(grad), [*b.sizes, *shape], offset, wrap_dim(first, n) + b.k,
               wrap_dim(second, n) + b.k)  # fmt: skip


# --------------------------------------------------------------------------------------- moves --
@rule("cat")
def cat(b: Batch) -> Any:
    tensors, dim = b.args
    # As torch, an empty tensor of one dim is passed over among tensors of more.
    ndim = max(t._spec.ndim for t in tensors)
    tensors = [t for t in tensors if t._spec.ndim == ndim or t._spec.shape != (0,)]
    return run(b.op, [b.full(t) for t in tensors], wrap_dim(dim, ndim) + b.k)


@rule("stack")
def stack(b: Batch) -> Any:
    tensors, dim = b.args
    dim = wrap_dim(dim, tensors[0]._spec.ndim + 1) + b.k
    return run(b.op, [b.full(t) for t in tensors], dim)


@rule("repeat")
def repeat(b: Batch) -> Any:
    x, repeats = b.args
    return run(b.op, b.front(x, len(repeats)), [*[1] * b.k, *repeats])


# ------------------------------------------------------------------------------------- likeness --
@rule("zeros_like", "ones_like", "full_like", "empty_like")
def likeness(b: Batch) -> Any:
    return run(b.op, value(b.tensors[0]), *b.args[1:])


@rule("new_zeros", "new_ones", "new_empty", "new_full")
def new(b: Batch) -> Any:
    return run(b.op, value(b.tensors[0]), [*b.sizes, *b["size"]], *b.args[2:])


@rule("new_empty_strided")
def new_strided(b: Batch) -> Any:
    size, stride = list(b["size"]), list(b["stride"])
    step = 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    lead: list[int] = []
    for n in reversed(b.sizes):
        lead.insert(0, step)
        step *= n
    return run(b.op, value(b.tensors[0]), [*b.sizes, *size], [*lead, *stride], *b.args[3:])
