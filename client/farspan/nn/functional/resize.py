"""interpolate, grids, fold and unfold: torch's signatures and checks over the table's operators."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.nn.functional._arguments import Ints, tuple_of
from farspan.nn.functional.pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
)

#: mode -> number of spatial dims -> operator
_OPERATORS = {
    "nearest": {n: f"upsample_nearest{n}d" for n in (1, 2, 3)},
    "nearest-exact": {n: f"_upsample_nearest_exact{n}d" for n in (1, 2, 3)},
    "linear": {1: "upsample_linear1d"},
    "bilinear": {2: "upsample_bilinear2d"},
    "bicubic": {2: "upsample_bicubic2d"},
    "trilinear": {3: "upsample_trilinear3d"},
}
_SMOOTH = {
    "bilinear": "_upsample_bilinear2d_aa",
    "bicubic": "_upsample_bicubic2d_aa",
    "lanczos": "_upsample_lanczos2d_aa",
}
_AREAS = {1: adaptive_avg_pool1d, 2: adaptive_avg_pool2d, 3: adaptive_avg_pool3d}


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Return (N, C, *spatial) resized to ``size`` or by ``scale_factor``."""
    n = input.dim() - 2
    if mode in ("nearest", "area", "nearest-exact"):
        if align_corners is not None:
            raise ValueError(
                "align_corners option can only be set with the interpolating modes: linear | "
                "bilinear | bicubic | trilinear"
            )
    sizes, factors = _sizes_and_factors(input, size, scale_factor)
    if recompute_scale_factor and size is not None:
        raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
    if recompute_scale_factor or mode == "area":
        factors = [None] * n
    if antialias and (mode not in _SMOOTH or input.dim() != 4):
        raise ValueError(
            "Anti-alias option is restricted to bilinear, bicubic, and lanczos modes and requires "
            "a 4-D tensor as input"
        )
    if mode == "area" and n in _AREAS:
        return _AREAS[n](input, sizes)
    name = _operator(mode, n, bool(align_corners), antialias)
    corners = [] if mode.startswith("nearest") else [bool(align_corners)]
    return getattr(fn, name)(input, sizes, *corners, *factors)


def _operator(mode: str, n: int, align_corners: bool, antialias: bool) -> str:
    """Return the operator of a mode for n spatial dims. Raises what torch raises without one."""
    if mode == "lanczos" and n == 2:
        if align_corners:
            raise ValueError("Lanczos mode does not support align_corners=True")
        if not antialias:
            raise ValueError("Lanczos mode requires antialias=True")
    if antialias:
        return _SMOOTH[mode]
    forms = _OPERATORS.get(mode, {})
    if n in forms:
        return forms[n]
    if n in (1, 2, 3) and mode in ("linear", "bilinear", "trilinear"):
        raise NotImplementedError(
            f"Got {n + 2}D input, but {mode} mode needs {next(iter(forms)) + 2}D input"
        )
    raise NotImplementedError(
        f"Input Error: Only 3D, 4D and 5D input Tensors supported (got {n + 2}D) for the modes: "
        "nearest | linear | bilinear | bicubic | trilinear | lanczos | area | nearest-exact "
        f"(got {mode})"
    )


def _sizes_and_factors(
    input: Tensor, size: Any, scale_factor: Any
) -> tuple[list[int], list[float | None]]:
    """Return the sizes wanted and the factors given, one for each spatial dim."""
    n = input.dim() - 2
    if size is not None and scale_factor is not None:
        raise ValueError("only one of size or scale_factor should be defined")
    if size is None and scale_factor is None:
        raise ValueError("either size or scale_factor should be defined")
    name = "output size" if size is not None else "scale_factor"
    given = size if size is not None else scale_factor
    values = list(given) if isinstance(given, (list, tuple)) else [given] * n
    if len(values) != n:
        raise ValueError(
            "Input and output must have the same number of spatial dimensions, but got input with "
            f"spatial dimensions of {list(input.shape[2:])} and {name} of {given}."
        )
    if size is not None:
        if isinstance(given, (list, tuple)) and not all(hasattr(v, "__index__") for v in values):
            raise TypeError(
                "expected size to be one of int or Tuple[int] or Tuple[int, int] or Tuple[int, "
                f"int, int], but got size with types {[type(v) for v in values]}"
            )
        return [int(value) for value in values], [None] * n
    have = zip(input.shape[2:], values, strict=True)
    return [math.floor(float(m) * value) for m, value in have], [float(v) for v in values]


def upsample(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """Return ``interpolate`` of the same arguments; torch's old name."""
    _warn_old("upsample")
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """Return ``interpolate`` in mode "nearest"; torch's old name."""
    _warn_old("upsample_nearest")
    return interpolate(input, size, scale_factor, mode="nearest")


def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """Return ``interpolate`` in mode "bilinear" with corners aligned; torch's old name."""
    _warn_old("upsample_bilinear")
    return interpolate(input, size, scale_factor, mode="bilinear", align_corners=True)


def _warn_old(name: str) -> None:
    warnings.warn(
        f"`nn.functional.{name}` is deprecated. Use `nn.functional.interpolate` instead.",
        stacklevel=3,
    )


# ---------------------------------------------------------------------------------------- grids --
_GRID_MODES = ("bilinear", "nearest", "bicubic")
_GRID_PADDINGS = ("zeros", "border", "reflection")


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """Return (N, C, *out) sampled from (N, C, *in) at the places ``grid`` (N, *out, dims).

    Places run from -1 to 1 along each dim; in a grid the last dim of the input comes first.
    """
    if mode not in _GRID_MODES:
        raise ValueError(
            "nn.functional.grid_sample(): expected mode to be 'bilinear', 'nearest' or 'bicubic', "
            f"but got: '{mode}'"
        )
    if padding_mode not in _GRID_PADDINGS:
        raise ValueError(
            "nn.functional.grid_sample(): expected padding_mode to be 'zeros', 'border', or "
            f"'reflection', but got: '{padding_mode}'"
        )
    number, padding = _GRID_MODES.index(mode), _GRID_PADDINGS.index(padding_mode)
    return fn.grid_sampler(input, grid, number, padding, _aligned(align_corners))


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """Return the grid (N, *spatial, dims) of affine maps ``theta`` (N, dims, dims + 1)."""
    aligned = _aligned(align_corners)
    if not theta.is_floating_point():
        raise ValueError(f"Expected theta to have floating point type, but got {theta.dtype}")
    n = len(size) - 2
    if n not in (2, 3):
        raise NotImplementedError(
            "affine_grid only supports 4D and 5D sizes, for 2D and 3D affine transforms, "
            f"respectively. Got size {size}."
        )
    if theta.dim() != 3 or tuple(theta.shape[1:]) != (n, n + 1):
        raise ValueError(
            f"Expected a batch of {n}D affine matrices of shape Nx{n}x{n + 1} for size {size}. "
            f"Got {theta.shape}."
        )
    if aligned and min(size[2:]) == 1:
        warnings.warn(
            "Since version 1.3.0, affine_grid behavior has changed for unit-size grids when "
            "align_corners=True. This is not an intended use case of affine_grid. See the "
            "documentation of affine_grid for details.",
            stacklevel=2,
        )
    elif min(size) <= 0:
        raise ValueError(f"Expected non-zero, positive output size. Got {size}")
    return fn.affine_grid_generator(theta, list(size), aligned)


def _aligned(align_corners: bool | None) -> bool:
    if align_corners is None:
        warnings.warn(
            "Default grid_sample and affine_grid behavior has changed to align_corners=False since "
            "1.3.0. Please specify align_corners=True if the old behavior is desired. See the "
            "documentation of grid_sample for details.",
            stacklevel=3,
        )
    return bool(align_corners)


# --------------------------------------------------------------------------------------- blocks --
def unfold(
    input: Tensor, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1
) -> Tensor:
    """Return the sliding blocks of (N, C, H, W) as columns: (N, C*kh*kw, number of blocks)."""
    return fn.im2col(input, *_pairs(kernel_size, dilation, padding, stride))


def fold(
    input: Tensor,
    output_size: Ints,
    kernel_size: Ints,
    dilation: Ints = 1,
    padding: Ints = 0,
    stride: Ints = 1,
) -> Tensor:
    """Return blocks as columns (N, C*kh*kw, blocks) summed into images (N, C, *output_size)."""
    size = list(tuple_of(output_size, 2, "output_size"))
    return fn.col2im(input, size, *_pairs(kernel_size, dilation, padding, stride))


def _pairs(kernel_size: Ints, dilation: Ints, padding: Ints, stride: Ints) -> list[list[int]]:
    return [
        list(tuple_of(kernel_size, 2, "kernel_size")),
        list(tuple_of(dilation, 2, "dilation")),
        list(tuple_of(padding, 2, "padding")),
        list(tuple_of(stride, 2, "stride")),
    ]
