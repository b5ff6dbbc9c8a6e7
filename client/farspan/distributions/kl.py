"""kl_divergence: how far one distribution is from another, by the pair's registered formula.

Formulas of pairs of one kind stand here; those between kinds are in `_kl_mixed.py`.
"""

from __future__ import annotations

import warnings
from functools import total_ordering
from math import inf
from typing import TYPE_CHECKING, Any

import farspan
from farspan._tensor import Tensor

from ..core.call import fn
from .bernoulli import Bernoulli
from .beta import Beta
from .binomial import Binomial
from .categorical import Categorical
from .cauchy import Cauchy
from .continuous_bernoulli import ContinuousBernoulli
from .dirichlet import Dirichlet
from .distribution import Distribution
from .exp_family import ExponentialFamily
from .exponential import Exponential
from .gamma import Gamma
from .geometric import Geometric
from .gumbel import Gumbel
from .half_normal import HalfNormal
from .independent import Independent
from .laplace import Laplace
from .lowrank_multivariate_normal import (
    LowRankMultivariateNormal,
    _batch_lowrank_logdet,
    _batch_lowrank_mahalanobis,
)
from .multivariate_normal import MultivariateNormal, _batch_mahalanobis, _half_log_det
from .normal import Normal
from .one_hot_categorical import OneHotCategorical
from .pareto import Pareto
from .poisson import Poisson
from .transformed_distribution import TransformedDistribution
from .uniform import Uniform
from .utils import _sum_rightmost, euler_constant

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["kl_divergence", "register_kl"]

_KL_REGISTRY: dict[tuple[type, type], Callable[[Any, Any], Tensor]] = {}
_KL_MEMOIZE: dict[tuple[type, type], Callable[[Any, Any], Tensor]] = {}


def register_kl(type_p: type, type_q: type) -> Any:
    """Register the decorated function of (p, q) for two classes and their subclasses.

    @register_kl(VonMises, VonMises)
    def kl_of_angles(p, q): ...
    """
    for name, kind in (("type_p", type_p), ("type_q", type_q)):
        if not isinstance(kind, type):  # of any class: libraries have Distributions of their own
            raise TypeError(f"Expected {name} to be a Distribution subclass but got {kind}")

    def decorator(function: Any) -> Any:
        _KL_REGISTRY[type_p, type_q] = function
        _KL_MEMOIZE.clear()  # the new one may fit better
        return function

    return decorator


@total_ordering
class _Match:
    """Classes that fit, ordered: the first in which two matches differ decides, subclass first."""

    def __init__(self, *types: type) -> None:
        self.types = types

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Match) and self.types == other.types

    def __le__(self, other: _Match) -> bool:
        for x, y in zip(self.types, other.types, strict=True):
            if not issubclass(x, y):
                return False
            if x is not y:
                break
        return True


def _dispatch_kl(type_p: type, type_q: type) -> Any:
    """Return the best function registered for two classes, or NotImplemented."""
    fits = [(p, q) for p, q in _KL_REGISTRY if issubclass(type_p, p) and issubclass(type_q, q)]
    if not fits:
        return NotImplemented
    left_p, left_q = min(_Match(p, q) for p, q in fits).types
    right_q, right_p = min(_Match(q, p) for p, q in fits).types
    if _KL_REGISTRY[left_p, left_q] is not _KL_REGISTRY[right_p, right_q]:
        warnings.warn(
            f"Ambiguous kl_divergence({type_p.__name__}, {type_q.__name__}). Please register_kl("
            f"{left_p.__name__}, {right_q.__name__})",
            RuntimeWarning,
            stacklevel=3,
        )
    return _KL_REGISTRY[left_p, left_q]


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """Return the mean of log p(x) - log q(x) over draws x of p, of batch shape.

    NotImplementedError for a pair without a formula.

    >>> import farspan
    >>> d = farspan.distributions
    >>> d.kl_divergence(d.Normal(0.0, 1.0), d.Normal(1.0, 1.0))
    tensor(0.5000)
    """
    pair = type(p), type(q)
    if pair not in _KL_MEMOIZE:
        _KL_MEMOIZE[pair] = _dispatch_kl(*pair)
    function: Any = _KL_MEMOIZE[pair]
    if function is NotImplemented:
        raise NotImplementedError(
            f"No KL(p || q) is implemented for p type {p.__class__.__name__} and q type "
            f"{q.__class__.__name__}"
        )
    return function(p, q)


def _infinite_like(x: Tensor) -> Tensor:
    return farspan.full_like(x, inf)


def _squares(x: Tensor) -> Tensor:
    """Return the trace of x @ x.mT."""
    return x.pow(2).sum((-2, -1))


# --------------------------------------------------------------------------- discrete, of a kind --
@register_kl(Bernoulli, Bernoulli)
def _bernoulli_bernoulli(p: Any, q: Any) -> Tensor:
    ones = p.probs * (fn.softplus(-q.logits) - fn.softplus(-p.logits))
    ones = ones.masked_fill(q.probs == 0, inf).masked_fill(p.probs == 0, 0)
    zeros = (1 - p.probs) * (fn.softplus(q.logits) - fn.softplus(p.logits))
    return ones + zeros.masked_fill(q.probs == 1, inf).masked_fill(p.probs == 1, 0)


@register_kl(Binomial, Binomial)
def _binomial_binomial(p: Any, q: Any) -> Tensor:
    if (p.total_count < q.total_count).any():
        raise NotImplementedError(
            "KL between Binomials where q.total_count > p.total_count is not implemented"
        )
    one_trial = p.probs * (p.logits - q.logits) + (-p.probs).log1p() - (-q.probs).log1p()
    return (p.total_count * one_trial).masked_fill(p.total_count > q.total_count, inf)


@register_kl(Categorical, Categorical)
def _categorical_categorical(p: Any, q: Any) -> Tensor:
    terms = p.probs * (p.logits - q.logits)
    return terms.masked_fill(q.probs == 0, inf).masked_fill(p.probs == 0, 0).sum(-1)


@register_kl(OneHotCategorical, OneHotCategorical)
def _one_hot_one_hot(p: Any, q: Any) -> Tensor:
    return _categorical_categorical(p._categorical, q._categorical)


@register_kl(Geometric, Geometric)
def _geometric_geometric(p: Any, q: Any) -> Tensor:
    return -p.entropy() - (-q.probs).log1p() / p.probs - q.logits


@register_kl(Poisson, Poisson)
def _poisson_poisson(p: Any, q: Any) -> Tensor:
    return p.rate * (p.rate.log() - q.rate.log()) - (p.rate - q.rate)


# ------------------------------------------------------------------------- continuous, of a kind --
@register_kl(Beta, Beta)
def _beta_beta(p: Any, q: Any) -> Tensor:
    return _dirichlet_dirichlet(p._dirichlet, q._dirichlet)


@register_kl(Dirichlet, Dirichlet)
def _dirichlet_dirichlet(p: Any, q: Any) -> Tensor:
    a, b = p.concentration, q.concentration
    total = a.sum(-1)
    normalizers = total.lgamma() - b.sum(-1).lgamma() - (a.lgamma() - b.lgamma()).sum(-1)
    return normalizers + ((a - b) * (a.digamma() - total.digamma().unsqueeze(-1))).sum(-1)


@register_kl(ContinuousBernoulli, ContinuousBernoulli)
def _continuous_continuous(p: Any, q: Any) -> Tensor:
    first = p.mean * (p.logits - q.logits) + p._cont_bern_log_norm() + (-p.probs).log1p()
    return first - q._cont_bern_log_norm() - (-q.probs).log1p()


@register_kl(Exponential, Exponential)
def _exponential_exponential(p: Any, q: Any) -> Tensor:
    ratio = q.rate / p.rate
    return -ratio.log() + ratio - 1


@register_kl(ExponentialFamily, ExponentialFamily)
def _family_family(p: Any, q: Any) -> Tensor:
    if type(p) is not type(q):
        raise NotImplementedError(
            "The cross KL-divergence between different exponential families cannot be computed "
            "using Bregman divergences"
        )
    natural, normalizer, slopes = p._normalizer_and_slopes()
    others = q._natural_params
    result = q._log_normalizer(*others) - normalizer
    for mine, other, slope in zip(natural, others, slopes, strict=True):
        result = result - _sum_rightmost((other - mine) * slope, len(q.event_shape))
    return result


@register_kl(Gamma, Gamma)
def _gamma_gamma(p: Any, q: Any) -> Tensor:
    return (
        q.concentration * (p.rate / q.rate).log()
        + q.concentration.lgamma()
        - p.concentration.lgamma()
        + (p.concentration - q.concentration) * p.concentration.digamma()
        + (q.rate - p.rate) * (p.concentration / p.rate)
    )


@register_kl(Gumbel, Gumbel)
def _gumbel_gumbel(p: Any, q: Any) -> Tensor:
    scale = p.scale / q.scale
    distance = q.loc / q.scale - p.loc / q.scale
    spread = (distance + (1 + scale).lgamma()).exp()
    return -scale.log() - distance + scale * euler_constant + spread - (1 + euler_constant)


@register_kl(HalfNormal, HalfNormal)
def _half_normal_half_normal(p: Any, q: Any) -> Tensor:
    return _normal_normal(p.base_dist, q.base_dist)


@register_kl(Laplace, Laplace)
def _laplace_laplace(p: Any, q: Any) -> Tensor:
    scale = p.scale / q.scale
    distance = (p.loc - q.loc).abs()
    spread = scale * (-distance / p.scale).exp()
    return -scale.log() + distance / q.scale + spread - 1


@register_kl(Normal, Normal)
def _normal_normal(p: Any, q: Any) -> Tensor:
    ratio = (p.scale / q.scale).pow(2)
    return 0.5 * (ratio + ((p.loc - q.loc) / q.scale).pow(2) - 1 - ratio.log())


@register_kl(Cauchy, Cauchy)
def _cauchy_cauchy(p: Any, q: Any) -> Tensor:
    square = (p.scale + q.scale).pow(2) + (p.loc - q.loc).pow(2)
    return square.log() - (4 * p.scale * q.scale).log()


@register_kl(Pareto, Pareto)
def _pareto_pareto(p: Any, q: Any) -> Tensor:
    ratio = q.alpha / p.alpha
    result = q.alpha * (p.scale / q.scale).log() - ratio.log() + ratio - 1
    return result.masked_fill(p.scale < q.scale, inf)


@register_kl(Uniform, Uniform)
def _uniform_uniform(p: Any, q: Any) -> Tensor:
    result = ((q.high - q.low) / (p.high - p.low)).log()
    return result.masked_fill((q.low > p.low) | (q.high < p.high), inf)


# ------------------------------------------------------------------------------ made of others --
@register_kl(Independent, Independent)
def _independent_independent(p: Any, q: Any) -> Tensor:
    if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
        raise NotImplementedError
    return _sum_rightmost(kl_divergence(p.base_dist, q.base_dist), p.reinterpreted_batch_ndims)


@register_kl(TransformedDistribution, TransformedDistribution)
def _transformed_transformed(p: Any, q: Any) -> Tensor:
    if p.transforms != q.transforms or p.event_shape != q.event_shape:
        raise NotImplementedError
    return kl_divergence(p.base_dist, q.base_dist)


# -------------------------------------------------------------------------------- normal vectors --
def _check_events(p: Any, q: Any) -> None:
    if p.event_shape != q.event_shape:
        raise ValueError(
            "KL-divergence between two (Low Rank) Multivariate Normals with different event shapes "
            "cannot be computed"
        )


def _solved(factor: Tensor, x: Tensor) -> Tensor:
    return farspan.linalg.solve_triangular(factor, x, upper=False)


def _to_low_rank(p: Any, q: Any, pieces: list[Tensor], half_log_det: Tensor) -> Tensor:
    """Return the divergence of p, whose covariance is the sum of x @ x.mT over pieces x."""
    _check_events(p, q)
    w, d = q._parts
    capacitance = q._capacitance_tril
    a = _solved(capacitance, w.mT / d.unsqueeze(-2))
    trace: Any = 0
    for x in pieces:
        trace = trace + _squares(x * d.rsqrt().unsqueeze(-1)) - _squares(a @ x)
    log_det = _batch_lowrank_logdet(w, d, capacitance) - 2 * half_log_det
    square = _batch_lowrank_mahalanobis(w, d, q.loc - p.loc, capacitance)
    return 0.5 * (log_det + trace + square - p.event_shape[0])


def _to_full(p: Any, q: Any, pieces: list[Tensor], half_log_det: Tensor) -> Tensor:
    """The same for a q with a whole covariance matrix."""
    _check_events(p, q)
    factor = q._unbroadcasted_scale_tril
    trace: Any = 0
    for x in pieces:
        trace = trace + _squares(_solved(factor, x))
    square = _batch_mahalanobis(factor, q.loc - p.loc)
    half = 0.5 * (trace + square - p.event_shape[0])
    return _half_log_det(factor) - half_log_det + half


def _of_low_rank(p: Any) -> tuple[list[Tensor], Tensor]:
    w, d = p._parts
    log_det = _batch_lowrank_logdet(w, d, p._capacitance_tril)
    return [w, d.sqrt().diag_embed()], 0.5 * log_det


def _of_full(p: Any) -> tuple[list[Tensor], Tensor]:
    factor = p._unbroadcasted_scale_tril
    return [factor], _half_log_det(factor)


for _p, _of in ((MultivariateNormal, _of_full), (LowRankMultivariateNormal, _of_low_rank)):
    for _q, _to in ((MultivariateNormal, _to_full), (LowRankMultivariateNormal, _to_low_rank)):
        register_kl(_p, _q)(lambda p, q, of=_of, to=_to: to(p, q, *of(p)))
