"""Functions of probability over arrays: incomplete gammas and the normal distribution, in float64.

The incomplete gamma functions follow Gil, Segura and Temme, "Efficient and accurate algorithms for
the computation and inversion of the incomplete gamma function ratios" (SIAM J. Sci. Comput. 34,
2012): a series, a continued fraction, and an expansion for large a with x near it. Numbers of
formulas are those of https://dlmf.nist.gov.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from .special import erf, erfc, erfcx, horner, lgamma, zeta

_LARGE = 20.0  # from here on, and with x within half of a, the uniform expansion is exact enough
_ROUNDS = 500  # a bound on work; series and fraction end earlier, by their last term
_ROOT_2, _ROOT_2PI = math.sqrt(2), math.sqrt(2 * math.pi)


# ----------------------------------------------------------------------------- incomplete gammas --
def gammainc(xp: Any, a: Any, x: Any) -> Any:
    """Return P(a, x), the regularized lower incomplete gamma function (8.2.4)."""
    lower, _ = _ratios(xp, a, x)
    return lower.astype(a.dtype)


def gammaincc(xp: Any, a: Any, x: Any) -> Any:
    """Return Q(a, x) = 1 - P(a, x), accurate also where it is tiny."""
    _, upper = _ratios(xp, a, x)
    return upper.astype(a.dtype)


def _ratios(xp: Any, a: Any, x: Any) -> tuple[Any, Any]:
    """Return P and Q: one of them computed, the other its complement."""
    a, x = xp.broadcast_arrays(a.astype(xp.float64), x.astype(xp.float64))
    proper = (a > 0) & (x > 0) & xp.isfinite(a) & xp.isfinite(x)
    uniform = proper & (a > _LARGE) & (xp.abs(x - a) < 0.5 * a)
    series = proper & ~uniform & (x < xp.maximum(a, 1) + 0.5)
    small = series & (a < 0.5) & (x < 1.5)  # here P is near 1, and Q has a series of its own
    fraction = proper & ~uniform & ~series
    lower, upper = xp.empty(a.shape), xp.empty(a.shape)
    for where, ratio, first, other in (
        (uniform, _uniform, lower, upper),
        (series & ~small, _lower_series, lower, upper),
        (small, _upper_series, upper, lower),
        (fraction, _upper_fraction, upper, lower),
    ):
        if where.any():
            value = ratio(xp, a[where], x[where])
            if isinstance(value, tuple):
                first[where], other[where] = value
            else:
                first[where], other[where] = value, 1 - value
    for where, value in _limits(xp, a, x):  # the first that holds counts
        lower[where & ~proper], upper[where & ~proper] = value, 1 - value
        proper = proper | where
    lower[~proper] = upper[~proper] = xp.nan
    return lower, upper


def _limits(xp: Any, a: Any, x: Any) -> tuple[tuple[Any, float], ...]:
    """Return where P has no formula, and what it is there, as torch has it."""
    return (
        ((x < 0) | (a < 0), xp.nan),
        ((a == 0) & (x > 0), 1.0),
        (a == 0, xp.nan),
        (x == 0, 0.0),
        (xp.isinf(a) & xp.isinf(x), xp.nan),
        (xp.isinf(a), 0.0),
        (xp.isinf(x), 1.0),
    )


def _front(xp: Any, a: Any, x: Any) -> Any:
    """Return x^a exp(-x) / Gamma(a + 1)."""
    return xp.exp(a * xp.log(x) - x - lgamma(xp, a + 1))


def _lower_series(xp: Any, a: Any, x: Any) -> Any:
    """Return P by 8.11.4: front times the sum of x^n / ((a + 1) ... (a + n))."""
    term = total = xp.ones_like(x)
    for n in range(1, _ROUNDS):
        term = term * (x / (a + n))
        total = total + term
        if n % 8 == 0 and (term < 1e-17 * total).all():
            break
    return _front(xp, a, x) * total


def _upper_series(xp: Any, a: Any, x: Any) -> Any:
    """Return Q for small a by 8.7.3, from 1 - x^a / Gamma(a + 1) without cancellation."""
    series = horner(a, _gamma_near_one())
    logs = a * xp.log(x) + xp.log1p(a) - a * (1 - np.euler_gamma + a * series)
    term, total = xp.ones_like(x), xp.zeros_like(x)
    for n in range(1, 30):
        term = term * (-x / n)
        total = total + term / (a + n)
    return -xp.expm1(logs) - xp.exp(logs) * a * total


@functools.cache
def _gamma_near_one() -> list[float]:
    """Return (-1)^k (zeta(k) - 1) / k from k = 2 on: terms of log Gamma(1 + a) (5.7.3)."""
    k = np.arange(2.0, 32)
    terms = zeta(np, k, np.float64(2)) * (-1) ** k / k  # zeta(k, 2) is zeta(k) - 1
    return [float(term) for term in terms]


def _upper_fraction(xp: Any, a: Any, x: Any) -> Any:
    """Return Q by the continued fraction 8.9.2, after Lentz."""
    b = x + 1 - a
    c = xp.full_like(x, 1e300)
    d = 1 / b
    value = d
    for n in range(1, _ROUNDS):
        factor = n * (a - n)
        b = b + 2
        d = 1 / (factor * d + b)
        c = b + factor / c
        step = c * d
        value = value * step
        if n % 8 == 0 and (xp.abs(step - 1) < 1e-15).all():
            break
    return _front(xp, a, x) * a * value


def _uniform(xp: Any, a: Any, x: Any) -> tuple[Any, Any]:
    """Return P and Q by 8.12.3 and 8.12.4: erfc, and a remainder by Gil, Segura and Temme's sum."""
    mu = (x - a) / a
    r = mu / (2 + mu)
    terms = [1 / (2 * k + 3) for k in range(24)]
    phi = mu * r - 2 * r**3 * horner(r * r, terms)  # mu - log(1 + mu) (4.6.6)
    eta = xp.copysign(xp.sqrt(2 * xp.maximum(phi, 0)), mu)
    f = _expansion()
    above, beta = f[26], f[25]  # beta(25) and beta(24) of their equation 2.27
    total = above * eta + beta
    for m in range(24, 0, -1):
        above, beta = beta, f[m] + (m + 1) * above / a
        total = total * eta + beta
    total = total / (1 + above / a)
    rest = xp.exp(-a * phi) / xp.sqrt(2 * math.pi * a) * total
    y = eta * xp.sqrt(a / 2)
    return erfc(xp, -y) / 2 - rest, erfc(xp, y) / 2 + rest


@functools.cache
def _expansion() -> list[float]:
    """Return the series of eta / (lambda - 1), where lambda - 1 - log(lambda) = eta^2 / 2."""
    from fractions import Fraction

    alpha = [Fraction(0), Fraction(1)]  # of lambda - 1, by 8.12.13's (lambda - 1) lambda' = ...
    for n in range(2, 28):
        mixed = sum(k * alpha[k] * alpha[n - k + 1] for k in range(2, n))
        alpha.append((alpha[n - 1] - mixed) / (n + 1))
    f = [Fraction(1)]
    for n in range(1, 27):
        f.append(-sum((alpha[k + 1] * f[n - k] for k in range(1, n + 1)), Fraction(0)))
    return [float(c) for c in f]


# --------------------------------------------------------------------------- normal distribution --
def ndtr(xp: Any, x: Any) -> Any:
    """Return the probability that a standard normal variable is below x (7.18)."""
    return (erfc(xp, x.astype(xp.float64) / -_ROOT_2) / 2).astype(x.dtype)


def log_ndtr(xp: Any, x: Any) -> Any:
    """Return log(ndtr(x)), accurate also where ndtr(x) is tiny."""
    wide = x.astype(xp.float64)
    low = xp.minimum(wide, -1)
    tail = xp.log(erfcx(xp, low / -_ROOT_2) / 2) - low * low / 2
    body = xp.log1p(-erfc(xp, xp.maximum(wide, -1) / _ROOT_2) / 2)
    return xp.where(wide < -1, tail, body).astype(x.dtype)


def ndtri(xp: Any, p: Any) -> Any:
    """Return the x with ndtr(x) = p: a rational guess (Abramowitz, Stegun 26.2.23), then Halley."""
    wide = p.astype(xp.float64)
    low = xp.minimum(wide, 1 - wide)
    inside = low > 0
    log = xp.log(xp.where(inside, low, 0.5))
    t = xp.sqrt(-2 * log)
    y = t - horner(t, [2.515517, 0.802853, 0.010328]) / horner(t, [1, 1.432788, 0.189269, 0.001308])
    central = low > 0.1
    for _ in range(2):
        # (ndtr(-y) - low) over the density; in the middle by erf, so that y keeps its digits at 0.
        tail = _ROOT_2PI * (erfcx(xp, y / _ROOT_2) / 2 - xp.exp(log + y * y / 2))
        body = _ROOT_2PI * ((0.5 - low) - erf(xp, y / _ROOT_2) / 2) * xp.exp(y * y / 2)
        error = xp.where(central, body, tail)
        y = y + error / (1 - y * error / 2)
    y = xp.where(inside, y, xp.where(low == 0, xp.inf, xp.nan))
    return xp.where(wide > 0.5, y, -y).astype(p.dtype)
