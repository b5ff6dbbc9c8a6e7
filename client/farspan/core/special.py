"""Error functions, gammas and zetas over arrays: what numpy lacks, from series fitted at first use.

Coefficients are computed, not copied: Chebyshev interpolation of Python's exact `math.erfc` and of
a continued fraction. Half precision never arrives here; float32 takes the short series. Numbers
of formulas are those of https://dlmf.nist.gov.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev

_ERF32_EDGE = 3.92  # beyond it erf rounds to 1 in float32, within 3e-8
_ERFCX_MIDDLE = 3.75  # maps [0, inf) to [-1, 1) by (x - k) / (x + k); 3.75 converges fastest
_ROOT_PI = math.sqrt(math.pi)
_BERNOULLI = (  # B(2k), k from 1 on
    1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798,
    -174611 / 330,
)  # fmt: skip


def erf(xp: Any, x: Any) -> Any:
    """Return the error function: within 3e-7 in float32, 1e-15 in float64."""
    if x.dtype == xp.float32:
        return _erf32(xp, x)
    small = xp.abs(x) < 1
    near = x * clenshaw(xp, 2 * xp.where(small, x, 0) ** 2 - 1, _erf_near_zero())
    return xp.where(small, near, xp.copysign(1 - _erfc_positive(xp, xp.abs(x)), x))


def erfc(xp: Any, x: Any) -> Any:
    """Return 1 - erf(x), accurate relative to itself also where it is tiny."""
    wide = x.astype(xp.float64)
    tail = _erfc_positive(xp, xp.abs(wide))
    return xp.where(wide < 0.5, 1 - erf(xp, wide), tail).astype(x.dtype)


def erfcx(xp: Any, x: Any) -> Any:
    """Return exp(x^2) erfc(x), without overflow for positive x."""
    wide = x.astype(xp.float64)
    right = _erfcx_positive(xp, xp.abs(wide))
    return xp.where(wide < 0, 2 * xp.exp(wide * wide) - right, right).astype(x.dtype)


def erfinv(xp: Any, y: Any) -> Any:
    """Return the inverse of erf on (-1, 1): Winitzki's guess, then two steps of Halley's method."""
    wide = y.astype(xp.float64)
    size = xp.abs(wide)
    log = xp.log1p(-size * size)
    a = 0.147
    half = 2 / (math.pi * a) + log / 2
    x = xp.sqrt(xp.sqrt(half * half - log / a) - half)
    for _ in range(2):
        # 1 - |y| is exact, so that the tail keeps its digits.
        error = xp.where(size < 0.5, erf(xp, x) - size, (1 - size) - erfc(xp, x))
        step = error * xp.exp(x * x) * (_ROOT_PI / 2)
        x = x - step / (1 + x * step)
    x = xp.where(size < 1, x, xp.where(size == 1, xp.inf, xp.nan))
    return xp.copysign(x, wide).astype(y.dtype)


def lgamma(xp: Any, x: Any) -> Any:
    """Return log |Gamma(x)|: Stirling's series above 8, reached by recursion and reflection."""
    wide = x.astype(xp.float64)
    reflected = wide < 0.5
    z = xp.where(reflected, 1 - wide, wide)
    shifted = z < 8
    product = xp.ones_like(z)
    for i in range(8):
        product = product * xp.where(shifted, z + i, 1)
    top = z + xp.where(shifted, 8, 0)
    inverse = 1 / top
    square = inverse * inverse
    # Terms B(2k) / (2k (2k-1)) of Stirling's series.
    terms = [1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156]
    series = (top - 0.5) * xp.log(top) - top + math.log(2 * math.pi) / 2
    value = series + inverse * horner(square, terms) - xp.log(product)
    sine = xp.abs(xp.sin(math.pi * (wide - xp.round(wide))))
    value = xp.where(reflected, math.log(math.pi) - xp.log(sine) - value, value)
    return xp.where(xp.isinf(wide), xp.inf, value).astype(x.dtype)


def digamma(xp: Any, x: Any) -> Any:
    """Return the derivative of log Gamma; -+inf at +-0, nan at negative integers, as torch."""
    wide = x.astype(xp.float64)
    reflected = wide < 0
    z = xp.where(reflected, 1 - wide, wide)
    shifted = z < 8
    total = xp.zeros_like(z)
    for i in range(8):
        total = total - xp.where(shifted, 1 / (z + i), 0)
    top = z + xp.where(shifted, 8, 0)
    square = 1 / (top * top)
    terms = [1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12]
    value = total + xp.log(top) - 0.5 / top - square * horner(square, terms)
    fraction = wide - xp.round(wide)
    mirrored = value - math.pi / xp.tan(math.pi * fraction)
    value = xp.where(reflected, xp.where(fraction == 0, xp.nan, mirrored), value)
    value = xp.where(wide == 0, xp.copysign(xp.inf, -wide), value)
    return xp.where(wide == xp.inf, xp.inf, value).astype(x.dtype)


def zeta(xp: Any, x: Any, q: Any) -> Any:
    """Return Hurwitz's zeta function, the sum of (q + k)^-x, by Euler and Maclaurin (25.11.5).

    inf at x = 1 and at poles in q; nan for x < 1, and for negative q but with whole x.
    """
    dtype = getattr(x, "dtype", None) or q.dtype
    x, q = (xp.asarray(v, dtype).astype(xp.float64) for v in (x, q))
    x, q = xp.broadcast_arrays(x, q)
    below = q < 0
    value = _zeta_positive(xp, x, xp.where(below, q - xp.floor(q), q))
    if below.any():  # the terms with q + k < 0 are those of the sums from 1 - q on, up to a sign
        missing = _zeta_positive(xp, x, 1 - q + xp.floor(q)) - _zeta_positive(xp, x, 1 - q)
        sign = xp.where(xp.remainder(x, 2) == 0, 1.0, -1.0)
        value = xp.where(below, value + sign * missing, value)
        value = xp.where(below & (x != xp.floor(x)), xp.nan, value)
    value = xp.where((q <= 0) & (q == xp.floor(q)), xp.inf, value)
    value = xp.where(x == 1, xp.inf, xp.where(x > 1, value, xp.nan))
    return value.astype(dtype)


def _zeta_positive(xp: Any, x: Any, q: Any) -> Any:
    total = sum((q + i) ** -x for i in range(10))
    top = q + 10
    power = top**-x
    total = total + power * top / (x - 1) + power / 2
    rising = x
    for k, bernoulli in enumerate(_BERNOULLI, 1):
        power = power / (top if k == 1 else top * top)
        term = bernoulli / math.factorial(2 * k) * rising * power
        total = total + xp.where(power == 0, 0, term)  # also where `rising` is inf
        rising = rising * (x + 2 * k - 1) * (x + 2 * k)
    return total


def polygamma(xp: Any, n: int, x: Any) -> Any:
    """Return the n-th derivative of digamma, n >= 1 (5.15.1); n = 1 by reflection (5.15.6)."""
    wide = x.astype(xp.float64)
    if n == 1:
        reflected = wide < 0.5
        value = zeta(xp, xp.float64(2), xp.where(reflected, 1 - wide, wide))
        mirrored = (math.pi / xp.sin(math.pi * wide)) ** 2 - value
        return xp.where(reflected, mirrored, value).astype(x.dtype)
    factor = xp.exp(xp.float64(math.lgamma(n + 1)))
    return ((1 if n % 2 else -1) * factor * zeta(xp, xp.float64(n + 1), wide)).astype(x.dtype)


# ------------------------------------------------------------------------------------- series --
def horner(x: Any, terms: list[float]) -> Any:
    """Return the polynomial with these coefficients, the constant one first, at x."""
    value = terms[-1]
    for t in reversed(terms[:-1]):
        value = value * x + t
    return value


def clenshaw(xp: Any, t: Any, series: tuple[float, ...]) -> Any:
    """Return the Chebyshev series at t in [-1, 1], in t's precision."""
    twice = t + t
    newer, older = xp.full_like(t, series[-1]), xp.zeros_like(t)
    for c in series[-2:0:-1]:
        newer, older = twice * newer - older + c, newer
    return t * newer - older + series[0]


def _erf32(xp: Any, x: Any) -> Any:
    x = xp.clip(x, -_ERF32_EDGE, _ERF32_EDGE)
    return x * clenshaw(xp, x * x * (2 / _ERF32_EDGE**2) - 1, _erf_over_x(_ERF32_EDGE, 16))


def _erfc_positive(xp: Any, x: Any) -> Any:
    """Return erfc(x) for x >= 0 in float64."""
    return xp.exp(-x * x) * _erfcx_positive(xp, x)


def _erfcx_positive(xp: Any, x: Any) -> Any:
    """Return exp(x^2) erfc(x) for x >= 0 in float64, accurate relative to itself."""
    t = xp.where(xp.isinf(x), 1.0, (x - _ERFCX_MIDDLE) / (x + _ERFCX_MIDDLE))
    return clenshaw(xp, t, _erfcx_series()) / (1 + 2 * x)


def _erf_near_zero() -> tuple[float, ...]:
    return _erf_over_x(1.0, 14)


@functools.cache
def _erf_over_x(edge: float, degree: int) -> tuple[float, ...]:
    """Fit erf(x) / x on [0, edge] by a series in 2 (x / edge)^2 - 1."""

    def ratio(t: float) -> float:
        x = edge * math.sqrt((t + 1) / 2)
        return math.erf(x) / x if x else 2 / _ROOT_PI

    return fit(ratio, degree)


@functools.cache
def _erfcx_series() -> tuple[float, ...]:
    """Fit (1 + 2x) exp(x^2) erfc(x), which goes from 1 to 2 / sqrt(pi) (Shepherd, Laframboise)."""

    def scaled(t: float) -> float:
        x = _ERFCX_MIDDLE * (1 + t) / (1 - t)
        if x < 2:
            return (1 + 2 * x) * math.exp(x * x) * math.erfc(x)
        fraction = x
        for i in range(300, 0, -1):
            fraction = x + i / 2 / fraction
        return (1 + 2 * x) / _ROOT_PI / fraction

    return fit(scaled, 26)


def fit(f: Any, degree: int) -> tuple[float, ...]:
    """Return the Chebyshev series of this degree that equals f at the Chebyshev nodes."""
    return tuple(map(float, chebyshev.chebinterpolate(np.vectorize(f, otypes=[float]), degree)))
