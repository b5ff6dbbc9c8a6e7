"""The incomplete gamma function, and the multivariate one."""

from __future__ import annotations

import math
from typing import Any

from .. import special
from ..call import fn
from ..dtype import Defaults
from ..errors import ParameterError, UnsupportedError
from ..family import composite, floating, pointwise

_STEPS_MAX = 20_000  # terms of a series or fraction; they number a few times the root of a
_FLOAT_TINY = 1e-300  # keeps Lentz's fraction from dividing by zero


def _igamma(xp: Any, a: Any, x: Any) -> Any:
    """Return the regularized lower incomplete gamma function P(a, x): the cdf of a gamma number.

    By its series below x = a + 1 and Legendre's continued fraction above, until no element changes.
    nan where a or x is negative.
    """
    a64, x64 = xp.broadcast_arrays(a.astype(xp.float64), x.astype(xp.float64))
    lower = x64 < a64 + 1
    usual = (a64 > 0) & (x64 > 0) & xp.isfinite(a64) & xp.isfinite(x64)
    safe_a, safe_x = xp.where(usual, a64, 1.0), xp.where(usual, x64, 1.0)
    scale = xp.exp(safe_a * xp.log(safe_x) - safe_x - special.lgamma(xp, safe_a))
    below = scale * _series(xp, xp.where(lower, safe_a, 1.0), xp.where(lower, safe_x, 0.0))
    above = 1 - scale * _fraction(xp, xp.where(lower, 1.0, safe_a), xp.where(lower, 2.0, safe_x))
    value = xp.where(lower, below, above)
    at_end = xp.where((x64 == 0) & (a64 > 0), 0.0, xp.where((a64 == 0) & (x64 > 0), 1.0, xp.nan))
    at_end = xp.where(xp.isinf(x64) & (x64 > 0) & (a64 >= 0) & ~xp.isinf(a64), 1.0, at_end)
    at_end = xp.where(xp.isinf(a64) & (a64 > 0) & (x64 >= 0) & ~xp.isinf(x64), 0.0, at_end)
    return xp.where(usual, value, at_end)


def _series(xp: Any, a: Any, x: Any) -> Any:
    """Return the sum of x^n / (a (a+1) ... (a+n))."""
    term = 1 / a
    total = term
    for n in range(1, _STEPS_MAX):
        term = term * x / (a + n)
        total = total + term
        if not bool(xp.any(term > total * 1e-17)):
            break
    return total


def _fraction(xp: Any, a: Any, x: Any) -> Any:
    """Return 1 / (x+1-a - 1(1-a) / (x+3-a - 2(2-a) / ...)) by Lentz's method."""
    b = x + 1 - a
    c = xp.full_like(b, 1 / _FLOAT_TINY)
    d = 1 / b
    value = d
    for n in range(1, _STEPS_MAX):
        factor = n * (a - n)
        b = b + 2
        d = factor * d + b
        d = 1 / xp.where(xp.abs(d) < _FLOAT_TINY, _FLOAT_TINY, d)
        c = b + factor / c
        c = xp.where(xp.abs(c) < _FLOAT_TINY, _FLOAT_TINY, c)
        value = value * d * c
        if not bool(xp.any(xp.abs(d * c - 1) > 1e-15)):
            break
    return value


def _igamma_vjp(g: Any, self: Any, other: Any) -> Any:
    """The density of a gamma number; with respect to the shape torch has no derivative either."""
    logs = fn.sub(fn.mul(fn.sub(self, 1), fn.log(other)), fn.add(other, fn.lgamma(self)))
    return fn.mul(g, fn.exp(logs))


def _no_igamma_self(g: Any) -> Any:
    raise UnsupportedError("the derivative for 'igamma: input' is not implemented.")


pointwise(
    "igamma(Tensor self, Tensor other) -> Tensor",
    lambda xp, self, other: _igamma(xp, self, other),
    {"other": _igamma_vjp, "self": _no_igamma_self},
    dtype=floating,
    refuses="bic",
)


@composite("mvlgamma(Tensor self, int p) -> Tensor")
def mvlgamma(self: Any, p: int) -> Any:
    """Return the log of the multivariate gamma function of dim p; each element above (p - 1) / 2.

    pi^(p(p-1)/4) times the product of Gamma(x - j/2) over j = 0 .. p-1.
    """
    if p < 1:
        raise ParameterError("p has to be greater than or equal to 1")
    if self._spec.dtype.kind != 2:
        self = fn._cast(self, Defaults.dtype)
    halves = fn.arange(0, p, 1, dtype=self._spec.dtype, device=self._spec.device)
    shifted = fn.sub(fn.unsqueeze(self, -1), fn.mul(halves, 0.5))
    return fn.add(fn.sum(fn.lgamma(shifted), -1), p * (p - 1) / 4 * math.log(math.pi))
