"""HalfNormal: the absolute value of a normal number."""

from __future__ import annotations

import math

from farspan._tensor import Tensor

from ._half import Half
from .normal import Normal

__all__ = ["HalfNormal"]


class HalfNormal(Half):
    """|x| of a normal number x of mean 0 with this `scale`."""

    _whole = Normal
    _expands = ()

    @property
    def mean(self) -> Tensor:
        return self.scale * math.sqrt(2 / math.pi)

    @property
    def variance(self) -> Tensor:
        return self.scale.pow(2) * (1 - 2 / math.pi)
