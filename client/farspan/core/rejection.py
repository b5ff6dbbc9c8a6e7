"""Gamma, Poisson, binomial and von Mises numbers by rejection, equal to torch's on the CPU.

How many words an element takes depends on the words themselves, so elements follow each other in
plain Python; what depends on the parameters alone is computed for all of them first. Single
precision parameters round where torch's C++ rounds. Read next: ``random.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from operator import length_hint
from typing import Any

import numpy as np

from .boxmuller import F64, TAU
from .errors import ParameterError
from .random import Array, Generator, Shape, narrowed

_AHEAD_MIN, _AHEAD_MAX = 64, 1 << 14  # doubles that are drawn at a time
_PIECE = 1 << 16  # elements a pass: their parameters become Python's numbers, of 32 bytes each
_THIRD = np.float32(1) / np.float32(3)  # torch's constants are floats, also among doubles
_SQUEEZE = float(np.float32(0.0331))


class Doubles:
    """Uniform doubles one by one: call ``next``; ``close`` gives back those drawn ahead."""

    def __init__(self, gen: Generator, expected: int) -> None:
        self._gen = gen
        self._count = min(max(expected, _AHEAD_MIN), _AHEAD_MAX)
        self._left: Iterator[float] = iter(())
        self._mark: Any = None
        self.next: Callable[[], float] = self._values().__next__

    def _values(self) -> Iterator[float]:
        while True:
            self._mark = self._gen.mark()
            self._left = iter(self._gen.doubles(self._count).tolist())
            yield from self._left

    def close(self) -> None:
        left = length_hint(self._left)
        if left:
            self._gen.rewind(self._mark)
            self._gen.doubles(self._count - left)


def _in_pieces(draw: Callable[..., F64], gen: Generator, *parameters: Array) -> F64:
    """Return draw(gen, *parameters) of arrays that are flattened and cut into pieces, in shape."""
    flat = [p.reshape(-1) for p in parameters]
    starts = range(0, max(flat[0].size, 1), _PIECE)
    drawn = [draw(gen, *[p[i : i + _PIECE] for p in flat]) for i in starts]
    return np.concatenate(drawn).reshape(parameters[0].shape)


def standard_gamma(gen: Generator, alpha: Array) -> F64:
    """Return gamma numbers of rate 1, not rounded to alpha's dtype (Marsaglia and Tsang, 2000).

    alpha: float32 or float64, any shape. 0 gives 0 and takes no words; a negative number or nan,
    with which torch never returns, gives nan.
    """
    return _in_pieces(_gammas, gen, alpha)


def _gammas(gen: Generator, flat: Array) -> F64:
    with np.errstate(all="ignore"):
        small = flat < 1
        # With boosting, a number of alpha + 1 is scaled by a uniform one to the power 1 / alpha.
        powers = (flat.dtype.type(1) / flat).astype(np.float64)
        d = (np.where(small, flat + flat.dtype.type(1), flat) - _THIRD).astype(np.float64)
        c = 1 / np.sqrt(9 * d)
    usable = flat > 0
    uniform = Doubles(gen, 4 * flat.size)
    draw = uniform.next
    kept = gen.next_double_normal
    out = np.where(flat == 0, 0.0, np.nan)
    at = np.flatnonzero(usable)
    sqrt, log, log1p, sin, cos = math.sqrt, math.log, math.log1p, math.sin, math.cos
    results = []
    columns = (small[at].tolist(), powers[at].tolist(), d[at].tolist(), c[at].tolist())
    for boost, power, di, ci in zip(*columns, strict=True):
        scale = (1 - draw()) ** power if boost else 1.0
        while True:
            v = 0.0
            while v <= 0:
                if kept is None:
                    theta = TAU * draw()
                    radius = sqrt(-2 * log1p(-draw()))
                    x, kept = radius * cos(theta), radius * sin(theta)
                else:
                    x, kept = kept, None
                v = 1 + ci * x
            v = v * v * v
            u = 1 - draw()
            xx = x * x
            if u < 1 - _SQUEEZE * xx * xx or log(u) < 0.5 * xx + di * (1 - v + log(v)):
                break
        results.append(scale * di * v)
    uniform.close()
    gen.next_double_normal = kept
    out[at] = results
    return out


def gamma(gen: Generator, alpha: Array) -> Array:
    """Return gamma numbers of rate 1, at least the smallest normal: ``torch._standard_gamma``."""
    tiny = np.finfo(alpha.dtype).tiny
    drawn: Array = standard_gamma(gen, alpha).astype(alpha.dtype)
    return np.asarray(np.maximum(drawn, tiny))


def dirichlet(gen: Generator, alpha: Array) -> Array:
    """Return gamma numbers over their sum in the last dim: ``torch._sample_dirichlet``."""
    # As doubles, in which small concentrations do not underflow.
    drawn = np.maximum(standard_gamma(gen, alpha.astype(np.float64)), np.finfo(np.float64).tiny)
    shares = (drawn / drawn.sum(-1, keepdims=True)).astype(alpha.dtype)
    one = alpha.dtype.type(1)
    return np.asarray(np.clip(shares, np.finfo(alpha.dtype).tiny, np.nextafter(one, one - one)))


# ------------------------------------------------------------------------------------- poisson --
def poisson(gen: Generator, rate: Array) -> Array:
    """Return Poisson numbers in rate's shape and dtype: ``torch.poisson``.

    Raises ParameterError, before any draw, if a rate is negative or nan.
    """
    rates = rate.astype(np.float64)
    if not np.all(rates >= 0):
        raise ParameterError("invalid Poisson rate, expected rate to be non-negative")
    return narrowed(_in_pieces(_poissons, gen, rates), rate.dtype)


def _poissons(gen: Generator, rates: F64) -> F64:
    expected = int(min(np.minimum(rates + 1, 11).sum(), _AHEAD_MAX))
    uniform = Doubles(gen, expected)
    draw = uniform.next
    results = [
        (_poisson_large if x >= 10 else _poisson_small)(draw, x) if x else 0.0
        for x in rates.tolist()
    ]
    uniform.close()
    return np.array(results, np.float64)


def _poisson_small(draw: Callable[[], float], rate: float) -> float:
    """Return how many uniform numbers can be multiplied before they fall below exp(-rate)."""
    least = math.exp(-rate)
    product = draw()
    count = 0
    while product > least:
        product *= draw()
        count += 1
    return float(count)


def _poisson_large(draw: Callable[[], float], rate: float) -> float:
    """Return a number by transformed rejection (PTRS; Hoermann, 1993)."""
    if rate > 2.0**62:
        return rate  # torch counts in 64 bits, and its results beyond them mean nothing
    root, log_rate = math.sqrt(rate), math.log(rate)
    b = 0.931 + 2.53 * root
    a = -0.059 + 0.02483 * b
    log_inverse_alpha = math.log(1.1239 + 1.1328 / (b - 3.4))
    enough = 0.9277 - 3.6224 / (b - 2)
    while True:
        u, v = draw() - 0.5, draw()
        us = 0.5 - abs(u)
        if us <= 0:
            continue
        k = math.floor((2 * a / us + b) * u + rate + 0.43)
        if us >= 0.07 and v <= enough:
            return float(k)
        if k < 0 or (us < 0.013 and v > us):
            continue
        bound = -rate + k * log_rate - math.lgamma(k + 1.0)
        if v == 0 or math.log(v) + log_inverse_alpha - math.log(a / (us * us) + b) <= bound:
            return float(k)


# ------------------------------------------------------------------------------------ binomial --
def binomial(gen: Generator, count: Array, prob: Array) -> Array:
    """Return successes among `count` trials: ``torch.binomial``. Both float32, or both float64.

    The shapes are equal. nan in either gives nan.
    """
    drawn: Array = _in_pieces(_binomials, gen, count, prob).astype(count.dtype)
    return drawn


def _binomials(gen: Generator, n: Array, p: Array) -> F64:
    one = n.dtype.type(1)
    with np.errstate(all="ignore"):
        likely = p > 0.5
        q = np.where(likely, one - p, p)  # of what is counted: the rarer of the two outcomes
        columns = [
            x.astype(np.float64).tolist()
            for x in (n, q, n * q, np.log1p(-q), np.sqrt(n * q * (one - q)), q / (one - q),
                      np.floor((n + one) * q))
        ]  # fmt: skip
    done = np.where(p >= 1, n, np.where(np.isnan(n) | np.isnan(p), np.nan, 0)).astype(np.float64)
    certain = ~((n > 0) & (p > 0) & (p < 1) & np.isfinite(n))
    uniform = Doubles(gen, 4 * n.size)
    draw = uniform.next
    results = done.tolist()
    for i in np.flatnonzero(~certain).tolist():
        ni, qi, mean, log_miss, deviation, odds, mode = [column[i] for column in columns]
        if mean >= 10:
            results[i] = _binomial_large(draw, ni, qi, mean, deviation, odds, mode)
        else:
            results[i] = _binomial_small(draw, ni, log_miss)
    uniform.close()
    out = np.array(results, np.float64)
    return np.where(likely & ~certain, n - out, out)


def _binomial_small(draw: Callable[[], float], n: float, log_miss: float) -> float:
    """Return how many waiting times, each geometric, fit into n trials."""
    waited, successes = 0.0, -1
    while waited <= n:
        u = draw()
        waited += math.ceil(math.log(u) / log_miss) if u else math.inf
        successes += 1
    return float(successes)


#: Stirling's error log(k!) - log(sqrt(2 pi (k + 1))) - ... for k = 0 .. 9; beyond, a series.
_STIRLING = (
    0.0810614667953272, 0.0413406959554092, 0.0276779256849983, 0.02079067210376509,
    0.0166446911898211, 0.0138761288230707, 0.0118967099458917, 0.0104112652619720,
    0.00925546218271273, 0.00833056343336287,
)  # fmt: skip


def _stirling_tail(k: float) -> float:
    if k < len(_STIRLING):
        return _STIRLING[int(k)]
    square = (k + 1) * (k + 1)
    return (1 / 12 - (1 / 360 - 1 / 1260 / square) / square) / (k + 1)


def _binomial_large(
    draw: Callable[[], float], n: float, q: float, mean: float, deviation: float, odds: float,
    mode: float,
) -> float:  # fmt: skip
    """Return a number by transformed rejection (BTRS; Hoermann, 1993)."""
    b = 1.15 + 2.53 * deviation
    a = -0.0873 + 0.0248 * b + 0.01 * q
    c = mean + 0.5
    enough = 0.92 - 4.2 / b
    alpha = (2.83 + 5.1 / b) * deviation
    log = math.log
    while True:
        u, v = draw() - 0.5, draw()
        us = 0.5 - abs(u)
        if us <= 0:
            continue
        k = math.floor((2 * a / us + b) * u + c)
        if k < 0 or k > n:
            continue
        if us >= 0.07 and v <= enough:
            return float(k)
        bound = (
            (mode + 0.5) * log((mode + 1) / (odds * (n - mode + 1)))
            + (n + 1) * log((n - mode + 1) / (n - k + 1))
            + (k + 0.5) * log(odds * (n - k + 1) / (k + 1))
            + _stirling_tail(mode) + _stirling_tail(n - mode)
            - _stirling_tail(k) - _stirling_tail(n - k)
        )  # fmt: skip
        if v == 0 or log(v * alpha / (a / (us * us) + b)) <= bound:
            return float(k)


# ----------------------------------------------------------------------------------- von Mises --
def von_mises(
    gen: Generator, shape: Shape, loc: Array, concentration: Array, proposal: Array
) -> F64:
    """Return angles in [-pi, pi): rejection from a wrapped Cauchy (Best and Fisher, 1979).

    loc, concentration and proposal, the parameter r of the wrapped Cauchy, broadcast to shape.
    All elements are drawn anew until each was accepted once, as torch does.
    """
    angle = np.zeros(shape)
    done = np.zeros(shape, bool)
    if not np.all(np.isfinite(concentration) & (concentration > 0)):
        return angle + np.nan  # nothing would ever be accepted
    for _ in range(_VON_MISES_ROUNDS_MAX):
        if done.all():
            break
        u1, u2, u3 = gen.doubles(3 * angle.size).reshape(3, *shape)
        with np.errstate(all="ignore"):
            z = np.cos(math.pi * u1)
            f = (1 + proposal * z) / (proposal + z)
            c = concentration * (proposal - f)
            accepted = (c * (2 - c) - u2 > 0) | (np.log(c / u2) + 1 - c >= 0)
            angle = np.where(accepted, np.sign(u3 - 0.5) * np.arccos(f), angle)
        done |= accepted
    angle[~done] = np.nan
    return np.asarray((angle + math.pi + loc) % (2 * math.pi) - math.pi, np.float64)


#: At least 0.66 of the proposals are accepted; a proposal that does not belong to the
#: concentration (a client's mistake, or worse) may never be: nan, and not a loop without end.
_VON_MISES_ROUNDS_MAX = 1_000
