"""MixtureSameFamily: a draw from one of several components of a kind."""

from __future__ import annotations

from typing import Any

import farspan
from farspan._tensor import Tensor

from . import constraints
from .categorical import Categorical
from .distribution import Distribution

__all__ = ["MixtureSameFamily"]


class MixtureSameFamily(Distribution):
    """Components along the last batch dim of one distribution, weighted by a Categorical."""

    arg_constraints: Any = {}
    has_rsample = False
    _expands = ("_component_distribution", "_mixture_distribution")
    _keeps = ("_num_component", "_event_ndims")

    def __init__(
        self,
        mixture_distribution: Categorical,
        component_distribution: Distribution,
        validate_args: bool | None = None,
    ) -> None:
        self._mixture_distribution = mixture_distribution
        self._component_distribution = component_distribution
        if not isinstance(mixture_distribution, Categorical):
            raise ValueError(
                " The Mixture distribution needs to be an  instance of "
                "torch.distributions.Categorical"
            )
        if not isinstance(component_distribution, Distribution):
            raise ValueError(
                "The Component distribution needs to be an instance of "
                "torch.distributions.Distribution"
            )
        weights, batch = mixture_distribution.batch_shape, component_distribution.batch_shape[:-1]
        for i, j in zip(reversed(weights), reversed(batch), strict=False):
            if i != 1 and j != 1 and i != j:
                raise ValueError(
                    f"`mixture_distribution.batch_shape` ({weights}) is not compatible with "
                    f"`component_distribution.batch_shape`({batch})"
                )
        count, components = mixture_distribution._num_events, component_distribution.batch_shape[-1]
        if count != components:
            raise ValueError(
                f"`mixture_distribution component` ({count}) does not equal "
                f"`component_distribution.batch_shape[-1]` ({components})"
            )
        self._num_component = count
        event_shape = component_distribution.event_shape
        self._event_ndims = len(event_shape)
        super().__init__(batch, event_shape, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> Any:
        return constraints.MixtureSameFamilyConstraint(self._component_distribution.support)

    @property
    def mixture_distribution(self) -> Categorical:
        """The weights."""
        return self._mixture_distribution

    @property
    def component_distribution(self) -> Distribution:
        """The components, along its last batch dim."""
        return self._component_distribution

    def _pad(self, x: Tensor) -> Tensor:
        """Return x with a dim for the components."""
        return x.unsqueeze(-1 - self._event_ndims)

    def _over_components(self, x: Tensor) -> Tensor:
        """Return the sum of a value of each component, weighted by its probability."""
        weights = self.mixture_distribution.probs
        batch_dims = len(self.mixture_distribution.batch_shape)
        missing = 0 if batch_dims == 1 else len(self.batch_shape) - batch_dims
        shape = weights.shape[:-1] + (1,) * missing + weights.shape[-1:] + (1,) * self._event_ndims
        return (weights.reshape(shape) * x).sum(-1 - self._event_ndims)

    @property
    def mean(self) -> Tensor:
        return self._over_components(self.component_distribution.mean)

    @property
    def variance(self) -> Tensor:
        inside = self._over_components(self.component_distribution.variance)
        distance = self.component_distribution.mean - self._pad(self.mean)
        return inside + self._over_components(distance.pow(2.0))

    def cdf(self, x: Tensor) -> Tensor:
        below = self.component_distribution.cdf(self._pad(x))
        return (below * self.mixture_distribution.probs).sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        self._check(x)
        log_probs = self.component_distribution.log_prob(self._pad(x))
        weights = farspan.log_softmax(self.mixture_distribution.logits, dim=-1)
        return farspan.logsumexp(log_probs + weights, dim=-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with farspan.no_grad():
            chosen = self.mixture_distribution.sample(sample_shape)
            drawn = self.component_distribution.sample(sample_shape)
            dim = len(sample_shape) + len(self.batch_shape)
            index = chosen.reshape(chosen.shape + (1,) * (1 + self._event_ndims))
            index = index.repeat((1,) * chosen.dim() + (1, *self.event_shape))
            return drawn.gather(dim, index).squeeze(dim)

    def __repr__(self) -> str:
        parts = f"\n  {self.mixture_distribution},\n  {self.component_distribution}"
        return f"MixtureSameFamily({parts})"
