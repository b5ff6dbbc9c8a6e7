"""kl_divergence between distributions of different kinds. The registry is in `kl.py`.

Each formula is the mean of log q under p, taken off p's negative entropy.
"""

from __future__ import annotations

import math
from math import inf
from typing import Any

import farspan
from farspan._tensor import Tensor

from .bernoulli import Bernoulli
from .beta import Beta
from .binomial import Binomial
from .continuous_bernoulli import ContinuousBernoulli
from .exponential import Exponential
from .gamma import Gamma
from .gumbel import Gumbel
from .kl import _infinite_like, register_kl
from .laplace import Laplace
from .normal import Normal
from .pareto import Pareto
from .poisson import Poisson
from .uniform import Uniform
from .utils import euler_constant

_LOG_TAU = math.log(2 * math.pi)

#: Where q is 0 on part of p's support the divergence is infinite: (p, its parameter, the q).
_INFINITE: tuple[tuple[Any, str, tuple[Any, ...]], ...] = (
    (Beta, "concentration1", (Pareto,)),
    (ContinuousBernoulli, "probs", (Pareto,)),
    (Exponential, "rate", (Beta, ContinuousBernoulli, Pareto, Uniform)),
    (Gamma, "concentration", (Beta, ContinuousBernoulli, Pareto, Uniform)),
    (Gumbel, "loc", (Beta, ContinuousBernoulli, Exponential, Gamma, Pareto, Uniform)),
    (Laplace, "loc", (Beta, ContinuousBernoulli, Exponential, Gamma, Pareto, Uniform)),
    (Normal, "loc", (Beta, ContinuousBernoulli, Exponential, Gamma, Pareto, Uniform)),
    (Pareto, "scale", (Beta, ContinuousBernoulli, Uniform)),
    (Poisson, "rate", (Bernoulli, Binomial)),
)
for _p, _name, _others in _INFINITE:
    for _q in _others:
        register_kl(_p, _q)(lambda p, q, name=_name: _infinite_like(getattr(p, name)))


# ------------------------------------------------ the mean of -log q under p, given p's moments --
def _exponential_cross(q: Any, mean: Tensor) -> Tensor:
    return q.rate * mean - q.rate.log()


def _gamma_cross(q: Any, mean: Tensor, mean_log: Tensor) -> Tensor:
    normalizer = q.concentration.lgamma() - q.concentration * q.rate.log()
    return normalizer - (q.concentration - 1) * mean_log + q.rate * mean


def _normal_cross(q: Any, mean: Tensor, second: Tensor) -> Tensor:
    """second: the mean of x^2."""
    square = q.scale.pow(2)
    return 0.5 * (square.log() + _LOG_TAU) + (0.5 * (second + q.loc.pow(2)) - q.loc * mean) / square


def _continuous_bernoulli_cross(q: Any, mean: Tensor) -> Tensor:
    return -mean * q.logits - (-q.probs).log1p() - q._cont_bern_log_norm()


def _beta_log_norm(q: Any) -> Tensor:
    a, b = q.concentration1, q.concentration0
    return a.lgamma() + b.lgamma() - (a + b).lgamma()


# ------------------------------------------------------------------------------ from bounded p --
@register_kl(Bernoulli, Poisson)
def _bernoulli_poisson(p: Any, q: Any) -> Tensor:
    return -p.entropy() - (p.probs * q.rate.log() - q.rate)


@register_kl(Beta, ContinuousBernoulli)
def _beta_continuous_bernoulli(p: Any, q: Any) -> Tensor:
    return -p.entropy() + _continuous_bernoulli_cross(q, p.mean)


@register_kl(Beta, Exponential)
def _beta_exponential(p: Any, q: Any) -> Tensor:
    return -p.entropy() + _exponential_cross(q, p.mean)


@register_kl(Beta, Gamma)
def _beta_gamma(p: Any, q: Any) -> Tensor:
    total = p.concentration1 + p.concentration0
    mean_log = p.concentration1.digamma() - total.digamma()
    return -p.entropy() + _gamma_cross(q, p.mean, mean_log)


@register_kl(Beta, Normal)
@register_kl(ContinuousBernoulli, Normal)
def _bounded_normal(p: Any, q: Any) -> Tensor:
    return -p.entropy() + _normal_cross(q, p.mean, p.variance + p.mean.pow(2))


@register_kl(Beta, Uniform)
def _beta_uniform(p: Any, q: Any) -> Tensor:
    result = -p.entropy() + (q.high - q.low).log()
    return result.masked_fill((q.low > 0) | (q.high < 1), inf)


@register_kl(ContinuousBernoulli, Exponential)
def _continuous_bernoulli_exponential(p: Any, q: Any) -> Tensor:
    return -p.entropy() + _exponential_cross(q, p.mean)


@register_kl(ContinuousBernoulli, Uniform)
def _continuous_bernoulli_uniform(p: Any, q: Any) -> Tensor:
    # Infinite at equal bounds too, as torch has it.
    result = -p.entropy() + (q.high - q.low).log()
    return result.masked_fill((q.low >= 0) | (q.high <= 1), inf)


# ------------------------------------------------------------------- from exponential and gamma --
@register_kl(Exponential, Gamma)
def _exponential_gamma(p: Any, q: Any) -> Tensor:
    mean_log = -p.rate.log() - euler_constant
    return -p.entropy() + _gamma_cross(q, p.mean, mean_log)


@register_kl(Exponential, Gumbel)
def _exponential_gumbel(p: Any, q: Any) -> Tensor:
    scale, loc = p.rate * q.scale, q.loc / q.scale
    spread = loc.exp() * scale / (scale + 1)
    return scale.log() - 1 - loc + spread + scale.reciprocal()


@register_kl(Exponential, Normal)
def _exponential_normal(p: Any, q: Any) -> Tensor:
    return -p.entropy() + _normal_cross(q, p.mean, 2 * p.variance)


@register_kl(Gamma, Exponential)
def _gamma_exponential(p: Any, q: Any) -> Tensor:
    return -p.entropy() + _exponential_cross(q, p.mean)


@register_kl(Gamma, Gumbel)
def _gamma_gumbel(p: Any, q: Any) -> Tensor:
    a, scale, loc = p.concentration, p.rate * q.scale, q.loc / q.scale
    own = (a - 1) * a.digamma() - a.lgamma() - a
    spread = loc.exp() * (1 + scale.reciprocal()).pow(-a)
    return own + scale.log() + a / scale + spread - loc


@register_kl(Gamma, Normal)
def _gamma_normal(p: Any, q: Any) -> Tensor:
    return -p.entropy() + _normal_cross(q, p.mean, p.variance + p.mean.pow(2))


# ------------------------------------------------------------------------ from the whole line --
@register_kl(Gumbel, Normal)
def _gumbel_normal(p: Any, q: Any) -> Tensor:
    second = p.variance + p.mean.pow(2)
    return -p.entropy() + _normal_cross(q, p.mean, second)


@register_kl(Laplace, Normal)
def _laplace_normal(p: Any, q: Any) -> Tensor:
    return -p.entropy() + _normal_cross(q, p.loc, p.variance + p.loc.pow(2))


@register_kl(Normal, Gumbel)
def _normal_gumbel(p: Any, q: Any) -> Tensor:
    distance = (p.loc - q.loc) / q.scale
    square = (p.scale / q.scale).pow(2)
    spread = (0.5 * square - distance).exp()
    return -0.5 * square.log() + distance + spread - 0.5 * (1 + _LOG_TAU)


@register_kl(Normal, Laplace)
def _normal_laplace(p: Any, q: Any) -> Tensor:
    distance = p.loc - q.loc
    z = distance / p.scale
    folded = math.sqrt(2 / math.pi) * p.scale * (-0.5 * z.pow(2)).exp()
    folded = folded + distance * farspan.erf(math.sqrt(0.5) * z)  # the mean of |x - q.loc|
    ratio = (p.scale / q.scale).log()
    return -ratio + folded / q.scale - 0.5 * (1 + math.log(0.5 * math.pi))


# ---------------------------------------------------------------------------------- from pareto --
@register_kl(Pareto, Exponential)
def _pareto_exponential(p: Any, q: Any) -> Tensor:
    mean = p.alpha * p.scale / (p.alpha - 1)
    result = -p.entropy() + _exponential_cross(q, mean)
    return result.masked_fill(p.alpha <= 1, inf)


@register_kl(Pareto, Gamma)
def _pareto_gamma(p: Any, q: Any) -> Tensor:
    mean = p.alpha * p.scale / (p.alpha - 1)
    mean_log = p.scale.log() + p.alpha.reciprocal()
    result = -p.entropy() + _gamma_cross(q, mean, mean_log)
    return result.masked_fill(p.alpha <= 1, inf)


@register_kl(Pareto, Normal)
def _pareto_normal(p: Any, q: Any) -> Tensor:
    share = p.scale / (p.alpha - 1)
    mean = p.alpha * share
    second = p.alpha * share.pow(2) / (p.alpha - 2) + mean.pow(2)
    result = -p.entropy() + _normal_cross(q, mean, second)
    return result.masked_fill(p.alpha <= 2, inf)


# --------------------------------------------------------------------------------- from uniform --
def _x_log_x(x: Tensor) -> Tensor:
    return farspan.xlogy(x, x)


def _mean_log(low: Tensor, high: Tensor) -> Tensor:
    """Return the mean of log x between two numbers."""
    width = high - low
    return (_x_log_x(high) - _x_log_x(low) - width) / width


@register_kl(Uniform, Beta)
def _uniform_beta(p: Any, q: Any) -> Tensor:
    below = (q.concentration1 - 1) * _mean_log(p.low, p.high)
    above = (q.concentration0 - 1) * _mean_log(1 - p.high, 1 - p.low)
    result = _beta_log_norm(q) - below - above - p.entropy()
    return result.masked_fill((p.high > 1) | (p.low < 0), inf)


@register_kl(Uniform, ContinuousBernoulli)
def _uniform_continuous_bernoulli(p: Any, q: Any) -> Tensor:
    # Infinite at equal bounds too, as torch has it.
    result = -p.entropy() + _continuous_bernoulli_cross(q, p.mean)
    return result.masked_fill((p.high >= 1) | (p.low <= 0), inf)


@register_kl(Uniform, Exponential)
def _uniform_exponential(p: Any, q: Any) -> Tensor:
    return (-p.entropy() + _exponential_cross(q, p.mean)).masked_fill(p.low < 0, inf)


@register_kl(Uniform, Gamma)
def _uniform_gamma(p: Any, q: Any) -> Tensor:
    result = -p.entropy() + _gamma_cross(q, p.mean, _mean_log(p.low, p.high))
    return result.masked_fill(p.low < 0, inf)


@register_kl(Uniform, Gumbel)
def _uniform_gumbel(p: Any, q: Any) -> Tensor:
    share = q.scale / (p.high - p.low)
    high, low = (p.high - q.loc) / q.scale, (p.low - q.loc) / q.scale
    return share.log() + 0.5 * (high + low) - share * ((-high).exp() - (-low).exp())


@register_kl(Uniform, Normal)
def _uniform_normal(p: Any, q: Any) -> Tensor:
    return -p.entropy() + _normal_cross(q, p.mean, p.variance + p.mean.pow(2))


@register_kl(Uniform, Pareto)
def _uniform_pareto(p: Any, q: Any) -> Tensor:
    norm = (q.alpha * q.scale.pow(q.alpha)).log()
    result = -p.entropy() - norm + (q.alpha + 1) * _mean_log(p.low, p.high)
    return result.masked_fill(p.low < q.scale, inf)
