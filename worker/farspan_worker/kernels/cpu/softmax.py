"""Softmax and log-softmax by oneDNN, and their gradients.

Measured by benchmarks/kernels.py on 1024 x 512, fast / numpy / torch in ms: softmax 0.25 / 0.62 /
0.23, backward 0.09 / 0.32 / 0.08; log-softmax 0.29 / 0.68 / 0.23, backward 0.24 / 0.46 / 0.15.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from farspan.core.op import table

from .. import Fast, Registry, single
from . import onednn as dn
from .checks import has_nan

ACCURATE, LOG = 0x30000, 0x30001
_SMALL: Final = 2_048


def forward_kind(shape: Sequence[int], algorithm: int) -> dn.Kind:
    """Return the primitive over dim 1 of three."""
    rows = dn.plain(shape)
    return dn.Kind("softmax_forward", dn.INFERENCE, algorithm, rows, rows, 1)


def backward_kind(shape: Sequence[int], algorithm: int) -> dn.Kind:
    """Return its gradient, from the result."""
    rows = dn.plain(shape)
    forward = dn.Kind("softmax_forward", dn.TRAINING, algorithm, rows, rows, 1)
    return dn.Kind("softmax_backward", algorithm, rows, rows, rows, 1, forward)


@dn.cached
def _forward(shape: Sequence[int], algorithm: int) -> dn.Route:
    rows, kind = dn.plain(shape), forward_kind(shape, algorithm)
    return dn.Route(kind, [(dn.SRC, rows)], [(dn.DST, rows)])


@dn.cached
def _backward(shape: Sequence[int], algorithm: int) -> dn.Route:
    rows, kind = dn.plain(shape), backward_kind(shape, algorithm)
    return dn.Route(kind, [(dn.DIFF_DST, rows), (dn.DST, rows)], [(dn.DIFF_SRC, rows)])


def folded(shape: Sequence[int], dim: int) -> tuple[int, int, int]:
    """Return the shape as (before, dim, after)."""
    dim %= len(shape)
    return math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])


def _kernel(algorithm: int, plain_kernel: Any) -> Any:
    def kernel(xp: Any, self: Any, dim: int, half_to_float: bool) -> Any:
        x = np.ascontiguousarray(self)
        out = np.empty_like(x)
        _forward(folded(x.shape, dim), algorithm)(x, out)
        if has_nan(out):  # its exp maps NaN to inf, so that not all of the row becomes NaN
            return plain_kernel(xp, self, dim, half_to_float)
        return out

    return kernel


def _gradient(algorithm: int, plain_kernel: Any) -> Any:
    def kernel(xp: Any, grad_output: Any, output: Any, dim: int, input_dtype: Any) -> Any:
        g, y = np.ascontiguousarray(grad_output), np.ascontiguousarray(output)
        if algorithm == LOG and has_nan(y):  # by the same exp, gradients would be infinite
            return plain_kernel(xp, grad_output, output, dim, input_dtype)
        out = np.empty_like(y)
        _backward(folded(y.shape, dim), algorithm)(g, y, out)
        return out

    return kernel


def register(registry: Registry) -> None:
    """Enter the four ops; a small tensor is done in numpy before oneDNN has begun."""
    ops = table()
    for name, algorithm in (("_softmax", ACCURATE), ("_log_softmax", LOG)):
        kernel = _kernel(algorithm, ops[name].kernel)
        registry[name] = Fast(
            kernel,
            lambda self, dim, half_to_float: single(self) and self.ndim > 0,
            _SMALL,
        )
        registry[f"{name}_backward_data"] = Fast(
            _gradient(algorithm, ops[f"{name}_backward_data"].kernel),
            lambda grad_output, output, dim, input_dtype: (
                single(grad_output, output) and output.ndim > 0
            ),
            _SMALL,
        )
