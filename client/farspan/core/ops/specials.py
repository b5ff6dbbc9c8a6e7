"""torch.special's functions: Bessel's, gammas, the normal distribution, polynomials, and kin.

The table's rows are `special_<name>`; `farspan.special` gives them their names. Kernels are in
`core/special.py`, `core/bessel.py`, `core/probability.py` and `core/polynomials.py`. Bessel
functions without an i and polynomials have no derivative in torch, so they have none here.
"""

from __future__ import annotations

import math
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .. import special
from ..blocks import by_blocks
from ..call import fn
from ..dtype import bool_, float64, int32
from ..errors import DTypeError, ShapeError, UnsupportedError
from ..family import composite, floating, pointwise, structured
from ..spec import Spec
from .functions import of_out, of_self

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOT_HALF, _ROOT_2PI = math.sqrt(0.5), math.sqrt(2 * math.pi)


def _no_derivative(of: str) -> Callable[[Any], Any]:
    """Return the formula of a gradient that torch does not have either."""

    def refuse(g: Any) -> Any:
        raise UnsupportedError(f"the derivative for '{of}' is not implemented.")

    return refuse


def _kernel(module: str, name: str, *first: Any) -> Callable[..., Any]:
    """Return a kernel of a module that is loaded at its first use: clients have none for it."""

    def run(xp: Any, *args: Any) -> Any:
        return getattr(import_module(f"farspan.core.{module}"), name)(xp, *first, *args)

    return by_blocks(run)


# ------------------------------------------------------------------------- without a derivative --
for _order in (0, 1):
    for _name, _function in {
        f"bessel_j{_order}(Tensor self)": _kernel("bessel", "bessel_j", _order),
        f"bessel_y{_order}(Tensor self)": _kernel("bessel", "bessel_y", _order),
        f"modified_bessel_i{_order}(Tensor self)": _kernel("bessel", "bessel_i", _order, False),
        f"modified_bessel_k{_order}(Tensor self)": _kernel("bessel", "bessel_k", _order, False),
        f"scaled_modified_bessel_k{_order}(Tensor x)": _kernel("bessel", "bessel_k", _order, True),
    }.items():
        pointwise(f"special_{_name} -> Tensor", _function, dtype=floating, refuses="ch")
for _name, _function in {
    "spherical_bessel_j0": _kernel("bessel", "spherical_j0"),
    "airy_ai": _kernel("bessel", "airy_ai"),
}.items():
    pointwise(f"special_{_name}(Tensor x) -> Tensor", _function, dtype=floating, refuses="ch")

_POLYNOMIALS = {
    "hermite_polynomial_h": _kernel("polynomials", "hermite_h"),
    "hermite_polynomial_he": _kernel("polynomials", "hermite_he"),
    "laguerre_polynomial_l": _kernel("polynomials", "laguerre"),
    "legendre_polynomial_p": _kernel("polynomials", "legendre"),
}
for _kind in "tuvw":
    _name = f"chebyshev_polynomial_{_kind}"
    _POLYNOMIALS[_name] = _kernel("polynomials", "chebyshev", _kind, False)
    _POLYNOMIALS[f"shifted_{_name}"] = _kernel("polynomials", "chebyshev", _kind, True)
for _name, _function in _POLYNOMIALS.items():
    for _form in ("(Tensor x, Tensor n)", ".n_scalar(Tensor x, Scalar n)",
                  ".x_scalar(Scalar x, Tensor n)"):  # fmt: skip
        pointwise(f"special_{_name}{_form} -> Tensor", _function, dtype=floating, refuses="ch")


# --------------------------------------------------------------------- modified Bessel functions --
_EPSILON = {True: 2.0**-52, False: 2.0**-23}  # by whether the elements are float64


def _limited(x: Any, out: Any, slope: Callable[[Any, Any], Any]) -> Any:
    """Return slope(x, out / x), and its limit 1/2 where x is as good as 0."""
    epsilon = _EPSILON[x._spec.dtype is float64]
    tiny = fn.le(fn.abs(x), epsilon)
    x = fn.masked_fill(x, tiny, epsilon)
    return fn.masked_fill(slope(x, fn.div(out, x)), tiny, 0.5)


def _i1_grad(g: Any, self: Any, out: Any) -> Any:
    """I1' = I0 - I1 / x (DLMF 10.29.2)."""
    return fn.mul(g, _limited(self, out, lambda x, ratio: fn.sub(fn.i0(x), ratio)))


def _i1e_grad(g: Any, self: Any, out: Any) -> Any:
    def slope(x: Any, ratio: Any) -> Any:
        return fn.sub(fn.special_i0e(x), fn.add(fn.mul(out, fn.sgn(x)), ratio))

    return fn.mul(g, _limited(self, out, slope))


def _i0e_grad(g: Any, self: Any, out: Any) -> Any:
    return fn.mul(g, fn.sub(fn.special_i1e(self), fn.mul(fn.sgn(self), out)))


for _name, _way, _vjp in (
    ("i0", (0, False), of_self(lambda x: fn.special_i1(x))),
    ("special_i0e", (0, True), {"self": _i0e_grad}),
    ("special_i1", (1, False), {"self": _i1_grad}),
    ("special_i1e", (1, True), {"self": _i1e_grad}),
):
    pointwise(
        f"{_name}(Tensor self) -> Tensor",
        _kernel("bessel", "bessel_i", *_way),
        _vjp,
        dtype=floating,
        refuses="c",
    )


# ------------------------------------------------------------------- gammas and normal variables --
def _gamma_density(g: Any, self: Any, other: Any) -> Any:
    """Return g times dP(a, x)/dx = x^(a-1) exp(-x) / Gamma(a)."""
    power = fn.mul(fn.sub(self, 1), fn.log(other))
    return fn.mul(g, fn.exp(fn.sub(fn.sub(power, other), fn.lgamma(self))))


for _name, _function, _density in (
    ("igamma", _kernel("probability", "gammainc"), _gamma_density),
    (
        "igammac",
        _kernel("probability", "gammaincc"),
        lambda g, self, other: fn.neg(_gamma_density(g, self, other)),
    ),
):
    pointwise(
        f"{_name}(Tensor self, Tensor other) -> Tensor",
        _function,
        {"self": _no_derivative(f"{_name}: input"), "other": _density},
        refuses="bic",
    )


@composite("mvlgamma(Tensor self, int p) -> Tensor")
def mvlgamma(self: Any, p: int) -> Any:
    """The sum of lgamma(self + (1 - j) / 2), j from 1 to p, and a constant (DLMF 35.3.4)."""
    dtype = self._spec.dtype
    if dtype is bool_:
        raise DTypeError("The input tensor may not be a boolean tensor.")
    if dtype.is_complex:
        raise UnsupportedError(f"\"mvlgamma\" not implemented for '{dtype.c_name}'")
    if p < 1:
        raise ShapeError("p has to be greater than or equal to 1")
    dtype = floating(dtype)
    steps = fn.arange(-p / 2 + 0.5, 0.5, 0.5, dtype=dtype, device=self._spec.device)
    each = fn.lgamma(fn.add(fn.unsqueeze(fn._cast(self, dtype), -1), steps))
    return fn.add(fn.sum(each, -1), p * (p - 1) / 4 * math.log(math.pi))


@composite("polygamma_(Tensor(a!) self, int n) -> Tensor(a!)")
def polygamma_(self: Any, n: int) -> Any:
    return fn.polygamma(n, self)


_NORMAL: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "erfcx": (
        _kernel("special", "erfcx"),
        {
            "self": lambda g, self, out: fn.mul(
                g, fn.sub(fn.mul(fn.mul(self, 2), out), 2 / math.sqrt(math.pi))
            )
        },
        "ch",
    ),
    "ndtr": (
        _kernel("probability", "ndtr"),
        of_self(lambda x: fn.div(fn.exp(fn.div(fn.mul(x, x), -2)), _ROOT_2PI)),
        "c",
    ),
    "log_ndtr": (
        _kernel("probability", "log_ndtr"),
        {
            "self": lambda g, self: fn.mul(
                fn.div(g, fn.special_erfcx(fn.mul(self, -_ROOT_HALF))), math.sqrt(2 / math.pi)
            )
        },
        "ch",
    ),
    "ndtri": (
        _kernel("probability", "ndtri"),
        of_out(lambda y: fn.mul(fn.exp(fn.div(fn.mul(y, y), 2)), _ROOT_2PI)),
        "ch",
    ),
}
for _name, (_function, _vjp, _refuses) in _NORMAL.items():
    pointwise(
        f"special_{_name}(Tensor self) -> Tensor",
        _function,
        _vjp,
        dtype=floating,
        refuses=_refuses,
    )


def _entr(xp: Any, self: Any) -> Any:
    value = -self * xp.log(xp.where(self > 0, self, 1))
    value = xp.where(self > 0, value, xp.where(self == 0, 0, -xp.inf))
    return xp.where(xp.isnan(self), self, value).astype(self.dtype)


pointwise(
    "special_entr(Tensor self) -> Tensor",
    _entr,
    of_self(lambda x: fn.neg(fn.add(fn.log(x), 1))),
    dtype=floating,
    refuses="c",
)


def _zeta_grad(g: Any, self: Any, other: Any) -> Any:
    if isinstance(self, (int, float)):
        return fn.mul(g, fn.mul(fn.special_zeta(self + 1.0, other), -self))
    return fn.mul(g, fn.mul(fn.special_zeta(fn.add(self, 1.0), other), fn.neg(self)))


for _form in ("(Tensor self, Tensor other)", ".self_scalar(Scalar self, Tensor other)",
              ".other_scalar(Tensor self, Scalar other)"):  # fmt: skip
    _vjp = {"self": _no_derivative("zeta"), "other": _zeta_grad}
    for _number in re.findall(r"Scalar (\w+)", _form):
        del _vjp[_number]
    pointwise(f"special_zeta{_form} -> Tensor", special.zeta, _vjp, dtype=floating, refuses="ch")


# ---------------------------------------------------------------------------------- x log(1 + y) --
def _xlog1py(xp: Any, self: Any, other: Any) -> Any:
    value = xp.where(xp.equal(self, 0), 0, self * xp.log1p(other))
    return xp.where(xp.isnan(other), xp.nan, value)


def _xlog1py_self(g: Any, self: Any, other: Any) -> Any:
    if isinstance(other, (bool, int, float)):
        other = fn.full_like(self, other)
    empty = fn.logical_and(fn.eq(self, 0), fn.le(other, -1))
    return fn.masked_fill(fn.mul(g, fn.log1p(other)), empty, 0)


def _xlog1py_other(g: Any, self: Any, other: Any) -> Any:
    return fn.div(fn.mul(g, self), fn.add(other, 1))


for _form in ("(Tensor self, Tensor other)", ".self_scalar(Scalar self, Tensor other)",
              ".other_scalar(Tensor self, Scalar other)"):  # fmt: skip
    _vjp = {"self": _xlog1py_self, "other": _xlog1py_other}
    for _number in re.findall(r"Scalar (\w+)", _form):
        del _vjp[_number]
    pointwise(f"special_xlog1py{_form} -> Tensor", _xlog1py, _vjp, dtype=floating, refuses="c")
    composite(f"special_xlogy{_form} -> Tensor")(lambda self, other: fn.xlogy(self, other))


# -------------------------------------------------------- names of torch.special with a schema --
@composite("special_round(Tensor self, *, int decimals=0) -> Tensor")
def special_round(self: Any, *, decimals: int = 0) -> Any:
    return fn.round(self, decimals=decimals)


@composite("special_softmax(Tensor self, int dim, ScalarType? dtype=None) -> Tensor")
def special_softmax(self: Any, dim: int, dtype: Any = None) -> Any:
    return fn.softmax(self, dim, dtype)


@composite("special_log_softmax(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor")
def special_log_softmax(self: Any, dim: int, *, dtype: Any = None) -> Any:
    return fn.log_softmax(self, dim, dtype)


# ------------------------------------------------------- divisors, neighbours, parts of a number --
for _name in ("gcd", "lcm"):
    pointwise(
        f"{_name}(Tensor self, Tensor other) -> Tensor",
        lambda xp, self, other, f=_name: getattr(xp, f)(self, other),
        refuses="bfc",
    )


def _nextafter_self(g: Any, self: Any, other: Any) -> Any:
    return fn.masked_fill(g, fn.eq(self, other), 0)


def _nextafter(xp: Any, self: Any, other: Any) -> Any:
    """`moves`: the neighbour is one in the operands' own precision; so they come uncast."""
    dtype = self.dtype if self.dtype.itemsize >= other.dtype.itemsize else other.dtype
    return xp.nextafter(self.astype(dtype), other.astype(dtype))


pointwise(
    "nextafter(Tensor self, Tensor other) -> Tensor",
    _nextafter,
    {"self": _nextafter_self, "other": lambda g: fn.zeros_like(g)},
    refuses="bic",
    moves=True,
)


def _frexp_meta(self: Spec) -> tuple[Spec, Spec]:
    if not self.dtype.is_floating_point:
        raise DTypeError("torch.frexp() only supports floating-point dtypes")
    return self.packed, self.packed.with_(dtype=int32, stride=self.packed.stride)


structured(
    "frexp.Tensor(Tensor self) -> (Tensor mantissa, Tensor exponent)",
    meta=_frexp_meta,
    kernel=lambda xp, self: xp.frexp(self),
    vjp={"self": lambda g, out_1: fn.div(g[0], fn.exp2(out_1))},
)
