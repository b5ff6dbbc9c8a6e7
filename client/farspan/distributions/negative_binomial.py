"""NegativeBinomial: successes before a number of failures."""

from __future__ import annotations

from typing import Any

import farspan
from farspan._tensor import Tensor

from ..core.call import fn
from . import constraints
from ._odds import Binary
from .distribution import Distribution
from .gamma import Gamma
from .utils import lazy_property

__all__ = ["NegativeBinomial"]


class NegativeBinomial(Binary, Distribution):
    """Counts of successes, each with `probs`, before `total_count` failures, any number."""

    arg_constraints = {
        "total_count": constraints.greater_than_eq(0),
        "probs": constraints.half_open_interval(0.0, 1.0),
        "logits": constraints.real,
    }
    support = constraints.nonnegative_integer
    _expands = ("total_count", "probs", "logits")
    _keeps = ("_given",)

    def __init__(
        self,
        total_count: Any,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self._give_with_count(total_count, probs, logits)
        super().__init__(self._param.size(), validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.logits.exp()

    @property
    def mode(self) -> Tensor:
        return ((self.total_count - 1) * self.logits.exp()).floor().clamp(min=0.0)

    @property
    def variance(self) -> Tensor:
        return self.mean / farspan.sigmoid(-self.logits)

    @lazy_property
    def _gamma(self) -> Gamma:
        # Not validated: a count of 0 is allowed here.
        return Gamma(self.total_count, (-self.logits).exp(), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with farspan.no_grad():
            return farspan.poisson(self._gamma.sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        n, logits = self.total_count, self.logits
        log_prob = n * fn.log_sigmoid(-logits) + value * fn.log_sigmoid(logits)
        normalizer = -(n + value).lgamma() + (1.0 + value).lgamma() + n.lgamma()
        return log_prob - normalizer.masked_fill(n + value == 0.0, 0.0)
