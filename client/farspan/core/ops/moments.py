"""Reductions that measure spread and size: variances, norms, log-sum-exp, softmax."""

from __future__ import annotations

import math
from typing import Any

from ..call import fn
from ..dtype import DType
from ..errors import DTypeError, UnsupportedError
from ..family import axes, composite, floating, reduction, structured
from ..spec import Spec, wrap_dim, wrap_dims
from .reduce import restored, total


def _count(spec: Spec, dim: Any) -> int:
    return math.prod(spec.shape[d] for d in wrap_dims(dim, spec.ndim))


# ----------------------------------------------------------------------------------- variances --
def _inexact(dtype: DType) -> DType:
    if dtype.category < 2:
        raise DTypeError("std and var only support floating point and complex dtypes")
    return dtype


def _real(dtype: DType) -> DType:
    return dtype.to_real()


def _var(xp: Any, self: Any, dim: Any, correction: Any, keepdim: bool) -> Any:
    over = axes(dim, self)
    count = math.prod(self.shape[d] for d in over)
    centered = self - total(xp, self, over, True) / xp.asarray(count, self.real.dtype)
    if self.dtype.kind == "c":
        squares = centered.real**2 + centered.imag**2
    else:
        squares = centered * centered
    freedom = max(0, count - (1 if correction is None else correction))
    return total(xp, squares, over, keepdim) / xp.asarray(freedom, squares.dtype)


def _var_grad(g: Any, self: Any, self_spec: Spec, dim: Any, correction: Any, keepdim: bool) -> Any:
    freedom = _count(self_spec, dim) - (1 if correction is None else correction)
    scale = 2 / freedom if freedom else math.inf
    centered = fn.sub(self, fn.mean(self, dim, True))
    return fn.mul(fn.mul(restored(g, self_spec, dim, keepdim), scale), centered)


def _std_grad(
    g: Any, self: Any, self_spec: Spec, out: Any, dim: Any, correction: Any, keepdim: bool
) -> Any:
    slope = fn.masked_fill(fn.div(g, fn.mul(out, 2)), fn.eq(out, 0), 0)
    return _var_grad(slope, self, self_spec, dim, correction, keepdim)


_CORRECTION = "int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False) -> "
reduction(
    f"var.correction(Tensor self, {_CORRECTION}Tensor",
    _var,
    {"self": _var_grad},
    dtype=_inexact,
    result=_real,
)
reduction(
    f"std.correction(Tensor self, {_CORRECTION}Tensor",
    lambda xp, self, dim, correction, keepdim: xp.sqrt(_var(xp, self, dim, correction, keepdim)),
    {"self": _std_grad},
    dtype=_inexact,
    result=_real,
)
for _name in ("var", "std"):
    # Through getattr, because fn has each name's overloads only once the table is whole.
    composite(f"{_name}(Tensor self, bool unbiased=True) -> Tensor")(
        lambda self, unbiased=True, f=_name: getattr(fn, f)(self, None, correction=int(unbiased))
    )
    composite(
        f"{_name}.dim(Tensor self, int[1]? dim, bool unbiased=True, bool keepdim=False) -> Tensor"
    )(
        lambda self, dim, unbiased=True, keepdim=False, f=_name: getattr(fn, f)(
            self, dim, correction=int(unbiased), keepdim=keepdim
        )
    )


def _with_mean(name: str) -> None:
    """Declare var_mean or std_mean: the two results one after the other."""

    def both(self: Any, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
        measure = getattr(fn, name)(self, dim, correction=correction, keepdim=keepdim)
        return measure, fn.mean(self, dim, keepdim)

    composite(f"{name}_mean.correction(Tensor self, {_CORRECTION}(Tensor, Tensor)")(both)
    composite(f"{name}_mean(Tensor self, bool unbiased=True) -> (Tensor, Tensor)")(
        lambda self, unbiased=True: both(self, correction=int(unbiased))
    )
    composite(
        f"{name}_mean.dim(Tensor self, int[1]? dim, bool unbiased=True, bool keepdim=False) ->"
        " (Tensor, Tensor)"
    )(
        lambda self, dim, unbiased=True, keepdim=False: both(
            self, dim, correction=int(unbiased), keepdim=keepdim
        )
    )


_with_mean("var")
_with_mean("std")


# --------------------------------------------------------------------------------------- norms --
def _norm(xp: Any, self: Any, ord: Any, dim: Any, keepdim: bool, dtype: Any) -> Any:
    over = axes(dim, self)
    if ord == 2 and self.dtype.kind == "f":
        return xp.sqrt(total(xp, self * self, over, keepdim))
    size = xp.abs(self)
    if ord == 0:
        return total(xp, (size != 0).astype(size.dtype), over, keepdim)
    if math.isinf(ord):
        return (xp.max if ord > 0 else xp.min)(size, axis=over, keepdims=keepdim)
    if ord == 1:
        return total(xp, size, over, keepdim)
    return total(xp, size**ord, over, keepdim) ** (1 / ord)


def _norm_grad(
    g: Any, self: Any, self_spec: Spec, out: Any, ord: Any, dim: Any, keepdim: bool
) -> Any:
    """The derivative of the p-norm, 0 where the norm itself is: torch's subgradient."""
    g = restored(g, self_spec, dim, keepdim)
    norm = restored(out, self_spec, dim, keepdim)
    if ord == 0:
        return fn.zeros_like(self)
    if ord == 1:
        return fn.mul(fn.sgn(self), g)
    if ord == 2:
        return fn.mul(g, fn.masked_fill(fn.div(self, norm), fn.eq(norm, 0), 0))
    size = fn.abs(self)
    if math.isinf(ord):
        best = fn.where(fn.isnan(norm), fn.isnan(self), fn.eq(size, norm))
        count = fn.sum(best, list(wrap_dims(dim, self_spec.ndim)), True)
        return fn.mul(fn.sgn(self), fn.mul(fn.div(g, count), best))
    if ord < 1:
        powers = fn.masked_fill(fn.pow(size, ord - 1), fn.eq(self, 0), 0)
        return fn.mul(fn.mul(fn.sgn(self), powers), fn.mul(g, fn.pow(norm, 1 - ord)))
    scale = fn.masked_fill(fn.div(g, fn.pow(norm, ord - 1)), fn.eq(norm, 0), 0)
    if ord < 2:
        return fn.mul(fn.mul(fn.sgn(self), fn.pow(size, ord - 1)), scale)
    return fn.mul(fn.mul(self, fn.pow(size, ord - 2)), scale)


def _norm_input(dtype: DType) -> DType:
    if dtype.category < 2:
        raise DTypeError(
            "linalg.vector_norm: Expected a floating point or complex tensor as input. Got "
            f"{dtype.name}"
        )
    return dtype


reduction(
    "linalg_vector_norm(Tensor self, Scalar ord=2, int[1]? dim=None, bool keepdim=False, *,"
    " ScalarType? dtype=None) -> Tensor",
    _norm,
    {"self": _norm_grad},
    dtype=_norm_input,
    result=_real,
)


def _plain_norm(self: Any, p: Any, dim: Any = (), keepdim: bool = False, dtype: Any = None) -> Any:
    over = None if dim in ((), []) else dim  # 0 is a dim
    return fn.linalg_vector_norm(self, 2 if p is None else p, over, keepdim, dtype=dtype)


composite("norm.ScalarOpt_dim(Tensor self, Scalar? p, int[1] dim, bool keepdim=False) -> Tensor")(
    _plain_norm
)
composite("norm.Scalar(Tensor self, Scalar p=2) -> Tensor")(lambda self, p=2: _plain_norm(self, p))
composite(
    "norm.ScalarOpt_dim_dtype(Tensor self, Scalar? p, int[1] dim, bool keepdim, *, ScalarType"
    " dtype) -> Tensor"
)(lambda self, p, dim, keepdim, *, dtype: _plain_norm(self, p, dim, keepdim, dtype))
composite("norm.ScalarOpt_dtype(Tensor self, Scalar? p, *, ScalarType dtype) -> Tensor")(
    lambda self, p, *, dtype: _plain_norm(self, p, dtype=dtype)
)


@composite("dist(Tensor self, Tensor other, Scalar p=2) -> Tensor")
def dist(self: Any, other: Any, p: Any = 2) -> Any:
    return fn.linalg_vector_norm(fn.sub(self, other), p)


# ------------------------------------------------------------------------------------- softmax --
def _shift(xp: Any, x: Any, over: tuple[int, ...]) -> Any:
    """Return the largest element, to be subtracted before exp; 0 where that is infinite."""
    top = xp.max(x.real, axis=over, keepdims=True)
    return xp.where(xp.isfinite(top), top, xp.zeros_like(top))


def _logsumexp(xp: Any, self: Any, dim: Any, keepdim: bool) -> Any:
    over = axes(dim, self)
    if not math.prod(self.shape[d] for d in over):
        return xp.log(total(xp, self, over, keepdim))
    top = _shift(xp, self, over)
    value = xp.log(total(xp, xp.exp(self - top), over, True)) + top
    return value if keepdim else xp.squeeze(value, over)


reduction(
    "logsumexp(Tensor self, int[1] dim, bool keepdim=False) -> Tensor",
    _logsumexp,
    {
        "self": lambda g, self, self_spec, out, dim, keepdim: fn.mul(
            restored(g, self_spec, dim, keepdim),
            fn.conj(fn.exp(fn.sub(self, restored(out, self_spec, dim, keepdim)))),
        )
    },
    dtype=floating,
)


def _softmax_meta(name: str) -> Any:
    def meta(self: Spec, dim: int, half_to_float: bool) -> Spec:
        if self.dtype.category != 2:
            raise UnsupportedError(
                f'"{name}_lastdim_kernel_impl" not implemented for {self.dtype.c_name!r}'
            )
        if half_to_float:
            raise DTypeError("softmax with half to float conversion is not supported on CPU")
        wrap_dim(dim, self.ndim)
        return self.contiguous_

    return meta


def _softmax(xp: Any, self: Any, dim: int, half_to_float: bool) -> Any:
    if not self.size:
        return self
    over = axes(dim, self)
    powers = xp.exp(self - xp.max(self, axis=over, keepdims=True))
    return powers / total(xp, powers, over, True)


def _log_softmax(xp: Any, self: Any, dim: int, half_to_float: bool) -> Any:
    if not self.size:
        return self
    over = axes(dim, self)
    shifted = self - xp.max(self, axis=over, keepdims=True)
    return shifted - xp.log(total(xp, xp.exp(shifted), over, True))


def _softmax_backward(xp: Any, grad_output: Any, output: Any, dim: int, input_dtype: Any) -> Any:
    product = grad_output * output
    return product - output * total(xp, product, axes(dim, output), True)


def _softmax_second(g: Any, grad_output: Any, output: Any, dim: int) -> Any:
    inner = fn.sum(fn.mul(grad_output, output), dim, True)
    outer = fn.sum(fn.mul(g, output), dim, True)
    return fn.sub(fn.mul(g, fn.sub(grad_output, inner)), fn.mul(grad_output, outer))


def _log_softmax_backward(
    xp: Any, grad_output: Any, output: Any, dim: int, input_dtype: Any
) -> Any:
    summed = total(xp, grad_output, axes(dim, output), True)
    return grad_output - xp.exp(output) * summed


def _backward_meta(grad_output: Spec, output: Spec, dim: int, input_dtype: DType) -> Spec:
    return Spec.make(output.shape, input_dtype, output.device)


structured(
    "_softmax(Tensor self, int dim, bool half_to_float) -> Tensor",
    meta=_softmax_meta("softmax"),
    kernel=_softmax,
    vjp={"self": lambda g, out, out_spec, dim: fn._softmax_backward_data(
        g, out, dim, out_spec.dtype
    )},
)  # fmt: skip
structured(
    "_softmax_backward_data(Tensor grad_output, Tensor output, int dim, ScalarType input_dtype)"
    " -> Tensor",
    meta=_backward_meta,
    kernel=_softmax_backward,
    vjp={
        "grad_output": lambda g, output, dim, input_dtype: fn._softmax_backward_data(
            g, output, dim, input_dtype
        ),
        "output": _softmax_second,
    },
)
structured(
    "_log_softmax(Tensor self, int dim, bool half_to_float) -> Tensor",
    meta=_softmax_meta("log_softmax"),
    kernel=_log_softmax,
    vjp={"self": lambda g, out, out_spec, dim: fn._log_softmax_backward_data(
        g, out, dim, out_spec.dtype
    )},
)  # fmt: skip
structured(
    "_log_softmax_backward_data(Tensor grad_output, Tensor output, int dim, ScalarType input_dtype)"
    " -> Tensor",
    meta=_backward_meta,
    kernel=_log_softmax_backward,
    vjp={
        "grad_output": lambda g, output, dim: fn.sub(
            g, fn.sum(fn.mul(g, fn.exp(output)), dim, True)
        ),
        "output": lambda g, grad_output, output, dim: fn.neg(
            fn.mul(fn.mul(g, fn.exp(output)), fn.sum(grad_output, dim, True))
        ),
    },
)
for _name in ("softmax", "log_softmax"):
    composite(f"{_name}.int(Tensor self, int dim, ScalarType? dtype=None) -> Tensor")(
        lambda self, dim, dtype=None, f=f"_{_name}": getattr(fn, f)(
            self if dtype in (None, self._spec.dtype) else fn._cast(self, dtype), dim, False
        )
    )
