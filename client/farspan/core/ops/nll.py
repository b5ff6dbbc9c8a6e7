"""Losses over classes: negative log likelihood and cross entropy.

A target is a class index for each position, or, for cross entropy, a probability for each class.
A class that does not exist is found by the kernel, before it reads anything.
"""

from __future__ import annotations

import math
from typing import Any

from ..call import fn
from ..dtype import int64, uint8
from ..errors import (
    BadValueError,
    DTypeError,
    ParameterError,
    ShapeError,
    UnsupportedError,
    ValueRangeError,
)
from ..family import common_device, composite, structured
from ..spec import Spec
from .loss import MEAN, NONE, reduced, reduced_spec


# -------------------------------------------------------------------------------------- kernels --
def _check(self: Spec, target: Spec, weight: Spec | None) -> None:
    if target.dtype not in (int64, uint8):
        raise DTypeError(f"expected target dtype to be Long or Byte, but got {target.dtype.name}")
    if self.dtype.category != 2:
        raise UnsupportedError(f'"nll_loss_out_frame" not implemented for {self.dtype.c_name!r}')
    classes = self.shape[0] if self.ndim == 1 else self.shape[1]
    if weight is not None:
        if weight.shape != (classes,):
            raise ShapeError(
                f"weight tensor should be defined either for all {classes} classes or no classes "
                f"but got weight tensor of shape: {list(weight.shape)}"
            )
        if weight.dtype is not self.dtype:
            raise DTypeError(
                f"expected scalar type {self.dtype.name} but found {weight.dtype.name}"
            )
    common_device([s for s in (self, target, weight) if s is not None])


def _nll_meta(
    self: Spec, target: Spec, weight: Spec | None, reduction: int, ignore_index: int
) -> tuple[Spec, Spec]:
    if self.ndim not in (1, 2):
        raise ShapeError("input tensor should be 1D or 2D")
    if target.ndim > 1:
        raise ShapeError("0D or 1D target tensor expected, multi-target not supported")
    if self.shape[:-1] != target.shape and not (self.ndim == 1 and target.shape in ((), (1,))):
        raise ShapeError(
            f"size mismatch (got input: {list(self.shape)}, target: {list(target.shape)})"
        )
    _check(self, target, weight)
    each = self.with_(shape=self.shape[:-1], stride=None)
    return reduced_spec(each, reduction), self.with_(shape=(), stride=None)


def _nll2d_meta(
    self: Spec, target: Spec, weight: Spec | None, reduction: int, ignore_index: int
) -> tuple[Spec, Spec]:
    if target.ndim != 3:
        raise ShapeError(
            "only batches of spatial targets supported (3D tensors) but got targets of dimension: "
            f"{target.ndim}"
        )
    if self.ndim != 4:
        raise ShapeError(
            "only batches of spatial inputs supported (4D tensors), but got input of dimension: "
            f"{self.ndim}"
        )
    if target.shape != (self.shape[0], *self.shape[2:]):
        raise ShapeError(
            f"size mismatch (got input: {list(self.shape)} , target: {list(target.shape)}"
        )
    _check(self, target, weight)
    each = self.with_(shape=target.shape, stride=None)
    return reduced_spec(each, reduction), self.with_(shape=(), stride=None)


def _selection(xp: Any, shape: Any, target: Any, weight: Any, ignored: int, dtype: Any) -> Any:
    """Return the index of each target's element in (batch, classes, rest), and its weight.

    The weight is None where all are one. Raises ValueRangeError for a class that is not there.
    """
    lead = (1, *shape) if len(shape) == 1 else shape
    batch, classes, rest = lead[0], lead[1], math.prod(lead[2:])
    chosen = target.reshape(batch, rest).astype("int64")
    kept = chosen != ignored
    everything = bool(kept.all())
    if not everything:
        chosen = xp.where(kept, chosen, 0)
    outside = (chosen < 0) | (chosen >= classes)
    if bool(outside.any()):
        raise ValueRangeError(f"Target {int(chosen[outside][0])} is out of bounds.")
    index = (xp.arange(batch)[:, None], chosen, xp.arange(rest))
    if weight is None:
        return index, None if everything else kept.astype(dtype)
    return index, weight[chosen] if everything else weight[chosen] * kept


def _flat(x: Any) -> Any:
    """Return (classes,) or (batch, classes, *rest) as (batch, classes, rest)."""
    if x.ndim == 1:
        return x.reshape(1, -1, 1)
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))


def _nll_kernel(
    xp: Any, self: Any, target: Any, weight: Any, reduction: int, ignore_index: int
) -> tuple[Any, Any]:
    index, factor = _selection(xp, self.shape, target, weight, ignore_index, self.dtype)
    loss = -_flat(self)[index]
    if factor is not None:
        # What is ignored counts nothing, even where its loss is infinite.
        loss = xp.where(factor != 0, loss * factor, 0) if weight is None else loss * factor
    if reduction == NONE:
        shape = () if self.ndim == 1 else (self.shape[0], *self.shape[2:])
        total = loss.size if self.ndim == 1 and factor is None else 0
        return loss.reshape(shape), self.dtype.type(total)
    total = self.dtype.type(loss.size) if factor is None else factor.sum()
    summed = loss.sum()
    return (summed / total if reduction == MEAN else summed), total


def _nll_backward_kernel(
    xp: Any,
    grad_output: Any,
    self: Any,
    target: Any,
    weight: Any,
    reduction: int,
    ignore_index: int,
    total_weight: Any,
) -> Any:
    index, factor = _selection(xp, self.shape, target, weight, ignore_index, self.dtype)
    g = -grad_output
    if reduction == MEAN:
        g = g / total_weight
    if g.ndim:
        g = g.reshape(index[1].shape)
    if factor is not None:
        g = xp.where(factor != 0, g * factor, 0)
    out = xp.zeros(self.shape, self.dtype)
    _flat(out)[index] = g
    return out


def _declare(name: str, meta: Any) -> None:
    def grad(
        g: Any, self: Any, target: Any, weight: Any, reduction: int, ignore_index: int, out_1: Any
    ) -> Any:
        backward = getattr(fn, f"{name}_backward")
        return backward(g[0], self, target, weight, reduction, ignore_index, out_1)

    def again(
        g: Any, grad_output_spec: Spec, target: Any, weight: Any, reduction: int, ignore_index: int
    ) -> Any:
        forward = getattr(fn, f"{name}_forward")
        found = forward(g, target, weight, reduction, ignore_index)[0]
        return fn.reshape(found, grad_output_spec.shape)

    structured(
        f"{name}_forward(Tensor self, Tensor target, Tensor? weight, int reduction,"
        " SymInt ignore_index) -> (Tensor output, Tensor total_weight)",
        meta=meta,
        kernel=_nll_kernel,
        vjp={"self": grad},
    )
    structured(
        f"{name}_backward(Tensor grad_output, Tensor self, Tensor target, Tensor? weight,"
        " int reduction, SymInt ignore_index, Tensor total_weight) -> Tensor",
        meta=lambda grad_output, self, *rest: self.contiguous_,
        kernel=_nll_backward_kernel,
        vjp={"grad_output": again},
    )


_declare("nll_loss", _nll_meta)
_declare("nll_loss2d", _nll2d_meta)


# ----------------------------------------------------------------------------------- composites --
@composite(
    "nll_loss(Tensor self, Tensor target, Tensor? weight=None, int reduction=1,"
    " SymInt ignore_index=-100) -> Tensor"
)
def nll_loss(
    self: Any, target: Any, weight: Any = None, reduction: int = MEAN, ignore_index: int = -100
) -> Any:
    return fn.nll_loss_forward(self, target, weight, reduction, ignore_index)[0]


@composite(
    "nll_loss2d(Tensor self, Tensor target, Tensor? weight=None, int reduction=1,"
    " SymInt ignore_index=-100) -> Tensor"
)
def nll_loss2d(
    self: Any, target: Any, weight: Any = None, reduction: int = MEAN, ignore_index: int = -100
) -> Any:
    return fn.nll_loss2d_forward(self, target, weight, reduction, ignore_index)[0]


@composite(
    "nll_loss_nd(Tensor self, Tensor target, Tensor? weight=None, int reduction=1,"
    " SymInt ignore_index=-100) -> Tensor"
)
def nll_loss_nd(
    self: Any, target: Any, weight: Any = None, reduction: int = MEAN, ignore_index: int = -100
) -> Any:
    shape, wanted = self._spec.shape, target._spec.shape
    if not shape:
        raise BadValueError(f"Expected 1 or more dimensions (got {len(shape)})")
    if len(shape) > 1 and wanted[:1] != shape[:1]:
        raise BadValueError(
            f"Expected input batch_size ({shape[0]}) to match target batch_size "
            f"({wanted[0] if wanted else 1})."
        )
    if len(shape) in (1, 2):
        return fn.nll_loss(self, target, weight, reduction, ignore_index)
    if len(shape) == 4:
        return fn.nll_loss2d(self, target, weight, reduction, ignore_index)
    if wanted[1:] != shape[2:]:
        raise ShapeError(f"Expected target size {[shape[0], *shape[2:]]}, got {list(wanted)}")
    rest = math.prod(shape[2:])
    flat = fn.reshape(self, (*shape[:2], 1, rest))
    out = fn.nll_loss2d(
        flat, fn.reshape(target, (shape[0], 1, rest)), weight, reduction, ignore_index
    )
    return fn.reshape(out, wanted) if reduction == NONE else out


@composite(
    "cross_entropy_loss(Tensor self, Tensor target, Tensor? weight=None, int reduction=1,"
    " SymInt ignore_index=-100, float label_smoothing=0.) -> Tensor"
)
def cross_entropy_loss(
    self: Any,
    target: Any,
    weight: Any = None,
    reduction: int = MEAN,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Any:
    if not 0 <= label_smoothing <= 1:
        raise ParameterError(
            f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing:g}"
        )
    spec = self._spec
    dim = 0 if spec.ndim == 1 else 1
    if spec.shape == target._spec.shape:
        if target._spec.dtype.category < 2:
            raise DTypeError(
                "Expected floating point type for target with class probabilities, got "
                f"{target._spec.dtype.name}"
            )
        if ignore_index >= 0:
            raise ParameterError("ignore_index is not supported for floating point target")
        return _with_probabilities(self, target, weight, reduction, label_smoothing, dim)
    scores = fn.log_softmax(self, dim)
    loss = fn.nll_loss_nd(scores, target, weight, reduction, ignore_index)
    if label_smoothing == 0:
        return loss
    smooth = _smooth_part(scores, target, weight, reduction, ignore_index, dim)
    share = label_smoothing / spec.shape[dim]
    return fn.add(fn.mul(loss, 1 - label_smoothing), fn.mul(smooth, share))


def _along_classes(weight: Any, spec: Spec, dim: int) -> Any:
    return fn.reshape(weight, (-1, *[1] * (spec.ndim - dim - 1)))


def _with_probabilities(
    self: Any, target: Any, weight: Any, reduction: int, label_smoothing: float, dim: int
) -> Any:
    spec = self._spec
    classes = spec.shape[dim]
    scores = fn.log_softmax(self, dim)
    if label_smoothing:
        target = fn.add(fn.mul(target, 1 - label_smoothing), label_smoothing / classes)
    if weight is not None:
        scores = fn.mul(scores, _along_classes(weight, spec, dim))
    terms = fn.neg(fn.mul(scores, target))
    if reduction == NONE:
        return fn.sum(terms, (dim,))
    total = fn.sum(terms)
    return fn.div(total, spec.numel / classes) if reduction == MEAN else total


def _smooth_part(
    scores: Any, target: Any, weight: Any, reduction: int, ignore_index: int, dim: int
) -> Any:
    """Return the loss against the uniform distribution, times the number of classes."""
    spec = scores._spec
    if weight is not None:
        scores = fn.mul(scores, _along_classes(weight, spec, dim))
    ignored = fn.eq(target, ignore_index)
    loss = fn.masked_fill(fn.neg(fn.sum(scores, (dim,))), ignored, 0.0)
    if reduction != MEAN:
        return reduced(loss, reduction)
    if weight is None:
        return fn.div(fn.sum(loss), fn.sum(fn.logical_not(ignored)))
    known = fn.reshape(fn.masked_fill(target, ignored, 0), (-1,))
    counted = fn.masked_fill(fn.index_select(weight, 0, known), fn.reshape(ignored, (-1,)), 0.0)
    return fn.div(fn.sum(loss), fn.sum(counted))
