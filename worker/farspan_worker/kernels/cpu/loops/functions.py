"""Functions of analysis as straight lines of arithmetic, which vectorise: for inexact loops only.

Over symbols, so that each is a formula. Measured over 2M arguments of all sizes, the largest error
in units of the last place: see ERRORS. Polynomials are fitted at first use, not copied.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final

import numpy as np
from farspan.core.special import fit
from numpy.polynomial import Chebyshev, Polynomial

from .group import Unfused
from .symbolic import Sym, as_type, common, joined, select, unary

#: What tests/test_loops.py holds each function to: ulps of float32, ulps of float64.
ERRORS: Final[dict[str, tuple[float, float]]] = {
    "exp": (2, 2), "exp2": (2, 2), "expm1": (2, 4), "log": (2, 5), "log2": (3, 7), "log10": (3, 7),
    "log1p": (3, 5), "tanh": (3, 4), "sinh": (4, 4), "cosh": (3, 3), "erf": (6, 0),
}  # fmt: skip

_LN2: Final = math.log(2)
_LN2_LONG: Final = Fraction("0.693147180559945309417232121458176568075500134360255")
_CUBIC: Final = 0.044715  # of the tanh approximation of gelu, arXiv:1606.08415


class _Format:
    """What formulas need to know of a type: its bits, and where functions leave its range."""

    def __init__(self, name: str) -> None:
        single = name == "float32"
        self.name, self.ints = name, "int32" if single else "int64"
        self.mantissa, self.bias = (23, 127) if single else (52, 1023)
        #: Added and taken away again it rounds to an integer, which its low bits then are.
        self.magic = 1.5 * 2.0**self.mantissa
        self.lowest, self.highest = (-104.0, 89.0) if single else (-746.0, 710.0)
        #: ln 2 in two parts, the first with zeros at its end, so that n times it is exact.
        bits = 15 if single else 32
        self.ln2_high = math.floor(_LN2_LONG * 2**bits) / 2**bits
        self.ln2_low = float(_LN2_LONG - Fraction(self.ln2_high))
        self.exp_terms, self.log_terms = (6, 8) if single else (12, 22)
        self.tanh_edge = 20.0 if single else 44.0


_FORMATS: Final = {name: _Format(name) for name in ("float32", "float64")}


def format_of(x: Any) -> _Format:
    if not isinstance(x, Sym) or x.node.dtype not in _FORMATS:
        raise Unfused("a function of a number, or of a type that is not real")
    return _FORMATS[x.node.dtype]


# ------------------------------------------------------------------------------------ elements --
def fma(a: Any, b: Any, c: Any) -> Sym:
    """Return a * b + c, rounded once."""
    graph, shape = joined(a, b, c)
    name = common(*[v for v in (a, b, c) if isinstance(v, Sym)])
    return Sym(graph, graph.node("fma", name, *[as_type(graph, v, name) for v in (a, b, c)]), shape)


def _bits(x: Sym) -> Sym:
    return unary("bits", x, format_of(x).ints)


def _from_bits(x: Sym, name: str) -> Sym:
    return unary("bits", x, name)


def _shift(x: Sym, by: int, op: str) -> Sym:
    n = as_type(x.graph, by, x.node.dtype)
    return Sym(x.graph, x.graph.node(op, x.node.dtype, x.node, n), x.shape)


def polynomial(x: Sym, terms: tuple[float, ...]) -> Sym:
    """Return the polynomial with these coefficients, the constant one first, by Horner's rule."""
    value: Any = terms[-1]
    for t in terms[-2::-1]:
        value = fma(value, x, t)
    return value  # type: ignore[no-any-return]


@functools.cache
def _fitted(f: Callable[[float], float], low: float, high: float, degree: int) -> tuple[float, ...]:
    """Return coefficients of the polynomial that equals f at the Chebyshev nodes of [low, high]."""
    middle, half = (low + high) / 2, (high - low) / 2
    series = fit(lambda t: f(middle + half * t), degree)
    found = Chebyshev(series, domain=[low, high]).convert(kind=Polynomial)
    return tuple(map(float, found.coef))


def _power_of_two(n: Sym, name: str) -> Sym:
    """Return 2^n for a whole n, given as an integer, within the range of normal numbers."""
    f = _FORMATS[name]
    return _from_bits(_shift(n + f.bias, f.mantissa, "shl"), name)


def _bounded(x: Sym, low: float, high: float) -> Sym:
    """Return x between two numbers; NaN stays."""
    return select(x < low, low, select(x > high, high, x))  # type: ignore[no-any-return]


# -------------------------------------------------------------------------------- exponentials --
def _reduced(x: Sym, f: _Format) -> tuple[Sym, Sym]:
    """Return n as an integer and r with x = n ln 2 + r, |r| <= ln 2 / 2."""
    t = fma(x, 1 / _LN2, f.magic)
    n = t - f.magic
    r = fma(n, -f.ln2_low, fma(n, -f.ln2_high, x))
    return _bits(t) - int(np.array(f.magic, f.name).view(f.ints)), r


def _scaled(p: Sym, n: Sym, f: _Format) -> Sym:
    """Return p 2^n, in two steps, since 2^n alone may leave the range."""
    half = _shift(n, 1, "shr")
    return p * _power_of_two(half, f.name) * _power_of_two(n - half, f.name)  # type: ignore[no-any-return]


def _exp_slope(r: float) -> float:
    """(e^r - 1 - r) / r^2, by its series near 0."""
    return sum(r**k / math.factorial(k + 2) for k in range(20))


def exp(x: Sym) -> Sym:
    f = format_of(x)
    n, r = _reduced(_bounded(x, f.lowest, f.highest), f)
    p = fma(r * r, polynomial(r, _fitted(_exp_slope, -0.35, 0.35, f.exp_terms - 2)), r) + 1
    return _scaled(p, n, f)


def exp_below(x: Sym) -> Sym:
    """exp of what is at most a little above 0: one scaling; what would be subnormal is 0."""
    f = format_of(x)
    n, r = _reduced(x, f)
    p = fma(r * r, polynomial(r, _fitted(_exp_slope, -0.35, 0.35, f.exp_terms - 2)), r) + 1
    lowest = (1 - f.bias) * _LN2
    return select(x < lowest, 0.0, p * _power_of_two(n, f.name))  # type: ignore[no-any-return]


def exp2(x: Sym) -> Sym:
    f = format_of(x)
    bounded = _bounded(x, f.lowest / _LN2, f.highest / _LN2)
    t = bounded + f.magic
    r = (bounded - (t - f.magic)) * _LN2
    n = _bits(t) - int(np.array(f.magic, f.name).view(f.ints))
    p = fma(r * r, polynomial(r, _fitted(_exp_slope, -0.35, 0.35, f.exp_terms - 2)), r) + 1
    return _scaled(p, n, f)


def expm1(x: Sym) -> Sym:
    """By e^r - 1 alone; 2^n enters halved, so that it stays finite as long as the result."""
    f = format_of(x)
    n, r = _reduced(_bounded(x, -1.5 * f.mantissa * _LN2, f.highest), f)
    q = fma(r * r, polynomial(r, _fitted(_exp_slope, -0.35, 0.35, f.exp_terms - 2)), r)
    half = _power_of_two(n - 1, f.name)
    value = fma(half, q, half - 0.5) * 2
    return select(x == 0, x, value)  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------- logarithms --
def _log_tail(x: float) -> float:
    """(log(1 + x) - x + x^2 / 2) / x^3, by its series near 0."""
    if abs(x) < 0.05:
        return sum((-x) ** k / (k + 3) for k in range(20))
    return (math.log1p(x) - x + x * x / 2) / x**3


def _log_parts(x: Sym, f: _Format) -> tuple[Sym, Sym]:
    """Return n as a float and log(m) with x = m 2^n, m within a factor sqrt(2) of 1; x normal."""
    root = int(np.array(math.sqrt(0.5), f.name).view(f.ints))
    bits = _bits(x)
    n = _shift(bits - root, f.mantissa, "shr")
    m = _from_bits(bits - _shift(n, f.mantissa, "shl"), f.name) - 1
    tail = polynomial(m, _fitted(_log_tail, math.sqrt(0.5) - 1, math.sqrt(2) - 1, f.log_terms))
    square = m * m
    low = fma(square, -0.5, square * m * tail)
    return n.astype(f.name), m + low


def _logarithm(x: Sym, unit: float) -> Sym:
    """Return log(x) / unit."""
    f = format_of(x)
    tiny = float(np.finfo(f.name).smallest_normal)
    up = 2.0 ** (f.mantissa + 2)
    small = x < tiny
    n, log = _log_parts(select(small, x * up, x), f)
    n = n - select(small, float(f.mantissa + 2), 0.0)
    if unit == 1.0:
        value = fma(n, f.ln2_high, fma(n, f.ln2_low, log))
    else:
        whole = 1.0 if unit == _LN2 else _LN2 / unit
        value = fma(n, whole, log * (1 / unit))
    value = select(x < math.inf, value, x)  # inf and NaN stay
    value = select(x == 0, -math.inf, value)
    return select(x < 0, math.nan, value)  # type: ignore[no-any-return]


def log(x: Sym) -> Sym:
    return _logarithm(x, 1.0)


def log2(x: Sym) -> Sym:
    return _logarithm(x, _LN2)


def log10(x: Sym) -> Sym:
    return _logarithm(x, math.log(10))


def log1p(x: Sym) -> Sym:
    """log(u) with u = 1 + x rounded, and what the rounding took away added again, over u."""
    u = 1 + x
    lost = select(x < math.inf, x - (u - 1), 0.0)
    value = _logarithm(u, 1.0) + lost / u
    value = select(x == -1, -math.inf, select(x < math.inf, value, x))
    return select(absolute_small(x), x, value)  # type: ignore[no-any-return]


def absolute_small(x: Sym) -> Sym:
    """Return where x is so small that x is its own log1p."""
    return abs(x) < 2.0 ** -(format_of(x).mantissa + 2)  # type: ignore[no-any-return]


def logaddexp(a: Any, b: Any) -> Sym:
    graph, shape = joined(a, b)
    name = common(a, b)
    x, y = (Sym(graph, as_type(graph, v, name), shape) for v in (a, b))
    distance = x - y
    top = select(distance > 0, x, y)
    value = top + log1p(exp(-abs(distance)))
    return select(x == y, x + _LN2, value)  # type: ignore[no-any-return]


# --------------------------------------------------------------------------- hyperbolic, errors --
def _signed(size: Sym, like: Sym) -> Sym:
    return Sym(size.graph, size.graph.node("copysign", size.node.dtype, size.node, like.node),
               size.shape)  # fmt: skip


def tanh(x: Sym) -> Sym:
    """e / (e + 2) with e = exp(2 |x|) - 1, which keeps its digits near 0."""
    f = format_of(x)
    e = expm1(_bounded(2 * abs(x), 0.0, f.tanh_edge))
    return _signed(e / (e + 2), x)


def sinh(x: Sym) -> Sym:
    """(e + e / (e + 1)) / 2 with e = exp(|x|) - 1; by halves where exp leaves the range."""
    size = abs(x)
    e = expm1(size)
    near = 0.5 * (e + e / (e + 1))
    root = exp(0.5 * size)
    return _signed(select(size > format_of(x).highest - 5, 0.5 * root * root, near), x)


def cosh(x: Sym) -> Sym:
    size = abs(x)
    e = exp(size)
    root = exp(0.5 * size)
    return select(  # type: ignore[no-any-return]
        size > format_of(x).highest - 5, 0.5 * root * root, 0.5 * e + 0.5 / e
    )


def erf(x: Sym) -> Sym:
    """x P(x^2) / Q(x^2) up to where float32 rounds to 1."""
    if format_of(x).name != "float32":
        raise Unfused("erf of float64")
    bounded = _bounded(x, -_ERF_EDGE, _ERF_EDGE)
    t = bounded * bounded
    value = bounded * polynomial(t, _ERF_P) / polynomial(t, _ERF_Q)
    one = select(x < 0, -1.0, select(x > 0, 1.0, x))
    return select(abs(x) >= _ERF_EDGE, one, value)  # type: ignore[no-any-return]


_ERF_EDGE: Final = 3.92
#: Least squares on the relative error over [0, 3.92], reweighted by Q 30 times; within 6e-8.
_ERF_P: Final = (
    1.128379111424255, 0.20010637298974776, 0.05059619856198413, 0.0037074361936681403,
    0.0001418410376213415, -1.9545229736610752e-06, 1.9863597189943726e-08,
)  # fmt: skip
_ERF_Q: Final = (
    1.0, 0.510671359824981, 0.11507224117352545, 0.014367098321352672, 0.0009569467499222495,
)  # fmt: skip


def gelu_tanh(x: Sym) -> Sym:
    """x / (1 + exp(-2u)), which is x (1 + tanh u) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    c = -2 * math.sqrt(2 / math.pi)
    return x / (1 + exp(x * (c * (1 + _CUBIC * x * x))))  # type: ignore[no-any-return]


def gelu_tanh_slope(x: Sym) -> Sym:
    """s + x s (1 - s) 2u' with s the sigmoid of 2u."""
    c = 2 * math.sqrt(2 / math.pi)
    square = x * x
    s = 1 / (1 + exp(x * (-c * (1 + _CUBIC * square))))
    return s + s * (1 - s) * x * (c * (1 + 3 * _CUBIC * square))  # type: ignore[no-any-return]


# -------------------------------------------------------------------------------------- powers --
def pow_(x: Any, exponent: Any) -> Any:
    """x^y in double, for float32: exp(y log |x|), then what IEEE 754 wants of signs, 0 and inf."""
    graph, shape = joined(x, exponent)
    name = common(x, exponent)
    if graph.exact or name != "float32":
        raise Unfused(f"a power of {name}")
    a, y = (Sym(graph, as_type(graph, v, name), shape) for v in (x, exponent))
    wide, by = abs(a).astype("float64"), y.astype("float64")
    value = exp(by * log(wide))
    # 0 * inf above: where the base is 1 or the exponent 0 the power is 1, also of NaN.
    value = select((by == 0) | (a == 1), 1.0, value)
    value = select((wide == 1) & (abs(by) == math.inf), 1.0, value)
    whole = unary("rint", y) == y
    odd = whole & (unary("rint", y * 0.5) * 2 != y)
    negative = _bits(a) < 0
    value = select(negative & odd, -value, value)
    bad = (a < 0) & ~whole & (wide < math.inf)
    return select(bad, math.nan, value).astype(name)
