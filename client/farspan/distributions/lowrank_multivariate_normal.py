"""LowRankMultivariateNormal: normal vectors whose covariance is low rank plus diagonal."""

from __future__ import annotations

import math
from typing import Any

import farspan
from farspan._tensor import Tensor

from . import constraints
from .distribution import Distribution
from .multivariate_normal import _batch_mahalanobis, _batch_mv, _half_log_det
from .utils import _standard_normal, lazy_property

__all__ = ["LowRankMultivariateNormal"]


def _plus_identity(matrix: Tensor) -> Tensor:
    n = matrix.shape[-1]
    return matrix + farspan.eye(n, dtype=matrix.dtype, device=matrix.device)


def _batch_capacitance_tril(factor: Tensor, diag: Tensor) -> Tensor:
    """Return the Cholesky factor of I + W^T D^-1 W, small, from W (n, m) and D's diagonal (n,)."""
    return farspan.linalg.cholesky(_plus_identity((factor.mT / diag.unsqueeze(-2)) @ factor))


def _batch_lowrank_logdet(factor: Tensor, diag: Tensor, capacitance: Tensor) -> Tensor:
    """Return log det(W W^T + D), by the matrix determinant lemma."""
    return 2 * _half_log_det(capacitance) + diag.log().sum(-1)


def _batch_lowrank_mahalanobis(
    factor: Tensor, diag: Tensor, x: Tensor, capacitance: Tensor
) -> Tensor:
    """Return x^T (W W^T + D)^-1 x, by Woodbury's identity."""
    projected = _batch_mv(factor.mT / diag.unsqueeze(-2), x)
    return (x.pow(2) / diag).sum(-1) - _batch_mahalanobis(capacitance, projected)


class LowRankMultivariateNormal(Distribution):
    """Vectors with mean `loc` and covariance cov_factor @ cov_factor.mT + diag(cov_diag).

    cov_factor: (..., n, m) with m far below n, to which all costs are proportional.
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "cov_factor": constraints.independent(constraints.real, 2),
        "cov_diag": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector
    has_rsample = True
    _expands = ("loc", "cov_factor", "cov_diag")
    _keeps = ("_unbroadcasted_cov_factor", "_unbroadcasted_cov_diag", "_capacitance_tril")

    def __init__(
        self,
        loc: Tensor,
        cov_factor: Tensor,
        cov_diag: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        if loc.dim() < 1:
            raise ValueError("loc must be at least one-dimensional.")
        event_shape = loc.shape[-1:]
        if cov_factor.dim() < 2:
            raise ValueError(
                "cov_factor must be at least two-dimensional, with optional leading batch "
                "dimensions"
            )
        if cov_factor.shape[-2:-1] != event_shape:
            raise ValueError(
                f"cov_factor must be a batch of matrices with shape {event_shape[0]} x m"
            )
        if cov_diag.shape[-1:] != event_shape:
            raise ValueError(f"cov_diag must be a batch of vectors with shape {event_shape}")
        try:
            loc_, self.cov_factor, diag_ = farspan.broadcast_tensors(
                loc.unsqueeze(-1), cov_factor, cov_diag.unsqueeze(-1)
            )
        except RuntimeError as e:
            raise ValueError(
                f"Incompatible batch shapes: loc {loc.shape}, cov_factor {cov_factor.shape}, "
                f"cov_diag {cov_diag.shape}"
            ) from e
        self.loc, self.cov_diag = loc_[..., 0], diag_[..., 0]
        self._unbroadcasted_cov_factor = cov_factor
        self._unbroadcasted_cov_diag = cov_diag
        self._capacitance_tril = _batch_capacitance_tril(cov_factor, cov_diag)
        super().__init__(self.loc.shape[:-1], event_shape, validate_args=validate_args)

    @property
    def _parts(self) -> tuple[Tensor, Tensor]:
        return self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @lazy_property
    def variance(self) -> Tensor:
        factor, diag = self._parts
        return (factor.pow(2).sum(-1) + diag).expand(self._batch_shape + self._event_shape)

    def _expanded(self, matrix: Tensor) -> Tensor:
        return matrix.expand(self._batch_shape + self._event_shape + self._event_shape)

    @lazy_property
    def scale_tril(self) -> Tensor:
        # D^1/2 chol(D^-1/2 W W^T D^-1/2 + I): what is factored is well conditioned.
        factor, diag = self._parts
        root = diag.sqrt().unsqueeze(-1)
        scaled = factor / root
        return self._expanded(root * farspan.linalg.cholesky(_plus_identity(scaled @ scaled.mT)))

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        factor, diag = self._parts
        return self._expanded(factor @ factor.mT + diag.diag_embed())

    @lazy_property
    def precision_matrix(self) -> Tensor:
        factor, diag = self._parts
        scaled = factor.mT / diag.unsqueeze(-2)
        a = farspan.linalg.solve_triangular(self._capacitance_tril, scaled, upper=False)
        return self._expanded(diag.reciprocal().diag_embed() - a.mT @ a)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        factor, diag = self._parts
        options = self.loc.dtype, self.loc.device
        eps_factor = _standard_normal(shape[:-1] + self.cov_factor.shape[-1:], *options)
        eps_diag = _standard_normal(shape, *options)
        return self.loc + _batch_mv(factor, eps_factor) + diag.sqrt() * eps_diag

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        capacitance = self._capacitance_tril
        square = _batch_lowrank_mahalanobis(*self._parts, value - self.loc, capacitance)
        log_det = _batch_lowrank_logdet(*self._parts, capacitance)
        return -0.5 * (self._event_shape[0] * math.log(2 * math.pi) + log_det + square)

    def entropy(self) -> Tensor:
        log_det = _batch_lowrank_logdet(*self._parts, self._capacitance_tril)
        entropy = 0.5 * (self._event_shape[0] * (1.0 + math.log(2 * math.pi)) + log_det)
        return entropy.expand(self._batch_shape) if self._batch_shape else entropy
