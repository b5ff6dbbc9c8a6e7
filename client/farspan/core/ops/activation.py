"""Activations, as ATen has them: what `torch.nn.functional` stands on.

The `*_backward` ops are torch's own: one pass instead of several in every training step. Their
formulas, which second order needs, are spelled out over other ops.
"""

from __future__ import annotations

import math
from typing import Any

from .. import special
from ..blocks import by_blocks, kept, select
from ..call import fn
from ..errors import BadValueError, DivisionError, ShapeError
from ..family import composite, pointwise, refuse, structured
from ..spec import Spec, wrap_dim

_FLOATING = "bic"  # refused: everything but floating-point
_ROOT_HALF = math.sqrt(0.5)
_ROOT_TWO_OVER_PI = math.sqrt(2 / math.pi)
_CUBIC = 0.044715  # of the tanh approximation of gelu, arXiv:1606.08415


def _one(self: Any, x: Any) -> Any:
    """Return a Python number as a scalar of self's type, so that formulas stay in it."""
    return self.dtype.type(x)


# ---------------------------------------------------------------------------- straight pieces --
pointwise(
    "relu(Tensor self) -> Tensor",
    lambda xp, self: xp.maximum(self, 0),
    {"self": lambda g, out: fn.threshold_backward(g, out, 0)},
    refuses="bc",
)
pointwise(
    "threshold_backward(Tensor grad_output, Tensor self, Scalar threshold) -> Tensor",
    lambda xp, grad_output, self, threshold: kept(xp, ~(self <= threshold), grad_output),
    {"grad_output": lambda g, self, threshold: fn.threshold_backward(g, self, threshold)},
    operands="grad_output self",
)
pointwise(
    "threshold(Tensor self, Scalar threshold, Scalar value) -> Tensor",
    lambda xp, self, threshold, value: select(xp, self <= threshold, value, self),
    {"self": lambda g, self, threshold: fn.threshold_backward(g, self, threshold)},
    operands="self",
    refuses="bc",
)
pointwise(
    "leaky_relu(Tensor self, Scalar negative_slope=0.01) -> Tensor",
    lambda xp, self, negative_slope: select(xp, self > 0, self, self * negative_slope),
    {
        "self": lambda g, self, negative_slope: fn.leaky_relu_backward(
            g, self, negative_slope, False
        )
    },
    operands="self",
    refuses=_FLOATING,
)
pointwise(
    "leaky_relu_backward(Tensor grad_output, Tensor self, Scalar negative_slope, bool"
    " self_is_result) -> Tensor",
    lambda xp, grad_output, self, negative_slope, self_is_result: select(
        xp, self > 0, grad_output, grad_output * negative_slope
    ),
    {
        "grad_output": lambda g, self, negative_slope, self_is_result: fn.leaky_relu_backward(
            g, self, negative_slope, self_is_result
        )
    },
    operands="grad_output self",
    refuses=_FLOATING,
)
pointwise(
    "hardtanh(Tensor self, Scalar min_val=-1, Scalar max_val=1) -> Tensor",
    lambda xp, self, min_val, max_val: xp.clip(self, _one(self, min_val), _one(self, max_val)),
    {"self": lambda g, self, min_val, max_val: fn.hardtanh_backward(g, self, min_val, max_val)},
    operands="self",
    refuses="bc",
)
pointwise(
    "hardtanh_backward(Tensor grad_output, Tensor self, Scalar min_val, Scalar max_val) -> Tensor",
    lambda xp, grad_output, self, min_val, max_val: kept(
        xp, ~((self <= min_val) | (self >= max_val)), grad_output
    ),
    {
        "grad_output": lambda g, self, min_val, max_val: fn.hardtanh_backward(
            g, self, min_val, max_val
        )
    },
    operands="grad_output self",
    refuses=_FLOATING,
)


@composite("relu6(Tensor self) -> Tensor")
def relu6(self: Any) -> Any:
    return fn.hardtanh(self, 0, 6)


pointwise(
    "hardsigmoid(Tensor self) -> Tensor",
    lambda xp, self: xp.clip(self + 3, 0, 6) / 6,
    {"self": lambda g, self: fn.where(_between(self, -3, 3), fn.div(g, 6), 0)},
    refuses=_FLOATING,
)


def _between(x: Any, low: float, high: float) -> Any:
    return fn.logical_and(fn.gt(x, low), fn.lt(x, high))


def _hardswish_grad(g: Any, self: Any) -> Any:
    curved = fn.where(fn.lt(self, 3), fn.mul(g, fn.add(fn.div(self, 3), 0.5)), g)
    return fn.masked_fill(curved, fn.le(self, -3), 0)


pointwise(
    "hardswish(Tensor self) -> Tensor",
    lambda xp, self: self * xp.clip(self + 3, 0, 6) / 6,
    {"self": _hardswish_grad},
    refuses=_FLOATING,
)
pointwise(
    "hardshrink(Tensor self, Scalar lambd=0.5) -> Tensor",
    lambda xp, self, lambd: kept(xp, ~((self >= -lambd) & (self <= lambd)), self),
    {"self": lambda g, self, lambd: fn.masked_fill(g, fn.le(fn.abs(self), lambd), 0)},
    operands="self",
    refuses=_FLOATING,
)
pointwise(
    "softshrink(Tensor self, Scalar lambd=0.5) -> Tensor",
    lambda xp, self, lambd: self - xp.clip(self, -lambd, lambd),
    {"self": lambda g, self, lambd: fn.masked_fill(g, fn.le(fn.abs(self), lambd), 0)},
    operands="self",
    refuses=_FLOATING,
)
pointwise(
    "_prelu_kernel(Tensor self, Tensor weight) -> Tensor",
    lambda xp, self, weight: select(xp, self > 0, self, weight * self),
    {
        "self": lambda g, self, weight: fn.where(fn.gt(self, 0), g, fn.mul(weight, g)),
        "weight": lambda g, self: fn.where(fn.gt(self, 0), 0, fn.mul(self, g)),
    },
    refuses=_FLOATING,
)


@composite("prelu(Tensor self, Tensor weight) -> Tensor")
def prelu(self: Any, weight: Any) -> Any:
    """One weight for all, or one a channel: dim 1 of self."""
    spec, n = self._spec, weight._spec.numel
    channels = spec.shape[1] if spec.ndim > 1 else 1
    if n not in (1, channels):
        raise ShapeError(
            "Mismatch of parameter numbers and input channel size. Found parameter numbers = "
            f"{n} and channel size = {channels}."
        )
    shape = [n if d == 1 else 1 for d in range(spec.ndim)] if spec.ndim != 1 else [n]
    return fn._prelu_kernel(self, fn.reshape(weight, shape))


# ----------------------------------------------------------------------------- exponential ones --
@by_blocks
def _elu(xp: Any, self: Any, alpha: float, scale: float, input_scale: float) -> Any:
    low = xp.expm1(xp.minimum(self, 0) * input_scale) * (alpha * scale)
    return select(xp, self > 0, self * scale, low)


@by_blocks
def _elu_backward(xp: Any, g: Any, alpha: float, scale: float, input_scale: float, is_result: bool,
                  x: Any) -> Any:  # fmt: skip
    if is_result:
        low = (x + alpha * scale) * input_scale
    else:
        low = xp.exp(xp.minimum(x, 0) * input_scale) * (alpha * scale * input_scale)
    return g * select(xp, x > 0, scale, low)


def _elu_second(g: Any, grad_output: Any, alpha: Any, scale: Any, input_scale: Any, is_result: Any,
                self_or_result: Any) -> Any:  # fmt: skip
    both = fn.mul(g, grad_output)
    if is_result:
        slope = fn.mul(both, input_scale)
    else:
        bend = alpha * scale * input_scale * input_scale
        slope = fn.mul(both, fn.mul(fn.exp(fn.mul(self_or_result, input_scale)), bend))
    return fn.masked_fill(slope, fn.gt(self_or_result, 0), 0)


pointwise(
    "elu(Tensor self, Scalar alpha=1, Scalar scale=1, Scalar input_scale=1) -> Tensor",
    _elu,
    {
        "self": lambda g, self, alpha, scale, input_scale: fn.elu_backward(
            g, alpha, scale, input_scale, False, self
        )
    },
    operands="self",
    refuses=_FLOATING,
)
pointwise(
    "elu_backward(Tensor grad_output, Scalar alpha, Scalar scale, Scalar input_scale, bool"
    " is_result, Tensor self_or_result) -> Tensor",
    _elu_backward,
    {
        "grad_output": lambda g, alpha, scale, input_scale, is_result, self_or_result: (
            fn.elu_backward(g, alpha, scale, input_scale, is_result, self_or_result)
        ),
        "self_or_result": _elu_second,
    },
    operands="grad_output self_or_result",
    refuses=_FLOATING,
)


@composite("selu(Tensor self) -> Tensor")
def selu(self: Any) -> Any:
    return fn.elu(self, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@composite("celu(Tensor self, Scalar alpha=1.) -> Tensor")
def celu(self: Any, alpha: float = 1.0) -> Any:
    if alpha == 0:
        raise DivisionError("ZeroDivisionError: alpha cannot be 0 for CELU")
    return fn.elu(self, alpha, 1.0, 1.0 / alpha)


@by_blocks
def _softplus(xp: Any, self: Any, beta: float, threshold: float) -> Any:
    scaled = self * beta
    bent = xp.log1p(xp.exp(xp.minimum(scaled, _one(self, threshold)))) / beta
    return select(xp, scaled > threshold, self, bent)


@by_blocks
def _softplus_backward(xp: Any, grad_output: Any, self: Any, beta: float, threshold: float) -> Any:
    scaled = self * beta
    bent = grad_output / (1 + xp.exp(-scaled))
    return select(xp, scaled > threshold, grad_output, bent)


def _softplus_second(g: Any, grad_output: Any, self: Any, beta: float, threshold: float) -> Any:
    scaled = fn.mul(self, beta)
    slope = fn.sigmoid_backward(fn.mul(g, grad_output), fn.sigmoid(scaled))
    return fn.masked_fill(fn.mul(slope, beta), fn.gt(scaled, threshold), 0)


pointwise(
    "softplus(Tensor self, Scalar beta=1, Scalar threshold=20) -> Tensor",
    _softplus,
    {"self": lambda g, self, beta, threshold: fn.softplus_backward(g, self, beta, threshold)},
    operands="self",
    refuses=_FLOATING,
)
pointwise(
    "softplus_backward(Tensor grad_output, Tensor self, Scalar beta, Scalar threshold) -> Tensor",
    _softplus_backward,
    {
        "grad_output": lambda g, self, beta, threshold: fn.softplus_backward(
            g, self, beta, threshold
        ),
        "self": _softplus_second,
    },
    operands="grad_output self",
    refuses=_FLOATING,
)


def _log_sigmoid_meta(self: Spec) -> Spec:
    refuse("log_sigmoid_cpu", self.dtype, "bic")
    return self.contiguous_


structured(
    "log_sigmoid(Tensor self) -> Tensor",
    meta=_log_sigmoid_meta,
    kernel=lambda xp, self: xp.minimum(self, 0) - xp.log1p(xp.exp(-xp.abs(self))),
    vjp={"self": lambda g, self: fn.mul(g, fn.sigmoid(fn.neg(self)))},
)


# ------------------------------------------------------------------------------- gated by self --
def _sigmoid(xp: Any, x: Any) -> Any:
    return 1 / (1 + xp.exp(-x))


@by_blocks
def _silu_backward(xp: Any, grad_output: Any, self: Any) -> Any:
    s = _sigmoid(xp, self)
    return grad_output * (s * (1 + self * (1 - s)))


def _silu_second(g: Any, grad_output: Any, self: Any) -> Any:
    """x s(x) bends by s' (2 + x (1 - 2 s))."""
    s = fn.sigmoid(self)
    bend = fn.add(fn.mul(self, fn.rsub(fn.mul(s, 2), 1)), 2)
    return fn.mul(fn.mul(g, grad_output), fn.mul(fn.mul(s, fn.rsub(s, 1)), bend))


pointwise(
    "silu(Tensor self) -> Tensor",
    by_blocks(lambda xp, self: self / (1 + xp.exp(-self))),
    {"self": lambda g, self: fn.silu_backward(g, self)},
    refuses="bi",
)
pointwise(
    "silu_backward(Tensor grad_output, Tensor self) -> Tensor",
    _silu_backward,
    {
        "grad_output": lambda g, self: fn.silu_backward(g, self),
        "self": _silu_second,
    },
    refuses="bi",
)


def _mish_grad(g: Any, self: Any) -> Any:
    t = fn.tanh(fn.softplus(self))
    bend = fn.mul(fn.mul(self, fn.sigmoid(self)), fn.rsub(fn.mul(t, t), 1))
    return fn.mul(g, fn.add(t, bend))


pointwise(
    "mish(Tensor self) -> Tensor",
    by_blocks(lambda xp, self: self * xp.tanh(_softplus(xp, self, 1, 20))),
    {"self": _mish_grad},
    refuses=_FLOATING,
)


@by_blocks
def _gelu(xp: Any, self: Any, approximate: str) -> Any:
    if _approximates(approximate):
        inner = self * (_ROOT_TWO_OVER_PI * (1 + _CUBIC * self * self))
        return 0.5 * self * (1 + xp.tanh(inner))
    return 0.5 * self * (1 + special.erf(xp, self * _one(self, _ROOT_HALF)))


def _approximates(name: str) -> bool:
    if name not in ("none", "tanh"):
        raise BadValueError("approximate argument must be either none or tanh.")
    return name == "tanh"


@by_blocks
def _gelu_backward(xp: Any, grad_output: Any, self: Any, approximate: str) -> Any:
    square = self * self
    if _approximates(approximate):
        t = xp.tanh(self * (_ROOT_TWO_OVER_PI * (1 + _CUBIC * square)))
        bend = (1 - t * t) * (_ROOT_TWO_OVER_PI * (1 + 3 * _CUBIC * square))
        return grad_output * (0.5 * (1 + t) + 0.5 * self * bend)
    cdf = 0.5 * (1 + special.erf(xp, self * _one(self, _ROOT_HALF)))
    pdf = xp.exp(-0.5 * square) * (1 / math.sqrt(2 * math.pi))
    return grad_output * (cdf + self * pdf)


def _gelu_second(g: Any, grad_output: Any, self: Any, approximate: str) -> Any:
    both = fn.mul(g, grad_output)
    square = fn.mul(self, self)
    if not _approximates(approximate):
        pdf = fn.mul(fn.exp(fn.mul(square, -0.5)), 1 / math.sqrt(2 * math.pi))
        return fn.mul(both, fn.mul(pdf, fn.rsub(square, 2)))
    # f = x/2 (1 + tanh u): f'' = s u' + x/2 (s u'' - 2 t s u'^2), with t = tanh u, s = 1 - t^2.
    t = fn.tanh(fn.mul(fn.mul(self, _ROOT_TWO_OVER_PI), fn.add(fn.mul(square, _CUBIC), 1)))
    s = fn.rsub(fn.mul(t, t), 1)
    u1 = fn.mul(fn.add(fn.mul(square, 3 * _CUBIC), 1), _ROOT_TWO_OVER_PI)
    u2 = fn.mul(self, 6 * _CUBIC * _ROOT_TWO_OVER_PI)
    bend = fn.sub(u2, fn.mul(fn.mul(t, 2), fn.mul(u1, u1)))
    return fn.mul(both, fn.mul(s, fn.add(u1, fn.mul(fn.mul(self, 0.5), bend))))


pointwise(
    'gelu(Tensor self, *, str approximate="none") -> Tensor',
    _gelu,
    {"self": lambda g, self, approximate: fn.gelu_backward(g, self, approximate=approximate)},
    refuses=_FLOATING,
)
pointwise(
    'gelu_backward(Tensor grad_output, Tensor self, *, str approximate="none") -> Tensor',
    _gelu_backward,
    {
        "grad_output": lambda g, self, approximate: fn.gelu_backward(
            g, self, approximate=approximate
        ),
        "self": _gelu_second,
    },
    refuses=_FLOATING,
)


@composite("glu(Tensor self, int dim=-1) -> Tensor")
def glu(self: Any, dim: int = -1) -> Any:
    if not self._spec.shape:
        raise ShapeError("glu does not support 0-dimensional tensors")
    dim = wrap_dim(dim, self._spec.ndim)
    n = self._spec.shape[dim]
    if n % 2:
        raise ShapeError(f"Halving dimension must be even, but dimension {dim} is size {n}")
    half = n // 2
    refuse("glu_cpu", self._spec.dtype, "bic")
    return fn.mul(fn.narrow(self, dim, 0, half), fn.sigmoid(fn.narrow(self, dim, half, half)))
