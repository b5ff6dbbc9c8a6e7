"""Margins between classes, and distances between all rows: losses that look at pairs.

multi_margin     the score of one class is to be above all others by a margin
multilabel       the scores of several classes are to be above the scores of all others
pdist            the distances between each two rows
"""

from __future__ import annotations

import math
from typing import Any

from ..call import fn
from ..dtype import int64
from ..errors import DTypeError, ParameterError, ShapeError
from ..family import composite, no_derivative, only, structured
from ..spec import Spec
from .index import add_rows
from .loss import MEAN, NONE, reduced_spec


# -------------------------------------------------------------------------- one class of many --
def _multi_spec(self: Spec, target: Spec, p: Any, weight: Spec | None) -> Spec:
    """Return the spec of the losses of samples, or raise what torch raises."""
    if p not in (1, 2):
        raise ParameterError("multi_margin_loss: only p == 1 and p == 2 supported")
    if self.ndim > 2 or 0 in self.shape[1:] or self.shape == (0,):
        raise ShapeError(
            "Expected non-empty vector or matrix with optional 0-dim batch size, but got: "
            f"{list(self.shape)}"
        )
    samples = self.shape[0] if self.ndim == 2 else 1
    if target.ndim > 1 or target.numel != samples:
        raise ShapeError(
            f"inconsistent target size, expected {samples} but got {list(target.shape)}"
        )
    classes = self.shape[-1] if self.ndim else 1
    if weight is not None and (weight.ndim > 1 or weight.numel != classes):
        raise ShapeError(
            f"inconsistent weight size, expected {classes} but got {list(weight.shape)}"
        )
    only("multi_margin_loss_cpu_kernel", self.dtype, "float32 float64")
    if target.dtype is not int64:
        raise DTypeError(f"expected scalar type Long but found {target.dtype.name.title()}")
    return self.with_(shape=target.shape)


def _shortfalls(xp: Any, self: Any, target: Any, margin: Any) -> tuple[Any, Any, Any]:
    """Return by how much each class comes too near: (samples, classes); and the targets."""
    x = self.reshape(-1, self.shape[-1] if self.ndim else 1)
    t = target.reshape(-1)
    if t.size and not 0 <= int(t.min()) <= int(t.max()) < x.shape[1]:
        raise ParameterError("target out of range")
    rows = xp.arange(t.size)
    short = xp.maximum(x.dtype.type(margin) - x[rows, t][:, None] + x, 0)
    short[rows, t] = 0
    return short, rows, t


def _multi_kernel(
    xp: Any, self: Any, target: Any, p: Any, margin: Any, weight: Any, reduction: int
) -> Any:
    short, _, t = _shortfalls(xp, self, target, margin)
    loss = (short if p == 1 else short * short).sum(axis=1) / short.shape[1]
    if weight is not None:
        loss = loss * weight.reshape(-1)[t]
    if reduction == NONE:
        return loss.reshape(target.shape)
    return loss.sum() / loss.dtype.type(t.size) if reduction == MEAN else loss.sum()


def _multi_backward_kernel(
    xp: Any, grad_output: Any, self: Any, target: Any, p: Any, margin: Any, weight: Any,
    reduction: int,
) -> Any:  # fmt: skip
    short, rows, t = _shortfalls(xp, self, target, margin)
    slope = (short > 0).astype(self.dtype) if p == 1 else 2 * short
    slope /= short.shape[1] * (t.size if reduction == MEAN else 1)
    if weight is not None:
        slope *= weight.reshape(-1)[t][:, None]
    slope[rows, t] = -slope.sum(axis=1)
    return (slope * grad_output.reshape(-1, 1)).reshape(self.shape)


structured(
    "multi_margin_loss(Tensor self, Tensor target, Scalar p=1, Scalar margin=1,"
    " Tensor? weight=None, int reduction=1) -> Tensor",
    meta=lambda self, target, p, margin, weight, reduction: reduced_spec(
        _multi_spec(self, target, p, weight), reduction
    ),
    kernel=_multi_kernel,
    vjp={
        "self": lambda g, self, target, p, margin, weight, reduction: fn.multi_margin_loss_backward(
            g, self, target, p, margin, weight, reduction
        )
    },
    by_value=True,
)
structured(
    "multi_margin_loss_backward(Tensor grad_output, Tensor self, Tensor target, Scalar p,"
    " Scalar margin, Tensor? weight=None, int reduction=1) -> Tensor",
    meta=lambda grad_output, self, *rest: self.contiguous_,
    kernel=_multi_backward_kernel,
    vjp={"grad_output self": no_derivative("aten::multi_margin_loss_backward")},
)


# ---------------------------------------------------------------------------- several classes --
def _several_spec(self: Spec, target: Spec) -> Spec:
    if self.ndim > 2 or 0 in self.shape[1:] or self.shape == (0,):
        raise ShapeError(
            "Expected non-empty vector or matrix with optional 0-dim batch size, but got: "
            f"{list(self.shape)}"
        )
    scalars = self.ndim < 2 and target.ndim < 2 and self.numel == target.numel
    if target.shape != self.shape and not scalars:
        raise ShapeError(
            f"inconsistent target size: {list(target.shape)} for input of size: {list(self.shape)}"
        )
    only("multilabel_margin_loss_forward_out_frame", self.dtype, "float32 float64")
    if target.dtype is not int64:
        raise DTypeError(f"expected scalar type Long but found {target.dtype.name.title()}")
    return self.with_(shape=self.shape[:1] if self.ndim == 2 else ())


def _pairs(xp: Any, self: Any, target: Any) -> tuple[Any, Any, Any, Any]:
    """Return which targets count, their classes, who is a target, and the pairs' shortfalls.

    A row of targets ends at its first -1. Shortfalls are (samples, targets, classes).
    """
    x = self.reshape(-1, self.shape[-1] if self.ndim else 1)
    t = target.reshape(x.shape)
    if t.size and not -1 <= int(t.min()) <= int(t.max()) < x.shape[1]:
        raise ParameterError("argument #3 'target' is out of range")
    counts = xp.logical_and.accumulate(t >= 0, axis=1)
    t = xp.where(counts, t, 0)
    is_target = xp.zeros(x.shape, bool)
    rows = xp.broadcast_to(xp.arange(x.shape[0])[:, None], t.shape)
    is_target[rows[counts], t[counts]] = True
    short = 1 - xp.take_along_axis(x, t, 1)[:, :, None] + x[:, None, :]
    short = xp.where(counts[:, :, None] & ~is_target[:, None, :], xp.maximum(short, 0), 0)
    return counts, t, is_target, short


def _several_kernel(xp: Any, self: Any, target: Any, reduction: int) -> tuple[Any, Any]:
    _, _, is_target, short = _pairs(xp, self, target)
    loss = short.sum(axis=(1, 2)) / short.shape[2]
    shown = is_target.reshape(target.shape)
    if reduction == NONE:
        return loss.reshape(self.shape[:1] if self.ndim == 2 else ()), shown
    total = loss.sum()
    return (total / loss.dtype.type(max(loss.size, 1)) if reduction == MEAN else total), shown


def _several_backward_kernel(
    xp: Any, grad_output: Any, self: Any, target: Any, reduction: int, is_target: Any
) -> Any:
    counts, t, _, short = _pairs(xp, self, target)
    share = (short > 0).astype(self.dtype)
    share /= short.shape[2] * (short.shape[0] if reduction == MEAN else 1)
    out = share.sum(axis=1)
    rows = xp.broadcast_to(xp.arange(t.shape[0])[:, None], t.shape)
    xp.subtract.at(out, (rows[counts], t[counts]), share.sum(axis=2)[counts])
    return (out * grad_output.reshape(-1, 1)).reshape(self.shape)


def _several_meta(self: Spec, target: Spec, reduction: int) -> tuple[Spec, Spec]:
    each = _several_spec(self, target)
    return reduced_spec(each, reduction), self.with_(shape=target.shape)


structured(
    "multilabel_margin_loss_forward(Tensor self, Tensor target, int reduction)"
    " -> (Tensor output, Tensor is_target)",
    meta=_several_meta,
    kernel=_several_kernel,
    vjp={
        "self": lambda g, self, target, reduction, out_1: fn.multilabel_margin_loss_backward(
            g[0], self, target, reduction, out_1
        )
    },
)
structured(
    "multilabel_margin_loss_backward(Tensor grad_output, Tensor self, Tensor target,"
    " int reduction, Tensor is_target) -> Tensor",
    meta=lambda grad_output, self, *rest: self.contiguous_,
    kernel=_several_backward_kernel,
    vjp={"grad_output self": no_derivative("aten::multilabel_margin_loss_backward")},
)


@composite("multilabel_margin_loss(Tensor self, Tensor target, int reduction=1) -> Tensor")
def multilabel_margin_loss(self: Any, target: Any, reduction: int = MEAN) -> Any:
    return fn.multilabel_margin_loss_forward(self, target, reduction)[0]


# --------------------------------------------------------------------------- each two of rows --
def _pdist_meta(self: Spec, p: float) -> Spec:
    if self.ndim != 2:
        raise ShapeError(f"pdist only supports 2D tensors, got: {self.ndim}D")
    only("pdist", self.dtype, "float32 float64")
    if p < 0:
        raise ParameterError("pdist only supports non-negative p values")
    n = self.shape[0]
    return self.with_(shape=(n * (n - 1) // 2 if n > 1 else 0,))


def _pdist_kernel(xp: Any, self: Any, p: float) -> Any:
    first, second = xp.triu_indices(self.shape[0], 1)
    size = abs(self[first] - self[second])
    if p == 0:
        return (size != 0).sum(-1)
    if math.isinf(p):
        return size.max(-1, initial=0)
    if p == 1:
        return size.sum(-1)
    return xp.sqrt((size * size).sum(-1)) if p == 2 else (size**p).sum(-1) ** (1 / p)


def _pdist_backward_kernel(xp: Any, grad: Any, self: Any, p: float, pdist: Any) -> Any:
    """d|u|_p = sign(u) |u|^(p-1) / |u|_p^(p-1), and 0 where two rows are one."""
    out = xp.zeros_like(self)
    if p == 0 or not pdist.size:
        return out
    first, second = xp.triu_indices(self.shape[0], 1)
    apart = self[first] - self[second]
    far = pdist[:, None]
    some = far != 0
    if math.isinf(p):
        share = xp.sign(apart) * (abs(apart) == far)
    elif p == 1:
        share = xp.sign(apart)
    else:
        ratio = abs(apart) / xp.where(some, far, 1)
        share = xp.sign(apart) * (ratio if p == 2 else xp.where(ratio == 0, 0, ratio) ** (p - 1))
        share = xp.where(apart == 0, 0, share)
    share = xp.where(some, share, 0) * grad[:, None]
    add_rows(xp, out, first, share)
    add_rows(xp, out, second, -share)
    return out


structured(
    "_pdist_forward(Tensor self, float p=2.) -> Tensor",
    meta=_pdist_meta,
    kernel=_pdist_kernel,
    vjp={"self": lambda g, self, p, out: fn._pdist_backward(g, self, p, out)},
    by_value=True,
)
structured(
    "_pdist_backward(Tensor grad, Tensor self, float p, Tensor pdist) -> Tensor",
    meta=lambda grad, self, p, pdist: self.contiguous_,
    kernel=_pdist_backward_kernel,
    vjp={"grad self pdist": no_derivative("'_pdist_backward'")},
)


@composite("pdist(Tensor self, float p=2.) -> Tensor")
def pdist(self: Any, p: float = 2.0) -> Any:
    return fn._pdist_forward(self, p)
