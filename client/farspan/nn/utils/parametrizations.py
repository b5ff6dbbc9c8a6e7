"""The parametrizations that torch has: orthogonal matrices, weight and spectral normalization."""

from __future__ import annotations

import enum
from typing import Any

import farspan
from farspan._tensor import Tensor
from farspan.nn import functional as F
from farspan.nn.module import Module
from farspan.nn.utils import parametrize
from farspan.nn.utils.spectral_norm import as_matrix, output_dim
from farspan.nn.utils.weight_norm import norm_except_dim, weighted

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]


class _OrthMaps(enum.Enum):
    matrix_exp = enum.auto()
    cayley = enum.auto()
    householder = enum.auto()


def _identity_like(x: Tensor) -> Tensor:
    return farspan.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def _is_orthogonal(q: Tensor) -> bool:
    """Return whether the columns are orthonormal within ten roundings a row. Waits."""
    bound = 10.0 * q.shape[-2] * farspan.finfo(q.dtype).eps
    product = q.mH @ q
    return bool(farspan.allclose(product, _identity_like(product), atol=bound))


def _make_orthogonal(tall: Tensor) -> Tensor:
    """Return Q of the QR decomposition whose R has a positive diagonal."""
    q, r = farspan.linalg.qr(tall)
    signs: Tensor = r.diagonal(dim1=-2, dim2=-1).sgn()
    return q * signs.unsqueeze(-2)


def _reflections(below: Tensor, tau: Tensor) -> Tensor:
    """Return the first columns of H_1 ... H_k, where H_i = 1 - tau_i v_i v_i'.

    below: the vectors v_i under their leading one, as columns of a strictly lower triangle.
    In closed form it is 1 - V T V', where the inverse of T has the products v_i'v_j above its
    diagonal and 1/tau_i on it (Schreiber and Van Loan, 1989): no loop over columns.
    """
    n, k = below.shape[-2:]
    ones = farspan.eye(n, k, dtype=below.dtype, device=below.device)
    v = below + ones
    inverse = (v.mT @ v).triu(1) + farspan.diag_embed(1.0 / tau)
    return ones - v @ farspan.linalg.solve_triangular(inverse, v[..., :k, :].mT, upper=True)


class _Orthogonal(Module):
    base: Tensor | None

    def __init__(
        self, weight: Tensor, orthogonal_map: _OrthMaps, *, use_trivialization: bool = True
    ) -> None:
        super().__init__()
        # The reflectors of a complex matrix do not determine their tau.
        if weight.is_complex() and orthogonal_map is _OrthMaps.householder:
            raise ValueError("The householder parametrization does not support complex tensors.")
        self.shape = weight.shape
        self.orthogonal_map = orthogonal_map
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.shape[-2] < x.shape[-1]
        q = self._map(x.mT if wide else x)
        if hasattr(self, "base"):
            q = self.base @ q
        return q.mT if wide else q

    def _map(self, x: Tensor) -> Tensor:
        """Return a tall matrix with orthonormal columns from a tall one, of any values."""
        n, k = x.shape[-2:]
        if self.orthogonal_map is _OrthMaps.householder:
            below = x.tril(diagonal=-1)
            q = _reflections(below, 2.0 / (1.0 + (below * below).sum(dim=-2)))
            # The diagonal holds signs only; no gradient goes there.
            return q * x.diagonal(dim1=-2, dim2=-1).int().unsqueeze(-2)
        x = x.tril()
        if n != k:
            x = farspan.cat([x, x.new_zeros(n, n - k).expand(*x.shape[:-2], -1, -1)], dim=-1)
        skew = x - x.mH
        if self.orthogonal_map is _OrthMaps.matrix_exp:
            q = farspan.matrix_exp(skew)
        else:
            one = _identity_like(skew)
            q = farspan.linalg.solve(one.add(skew, alpha=-0.5), one.add(skew, alpha=0.5))
        return q[..., :k] if n != k else q

    def right_inverse(self, matrix: Tensor) -> Tensor:
        if matrix.shape != self.shape:
            raise ValueError(
                f"Expected a matrix or batch of matrices of shape {self.shape}. Got a tensor of "
                f"shape {matrix.shape}."
            )
        with farspan.no_grad():
            wide = matrix.shape[-2] < matrix.shape[-1]
            tall = matrix.mT if wide else matrix
            if not hasattr(self, "base"):
                found = self._without_base(tall)
                return found.mT if wide else found
            n, k = tall.shape[-2:]
            if n == k:
                self.base = tall.clone() if _is_orthogonal(tall) else _make_orthogonal(tall)
            else:
                drawn = farspan.randn(
                    *tall.shape[:-2], n, n - k, dtype=tall.dtype, device=tall.device
                )
                self.base = _make_orthogonal(farspan.cat([tall, drawn], dim=-1))
            start = farspan.zeros_like(matrix)
            start.diagonal(dim1=-2, dim2=-1).fill_(-1.0)  # Householder's map makes it the identity
            return start

    def _without_base(self, tall: Tensor) -> Tensor:
        if self.orthogonal_map is not _OrthMaps.householder:
            raise NotImplementedError(
                "It is not possible to assign to the matrix exponential or the Cayley "
                "parametrizations when use_trivialization=False."
            )
        packed, tau = farspan.geqrf(tall)
        diagonal = packed.diagonal(dim1=-2, dim2=-1)
        diagonal.sign_()
        # LAPACK gives exactly zero where it reflects nothing.
        diagonal.copy_(farspan.where(tau == 0.0, -diagonal, diagonal))
        return packed


def orthogonal(
    module: Module,
    name: str = "weight",
    orthogonal_map: str | None = None,
    *,
    use_trivialization: bool = True,
) -> Module:
    """Keep a matrix (or batch of matrices) orthogonal, or unitary; return the module.

    orthogonal_map: "matrix_exp", "cayley" or "householder"; by default the first if the matrix is
    square or complex, else the last. use_trivialization: multiply by a fixed orthogonal matrix, so
    that training starts from the present weight (Lezcano-Casado, 2019).
    """
    weight = _tensor_of(module, name)
    if weight.ndim < 2:
        raise ValueError(
            f"Expected a matrix or batch of matrices. Got a tensor of {weight.ndim} dimensions."
        )
    if orthogonal_map is None:
        square = weight.shape[-2] == weight.shape[-1]
        orthogonal_map = "matrix_exp" if square or weight.is_complex() else "householder"
    chosen = getattr(_OrthMaps, orthogonal_map, None)
    if chosen is None:
        raise ValueError(
            'orthogonal_map has to be one of "matrix_exp", "cayley", "householder". '
            f"Got: {orthogonal_map}"
        )
    made = _Orthogonal(weight, chosen, use_trivialization=use_trivialization)
    return parametrize.register_parametrization(module, name, made, unsafe=True)


def _tensor_of(module: Module, name: str) -> Tensor:
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    return weight


class _WeightNorm(Module):
    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weighted(weight_v, weight_g, self.dim)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return norm_except_dim(weight, 2, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Train a tensor as length and direction, w = g * v / |v|; return the module.

    dim: the dimension along which lengths differ; None: one length for all. State dicts of
    ``torch.nn.utils.weight_norm`` load too.
    """
    parametrize.register_parametrization(module, name, _WeightNorm(dim), unsafe=True)

    def rename_old_keys(state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        old = [f"{prefix}{name}_g", f"{prefix}{name}_v"]
        if all(key in state_dict for key in old):
            for i, key in enumerate(old):
                new = f"{prefix}parametrizations.{name}.original{i}"
                state_dict[new] = state_dict.pop(key)

    module._register_load_state_dict_pre_hook(rename_old_keys)
    return module


class _SpectralNorm(Module):
    _u: Tensor
    _v: Tensor

    def __init__(
        self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12
    ) -> None:
        super().__init__()
        ndim = weight.ndim
        if dim >= ndim or dim < -ndim:
            raise IndexError(
                f"Dimension out of range (expected to be in range of [-{ndim}, {ndim - 1}] but "
                f"got {dim})"
            )
        if n_power_iterations <= 0:
            raise ValueError(
                "Expected n_power_iterations to be positive, but got "
                f"n_power_iterations={n_power_iterations}"
            )
        self.dim = dim % ndim
        self.eps = eps
        if ndim == 1:
            return  # nothing is estimated
        self.n_power_iterations = n_power_iterations
        matrix = as_matrix(weight, self.dim)
        for name, size in zip(("_u", "_v"), matrix.shape, strict=True):
            drawn = matrix.new_empty(size).normal_(0, 1)
            self.register_buffer(name, F.normalize(drawn, dim=0, eps=eps))
        self._power_method(matrix, 15)

    def _power_method(self, matrix: Tensor, n_power_iterations: int) -> None:
        with farspan.no_grad():
            for _ in range(n_power_iterations):
                self._u.copy_(F.normalize(matrix.mv(self._v), dim=0, eps=self.eps))
                self._v.copy_(F.normalize(matrix.mH.mv(self._u), dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix = as_matrix(weight, self.dim)
        if self.training:
            self._power_method(matrix, self.n_power_iterations)
        # Copies: two accesses may come before one backward, and the second writes to both.
        return weight / self._u.clone().vdot(matrix.mv(self._v.clone()))

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


def spectral_norm(
    module: Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> Module:
    """Divide a tensor by its largest singular value (a vector by its length); return the module.

    The value is estimated by ``n_power_iterations`` steps at each access in training.
    """
    weight = _tensor_of(module, name)
    made = _SpectralNorm(weight, n_power_iterations, output_dim(module, dim), eps)
    return parametrize.register_parametrization(module, name, made)
