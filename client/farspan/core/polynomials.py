"""Classical orthogonal polynomials over arrays of arguments and degrees, by their recurrences.

Each step is rounded to the precision of the arguments, once, as torch's fused multiply-add does:
errors grow along a recurrence, so other roundings would show. Degrees are cut to whole numbers; a
negative one gives 0. Numbers of formulas are those of https://dlmf.nist.gov.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import limits
from .errors import BadValueError

_Step = Callable[[int, Any, Any], Any]  # (k, p_k, p_(k-1)) -> p_(k+1)
#: Chebyshev's kinds (18.5.1 - 18.5.4): p_1(x) is 2x + this (T: x itself); for T, U, V, W
_FIRST = {"t": 0, "u": 0, "v": -1, "w": 1}
#: above this degree the angle's formula stands in for the recurrence; of the shifted ones below
_ANGLE_ABOVE = {"t": 6, "u": 8, "v": 8, "w": 8}
_SHIFTED_ANGLE_ABOVE = {"t": 6, "u": 6, "v": 6, "w": 4}


def chebyshev(xp: Any, kind: str, shifted: bool, x: Any, n: Any) -> Any:
    """Return Chebyshev's polynomial of kind t, u, v or w; shifted: of 2x - 1."""
    x, n, degree = _operands(xp, x, n)
    if shifted:
        x = x + x - 1
    above = (_SHIFTED_ANGLE_ABOVE if shifted else _ANGLE_ABOVE)[kind]
    turning = (degree > above) & (xp.abs(x) < 1)
    steps = xp.where(turning, 0, degree)
    twice = x + x
    first = x if kind == "t" else twice + _FIRST[kind]
    at_end = xp.abs(x) == 1  # there the values are whole numbers, of any degree
    steps = xp.where(at_end, xp.minimum(steps, 1), steps)
    value = _recur(xp, steps, first, lambda k, newer, older: _fused(twice, newer, older))
    value = xp.where(at_end, _at_end(xp, kind, x, degree), value)
    angle = _rounded(xp.arccos, xp.where(turning, x, 0))
    value = xp.where(turning, _of_angle(xp, kind, angle, degree), value)
    return xp.where(degree < 0, 0, value).astype(x.dtype)


def _of_angle(xp: Any, kind: str, angle: Any, n: Any) -> Any:
    """Return the polynomial at the cosine of an angle (18.5.1 - 18.5.4)."""
    n = n.astype(angle.dtype)
    if kind == "t":
        return _rounded(xp.cos, n * angle)
    if kind == "u":
        return _rounded(xp.sin, (n + 1) * angle) / _rounded(xp.sin, angle)
    turn = xp.cos if kind == "v" else xp.sin
    return _rounded(turn, (n + 0.5) * angle) / _rounded(turn, angle / 2)


def _at_end(xp: Any, kind: str, x: Any, n: Any) -> Any:
    """Return the polynomial at 1 and -1."""
    sign = 1 - 2 * (n & 1)
    at_one = {"t": 1, "u": n + 1, "v": 1, "w": 2 * n + 1}[kind]
    at_minus_one = {"t": sign, "u": sign * (n + 1), "v": sign * (2 * n + 1), "w": sign}[kind]
    return xp.where(x > 0, at_one, at_minus_one).astype(x.dtype)


def hermite_h(xp: Any, x: Any, n: Any) -> Any:
    """Return the physicists' Hermite polynomial (18.9.13)."""
    x, n, degree = _operands(xp, x, n)
    twice = x + x
    return _hermite(xp, degree, twice, lambda k, newer, older: _fused(twice, newer, 2 * k * older))


def hermite_he(xp: Any, x: Any, n: Any) -> Any:
    """Return the probabilists' Hermite polynomial (18.9.14)."""
    x, n, degree = _operands(xp, x, n)
    return _hermite(xp, degree, x, lambda k, newer, older: _fused(x, newer, k * older))


def _hermite(xp: Any, degree: Any, first: Any, step: _Step) -> Any:
    """Run the recurrence; nan beyond the degree where torch stops."""
    limit = 128 if first.dtype == xp.float32 else 512
    value = _recur(xp, xp.where(degree > limit, 1, degree), first, step)
    value = xp.where(degree > limit, xp.nan, value)
    return xp.where(degree < 0, 0, value).astype(first.dtype)


def laguerre(xp: Any, x: Any, n: Any) -> Any:
    """Return Laguerre's polynomial (18.9.1, table 18.9.1)."""
    x, n, degree = _operands(xp, x, n)
    one = x.dtype.type(1)
    steps = xp.where(x == 0, xp.minimum(degree, 1), degree)
    value = _recur(
        xp, steps, one - x,
        lambda k, newer, older: _fused(2 * k + (one - x), newer, k * older) / (k + 1),
    )  # fmt: skip
    return xp.where(degree < 0, 0, value).astype(x.dtype)


def legendre(xp: Any, x: Any, n: Any) -> Any:
    """Return Legendre's polynomial (18.9.1, table 18.9.1)."""
    x, n, degree = _operands(xp, x, n)
    at_end = xp.abs(x) == 1
    steps = xp.where(at_end, xp.minimum(degree, 1), degree)
    value = _recur(
        xp, steps, x,
        lambda k, newer, older: _fused((2 * k + 1) * x, newer, k * older) / (k + 1),
    )  # fmt: skip
    value = xp.where(at_end, _at_end(xp, "t", x, degree), value)
    return xp.where(degree < 0, 0, value).astype(x.dtype)


def _operands(xp: Any, x: Any, n: Any) -> tuple[Any, Any, Any]:
    """Return argument and degree as arrays of one dtype and shape, and the degree as int64."""
    dtype = getattr(x, "dtype", None) or n.dtype
    x, n = xp.broadcast_arrays(xp.asarray(x, dtype), xp.asarray(n, dtype))
    there = xp.abs(n) < 2.0**62  # not inf, not nan, and twice it is an int64
    return x, n, xp.where(there, xp.trunc(xp.where(there, n, -1)), -1).astype(xp.int64)


def _recur(xp: Any, steps: Any, first: Any, step: _Step) -> Any:
    """Return p_steps of p_0 = 1, p_1 = first, p_(k+1) = step(k, p_k, p_(k-1)), element by element.

    Stops early where nothing but nan is left.
    """
    highest = int(xp.max(steps)) if steps.size else 0
    older, newer = xp.ones_like(first), first
    value = xp.where(steps < 1, older, newer)
    for k in range(1, highest):
        if k == limits.POLYNOMIAL_DEGREE_MAX:
            raise BadValueError(
                f"a polynomial of degree {highest}: its recurrence takes a step a degree; at most "
                f"{limits.POLYNOMIAL_DEGREE_MAX}"
            )
        older, newer = newer, step(k, newer, older)
        value = xp.where(steps > k, newer, value)
        if k % 64 == 0 and xp.all(xp.isnan(newer) | (steps <= k)):
            break
    return value


def _fused(a: Any, b: Any, c: Any) -> Any:
    """Return a * b - c, rounded once."""
    return (a.astype("float64") * b - c).astype(a.dtype)


def _rounded(f: Callable[[Any], Any], x: Any) -> Any:
    """Return f(x), computed in float64 and rounded to the precision of x."""
    return f(x.astype("float64")).astype(x.dtype)
