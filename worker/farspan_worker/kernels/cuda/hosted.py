"""What cupy cannot compute: these ops run on the host, over copies, and their results go back.

The list is stated, not found out: a test runs the whole table on a namespace that refuses what
cupy refuses, and fails if an op is missing here or stands here without need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from farspan.core.op import Op

    from .device import Cuda

#: Tables of places and weights are made by numpy, and meet the image inside of the kernel.
_RESIZES: Final = """
    upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward
    _upsample_nearest_exact1d_backward _upsample_nearest_exact2d_backward
    _upsample_nearest_exact3d_backward upsample_linear1d upsample_linear1d_backward
    upsample_bilinear2d upsample_bilinear2d_backward upsample_trilinear3d
    upsample_trilinear3d_backward upsample_bicubic2d upsample_bicubic2d_backward
    _upsample_bilinear2d_aa _upsample_bilinear2d_aa_backward _upsample_bicubic2d_aa
    _upsample_bicubic2d_aa_backward _upsample_lanczos2d_aa _upsample_lanczos2d_aa_backward
"""
#: Op name -> why the table's kernel does not run over cupy.
HOSTED: Final[dict[str, str]] = {
    "mode": "accumulate of maximum",
    "logcumsumexp": "accumulate of logaddexp",
    "cummax": "accumulate of maximum",
    "cummin": "accumulate of minimum",
    "_border_pad_backward": "ufunc.at on several dims",
    "repeat_interleave.Tensor": "repeat takes numbers only",
    "linalg_lstsq": "max has no `initial`",
    "_embedding_bag": "reduceat of maximum",
    "multilabel_margin_loss_forward": "accumulate of logical_and",
    "multilabel_margin_loss_backward": "accumulate of logical_and",
    "_pdist_forward": "max has no `initial`",
    "hash_tensor": "reduce of bitwise_xor",
    **dict.fromkeys(_RESIZES.split(), "numpy's tables of weights"),
}


def is_hosted(op: Op) -> bool:
    """Return whether an op computes on the host: it stands above, or it draws random numbers."""
    return op.random or op.name in HOSTED


def on_host(op: Op, backend: Cuda) -> Callable[..., Any]:
    """Return the table's kernel over copies on the host; written arguments are copied back."""
    kernel = op.kernel
    assert kernel is not None
    device = backend.module.ndarray

    def fetch(x: Any) -> Any:
        if isinstance(x, device):
            # A layout of its own follows from strides, which draws into a tensor go along.
            return _as_laid_out(x, backend)
        return type(x)([fetch(i) for i in x]) if type(x) in (list, tuple) else x

    def give(x: Any) -> Any:
        return backend.own(x) if isinstance(x, (np.ndarray, np.generic)) else x

    def write_back(to: Any, new: Any) -> None:
        if isinstance(to, device):
            to[...] = backend.own(new)
        elif type(to) in (list, tuple):
            for one, value in zip(to, new, strict=True):
                write_back(one, value)

    def run(xp: Any, *args: Any) -> Any:
        backend.hosted += op.family != "state"  # seeds have no elements to move
        lead = args[:1] if op.random else ()  # the generator, whose numbers are made here anyway
        there = args[len(lead) :]
        here = [fetch(x) for x in there]
        result = kernel(np, *lead, *here)
        for at in op.written:
            write_back(there[at], here[at])
        if isinstance(result, (tuple, list)):
            return type(result)([give(x) for x in result])
        return give(result)

    return run


def _as_laid_out(x: Any, backend: Cuda) -> np.ndarray[Any, Any]:
    """Return a copy on the host whose dims lie in memory in the order of the device's."""
    order = sorted(range(x.ndim), key=lambda d: (-x.strides[d], d))
    back = sorted(range(x.ndim), key=order.__getitem__)
    return backend.download(x.transpose(order)).transpose(back)
