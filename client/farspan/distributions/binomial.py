"""Binomial: successes among a number of trials."""

from __future__ import annotations

from typing import Any

import farspan
from farspan._tensor import Tensor

from . import constraints
from ._odds import Binary, counted_out
from .distribution import Distribution

__all__ = ["Binomial"]


class Binomial(Binary, Distribution):
    """Counts of successes in `total_count` trials, each with `probs`, or with `logits`."""

    arg_constraints = {
        "total_count": constraints.nonnegative_integer,
        "probs": constraints.unit_interval,
        "logits": constraints.real,
    }
    has_enumerate_support = True
    _expands = ("total_count", "probs", "logits")
    _keeps = ("_given",)

    def __init__(
        self,
        total_count: Any = 1,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self._give_with_count(total_count, probs, logits)
        super().__init__(self._param.size(), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        return constraints.integer_interval(0, self.total_count)

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.probs

    @property
    def mode(self) -> Tensor:
        return ((self.total_count + 1) * self.probs).floor().clamp(max=self.total_count)

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with farspan.no_grad():
            return farspan.binomial(self.total_count.expand(shape), self.probs.expand(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        n, logits = self.total_count, self.logits
        # n log(1 + exp(logits)), for any sign of the logits; halves keep the gradient at 0 even.
        positive = (logits.clamp(min=0) + logits - logits.clamp(max=0)) / 2
        normalizer = n * positive + n * (-logits.abs()).exp().log1p() - (n + 1).lgamma()
        choices = (value + 1).lgamma() + (n - value + 1).lgamma()
        return value * logits - choices - normalizer

    def entropy(self) -> Tensor:
        self._one_count("entropy")
        log_prob = self.log_prob(self.enumerate_support(False))
        return -(log_prob.exp() * log_prob).sum(0)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        count = self._one_count("enumerate_support")
        return counted_out(1 + count, self._batch_shape, expand, self._param)

    def _one_count(self, name: str) -> int:
        """Return the number of trials, which must be the same all over. Waits."""
        low, high = farspan.stack([self.total_count.min(), self.total_count.max()]).tolist()
        if low != high:
            raise NotImplementedError(f"Inhomogeneous total count not supported by `{name}`.")
        return int(high)
