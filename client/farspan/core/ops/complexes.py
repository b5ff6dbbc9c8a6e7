"""Complex numbers: their parts as views, angles, conjugates, and how to make them."""

from __future__ import annotations

import math
from typing import Any

from ..call import fn
from ..dtype import DType, bool_
from ..errors import DTypeError, ShapeError
from ..family import common_dtype, composite, pointwise, structured, view
from ..spec import Spec


def _view_as_real_meta(self: Spec) -> tuple[Spec, int]:
    if not self.dtype.is_complex:
        raise DTypeError("view_as_real is only supported for complex tensors")
    stride = tuple(2 * s for s in self.stride)
    return self.with_((*self.shape, 2), self.dtype.to_real(), stride=(*stride, 1)), 0


def _view_as_complex_meta(self: Spec) -> tuple[Spec, int]:
    if self.dtype.name not in ("float32", "float64"):
        raise DTypeError(
            "view_as_complex is only supported for half, float and double tensors, but got a "
            f"tensor of scalar type: {self.dtype.name}"
        )
    if not self.shape or self.shape[-1] != 2:
        raise ShapeError("Tensor must have a last dimension of size 2")
    if self.stride[-1] != 1 or any(s % 2 for s in self.stride[:-1]):
        raise ShapeError("Tensor must have a last dimension with stride 1, and even strides")
    stride = tuple(s // 2 for s in self.stride[:-1])
    return self.with_(self.shape[:-1], self.dtype.to_complex(), stride=stride), 0


view(
    "view_as_real(Tensor(a) self) -> Tensor(a)",
    _view_as_real_meta,
    {"self": lambda g: fn.view_as_complex(fn.contiguous(g))},
)
view(
    "view_as_complex(Tensor(a) self) -> Tensor(a)",
    _view_as_complex_meta,
    {"self": lambda g: fn.view_as_real(g)},
)


@composite("real(Tensor(a) self) -> Tensor(a)")
def real(self: Any) -> Any:
    """The real part as a view; a real tensor itself."""
    return fn.select(fn.view_as_real(self), -1, 0) if self._spec.dtype.is_complex else self


@composite("imag(Tensor(a) self) -> Tensor(a)")
def imag(self: Any) -> Any:
    """The imaginary part as a view."""
    if not self._spec.dtype.is_complex:
        raise DTypeError("imag is not implemented for tensors with non-complex dtypes.")
    return fn.select(fn.view_as_real(self), -1, 1)


structured(
    "conj_physical(Tensor self) -> Tensor",
    meta=lambda self: self if self.dense else self.contiguous_,
    kernel=lambda xp, self: xp.conj(self) if self.dtype.kind == "c" else self,
    vjp={"self": lambda g: fn.conj_physical(g)},
)


@composite("conj(Tensor(a) self) -> Tensor(a)")
def conj(self: Any) -> Any:
    """The conjugate; torch marks a view lazily, here complex tensors are conjugated at once."""
    return fn.conj_physical(self) if self._spec.dtype.is_complex else self


@composite("resolve_conj(Tensor(a) self) -> Tensor(a)")
def resolve_conj(self: Any) -> Any:
    return self


@composite("resolve_neg(Tensor(a) self) -> Tensor(a)")
def resolve_neg(self: Any) -> Any:
    return self


@composite("isreal(Tensor self) -> Tensor")
def isreal(self: Any) -> Any:
    if not self._spec.dtype.is_complex:
        return fn.ones_like(self, dtype=bool_)
    return fn.eq(fn.imag(self), 0)


def _angle(xp: Any, self: Any) -> Any:
    if self.dtype.kind == "c":
        return xp.angle(self)
    value = xp.where(self < 0, math.pi, 0.0).astype(self.dtype)
    return xp.where(xp.isnan(self), self, value)


def _angle_grad(g: Any, self: Any) -> Any:
    if not self._spec.dtype.is_complex:
        return fn.zeros_like(g)
    size = fn.abs(self)
    across = fn.mul(fn.div(self, fn.mul(size, size)), 1j)
    return fn.masked_fill(fn.mul(g, across), fn.eq(size, 0), 0)


def _angle_dtype(self: Spec) -> DType:
    return self.dtype if self.dtype.category >= 2 else common_dtype(self, 1.0)


def _angle_meta(self: Spec) -> Spec:
    """Of complex numbers torch lays the angles out in C order, of real ones as they are."""
    laid = self.contiguous_ if self.dtype.is_complex or not self.dense else self
    return laid.with_(dtype=_angle_dtype(self).to_real())


structured(
    "angle(Tensor self) -> Tensor",
    meta=_angle_meta,
    kernel=_angle,
    vjp={"self": _angle_grad},
    compute=_angle_dtype,
)


def _parts_dtype(name: str) -> Any:
    def check(a: Spec, b: Spec) -> DType:
        if a.dtype.category != 2 or b.dtype.category != 2:
            raise DTypeError(
                f"Expected both inputs to be Half, Float or Double tensors but got {a.dtype.name} "
                f"and {b.dtype.name}"
            )
        if a.dtype is not b.dtype:
            raise DTypeError(
                f"{name}(): expected two tensors of one dtype, got {a.dtype.name} and "
                f"{b.dtype.name}"
            )
        return a.dtype

    return check


def join(xp: Any, real: Any, imag: Any) -> Any:
    """Return complex numbers of two parts, each as it is: ``real + 1j * imag`` spreads nan."""
    shape = xp.broadcast_shapes(real.shape, imag.shape)
    out = xp.empty(shape, xp.result_type(real.dtype, imag.dtype, xp.complex64))
    out.real, out.imag = real, imag
    return out


pointwise(
    "complex(Tensor real, Tensor imag) -> Tensor",
    join,
    {"real": lambda g: fn.real(g), "imag": lambda g: fn.imag(g)},
    compute=_parts_dtype("complex"),
    result=lambda d: d.to_complex(),
)


def _polar_grad(g: Any, out: Any) -> Any:
    """As torch's, exact for lengths that are not negative."""
    length = fn.real(fn.mul(fn.conj(g), fn.sgn(out)))
    return length, fn.neg(fn.imag(fn.mul(fn.conj(g), out)))


pointwise(
    "polar(Tensor abs, Tensor angle) -> Tensor",
    lambda xp, abs, angle: join(xp, abs * xp.cos(angle), abs * xp.sin(angle)),
    {"abs angle": _polar_grad},
    compute=_parts_dtype("polar"),
    result=lambda d: d.to_complex(),
)
