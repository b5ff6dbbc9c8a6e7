"""Wishart: covariance matrices of samples of normal vectors."""

from __future__ import annotations

import math
import warnings
from typing import Any

import farspan
from farspan._tensor import Size, Tensor

from . import constraints
from .chi2 import Chi2
from .exp_family import ExponentialFamily
from .multivariate_normal import _factor_of, _half_log_det
from .utils import lazy_property

__all__ = ["Wishart"]

_LOG_2 = math.log(2)
_TRIES = 10  # times that a singular draw is drawn anew


def _mvdigamma(x: Tensor, p: int) -> Tensor:
    """Return the derivative of log of the multivariate gamma function of dim p."""
    halves = farspan.arange(p, dtype=x.dtype, device=x.device) / 2
    return (x.unsqueeze(-1) - halves).digamma().sum(-1)


class Wishart(ExponentialFamily):
    """Sums of `df` outer products x x^T, x normal of mean 0; df is any number above p - 1.

    Give one of covariance_matrix, precision_matrix and scale_tril, (..., p, p). Draws by Bartlett's
    decomposition; they wait once, to see whether a draw is singular.
    """

    support = constraints.positive_definite
    has_rsample = True
    _mean_carrier_measure = 0
    _expands = ("df", "covariance_matrix", "precision_matrix", "scale_tril", "_dist_chi2")
    _keeps = ("_unbroadcasted_scale_tril",)

    def __init__(
        self,
        df: Any,
        covariance_matrix: Tensor | None = None,
        precision_matrix: Tensor | None = None,
        scale_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        matrices = {
            "covariance_matrix": covariance_matrix,
            "precision_matrix": precision_matrix,
            "scale_tril": scale_tril,
        }
        given = {k: v for k, v in matrices.items() if v is not None}
        assert len(given) == 1, (
            "Exactly one of covariance_matrix or precision_matrix or scale_tril may be specified."
        )
        ((name, matrix),) = given.items()
        if matrix.dim() < 2:
            raise ValueError(
                "scale_tril must be at least two-dimensional, with optional leading batch "
                "dimensions"
            )
        batch_shape = matrix.shape[:-2]
        if isinstance(df, Tensor):
            batch_shape = farspan.broadcast_shapes(batch_shape, df.shape)
            self.df = df.expand(batch_shape)
        else:
            self.df = farspan.tensor(df, dtype=matrix.dtype, device=matrix.device)
        p = matrix.shape[-1]
        self._check_df(df, p)
        setattr(self, name, matrix.expand((*batch_shape, -1, -1)))
        super().__init__(batch_shape, matrix.shape[-2:], validate_args=validate_args)
        self._unbroadcasted_scale_tril = factor = _factor_of(given)
        counts = farspan.arange(p, dtype=factor.dtype, device=factor.device)
        self._dist_chi2 = Chi2(self.df.unsqueeze(-1) - counts.expand((*batch_shape, -1)))

    def _check_df(self, df: Any, p: int) -> None:
        """Raise ValueError for too few degrees of freedom; warn of few. Waits once."""
        smallest = float(self.df.min())
        if smallest <= p - 1:
            raise ValueError(f"Value of df={df} expected to be greater than ndim - 1 = {p - 1}.")
        if smallest < p:
            warnings.warn(
                "Low df values detected. Singular samples are highly likely to occur for "
                "ndim - 1 < df < ndim.",
                stacklevel=3,
            )

    @property
    def arg_constraints(self) -> Any:
        return {
            "covariance_matrix": constraints.positive_definite,
            "precision_matrix": constraints.positive_definite,
            "scale_tril": constraints.lower_cholesky,
            "df": constraints.greater_than(self.event_shape[-1] - 1),
        }

    def _expanded(self, matrix: Tensor) -> Tensor:
        return matrix.expand(self._batch_shape + self._event_shape)

    @lazy_property
    def scale_tril(self) -> Tensor:
        return self._expanded(self._unbroadcasted_scale_tril)

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        factor = self._unbroadcasted_scale_tril
        return self._expanded(factor @ factor.transpose(-2, -1))

    @lazy_property
    def precision_matrix(self) -> Tensor:
        factor = self._unbroadcasted_scale_tril
        one = farspan.eye(self._event_shape[-1], dtype=factor.dtype, device=factor.device)
        return self._expanded(farspan.cholesky_solve(one, factor))

    def _column(self, x: Tensor) -> Tensor:
        """Return a number of each distribution so that it multiplies matrices."""
        return x.reshape((*self._batch_shape, 1, 1))

    @property
    def mean(self) -> Tensor:
        return self._column(self.df) * self.covariance_matrix

    @property
    def mode(self) -> Tensor:
        factor = self.df - self.covariance_matrix.shape[-1] - 1
        return self._column(factor.masked_fill(factor <= 0, math.nan)) * self.covariance_matrix

    @property
    def variance(self) -> Tensor:
        v = self.covariance_matrix
        diagonal = v.diagonal(dim1=-2, dim2=-1)
        outer = diagonal.unsqueeze(-1) * diagonal.unsqueeze(-2)
        return self._column(self.df) * (v.pow(2) + outer)

    # ------------------------------------------------------------------------------- sampling --
    def _bartlett_sampling(self, sample_shape: Any = ()) -> Tensor:
        p = self._event_shape[-1]
        chi = self._dist_chi2.rsample(sample_shape).sqrt()
        noise = chi.clamp(min=farspan.finfo(chi.dtype).eps).diag_embed()
        rows, columns = farspan.tril_indices(p, p, offset=-1, device=noise.device)
        shape = Size(sample_shape) + self._batch_shape + (p * (p - 1) // 2,)
        noise[..., rows, columns] = farspan.randn(shape, dtype=noise.dtype, device=noise.device)
        factor = self._unbroadcasted_scale_tril @ noise
        return factor @ factor.transpose(-2, -1)

    def rsample(self, sample_shape: Any = (), max_try_correction: int | None = None) -> Tensor:
        tries = _TRIES if max_try_correction is None else max_try_correction
        sample = self._bartlett_sampling(Size(sample_shape))
        # As in torch 2.13, whose numbers these are: the first round draws the *good* ones anew.
        redrawn = self._over_batch(self.support.check(sample))
        if not bool(redrawn.any()):
            return sample
        warnings.warn("Singular sample detected.", stacklevel=2)
        for _ in range(tries):
            new = self._bartlett_sampling(redrawn[redrawn].shape)
            sample[redrawn] = new
            redrawn[redrawn.clone()] = self._over_batch(~self.support.check(new))
            if not bool(redrawn.any()):
                break
        return sample

    def _over_batch(self, flags: Tensor) -> Tensor:
        """Return whether any matrix of a batch has the flag, draw by draw."""
        dims = [-1 - i for i in range(len(self._batch_shape))]
        return flags.amax(dims) if dims else flags

    # -------------------------------------------------------------------------- probabilities --
    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        nu, p, factor = self.df, self._event_shape[-1], self._unbroadcasted_scale_tril
        solved = farspan.cholesky_solve(value, factor)
        return (
            -nu * (p * _LOG_2 / 2 + _half_log_det(factor))
            - (nu / 2).mvlgamma(p)
            + (nu - p - 1) / 2 * farspan.linalg.slogdet(value).logabsdet
            - solved.diagonal(dim1=-2, dim2=-1).sum(-1) / 2
        )

    def entropy(self) -> Tensor:
        nu, p = self.df, self._event_shape[-1]
        return (
            (p + 1) * (p * _LOG_2 / 2 + _half_log_det(self._unbroadcasted_scale_tril))
            + (nu / 2).mvlgamma(p)
            - (nu - p - 1) / 2 * _mvdigamma(nu / 2, p)
            + nu * p / 2
        )

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return -self.precision_matrix / 2, (self.df - self._event_shape[-1] - 1) / 2

    def _log_normalizer(self, x: Tensor, y: Tensor) -> Tensor:
        p = self._event_shape[-1]
        half = y + (p + 1) / 2
        log_det = farspan.linalg.slogdet(-2 * x).logabsdet
        return half * (_LOG_2 * p - log_det) + half.mvlgamma(p)
