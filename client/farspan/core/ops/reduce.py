"""Reductions and scans."""

from __future__ import annotations

from ..call import fn
from ..family import axes, integral_to_int64, reduction
from ..spec import wrap_dims


def spread(g, spec, dim, keepdim):
    """Return the gradient of a sum, given back to every element that went into it."""
    if not keepdim:
        for d in wrap_dims(dim, spec.ndim):
            g = fn.unsqueeze(g, d)
    return fn.expand(g, spec.shape)


reduction(
    "sum(Tensor self, *, ScalarType? dtype=None) -> Tensor",
    lambda xp, self, dtype: xp.sum(self),
    {"self": lambda g, self_spec: fn.expand(g, self_spec.shape)},
    dtype=integral_to_int64,
)
reduction(
    "sum.dim_IntList(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None)"
    " -> Tensor",
    lambda xp, self, dim, keepdim, dtype: xp.sum(self, axis=axes(dim, self), keepdims=keepdim),
    {"self": lambda g, self_spec, dim, keepdim: spread(g, self_spec, dim, keepdim)},
    dtype=integral_to_int64,
)
