"""Error functions and gammas over arrays: what numpy lacks, from series fitted at first use.

Coefficients are computed, not copied: Chebyshev interpolation of Python's exact `math.erfc` and of
a continued fraction. Half precision never arrives here; float32 takes the short series.
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


def erf(xp: Any, x: Any) -> Any:
    """Return the error function: within 3e-7 in float32, 1e-15 in float64."""
    if x.dtype == xp.float32:
        return _erf32(xp, x)
    small = xp.abs(x) < 1
    near = x * _clenshaw(xp, 2 * xp.where(small, x, 0) ** 2 - 1, _erf_near_zero())
    return xp.where(small, near, xp.copysign(1 - _erfc_positive(xp, xp.abs(x)), x))


def erfc(xp: Any, x: Any) -> Any:
    """Return 1 - erf(x), accurate relative to itself also where it is tiny."""
    wide = x.astype(xp.float64)
    tail = _erfc_positive(xp, xp.abs(wide))
    return xp.where(wide < 0.5, 1 - erf(xp, wide), tail).astype(x.dtype)


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
    value = series + inverse * _horner(square, terms) - xp.log(product)
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
    value = total + xp.log(top) - 0.5 / top - square * _horner(square, terms)
    fraction = wide - xp.round(wide)
    mirrored = value - math.pi / xp.tan(math.pi * fraction)
    value = xp.where(reflected, xp.where(fraction == 0, xp.nan, mirrored), value)
    value = xp.where(wide == 0, xp.copysign(xp.inf, -wide), value)
    return xp.where(wide == xp.inf, xp.inf, value).astype(x.dtype)


def polygamma(xp: Any, n: int, x: Any) -> Any:
    """Return the n-th derivative of digamma, n >= 1, by the Euler-Maclaurin sum of Hurwitz zeta."""
    wide = x.astype(xp.float64)
    s = n + 1
    lowest = float(xp.min(wide, initial=0.0, where=xp.isfinite(wide)))
    steps = min(10 + math.ceil(-lowest), 10_000)  # a bound on work; beyond, terms are negligible
    total = xp.zeros_like(wide)
    for i in range(steps):
        total = total + (wide + i) ** -s
    top = wide + steps
    total = total + top ** (1 - s) / (s - 1) + 0.5 * top**-s
    rising = float(s)
    for k, bernoulli in enumerate([1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730], 1):
        total = total + bernoulli / math.factorial(2 * k) * rising * top ** (1 - s - 2 * k)
        rising *= (s + 2 * k - 1) * (s + 2 * k)
    return ((-1) ** (n + 1) * math.factorial(n) * total).astype(x.dtype)


# ------------------------------------------------------------------------------------- series --
def _horner(x: Any, terms: list[float]) -> Any:
    value = terms[-1]
    for t in reversed(terms[:-1]):
        value = value * x + t
    return value


def _clenshaw(xp: Any, t: Any, series: tuple[float, ...]) -> Any:
    """Return the Chebyshev series at t in [-1, 1], in t's precision."""
    twice = t + t
    newer, older = xp.full_like(t, series[-1]), xp.zeros_like(t)
    for c in series[-2:0:-1]:
        newer, older = twice * newer - older + c, newer
    return t * newer - older + series[0]


def _erf32(xp: Any, x: Any) -> Any:
    x = xp.clip(x, -_ERF32_EDGE, _ERF32_EDGE)
    return x * _clenshaw(xp, x * x * (2 / _ERF32_EDGE**2) - 1, _erf_over_x(_ERF32_EDGE, 16))


def _erfc_positive(xp: Any, x: Any) -> Any:
    """Return erfc(x) for x >= 0 in float64."""
    t = xp.where(xp.isinf(x), 1.0, (x - _ERFCX_MIDDLE) / (x + _ERFCX_MIDDLE))
    return xp.exp(-x * x) * _clenshaw(xp, t, _erfcx_series())


def _erf_near_zero() -> tuple[float, ...]:
    return _erf_over_x(1.0, 14)


@functools.cache
def _erf_over_x(edge: float, degree: int) -> tuple[float, ...]:
    """Fit erf(x) / x on [0, edge] by a series in 2 (x / edge)^2 - 1."""

    def ratio(t: float) -> float:
        x = edge * math.sqrt((t + 1) / 2)
        return math.erf(x) / x if x else 2 / _ROOT_PI

    return _fit(ratio, degree)


@functools.cache
def _erfcx_series() -> tuple[float, ...]:
    def scaled(t: float) -> float:
        x = _ERFCX_MIDDLE * (1 + t) / (1 - t)
        if x < 2:
            return math.exp(x * x) * math.erfc(x)
        fraction = x
        for i in range(300, 0, -1):
            fraction = x + i / 2 / fraction
        return 1 / _ROOT_PI / fraction

    return _fit(scaled, 26)


def _fit(f: Any, degree: int) -> tuple[float, ...]:
    return tuple(map(float, chebyshev.chebinterpolate(np.vectorize(f, otypes=[float]), degree)))
