"""Rules for losses: computed element by element, then reduced within each sample."""

from __future__ import annotations

from typing import Any

from ..core.call import fn
from .apply import Batch, rule, run

_MEAN, _SUM = 1, 2


def _reduced(b: Batch, losses: Any, ndim: int, reduction: int) -> Any:
    if reduction not in (_MEAN, _SUM) or not ndim:
        return losses
    dims = [b.k + i for i in range(ndim)]
    return fn.mean(losses, dims) if reduction == _MEAN else fn.sum(losses, dims)


@rule("mse_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")
def elementwise(b: Batch) -> Any:
    ndim = max(t._spec.ndim for t in b.tensors)
    tensors = [b.front(t, ndim) if t._levels else t for t in b.tensors]
    if b.op.base != "mse_loss":  # which broadcasts; the others want equal shapes
        tensors[:2] = [b.full(t, ndim) for t in b.tensors[:2]]
    args = b.op.recipe(b.static).args(tensors, b.scalars)
    reduction, args[-1] = args[-1], 0
    return _reduced(b, run(b.op, *args), ndim, reduction)


@rule("mse_loss_backward", "binary_cross_entropy_backward")
def elementwise_backward(b: Batch) -> Any:
    args = list(b.args)
    reduction = args[-1]
    grad, x = args[0], args[1]
    ndim = x._spec.ndim
    tensors = [b.full(t, ndim) for t in b.tensors[1:]]
    g = b.front(grad, ndim) if grad._levels else grad
    if reduction == _MEAN:
        g = fn.div(g, x._spec.numel)
    made = b.op.recipe(b.static).args([fn.expand_as(g, tensors[0]), *tensors], b.scalars)
    made[-1] = 0
    return run(b.op, *made)


@rule("nll_loss_forward", "nll_loss2d_forward")
def nll(b: Batch) -> Any:
    x, target, weight, reduction, ignored = b.args
    if weight is not None and weight._levels:
        return NotImplemented
    ndim = target._spec.ndim
    places = b.full(target)
    flat = fn.reshape(b.full(x), (-1, *x._spec.shape[1 if ndim else 0 :]))
    two = b.op.base == "nll_loss2d_forward"
    shape = (-1, *target._spec.shape[1:]) if two else (-1,)
    at = fn.reshape(places, shape)
    losses = fn.reshape(run(b.op, flat, at, weight, 0, ignored)[0], places._spec.shape)
    counted = fn.ne(places, ignored)
    if weight is None:
        each = fn._cast(counted, losses._spec.dtype)
    else:
        chosen = fn.index_select(weight, 0, fn.reshape(fn.masked_fill(places, ~counted, 0), (-1,)))
        each = fn.mul(fn.view(chosen, places._spec.shape), counted)
    if reduction == 0:
        return losses, fn.new_zeros(losses, b.sizes) if ndim else each  # as torch has it
    dims = [b.k + i for i in range(ndim)]
    total = fn.sum(each, dims) if dims else each
    summed = fn.sum(losses, dims) if dims else losses
    return (fn.div(summed, total) if reduction == _MEAN else summed), total


@rule("nll_loss_backward", "nll_loss2d_backward")
def nll_backward(b: Batch) -> Any:
    """The gradient of a reduced loss is one number times what it is for one."""
    grad, x, target, weight, reduction, ignored, total = b.args
    others = (x, target, weight, total)
    if reduction == 0 or any(t is not None and t._levels for t in others):
        return NotImplemented
    one = run(b.op, fn.ones_like(total), x, target, weight, reduction, ignored, total)
    return fn.mul(b.front(grad, x._spec.ndim), one)
