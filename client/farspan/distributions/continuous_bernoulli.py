"""ContinuousBernoulli: density proportional to p^x (1 - p)^(1 - x) on [0, 1]."""

from __future__ import annotations

import math
from typing import Any

import farspan
from farspan._tensor import Tensor

from ..core.call import fn
from . import constraints
from ._odds import Binary
from .exp_family import ExponentialFamily
from .utils import _uniform, broadcast_all, clamp_probs, lazy_property, logits_to_probs

__all__ = ["ContinuousBernoulli"]


class ContinuousBernoulli(Binary, ExponentialFamily):
    """What image models mean by a Bernoulli likelihood of gray values (Loaiza-Ganem, 2019).

    lims: between them, around p = 1/2 where the formulas are 0 / 0, a Taylor series is taken.
    """

    arg_constraints = {"probs": constraints.unit_interval, "logits": constraints.real}
    support = constraints.unit_interval
    _mean_carrier_measure = 0
    has_rsample = True
    _expands = ("probs", "logits")
    _keeps = ("_given", "_lims")

    def __init__(
        self,
        probs: Any = None,
        logits: Any = None,
        lims: tuple[float, float] = (0.499, 0.501),
        validate_args: bool | None = None,
    ) -> None:
        self._give(probs, logits)
        if probs is not None:
            # Clamped probabilities are always valid, so these are looked at before.
            if validate_args is not None and not constraints.unit_interval.check(self.probs).all():
                raise ValueError("The parameter probs has invalid values")
            self.probs = clamp_probs(self.probs)
        self._lims = lims
        super().__init__(self._param.size(), validate_args=validate_args)

    @lazy_property
    def probs(self) -> Tensor:
        return clamp_probs(logits_to_probs(self.logits, is_binary=True))

    # -------------------------------------------------------------------- around p = 1/2 --
    def _outside_unstable_region(self) -> Tensor:
        return (self.probs <= self._lims[0]) | (self.probs > self._lims[1])

    def _cut_probs(self) -> Tensor:
        """Return the probabilities, with one outside in place of those in the unstable region."""
        return farspan.where(self._outside_unstable_region(), self.probs, self._lims[0])

    def _patched(self, formula: Tensor, series: Tensor) -> Tensor:
        return farspan.where(self._outside_unstable_region(), formula, series)

    def _cont_bern_log_norm(self) -> Tensor:
        """Return the log of the constant that makes the density integrate to 1."""
        cut = self._cut_probs()
        below = farspan.where(cut <= 0.5, cut, 0.0)
        above = farspan.where(cut >= 0.5, cut, 1.0)
        denominator = farspan.where(cut <= 0.5, (-2.0 * below).log1p(), (2.0 * above - 1.0).log())
        norm = ((-cut).log1p() - cut.log()).abs().log() - denominator
        x = (self.probs - 0.5).pow(2)
        return self._patched(norm, math.log(2.0) + (4.0 / 3.0 + 104.0 / 45.0 * x) * x)

    @property
    def mean(self) -> Tensor:
        cut = self._cut_probs()
        mean = cut / (2.0 * cut - 1.0) + 1.0 / ((-cut).log1p() - cut.log())
        x = self.probs - 0.5
        return self._patched(mean, 0.5 + (1.0 / 3.0 + 16.0 / 45.0 * x.pow(2)) * x)

    @property
    def variance(self) -> Tensor:
        cut = self._cut_probs()
        odds = (-cut).log1p() - cut.log()
        variance = cut * (cut - 1.0) / (1.0 - 2.0 * cut).pow(2) + 1.0 / odds.pow(2)
        x = (self.probs - 0.5).pow(2)
        return self._patched(variance, 1.0 / 12.0 - (1.0 / 15.0 - 128.0 / 945.0 * x) * x)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with farspan.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.icdf(_uniform(self._extended_shape(sample_shape), self.probs))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        logits, value = broadcast_all(self.logits, value)
        loss = fn.binary_cross_entropy_with_logits(logits, value, reduction=0)
        return -loss + self._cont_bern_log_norm()

    def cdf(self, value: Tensor) -> Tensor:
        self._check(value)
        cut = self._cut_probs()
        inside = (cut.pow(value) * (1.0 - cut).pow(1.0 - value) + cut - 1.0) / (2.0 * cut - 1.0)
        inside = self._patched(inside, value)
        return farspan.where(value <= 0.0, 0.0, farspan.where(value >= 1.0, 1.0, inside))

    def icdf(self, value: Tensor) -> Tensor:
        cut = self._cut_probs()
        log_miss = (-cut).log1p()
        x = ((-cut + value * (2.0 * cut - 1.0)).log1p() - log_miss) / (cut.log() - log_miss)
        return self._patched(x, value)

    def entropy(self) -> Tensor:
        log_miss = (-self.probs).log1p()
        odds = log_miss - self.probs.log()
        return self.mean * odds - self._cont_bern_log_norm() - log_miss

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (self.logits,)

    def _log_normalizer(self, x: Tensor) -> Tensor:
        low, high = self._lims[0] - 0.5, self._lims[1] - 0.5
        outside = (x <= low) | (x > high)
        cut = farspan.where(outside, x, low)
        norm = cut.expm1().abs().log() - cut.abs().log()
        return farspan.where(outside, norm, 0.5 * x + x.pow(2) / 24.0 - x.pow(4) / 2880.0)
