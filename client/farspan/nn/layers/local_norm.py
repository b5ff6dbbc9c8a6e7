"""Normalization over neighbouring channels, and batch norm over many processes."""

from __future__ import annotations

from typing import Any

import farspan
from farspan._tensor import Tensor
from farspan.nn import functional as F
from farspan.nn.layers.norm import _BatchNorm, _InstanceNorm
from farspan.nn.module import Module

__all__ = ["CrossMapLRN2d", "LocalResponseNorm", "SyncBatchNorm"]


class LocalResponseNorm(Module):
    """(N, C, *) over (k + alpha * mean square of ``size`` neighbouring channels) ** beta."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class CrossMapLRN2d(Module):
    """torch's old LocalResponseNorm of (N, C, H, W), with its own windows."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        return _CrossMap.apply(input, self.size, self.alpha, self.beta, self.k)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def _band(channels: int, first: Any, last: Any, like: Tensor) -> Tensor:
    """Return a matrix with ones in row c from column first(c) to last(c)."""
    rows = [[float(first(c) <= d <= last(c)) for d in range(channels)] for c in range(channels)]
    return farspan.tensor(rows, dtype=like.dtype, device=like.device)


class _CrossMap(farspan.autograd.Function):
    """As torch computes it: from the window's width on, the first channel is never left out, and
    the gradient looks at the channels before its own."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, input: Tensor, size: int, alpha: float, beta: float, k: float
    ) -> Tensor:
        if input.dim() != 4:
            raise ValueError(f"CrossMapLRN2d: Expected input to be 4D, got {input.dim()}D instead.")
        ahead = int((size - 1) / 2 + 1)
        channels = input.shape[1]
        window = _band(channels, lambda c: c - ahead + 1, lambda c: c + ahead - 1, input)
        window[ahead:, 0] = 1.0
        squares = farspan.einsum("cd,ndhw->nchw", window, input * input)
        scale = squares * (alpha / size) + k
        output = scale**-beta * input
        ctx.save_for_backward(input, output, scale)
        ctx.size, ctx.factor, ctx.beta = size, 2 * alpha * beta / size, beta
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        input, output, scale = ctx.saved_tensors
        behind = int(ctx.size - (ctx.size - 1) / 2)
        window = _band(
            input.shape[1], lambda c: c - behind, lambda c: c - behind + ctx.size - 1, input
        )
        ratio = grad_output * output / scale
        total = farspan.einsum("cd,ndhw->nchw", window, ratio)
        found = scale**-ctx.beta * grad_output - ctx.factor * input * total
        return found, None, None, None, None


class SyncBatchNorm(_BatchNorm):
    """Batch norm over all processes of a group; a session is one process, so over its batch."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
        if input.shape[1] == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any = None) -> Module:
        """Return ``module`` with every batch norm in it replaced by one of this class."""
        made = module
        if isinstance(module, _BatchNorm) and not isinstance(module, _InstanceNorm):
            made = cls(
                module.num_features, module.eps, module.momentum, module.affine,
                module.track_running_stats, process_group, bias=module.bias is not None,
            )  # fmt: skip
            if module.affine:
                made.weight, made.bias = module.weight, module.bias
            made.running_mean, made.running_var = module.running_mean, module.running_var
            made.num_batches_tracked = module.num_batches_tracked
            made.training = module.training
        for name, child in module.named_children():
            made.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return made
