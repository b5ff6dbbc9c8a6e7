"""embedding."""

from __future__ import annotations

import farspan
from farspan._tensor import Tensor


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Return the rows of ``weight`` at ``input``; row ``padding_idx`` gets no gradient.

    With ``max_norm`` the rows looked up are first scaled down, in place, to that norm.
    """
    if sparse:
        raise NotImplementedError("embedding(sparse=True): farspan has no sparse gradients.")
    if padding_idx is not None:
        rows = weight.shape[0]
        if not -rows <= padding_idx < rows:
            raise AssertionError("Padding_idx must be within num_embeddings")
        padding_idx %= rows
    if max_norm is not None:
        _renormalize_rows_(weight, input, max_norm, norm_type)
    no_padding = -1
    index = no_padding if padding_idx is None else padding_idx
    return farspan.embedding(weight, input, index, scale_grad_by_freq, False)


def _renormalize_rows_(weight: Tensor, input: Tensor, max_norm: float, norm_type: float) -> None:
    with farspan.no_grad():
        index = input.reshape(-1)
        rows = weight.detach().index_select(0, index)
        norms = rows.norm(norm_type, 1, keepdim=True)
        scale = farspan.where(norms > max_norm, max_norm / (norms + 1e-7), 1.0)
        # A row that occurs twice is written twice with the same values.
        weight.detach().index_copy_(0, index, rows * scale)
