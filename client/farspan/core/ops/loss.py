"""Losses between tensors of one shape: squared, absolute, binary cross entropy and their kin.

`reduction` is ATen's number: 0 none, 1 mean, 2 sum. What torch keeps whole is an op with a backward
op; second order comes from formulas over pointwise ops. Losses over classes stand in `nll.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..errors import ParameterError, ShapeError, UnsupportedError
from ..family import common_device, common_dtype, composite, refuse, structured
from ..spec import Spec, broadcast_shapes, pointwise_stride

if TYPE_CHECKING:
    from ..dtype import DType

NONE, MEAN, SUM = 0, 1, 2


def reduced_spec(spec: Spec, reduction: int) -> Spec:
    """Return the spec of a loss with elements `spec` after its reduction."""
    if reduction not in (NONE, MEAN, SUM):
        raise ParameterError(f"{reduction} is not a reduction: 0 is none, 1 mean, 2 sum")
    return spec if reduction == NONE else spec.with_(shape=(), stride=None)


def reduced_array(loss: Any, reduction: int) -> Any:
    """Return an array of losses, reduced; the mean of nothing is NaN."""
    if reduction == NONE:
        return loss
    total = loss.sum()
    return total / total.dtype.type(loss.size) if reduction == MEAN else total


def reduced(loss: Any, reduction: int) -> Any:
    """Return a value of losses, reduced."""
    if reduction == NONE:
        return loss
    return fn.mean(loss) if reduction == MEAN else fn.sum(loss)


def _common(*args: Any) -> DType:
    return common_dtype(*[a for a in args if isinstance(a, Spec)])


def _elements(name: str, *args: Any) -> Spec:
    """Return the spec of the elementwise part: tensors broadcast and promote."""
    specs = [a for a in args if isinstance(a, Spec)]
    dtype = _common(*specs)
    if dtype.category != 2:
        raise UnsupportedError(f'"{name}" not implemented for {dtype.c_name!r}')
    shape = broadcast_shapes(*[s.shape for s in specs])
    return Spec.make(shape, dtype, common_device(specs), pointwise_stride(shape, specs))


def _grad_factor(reduction: int, spec: Spec) -> float:
    return 1 / spec.numel if reduction == MEAN and spec.numel else 1.0


# ------------------------------------------------------------------------------------- squared --
def _mse_backward_kernel(xp: Any, g: Any, self: Any, target: Any, reduction: int) -> Any:
    d = self - target
    factor = 2 / d.size if reduction == MEAN and d.size else 2
    d *= g * d.dtype.type(factor)
    return d


structured(
    "mse_loss(Tensor self, Tensor target, int reduction=1) -> Tensor",
    meta=lambda self, target, reduction: reduced_spec(
        _elements("mse_cpu", self, target), reduction
    ),
    kernel=lambda xp, self, target, reduction: reduced_array(xp.square(self - target), reduction),
    vjp={
        "self": lambda g, self, target, reduction: fn.mse_loss_backward(g, self, target, reduction),
        "target": lambda g, self, target, reduction: fn.mse_loss_backward(
            g, target, self, reduction
        ),
    },
    compute=_common,
)
structured(
    "mse_loss_backward(Tensor grad_output, Tensor self, Tensor target, int reduction) -> Tensor",
    meta=lambda grad_output, self, target, reduction: _elements(
        "mse_backward_cpu", self, target, grad_output
    ),
    kernel=_mse_backward_kernel,
    vjp={
        "grad_output": lambda g, self, target, reduction: fn.mse_loss_backward(
            g, self, target, reduction
        ),
        "self": lambda g, grad_output, reduction: fn.mul(
            fn.mul(g, grad_output), 2 * _grad_factor(reduction, g._spec)
        ),
        "target": lambda g, grad_output, reduction: fn.mul(
            fn.mul(g, grad_output), -2 * _grad_factor(reduction, g._spec)
        ),
    },
    compute=_common,
)


# ------------------------------------------------------------------------ absolute and between --
@composite("l1_loss(Tensor self, Tensor target, int reduction=1) -> Tensor")
def l1_loss(self: Any, target: Any, reduction: int = MEAN) -> Any:
    return reduced(fn.abs(fn.sub(self, target)), reduction)


@composite("smooth_l1_loss(Tensor self, Tensor target, int reduction=1, float beta=1.) -> Tensor")
def smooth_l1_loss(self: Any, target: Any, reduction: int = MEAN, beta: float = 1.0) -> Any:
    if beta < 0:
        raise ParameterError("smooth_l1_loss does not support negative values for beta.")
    if beta == 0:
        return fn.l1_loss(self, target, reduction)
    d = fn.sub(self, target)
    refuse("smooth_l1_cpu", d._spec.dtype, "bic")
    size = fn.abs(d)
    near = fn.mul(fn.mul(d, d), 0.5 / beta)
    return reduced(fn.where(fn.lt(size, beta), near, fn.sub(size, 0.5 * beta)), reduction)


@composite("huber_loss(Tensor self, Tensor target, int reduction=1, float delta=1.) -> Tensor")
def huber_loss(self: Any, target: Any, reduction: int = MEAN, delta: float = 1.0) -> Any:
    if delta <= 0:
        raise ParameterError("huber_loss does not support non-positive values for delta.")
    d = fn.sub(self, target)
    refuse("huber_cpu", d._spec.dtype, "bic")
    size = fn.abs(d)
    far = fn.mul(fn.sub(size, 0.5 * delta), delta)
    return reduced(fn.where(fn.le(size, delta), fn.mul(fn.mul(d, d), 0.5), far), reduction)


# ------------------------------------------------------------------------ binary cross entropy --
def _bce_meta(self: Spec, target: Spec, weight: Spec | None, reduction: int) -> Spec:
    if target.shape != self.shape:
        raise ShapeError(
            f"Using a target size ({list(target.shape)}) that is different to the input size "
            f"({list(self.shape)}) is not supported"
        )
    return reduced_spec(_elements("binary_cross_entropy", self, target, weight), reduction)


def _bce_kernel(xp: Any, self: Any, target: Any, weight: Any, reduction: int) -> Any:
    if self.size and not bool(((self >= 0) & (self <= 1)).all()):
        raise ParameterError("all elements of input should be between 0 and 1")
    log, log_rest = xp.log(self), xp.log1p(-self)
    loss = (target - 1) * xp.maximum(log_rest, -100) - target * xp.maximum(log, -100)
    return reduced_array(loss if weight is None else loss * weight, reduction)


_BCE_EPSILON = 1e-12  # ATen's bound of (1 - x) x, below which the gradient would overflow


def _bce_backward_kernel(
    xp: Any, g: Any, self: Any, target: Any, weight: Any, reduction: int
) -> Any:
    spread = xp.maximum((1 - self) * self, self.dtype.type(_BCE_EPSILON))
    out = g * (self - target) / spread
    if weight is not None:
        out *= weight
    return out / out.dtype.type(out.size) if reduction == MEAN and out.size else out


def _weighted(g: Any, weight: Any, reduction: int, spec: Spec) -> Any:
    """Return a cotangent times what weight and reduction make of each element."""
    if weight is not None:
        g = fn.mul(g, weight)
    factor = _grad_factor(reduction, spec)
    return g if factor == 1 else fn.mul(g, factor)


def _bce_target_grad(g: Any, self: Any, weight: Any, reduction: int) -> Any:
    slope = fn.sub(fn.log1p(fn.neg(self)), fn.log(self))
    return _weighted(fn.mul(g, slope), weight, reduction, self._spec)


def _bce_spread(x: Any) -> Any:
    return fn.add(fn.mul(fn.rsub(x, 1), x), _BCE_EPSILON)


def _bce_bend(g: Any, grad_output: Any, self: Any, target: Any, weight: Any, reduction: int) -> Any:
    spread = _bce_spread(self)
    top = fn.add(fn.mul(self, fn.sub(self, fn.mul(target, 2))), target)
    bent = fn.div(top, fn.mul(spread, spread))
    return _weighted(fn.mul(fn.mul(g, grad_output), bent), weight, reduction, self._spec)


def _bce_bend_target(g: Any, grad_output: Any, self: Any, weight: Any, reduction: int) -> Any:
    slope = fn.div(fn.neg(fn.mul(g, grad_output)), _bce_spread(self))
    return _weighted(slope, weight, reduction, self._spec)


structured(
    "binary_cross_entropy(Tensor self, Tensor target, Tensor? weight=None, int reduction=1)"
    " -> Tensor",
    meta=_bce_meta,
    kernel=_bce_kernel,
    vjp={
        "self": lambda g, self, target, weight, reduction: fn.binary_cross_entropy_backward(
            g, self, target, weight, reduction
        ),
        "target": _bce_target_grad,
    },
    compute=_common,
)
structured(
    "binary_cross_entropy_backward(Tensor grad_output, Tensor self, Tensor target,"
    " Tensor? weight=None, int reduction=1) -> Tensor",
    meta=lambda grad_output, self, target, weight, reduction: _elements(
        "binary_cross_entropy_backward", self, target, weight
    ),
    kernel=_bce_backward_kernel,
    vjp={
        "grad_output": lambda g, self, target, weight, reduction: fn.binary_cross_entropy_backward(
            g, self, target, weight, reduction
        ),
        "self": _bce_bend,
        "target": _bce_bend_target,
    },
    compute=_common,
)


def _logits_kernel(
    xp: Any, self: Any, target: Any, weight: Any, pos_weight: Any, reduction: int
) -> Any:
    # -log(sigmoid(x)) without overflow.
    minus_log = xp.maximum(-self, 0) + xp.log1p(xp.exp(-xp.abs(self)))
    if pos_weight is not None:
        minus_log *= (pos_weight - 1) * target + 1
    loss = (1 - target) * self + minus_log
    return reduced_array(loss if weight is None else loss * weight, reduction)


def _logits_grad(
    g: Any, self: Any, target: Any, weight: Any, pos_weight: Any, reduction: int
) -> Any:
    slope = fn.sigmoid(self)
    if pos_weight is None:
        slope = fn.sub(slope, target)
    else:
        positive = fn.mul(target, pos_weight)
        slope = fn.sub(fn.mul(fn.sub(fn.add(positive, 1), target), slope), positive)
    return _weighted(fn.mul(g, slope), weight, reduction, self._spec)


def _logits_target_grad(
    g: Any, self: Any, target: Any, weight: Any, pos_weight: Any, reduction: int
) -> Any:
    slope = fn.neg(self)
    if pos_weight is not None:
        slope = fn.sub(fn.log_sigmoid(slope), fn.mul(fn.log_sigmoid(self), pos_weight))
    return _weighted(fn.mul(g, slope), weight, reduction, self._spec)


structured(
    "binary_cross_entropy_with_logits(Tensor self, Tensor target, Tensor? weight=None,"
    " Tensor? pos_weight=None, int reduction=1) -> Tensor",
    meta=lambda self, target, weight, pos_weight, reduction: reduced_spec(
        _elements("binary_cross_entropy_with_logits", target, self, weight, pos_weight), reduction
    ),
    kernel=_logits_kernel,
    vjp={"self": _logits_grad, "target": _logits_target_grad},
    compute=_common,
)


# ------------------------------------------------------------------------------- distributions --
@composite(
    "kl_div(Tensor self, Tensor target, int reduction=1, *, bool log_target=False) -> Tensor"
)
def kl_div(self: Any, target: Any, reduction: int = MEAN, *, log_target: bool = False) -> Any:
    if log_target:
        return reduced(fn.mul(fn.exp(target), fn.sub(target, self)), reduction)
    return reduced(fn.sub(fn.xlogy(target, target), fn.mul(target, self)), reduction)


@composite(
    "poisson_nll_loss(Tensor input, Tensor target, bool log_input, bool full, float eps,"
    " int reduction) -> Tensor"
)
def poisson_nll_loss(
    input: Any, target: Any, log_input: bool, full: bool, eps: float, reduction: int
) -> Any:
    if log_input:
        loss = fn.sub(fn.exp(input), fn.mul(target, input))
    else:
        loss = fn.sub(input, fn.mul(target, fn.log(fn.add(input, eps))))
    if full:  # Stirling's approximation of log(target!)
        tail = fn.mul(fn.log(fn.mul(target, 2 * math.pi)), 0.5)
        stirling = fn.add(fn.sub(fn.mul(target, fn.log(target)), target), tail)
        loss = fn.add(loss, fn.masked_fill(stirling, fn.le(target, 1), 0.0))
    return reduced(loss, reduction)


# ------------------------------------------------------------------------------------- margins --
@composite("soft_margin_loss(Tensor self, Tensor target, int reduction=1) -> Tensor")
def soft_margin_loss(self: Any, target: Any, reduction: int = MEAN) -> Any:
    return reduced(fn.log1p(fn.exp(fn.mul(fn.neg(target), self))), reduction)


@composite(
    "hinge_embedding_loss(Tensor self, Tensor target, float margin=1., int reduction=1) -> Tensor"
)
def hinge_embedding_loss(self: Any, target: Any, margin: float = 1.0, reduction: int = MEAN) -> Any:
    far = fn.masked_fill(fn.clamp_min(fn.rsub(self, margin), 0), fn.eq(target, 1), 0.0)
    near = fn.masked_fill(self, fn.eq(target, -1), 0.0)
    return reduced(fn.add(far, near), reduction)


@composite(
    "margin_ranking_loss(Tensor input1, Tensor input2, Tensor target, float margin=0.,"
    " int reduction=1) -> Tensor"
)
def margin_ranking_loss(
    input1: Any, input2: Any, target: Any, margin: float = 0.0, reduction: int = MEAN
) -> Any:
    ranked = fn.mul(fn.neg(target), fn.sub(input1, input2))
    return reduced(fn.clamp_min(fn.add(ranked, margin), 0), reduction)


@composite(
    "cosine_embedding_loss(Tensor input1, Tensor input2, Tensor target, float margin=0.,"
    " int reduction=1) -> Tensor"
)
def cosine_embedding_loss(
    input1: Any, input2: Any, target: Any, margin: float = 0.0, reduction: int = MEAN
) -> Any:
    def norm(x: Any) -> Any:  # ATen adds 1e-12 to each squared norm
        return fn.add(fn.sum(fn.mul(x, x), (-1,)), 1e-12)

    product = fn.sum(fn.mul(input1, input2), (-1,))
    cosine = fn.div(product, fn.sqrt(fn.mul(norm(input1), norm(input2))))
    near = fn.masked_fill(fn.rsub(cosine, 1), fn.ne(target, 1), 0.0)
    far = fn.masked_fill(fn.clamp_min(fn.sub(cosine, margin), 0), fn.ne(target, -1), 0.0)
    return reduced(fn.add(near, far), reduction)


def _distance(a: Any, b: Any, p: float, eps: float) -> Any:
    return fn.linalg_vector_norm(fn.add(fn.sub(a, b), eps), p, (-1,))


@composite(
    "triplet_margin_loss(Tensor anchor, Tensor positive, Tensor negative, float margin=1.,"
    " float p=2., float eps=9.9999999999999995e-07, bool swap=False, int reduction=1) -> Tensor"
)
def triplet_margin_loss(
    anchor: Any, positive: Any, negative: Any, margin: float = 1.0, p: float = 2.0,
    eps: float = 1e-6, swap: bool = False, reduction: int = MEAN,
) -> Any:  # fmt: skip
    near = _distance(anchor, positive, p, eps)
    far = _distance(anchor, negative, p, eps)
    if swap:
        far = fn.minimum(far, _distance(positive, negative, p, eps))
    return reduced(fn.clamp_min(fn.sub(fn.add(near, margin), far), 0), reduction)
