"""Bessel, modified Bessel and Airy functions of real arrays; computed in float64.

Near zero: Maclaurin series with exact coefficients. Beyond: what is left of Hankel's functions when
their exponential is taken out, as Chebyshev series fitted at first use to a trapezoid sum (see
`_left_of_k`), which converges exponentially. Numbers of formulas are those of https://dlmf.nist.gov.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from .special import clenshaw, fit, horner

_OSCILLATES_FROM = 5.0  # J and Y: series of less than 24 terms below, phase and amplitude above
_DECAYS_FROM = 2.0  # K: likewise
_GROWS_FROM = 8.0  # I: the series has no cancellation, so it may go further
_AIRY_FROM = 3.0 ** (2 / 3)  # where 2/3 x^(3/2), the argument of K of order 1/3, is 2
_TERMS = 32  # of a Maclaurin series; (8 / 2)^2k / k!^2 is below 1e-17 of the sum by then


# --------------------------------------------------------------------------- J and Y, order 0, 1 --
def bessel_j(xp: Any, order: int, x: Any) -> Any:
    """Return J of order 0 or 1 (10.2.2; beyond 5 by 10.4.3)."""
    wide = x.astype(xp.float64)
    size = xp.abs(wide)
    near = _near(xp, order, xp.minimum(size, _OSCILLATES_FROM), -1)
    far = xp.maximum(size, _OSCILLATES_FROM)
    value = xp.where(size < _OSCILLATES_FROM, near, _wave(xp, order, far, 0.0))
    value = xp.where(xp.isnan(wide), wide, value)
    return (xp.copysign(1, wide) * value if order else value).astype(x.dtype)


def bessel_y(xp: Any, order: int, x: Any) -> Any:
    """Return Y of order 0 or 1: -inf at 0, nan below (10.8.1; beyond 5 by 10.4.3)."""
    wide = x.astype(xp.float64)
    r = xp.clip(wide, 0, _OSCILLATES_FROM)
    pole = -2 / (math.pi * r) if order else 0
    logs = _logarithmic(xp, order, r, -1)
    near = pole + (2 / math.pi) * logs
    far = _wave(xp, order, xp.maximum(wide, _OSCILLATES_FROM), math.pi / 2)
    value = xp.where(wide < _OSCILLATES_FROM, near, far)
    value = xp.where(wide == 0, -xp.inf, xp.where(wide >= 0, value, xp.nan))
    return value.astype(x.dtype)


def _wave(xp: Any, order: int, r: Any, late: float) -> Any:
    """Return sqrt(2 / (pi r)) Re[exp(i (r - order pi/2 - pi/4 - late)) k(order, -i r)]."""
    inverse = _OSCILLATES_FROM / r
    even, odd = _phase(xp, float(order), _OSCILLATES_FROM, inverse)
    phase = r - (order * math.pi / 2 + math.pi / 4) - late
    return xp.sqrt(2 / (math.pi * r)) * (even * xp.cos(phase) - odd * xp.sin(phase))


# --------------------------------------------------------------------------- I and K, order 0, 1 --
def bessel_i(xp: Any, order: int, scaled: bool, x: Any) -> Any:
    """Return I of order 0 or 1 (10.25.2), nan at infinity as in torch; scaled: times exp(-|x|)."""
    wide = x.astype(xp.float64)
    size = xp.abs(wide)
    near = _near(xp, order, xp.minimum(size, _GROWS_FROM), 1)
    far = xp.maximum(size, _GROWS_FROM)
    t = xp.where(xp.isnan(wide), wide, 2 * _GROWS_FROM / far - 1)
    beyond = clenshaw(xp, t, _growing_series(order)) / xp.sqrt(far)
    if scaled:
        near, grown = near * xp.exp(-size), beyond
    else:
        grown = xp.exp(size) * beyond
    value = xp.where(size < _GROWS_FROM, near, grown)
    return (xp.copysign(1, wide) * value if order else value).astype(x.dtype)


def bessel_k(xp: Any, order: int, scaled: bool, x: Any) -> Any:
    """Return K of order 0 or 1: inf at 0, nan below (10.31.1); scaled: times exp(x)."""
    wide = x.astype(xp.float64)
    r = xp.clip(wide, 0, _DECAYS_FROM)
    logs = _logarithmic(xp, order, r, 1)
    near = 1 / r + logs if order else -logs
    far = xp.maximum(wide, _DECAYS_FROM)
    left = clenshaw(xp, 2 * _DECAYS_FROM / far - 1, _decaying_series(float(order), _DECAYS_FROM))
    beyond = xp.sqrt(math.pi / (2 * far)) * left
    if scaled:
        near = near * xp.exp(r)
    else:
        beyond = beyond * xp.exp(-far)
    value = xp.where(wide <= _DECAYS_FROM, near, beyond)
    value = xp.where(wide == 0, xp.inf, xp.where(wide >= 0, value, xp.nan))
    return value.astype(x.dtype)


# ---------------------------------------------------------------------------------------- others --
def spherical_j0(xp: Any, x: Any) -> Any:
    """Return sin(x) / x, its limits at 0 and inf (10.49.3)."""
    still = (x == 0) | xp.isinf(x)
    value = xp.sin(xp.where(still, 0, x)) / xp.where(still, 1, x)
    return xp.where(still, (x == 0).astype(x.dtype), value)


def airy_ai(xp: Any, x: Any) -> Any:
    """Return Airy's Ai: 9.4.1 near zero, 9.6.2 and 9.6.6 beyond; nan at both infinities."""
    wide = x.astype(xp.float64)
    near = xp.clip(wide, -_AIRY_FROM, _AIRY_FROM)
    flat, steep = _airy_series()
    cube = near**3
    value = flat[0] * horner(cube, flat[1:]) - steep[0] * near * horner(cube, steep[1:])
    size = xp.maximum(xp.abs(wide), _AIRY_FROM)
    root = xp.sqrt(size)
    zeta = 2 / 3 * size * root
    scale = 1 / (math.sqrt(math.pi) * xp.sqrt(root))
    left = clenshaw(xp, 4 / zeta - 1, _decaying_series(1 / 3, 2.0))
    decaying = scale / 2 * xp.exp(-zeta) * left
    even, odd = _phase(xp, 1 / 3, 2.0, 2 / zeta)
    phase = zeta - math.pi / 4
    waving = scale * (even * xp.cos(phase) - odd * xp.sin(phase))
    value = xp.where(wide > _AIRY_FROM, decaying, xp.where(wide < -_AIRY_FROM, waving, value))
    return xp.where(xp.isfinite(wide), value, xp.nan).astype(x.dtype)


# ---------------------------------------------------------------------------------------- series --
def _near(xp: Any, order: int, r: Any, sign: int) -> Any:
    """Return sum of (r/2)^order (sign r^2/4)^k / (k! (k + order)!)."""
    half = r / 2
    value = horner(sign * half * half, _maclaurin(order))
    return value * half if order else value


def _logarithmic(xp: Any, order: int, r: Any, sign: int) -> Any:
    """Return (log(r/2) + gamma) times `_near`, less the same sum with harmonic numbers."""
    half = r / 2
    q = sign * half * half
    value = (xp.log(half) + np.euler_gamma) * horner(q, _maclaurin(order))
    value = value - horner(q, _harmonic(order))
    return value * half if order else value


@functools.cache
def _maclaurin(order: int) -> list[float]:
    return [1 / (math.factorial(k) * math.factorial(k + order)) for k in range(_TERMS)]


@functools.cache
def _harmonic(order: int) -> list[float]:
    """Return the terms of `_maclaurin` times the mean of H(k) and H(k + order)."""
    sums = np.concatenate([[0.0], np.cumsum(1 / np.arange(1.0, _TERMS + order))])
    means = (sums[:_TERMS] + sums[order : _TERMS + order]) / 2
    return [h * c for h, c in zip(means.tolist(), _maclaurin(order), strict=True)]


@functools.cache
def _airy_series() -> tuple[list[float], list[float]]:
    """Return Ai(0), -Ai'(0), each before the terms in x^3 of 9.4.1."""
    flat, steep = [1.0], [1.0]
    for k in range(16):
        flat.append(flat[-1] / ((3 * k + 2) * (3 * k + 3)))
        steep.append(steep[-1] / ((3 * k + 3) * (3 * k + 4)))
    at_zero = 3 ** (-2 / 3) / math.gamma(2 / 3)
    slope = 3 ** (-1 / 3) / math.gamma(1 / 3)
    return [at_zero, *flat], [slope, *steep]


def _left_of_k(order: float, z: complex) -> complex:
    """Return k(order, z) = sqrt(2 z / pi) exp(z) K(z), which goes to 1 at infinity.

    From 10.32.9 with z (cosh t - 1) = u^2: the integral over u of 2 / sqrt(pi) exp(-u^2)
    cosh(2 order asinh y) / sqrt(1 + y^2) with y = u / sqrt(2 z). It is analytic in a strip as wide
    as sqrt(|z|), so that the trapezoid rule with step 1/8 is exact to rounding for |z| >= 2.
    """
    u = np.arange(0, 6.5, 0.125)
    y = u / np.sqrt(2 * z + 0j)
    f = np.exp(-u * u) * np.cosh(2 * order * np.arcsinh(y)) / np.sqrt(1 + y * y)
    return complex(2 / math.sqrt(math.pi) * 0.125 * (f.sum() - f[0] / 2))


@functools.cache
def _decaying_series(order: float, edge: float) -> tuple[float, ...]:
    """Fit k(order, z) for real z >= edge in 2 edge / z - 1."""
    return fit(lambda t: _left_of_k(order, 2 * edge / (1 + t)).real, 28)


@functools.cache
def _phase_series(order: float, edge: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Fit the parts of k(order, -i r) for r >= edge in 2 (edge / r)^2 - 1; the odd one over edge/r.

    They are Hankel's P and Q of 10.17.3.
    """

    def part(t: float) -> tuple[float, float]:
        s = math.sqrt((1 + t) / 2)
        k = _left_of_k(order, -1j * edge / s)
        return k.real, k.imag / s

    return fit(lambda t: part(t)[0], 28), fit(lambda t: part(t)[1], 28)


def _phase(xp: Any, order: float, edge: float, s: Any) -> tuple[Any, Any]:
    even, odd = _phase_series(order, edge)
    t = 2 * s * s - 1
    return clenshaw(xp, t, even), s * clenshaw(xp, t, odd)


@functools.cache
def _growing_series(order: int) -> tuple[float, ...]:
    """Fit sqrt(x) exp(-x) I(x) for x >= 8 in 16 / x - 1.

    I is the mean of exp(x cos a) cos(order a) over a circle (10.32.3), here over 4096 points: the
    rule errs by exp(-4096^2 / 2x), nothing at the nodes of the fit.
    """
    angle = 2 * math.pi / 4096 * np.arange(4096)

    def scaled(t: float) -> float:
        x = 2 * _GROWS_FROM / (1 + t)
        mean = (np.exp(x * (np.cos(angle) - 1)) * np.cos(order * angle)).mean()
        return math.sqrt(x) * float(mean)

    return fit(scaled, 28)
