"""GeneralizedPareto: what lies above a high threshold."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import farspan
from farspan._tensor import Tensor

from . import constraints
from .distribution import Distribution
from .utils import _uniform, broadcast_all

__all__ = ["GeneralizedPareto"]


class GeneralizedPareto(Distribution):
    """Survival function (1 + concentration z)^(-1 / concentration), z = (x - loc) / scale.

    concentration: the shape; at 0 the distribution is exponential, below 0 bounded.
    """

    arg_constraints = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "concentration": constraints.real,
    }
    has_rsample = True
    _expands = ("loc", "scale", "concentration")

    def __init__(
        self, loc: Any, scale: Any, concentration: Any, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale, self.concentration = broadcast_all(loc, scale, concentration)
        super().__init__(self.loc.size(), validate_args=validate_args)

    def _zero_and_safe(self) -> tuple[Tensor, Tensor]:
        """Return where the concentration is 0, and it with 1 in place of that."""
        zero = farspan.isclose(self.concentration, farspan.zeros_like(self.concentration))
        return zero, farspan.where(zero, 1.0, self.concentration)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.icdf(_uniform(self._extended_shape(sample_shape), self.loc))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        z = (value - self.loc) / self.scale
        zero, safe = self._zero_and_safe()
        power = 1 / safe + farspan.ones_like(z)
        term = farspan.where(power == 0, power, power * (safe * z).log1p())
        return -self.scale.log() - farspan.where(zero, z, term)

    def log_survival_function(self, value: Tensor) -> Tensor:
        """Return the log of the probability of a draw above `value`."""
        self._check(value)
        z = (value - self.loc) / self.scale
        zero, safe = self._zero_and_safe()
        return farspan.where(zero, -z, -(safe * z).log1p() / safe)

    def log_cdf(self, value: Tensor) -> Tensor:
        """Return the log of `cdf`."""
        return (-self.log_survival_function(value).exp()).log1p()

    def cdf(self, value: Tensor) -> Tensor:
        return self.log_cdf(value).exp()

    def icdf(self, value: Tensor) -> Tensor:
        zero, safe = self._zero_and_safe()
        log_above = (-value).log1p()
        usual = self.loc + self.scale / safe * (-safe * log_above).expm1()
        return farspan.where(zero, self.loc - self.scale * log_above, usual)

    @property
    def mean(self) -> Tensor:
        there = self.concentration < 1
        safe = farspan.where(there, self.concentration, 0.5)
        return farspan.where(there, self.loc + self.scale / (1 - safe), nan)

    @property
    def variance(self) -> Tensor:
        there = self.concentration < 0.5
        safe = farspan.where(there, self.concentration, 0.25)
        variance = self.scale**2 / ((1 - safe) ** 2 * (1 - 2 * safe))
        return farspan.where(there, variance, nan)

    @property
    def mode(self) -> Tensor:
        return self.loc

    def entropy(self) -> Tensor:
        return (self.scale.log() + self.concentration + 1).broadcast_to(self._batch_shape)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        end = self.loc - self.scale / self.concentration
        return constraints.interval(self.loc, farspan.where(self.concentration < 0, end, inf))
