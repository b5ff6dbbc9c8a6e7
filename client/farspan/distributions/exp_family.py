"""ExponentialFamily: entropy from the log normalizer, by Bregman's divergence and autograd."""

from __future__ import annotations

import farspan
from farspan._tensor import Tensor

from .distribution import Distribution

__all__ = ["ExponentialFamily"]


class ExponentialFamily(Distribution):
    """Densities exp(<t(x), theta> - F(theta) + k(x)), with natural parameters theta.

    A subclass gives theta as `_natural_params`, F as `_log_normalizer` and the mean of k as
    `_mean_carrier_measure`; its entropy, and the divergence between two of a kind, follow
    (Nielsen and Nock, 2010).
    """

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def _mean_carrier_measure(self) -> float:
        raise NotImplementedError

    def entropy(self) -> Tensor:
        carrier = self._mean_carrier_measure
        natural, normalizer, slopes = self._normalizer_and_slopes()
        result = normalizer - carrier
        for parameter, slope in zip(natural, slopes, strict=True):
            result = result - (parameter * slope).reshape((*self._batch_shape, -1)).sum(-1)
        return result

    def _normalizer_and_slopes(self) -> tuple[list[Tensor], Tensor, tuple[Tensor, ...]]:
        """Return fresh natural parameters, F at them and its gradients."""
        natural = [p.detach().requires_grad_() for p in self._natural_params]
        normalizer = self._log_normalizer(*natural)
        slopes = farspan.autograd.grad(normalizer.sum(), natural, create_graph=True)
        return natural, normalizer, slopes
