"""What distributions share: broadcasting of parameters, probabilities and logits, lazy values."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import farspan
from farspan._tensor import Size, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

euler_constant: Final = 0.57721566490153286060  # Euler Mascheroni

__all__ = [
    "broadcast_all",
    "clamp_probs",
    "lazy_property",
    "logits_to_probs",
    "probs_to_logits",
    "tril_matrix_to_vec",
    "vec_to_tril_matrix",
]


def broadcast_all(*values: Any) -> tuple[Tensor, ...]:
    """Return tensors of one shape. Numbers take dtype and device of the first tensor, if any.

    Raises ValueError for anything else.

    >>> import farspan
    >>> farspan.distributions.utils.broadcast_all(1.0, farspan.zeros(2))
    (tensor([1., 1.]), tensor([0., 0.]))
    """
    if not all(isinstance(v, (Tensor, bool, int, float)) for v in values):
        raise ValueError(
            "Input arguments must all be instances of Number, torch.Tensor or objects implementing "
            "__torch_function__."
        )
    first = next((v for v in values if isinstance(v, Tensor)), None)
    options: dict[str, Any] = {"dtype": farspan.get_default_dtype()}
    if first is not None:
        options = {"dtype": first.dtype, "device": first.device}
    made = [v if isinstance(v, Tensor) else farspan.tensor(v, **options) for v in values]
    return farspan.broadcast_tensors(*made)


def _standard_normal(shape: Sequence[int], dtype: Any, device: Any) -> Tensor:
    return farspan.randn(shape, dtype=dtype, device=device)


def _uniform(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return numbers uniform in [0, 1) of the other's dtype, on its device."""
    return farspan.rand(shape, dtype=like.dtype, device=like.device)


def _constant(shape: Sequence[int], value: float, like: Tensor) -> Tensor:
    return farspan.full(shape, value, dtype=like.dtype, device=like.device)


def _sum_rightmost(value: Tensor, dim: int) -> Tensor:
    """Return the sum over the last `dim` dims."""
    return value if dim == 0 else value.reshape((*value.shape[:-dim], -1)).sum(-1)


def logits_to_probs(logits: Tensor, is_binary: bool = False) -> Tensor:
    """Return the probabilities of log-odds, or of unnormalized log-probabilities along dim -1."""
    return farspan.sigmoid(logits) if is_binary else farspan.softmax(logits, -1)


def clamp_probs(probs: Tensor) -> Tensor:
    """Return probabilities that keep an eps of their dtype off 0 and 1."""
    eps = farspan.finfo(probs.dtype).eps
    return probs.clamp(min=eps, max=1 - eps)


def probs_to_logits(probs: Tensor, is_binary: bool = False) -> Tensor:
    """Return the log-odds of probabilities, or their logarithms."""
    clamped = clamp_probs(probs)
    return clamped.log() - (-clamped).log1p() if is_binary else clamped.log()


def _clipped_sigmoid(x: Tensor) -> Tensor:
    """Return the sigmoid, kept off 0 and 1."""
    limits = farspan.finfo(x.dtype)
    return farspan.sigmoid(x).clamp(min=limits.tiny, max=1.0 - limits.eps)


class lazy_property:
    """A property that is computed once, with gradients, and then stands in the instance."""

    def __init__(self, wrapped: Callable[[Any], Any]) -> None:
        self.wrapped = wrapped
        functools.update_wrapper(self, wrapped)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        with farspan.enable_grad():
            value = self.wrapped(instance)
        setattr(instance, self.wrapped.__name__, value)
        return value


# --------------------------------------------------------------- lower triangles as vectors --
def tril_matrix_to_vec(mat: Tensor, diag: int = 0) -> Tensor:
    """Return the elements on and below a diagonal of each D x D matrix, row by row."""
    n = mat.shape[-1]
    if not -n <= diag < n:
        raise ValueError(f"diag ({diag}) provided is outside [{-n}, {n - 1}].")
    rows, columns = farspan.tril_indices(n, n, diag, device=mat.device)
    return mat[..., rows, columns]


def vec_to_tril_matrix(vec: Tensor, diag: int = 0) -> Tensor:
    """Return matrices with these elements on and below a diagonal, and zeros above.

    Raises ValueError if no D x D matrix has as many.
    """
    odd = 1 + 2 * diag
    n = (-odd + (odd**2 + 8 * vec.shape[-1] + 4 * abs(diag) * (diag + 1)) ** 0.5) / 2
    if round(n) - n > farspan.finfo(vec.dtype).eps:
        raise ValueError(
            f"The size of last dimension is {vec.shape[-1]} which cannot be expressed as the lower "
            "triangular part of a square D x D matrix."
        )
    size = round(n)
    mat = vec.new_zeros(vec.shape[:-1] + Size((size, size)))
    rows, columns = farspan.tril_indices(size, size, diag, device=vec.device)
    mat[..., rows, columns] = vec
    return mat
