"""HalfCauchy: the absolute value of a Cauchy number."""

from __future__ import annotations

import math

from farspan._tensor import Tensor

from ._half import Half
from .cauchy import Cauchy
from .utils import _constant

__all__ = ["HalfCauchy"]


class HalfCauchy(Half):
    """|x| of a Cauchy number x around 0 with this `scale`."""

    _whole = Cauchy
    _expands = ()

    @property
    def mean(self) -> Tensor:
        return _constant(self._extended_shape(), math.inf, self.scale)

    @property
    def variance(self) -> Tensor:
        return self.base_dist.variance
