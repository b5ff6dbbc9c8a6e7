"""LKJCholesky: Cholesky factors of random correlation matrices."""

from __future__ import annotations

import math
from typing import Any

import farspan
from farspan._tensor import Size, Tensor

from . import constraints
from .beta import Beta
from .distribution import Distribution
from .utils import broadcast_all

__all__ = ["LKJCholesky"]


class LKJCholesky(Distribution):
    """Factors L of correlation matrices with density ~ det(L L^T)^(concentration - 1).

    concentration 1: all correlation matrices are equally likely. Draws by the onion method
    (Lewandowski, Kurowicka and Joe, 2009). Raises ValueError for dim below 2.
    """

    arg_constraints = {"concentration": constraints.positive}
    support = constraints.corr_cholesky
    _expands = ("concentration", "_beta")
    _keeps = ("dim",)

    def __init__(
        self, dim: int, concentration: Any = 1.0, validate_args: bool | None = None
    ) -> None:
        if dim < 2:
            raise ValueError(
                f"Expected dim to be an integer greater than or equal to 2. Found dim={dim}."
            )
        self.dim = dim
        (self.concentration,) = broadcast_all(concentration)
        like = {"dtype": self.concentration.dtype, "device": self.concentration.device}
        # Row i is a vector of squared length Beta(i / 2, ...); the first row has none.
        offset = farspan.cat([farspan.zeros(1, **like), farspan.arange(dim - 1, **like)])
        rest = (self.concentration + 0.5 * (dim - 2)).unsqueeze(-1) - 0.5 * offset
        self._beta = Beta(offset + 0.5, rest)
        super().__init__(self.concentration.size(), Size((dim, dim)), validate_args)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        y = self._beta.sample(sample_shape).unsqueeze(-1)
        shape = self._extended_shape(sample_shape)
        u = farspan.randn(shape, dtype=y.dtype, device=y.device).tril(-1)
        u = u / u.norm(dim=-1, keepdim=True)
        u[..., 0, :].fill_(0.0)  # the first row: 0 / 0
        w = y.sqrt() * u
        tiny = farspan.finfo(w.dtype).tiny
        return w + (1 - (w**2).sum(-1)).clamp(min=tiny).sqrt().diag_embed()

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        diagonal = value.diagonal(dim1=-1, dim2=-2)[..., 1:]
        order = farspan.arange(2, self.dim + 1, device=self.concentration.device)
        order = 2 * (self.concentration - 1).unsqueeze(-1) + self.dim - order
        log_prob = (order * diagonal.log()).sum(-1)
        # The normalizer: page 1999 of the paper.
        n = self.dim - 1
        alpha = self.concentration + 0.5 * n
        gammas = (alpha - 0.5).mvlgamma(n) - alpha.lgamma() * n
        return log_prob - (0.5 * n * math.log(math.pi) + gammas)
