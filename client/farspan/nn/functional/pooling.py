"""Pooling: torch's arguments (a stride may be None, indices may be asked for) over the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import farspan
from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.nn.functional._arguments import Ints, tuple_of

# Operators of the table that are torch's functions as they stand.
avg_pool1d, avg_pool2d, avg_pool3d = fn.avg_pool1d, fn.avg_pool2d, fn.avg_pool3d
adaptive_avg_pool1d = fn.adaptive_avg_pool1d


# --------------------------------------------------------------------------------------- maxima --
def max_pool1d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the maximum of each window of (N, C, L), and where it lies."""
    step = [] if stride is None else stride
    return tuple(  # type: ignore[return-value]
        fn.max_pool1d_with_indices(input, kernel_size, step, padding, dilation, ceil_mode)
    )


def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the maximum of each window of (N, C, H, W), and its place in the plane."""
    step = [] if stride is None else stride
    return tuple(  # type: ignore[return-value]
        fn.max_pool2d_with_indices(input, kernel_size, step, padding, dilation, ceil_mode)
    )


def max_pool3d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the maximum of each window of (N, C, D, H, W), and its place in the volume."""
    step = [] if stride is None else stride
    return tuple(  # type: ignore[return-value]
        fn.max_pool3d_with_indices(input, kernel_size, step, padding, dilation, ceil_mode)
    )


def _max_pool(name: str, pool: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    """Return the function that gives the indices only if asked for."""

    def max_pool(
        input: Tensor,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        if return_indices:
            return pool(input, kernel_size, stride, padding, dilation, ceil_mode)
        step = [] if stride is None else stride
        return getattr(fn, name)(input, kernel_size, step, padding, dilation, ceil_mode)

    return _named(max_pool, name, pool)


def _named(function: Any, name: str, like: Any) -> Any:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{like.__doc__} The second if ``return_indices``."
    return function


max_pool1d = _max_pool("max_pool1d", max_pool1d_with_indices)
max_pool2d = _max_pool("max_pool2d", max_pool2d_with_indices)
max_pool3d = _max_pool("max_pool3d", max_pool3d_with_indices)


# ------------------------------------------------------------------------------------- adaptive --
def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Return (N, C, H, W) averaged to ``output_size``; None keeps a dimension."""
    return fn.adaptive_avg_pool2d(input, _output_size(input, output_size, 2))


def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """Return (N, C, D, H, W) averaged to ``output_size``; None keeps a dimension."""
    return fn.adaptive_avg_pool3d(input, _output_size(input, output_size, 3))


def adaptive_max_pool1d_with_indices(
    input: Tensor, output_size: Ints, return_indices: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the maxima of (N, C, L) over ``output_size`` windows, and where they lie."""
    return tuple(fn.adaptive_max_pool1d(input, output_size))  # type: ignore[return-value]


def adaptive_max_pool2d_with_indices(
    input: Tensor, output_size: Any, return_indices: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the maxima of (N, C, H, W) over windows of ``output_size``, and their places."""
    size = _output_size(input, output_size, 2)
    return tuple(fn.adaptive_max_pool2d(input, size))  # type: ignore[return-value]


def adaptive_max_pool3d_with_indices(
    input: Tensor, output_size: Any, return_indices: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the maxima of (N, C, D, H, W) over windows of ``output_size``, and their places."""
    size = _output_size(input, output_size, 3)
    return tuple(fn.adaptive_max_pool3d(input, size))  # type: ignore[return-value]


def _adaptive_max_pool(name: str, pool: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    def adaptive_max_pool(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
        found = pool(input, output_size)
        return found if return_indices else found[0]

    return _named(adaptive_max_pool, name, pool)


adaptive_max_pool1d = _adaptive_max_pool("adaptive_max_pool1d", adaptive_max_pool1d_with_indices)
adaptive_max_pool2d = _adaptive_max_pool("adaptive_max_pool2d", adaptive_max_pool2d_with_indices)
adaptive_max_pool3d = _adaptive_max_pool("adaptive_max_pool3d", adaptive_max_pool3d_with_indices)


def _output_size(input: Tensor, output_size: Any, n: int) -> list[int]:
    """Return the sizes wanted; None stands for the input's own."""
    if isinstance(output_size, int):
        return [output_size] * n
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * n
    have = input.shape
    if len(wanted) >= len(have):
        raise ValueError(f"Input dimension should be at least {len(wanted) + 1}, got {len(have)}")
    own = have[-len(wanted) :]
    return [size if want is None else want for want, size in zip(wanted, own, strict=True)]


# ----------------------------------------------------------------------------------- fractional --
def fractional_max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the maxima of (N, C, H, W) over windows at random distances, and their places."""
    return _fractional(2, input, kernel_size, output_size, output_ratio, _random_samples)


def fractional_max_pool3d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the maxima of (N, C, D, H, W) over windows at random distances, and their places."""
    return _fractional(3, input, kernel_size, output_size, output_ratio, _random_samples)


def _fractional(
    n: int, input: Tensor, kernel_size: Ints, output_size: Any, output_ratio: Any, samples: Any
) -> tuple[Tensor, Tensor]:
    """Return fractional maxima; a number in [0, 1) for each plane and dim places the windows."""
    name = f"fractional_max_pool{n}d"
    if output_size is None and output_ratio is None:
        raise ValueError(f"{name} requires specifying either an output_size or an output_ratio")
    if output_size is None:
        ratios = output_ratio if isinstance(output_ratio, (tuple, list)) else (output_ratio,) * n
        if len(ratios) > n:
            raise ValueError(
                f"{name} requires output_ratio to either be a single Int or tuple of Ints."
            )
        have = input.shape[-n:]
        output_size = [int(size * ratio) for size, ratio in zip(have, ratios, strict=True)]
    if samples is None:
        batch = 1 if input.dim() == n + 1 else input.shape[0]
        channels = input.shape[-n - 1]
        samples = farspan.rand(batch, channels, n, dtype=input.dtype, device=input.device)
    found = getattr(fn, name)(
        input, tuple_of(kernel_size, n, "kernel_size"), tuple_of(output_size, n, "output_size"),
        samples,
    )  # fmt: skip
    return tuple(found)  # type: ignore[return-value]


def _fractional_max_pool(name: str, pool: Callable[..., Any]) -> Callable[..., Any]:
    def fractional_max_pool(
        input: Tensor,
        kernel_size: Ints,
        output_size: Ints | None = None,
        output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
    ) -> Any:
        found = pool(input, kernel_size, output_size, output_ratio, return_indices, _random_samples)
        return found if return_indices else found[0]

    return _named(fractional_max_pool, name, pool)


fractional_max_pool2d = _fractional_max_pool(
    "fractional_max_pool2d", fractional_max_pool2d_with_indices
)
fractional_max_pool3d = _fractional_max_pool(
    "fractional_max_pool3d", fractional_max_pool3d_with_indices
)


# ------------------------------------------------------------------------------------- unpooling --
def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Return zeros (N, C, L) with the maxima put back where ``indices`` says they came from."""
    size, *_ = _unpooled(1, input, kernel_size, stride, padding, output_size)
    out = fn.max_unpool2d(input.unsqueeze(-1), indices.unsqueeze(-1), [*size, 1])
    return out.squeeze(-1)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Return zeros (N, C, H, W) with the maxima put back where ``indices`` says."""
    size, *_ = _unpooled(2, input, kernel_size, stride, padding, output_size)
    return fn.max_unpool2d(input, indices, size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Return zeros (N, C, D, H, W) with the maxima put back where ``indices`` says."""
    size, step, edge = _unpooled(3, input, kernel_size, stride, padding, output_size)
    return fn.max_unpool3d(input, indices, size, step, edge)


def _unpooled(
    n: int, input: Tensor, kernel_size: Ints, stride: Ints | None, padding: Ints, output_size: Any
) -> tuple[list[int], tuple[int, ...], tuple[int, ...]]:
    """Return the sizes before pooling, and stride and padding as tuples."""
    kernel = tuple_of(kernel_size, n, "kernel_size")
    step = kernel if stride is None else tuple_of(stride, n, "stride")
    edge = tuple_of(padding, n, "padding")
    usual = [
        (have - 1) * s + k - 2 * p
        for have, s, k, p in zip(input.shape[-n:], step, kernel, edge, strict=True)
    ]
    if output_size is None:
        return usual, step, edge
    wanted = list(output_size)
    if len(wanted) == n + 2:
        wanted = wanted[2:]
    if len(wanted) != n:
        raise ValueError(
            f"output_size should be a sequence containing {n} or {n + 2} elements, but it has a "
            f"length of '{len(wanted)}'"
        )
    for d in range(n):
        low, high = usual[d] - step[d], usual[d] + step[d]
        if not low < wanted[d] < high:
            raise ValueError(
                f'invalid output_size "{wanted}" (dim {d} must be between {low} and {high})'
            )
    return wanted, step, edge


# ---------------------------------------------------------------------------------------- norms --
def lp_pool1d(
    input: Tensor,
    norm_type: float,
    kernel_size: int,
    stride: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Return the p-norm of each window of (N, C, L)."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: Tensor,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Return the p-norm of each window of (N, C, H, W)."""
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: Tensor,
    norm_type: float,
    kernel_size: Ints,
    stride: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Return the p-norm of each window of (N, C, D, H, W)."""
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


def _lp_pool(
    n: int, input: Tensor, norm_type: float, kernel_size: Ints, stride: Any, ceil_mode: bool
) -> Tensor:
    kernel = tuple_of(kernel_size, n, "kernel_size")
    step = [] if stride is None else stride
    if math.isinf(norm_type):
        largest = {1: max_pool1d, 2: max_pool2d, 3: max_pool3d}[n]
        sign = 1 if norm_type > 0 else -1
        size = input.abs() if sign > 0 else -input.abs()
        pooled = largest(size, kernel, stride, 0, 1, ceil_mode)
        return pooled if sign > 0 else -pooled
    mean = getattr(fn, f"avg_pool{n}d")(input.pow(norm_type), kernel, step, 0, ceil_mode)
    # As torch writes it: nothing but the gradient at zero depends on sign and relu.
    total = (mean.sign() * fn.relu(mean.abs())).mul(math.prod(kernel))
    return total.pow(1.0 / norm_type)
