"""Images sampled at places that a grid names, and the affine grids to name them with.

A grid holds places from -1 to 1 for each dim of the image, the last dim of the image first. What a
sample is made of - a few elements and their shares - is found along each dim alone and multiplied.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..call import fn
from ..errors import DTypeError, ParameterError, ShapeError
from ..family import composite, no_derivative, refuse, structured
from ..spec import Spec
from .index import add_rows

Ints = tuple[int, ...]
BILINEAR, NEAREST, BICUBIC = 0, 1, 2
ZEROS, BORDER, REFLECTION = 0, 1, 2


# ---------------------------------------------------------------------------------------- places --
def _unnormalized(x: Any, n: int, aligned: bool) -> tuple[Any, float]:
    """Return places as places in n elements, and the slope."""
    slope = (n - 1) / 2 if aligned else n / 2
    shift = slope if aligned else (n - 1) / 2
    return x * x.dtype.type(slope) + x.dtype.type(shift), slope


def _reflected(xp: Any, x: Any, twice_low: int, twice_high: int) -> tuple[Any, Any]:
    """Return places mirrored into [low, high] as often as needed, and the sign of the slope."""
    if twice_low == twice_high:
        return xp.zeros_like(x), xp.zeros_like(x)
    low, span = twice_low / 2, (twice_high - twice_low) / 2
    away = x - x.dtype.type(low)
    sign = xp.where(away < 0, -1, 1)
    away = abs(away)
    extra = xp.fmod(away, x.dtype.type(span))
    even = xp.floor(away / x.dtype.type(span)) % 2 == 0
    place = xp.where(even, extra + x.dtype.type(low), x.dtype.type(span) - extra + low)
    return place.astype(x.dtype), sign * xp.where(even, 1, -1)


def _bounded(xp: Any, x: Any, n: int, padding: int, aligned: bool) -> tuple[Any, Any]:
    """Return places as the padding mode moves them into the image, and the slope of that."""
    slope: Any = 1
    if padding == REFLECTION:
        ends = (0, 2 * (n - 1)) if aligned else (-1, 2 * n - 1)
        x, slope = _reflected(xp, x, *ends)
    if padding != ZEROS:
        slope = slope * ((x > 0) & (x < n - 1))
        x = xp.clip(x, 0, n - 1)
    return x, slope


def _cubic(t: Any) -> list[list[Any]]:
    """Return the weights of four neighbours at offset t of the second, slopes and bends."""
    a = -0.75

    def near(x: Any) -> tuple[Any, Any, Any]:
        value = ((a + 2) * x - (a + 3)) * x * x + 1
        return value, (3 * (a + 2) * x - 2 * (a + 3)) * x, 6 * (a + 2) * x - 2 * (a + 3)

    def far(x: Any) -> tuple[Any, Any, Any]:
        value = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return value, (3 * a * x - 10 * a) * x + 8 * a, 6 * a * x - 10 * a

    found = [far(t + 1), near(t), near(1 - t), far(2 - t)]
    signs = (1, 1, -1, -1)  # the distance to the last two shrinks as t grows
    slopes = [sign * f[1] for sign, f in zip(signs, found, strict=True)]
    return [[f[0] for f in found], slopes, [f[2] for f in found]]


class _Neighbours:
    """Along one dim: for each place the elements that count, their indices and shares.

    shares[0] are the weights, [1] their slopes and [2] their second derivatives in the grid.
    """

    def __init__(self, xp: Any, x: Any, n: int, mode: int, padding: int, aligned: bool) -> None:
        place, slope = _unnormalized(x, n, aligned)
        bend: Any = 1
        if mode != BICUBIC:
            place, bend = _bounded(xp, place, n, padding, aligned)
        one, nothing = xp.ones_like(place), xp.zeros_like(place)
        low = xp.rint(place) if mode == NEAREST else xp.floor(place)
        share = place - low
        if mode == NEAREST:
            offsets, shares = [0], [[one], [nothing], [nothing]]
        elif mode == BILINEAR:
            offsets, shares = [0, 1], [[1 - share, share], [-one, one], [nothing, nothing]]
        else:
            offsets, shares = [-1, 0, 1, 2], _cubic(share)
        factor = bend * slope
        self.indices: list[Any] = []
        self.shares: list[list[Any]] = [[], [], []]
        for k, offset in enumerate(offsets):
            at = low + offset
            if mode == BICUBIC:  # each neighbour is moved into the image on its own
                at, _ = _bounded(xp, at, n, padding, aligned)
                at = xp.rint(at) if padding == REFLECTION else at
            there = (at >= 0) & (at <= n - 1)  # false for NaN too
            self.indices.append(xp.where(there, at, 0).astype("int64"))
            for order, values in enumerate(shares):
                share = xp.where(there, values[k] * factor**order, 0)
                self.shares[order].append(share.astype(x.dtype))

    def __len__(self) -> int:
        return len(self.indices)


def _neighbours(
    xp: Any, shape: Ints, grid: Any, mode: int, padding: int, aligned: bool
) -> list[_Neighbours]:
    """Return the neighbours along each dim of the image; of places (batch, places)."""
    n = len(shape) - 2
    flat = grid.reshape(grid.shape[0], math.prod(grid.shape[1:-1]), n)
    return [
        _Neighbours(xp, flat[..., n - 1 - d], shape[2 + d], mode, padding, aligned)
        for d in range(n)
    ]


def _share(dims: list[_Neighbours], at: Ints, *along: int) -> Any:
    """Return the product of the weights, derived once along each dim of `along`."""
    total: Any = 1
    for i, (d, k) in enumerate(zip(dims, at, strict=True)):
        total = total * d.shares[along.count(i)][k]
    return total


# --------------------------------------------------------------------------------------- kernels --
class _Sampling:
    """An image and a grid brought to (batch, places, channels), and their neighbours."""

    def __init__(
        self, xp: Any, shape: Ints, grid: Any, mode: int, padding: int, aligned: bool
    ) -> None:
        self.xp, self.shape, self.grid = xp, shape, grid
        self.sizes = shape[2:]
        self.dims = _neighbours(xp, shape, grid, mode, padding, aligned)
        self.row = xp.arange(shape[0])[:, None]
        self.places = math.prod(grid.shape[1:-1])

    def by_place(self, image: Any) -> Any:
        """Return (N, C, *) with a place's channels together."""
        flat = image.reshape(*image.shape[:2], math.prod(image.shape[2:]))
        return self.xp.ascontiguousarray(flat.swapaxes(1, 2))

    def corners(self) -> Any:
        """Yield each combination of neighbours: numbers along the dims, and the flat index."""
        for at in itertools.product(*[range(len(d)) for d in self.dims]):
            index: Any = 0
            for d, k, size in zip(self.dims, at, self.sizes, strict=True):
                index = index * size + d.indices[k]
            yield at, index

    def along(self, at: Ints, direction: Any, *more: int) -> Any:
        """Return the shares' derivative in a direction (batch, places, dims) of the grid."""
        total: Any = 0
        for i in range(len(self.dims)):
            total = total + _share(self.dims, at, i, *more) * direction[..., -1 - i]
        return total

    def flat(self, of_grid: Any) -> Any:
        return of_grid.reshape(self.shape[0], self.places, len(self.dims))

    def image(self, by_place: Any, sizes: Ints) -> Any:
        """Return (batch, places, channels) as (N, C, *sizes)."""
        batch, channels = self.shape[:2]
        flat = by_place.reshape(batch, math.prod(sizes), channels)
        return flat.swapaxes(1, 2).reshape(batch, channels, *sizes)

    def add(self, total: Any, index: Any, values: Any) -> None:
        """Add values (batch, places, channels) to images (batch * elements, channels)."""
        at = self.row * math.prod(self.sizes) + index
        add_rows(self.xp, total, at, values)


def _grid_kernel(
    xp: Any, input: Any, grid: Any, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Any:
    s = _Sampling(xp, input.shape, grid, interpolation_mode, padding_mode, align_corners)
    image = s.by_place(input)
    total = xp.zeros((input.shape[0], s.places, input.shape[1]), input.dtype)
    for at, index in s.corners():
        share = _share(s.dims, at)[..., None]
        # What lies outside has no share, whatever stands where it points to.
        total += xp.where(share == 0, 0, image[s.row, index]) * share
    return s.image(total, grid.shape[1:-1])


def _grid_backward_kernel(
    xp: Any, grad_output: Any, input: Any, grid: Any, interpolation_mode: int, padding_mode: int,
    align_corners: bool, output_mask: Any,
) -> tuple[Any, Any]:  # fmt: skip
    s = _Sampling(xp, input.shape, grid, interpolation_mode, padding_mode, align_corners)
    g, image = s.by_place(grad_output), s.by_place(input)
    of_input = xp.zeros((input.shape[0] * image.shape[1], input.shape[1]), input.dtype)
    of_grid = xp.zeros(s.flat(grid).shape, grid.dtype)
    for at, index in s.corners():
        if output_mask[0]:
            s.add(of_input, index, g * _share(s.dims, at)[..., None])
        if output_mask[1] and interpolation_mode != NEAREST:
            product = (g * image[s.row, index]).sum(axis=-1)
            for i in range(len(s.dims)):
                of_grid[..., -1 - i] += product * _share(s.dims, at, i)
    made = s.image(of_input, s.sizes) if output_mask[0] else xp.zeros((0,), input.dtype)
    return made, of_grid.reshape(grid.shape)


def _grid_double_kernel(
    xp: Any, of_input: Any, of_grid: Any, grad_output: Any, input: Any, grid: Any, *modes: Any
) -> tuple[Any, Any, Any]:
    """With S(x) the samples of x and D their derivative in the direction of `of_grid`, return the
    gradients of <g, S(of_input) + D(input)> by g, input and grid."""
    s = _Sampling(xp, input.shape, grid, *modes)
    g, image = s.by_place(grad_output), s.by_place(input)
    other = None if of_input is None else s.by_place(of_input)
    direction = None if of_grid is None else s.flat(of_grid)
    to_g = xp.zeros_like(g)
    to_input = xp.zeros((input.shape[0] * image.shape[1], input.shape[1]), input.dtype)
    to_grid = xp.zeros(s.flat(grid).shape, grid.dtype)
    for at, index in s.corners():
        here = image[s.row, index]
        if other is not None:
            there = other[s.row, index]
            to_g += there * _share(s.dims, at)[..., None]
            product = (g * there).sum(axis=-1)
            for i in range(len(s.dims)):
                to_grid[..., -1 - i] += product * _share(s.dims, at, i)
        if direction is not None:
            slope = s.along(at, direction)[..., None]
            to_g += here * slope
            s.add(to_input, index, g * slope)
            product = (g * here).sum(axis=-1)
            for i in range(len(s.dims)):
                to_grid[..., -1 - i] += product * s.along(at, direction, i)
    sizes = grad_output.shape[2:]
    return s.image(to_g, sizes), s.image(to_input, s.sizes), to_grid.reshape(grid.shape)


# ----------------------------------------------------------------------------------- declaration --
def _check(name: str, input: Spec, grid: Spec, mode: int) -> None:
    """Raise, in torch's words, what is wrong with an image and a grid."""
    if input.dtype is not grid.dtype:
        raise DTypeError(
            f"{name}(): expected input and grid to have same dtype, but input has "
            f"{input.dtype.name} and grid has {grid.dtype.name}"
        )
    if input.ndim not in (4, 5) or input.ndim != grid.ndim:
        raise ShapeError(
            f"{name}(): expected 4D or 5D input and grid with same number of dimensions, but got "
            f"input with sizes {list(input.shape)} and grid with sizes {list(grid.shape)}"
        )
    if input.shape[0] != grid.shape[0]:
        raise ShapeError(
            f"{name}(): expected grid and input to have same batch size, but got input with sizes "
            f"{list(input.shape)} and grid with sizes {list(grid.shape)}"
        )
    if grid.shape[-1] != input.ndim - 2:
        raise ShapeError(
            f"{name}(): expected grid to have size {input.ndim - 2} in last dimension, but got "
            f"grid with sizes {list(grid.shape)}"
        )
    for d in range(2, input.ndim):
        if input.shape[d] == 0:
            raise ShapeError(
                f"{name}(): expected input to have non-empty spatial dimensions, but input has "
                f"sizes {list(input.shape)} with dimension {d} being empty"
            )
    if input.ndim == 5 and mode == BICUBIC:
        raise ParameterError(f"{name}(): bicubic interpolation only supports 4D input")


def _meta(n: int) -> Callable[..., Spec]:
    def meta(
        input: Spec, grid: Spec, interpolation_mode: int, padding_mode: int, align_corners: bool
    ) -> Spec:
        _check("grid_sampler", input, grid, interpolation_mode)
        if input.ndim != n + 2:
            raise ShapeError(f"grid_sampler_{n}d: expected {n + 2}D input, got {input.ndim}D")
        refuse(f"grid_sampler_{n}d_cpu", input.dtype, "bic")
        return input.with_(shape=(*input.shape[:2], *grid.shape[1:-1]))

    return meta


def _declare(n: int) -> None:
    """Declare grid_sampler_{n}d and its backward."""
    name = f"grid_sampler_{n}d"
    modes = "int interpolation_mode, int padding_mode, bool align_corners"

    def grads(
        g: Any, input: Any, grid: Any, interpolation_mode: int, padding_mode: int,
        align_corners: bool, needed: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        of_input, of_grid = getattr(fn, f"{name}_backward")(
            g, input, grid, interpolation_mode, padding_mode, align_corners, needed
        )
        return (of_input if needed[0] else None, of_grid if needed[1] else None)

    def double(
        g: Any, grad_output: Any, input: Any, grid: Any, interpolation_mode: int,
        padding_mode: int, align_corners: bool, output_mask: Any,
    ) -> Any:  # fmt: skip
        return fn._grid_sampler_double_backward(
            g[0] if output_mask[0] else None, g[1], grad_output, input, grid, interpolation_mode,
            padding_mode, align_corners,
        )  # fmt: skip

    structured(
        f"{name}(Tensor input, Tensor grid, {modes}) -> Tensor",
        meta=_meta(n),
        kernel=_grid_kernel,
        vjp={"input grid": grads},
    )
    structured(
        f"{name}_backward(Tensor grad_output, Tensor input, Tensor grid, {modes},"
        " bool[2] output_mask) -> (Tensor, Tensor)",
        meta=lambda grad_output, input, grid, mode, padding, aligned, output_mask: (
            input.contiguous_ if output_mask[0] else input.with_(shape=(0,)),
            grid.contiguous_,
        ),
        kernel=_grid_backward_kernel,
        vjp={"grad_output input grid": double},
    )


structured(
    "farspan::_grid_sampler_double_backward(Tensor? of_input, Tensor? of_grid, Tensor grad_output,"
    " Tensor input, Tensor grid, int interpolation_mode, int padding_mode, bool align_corners)"
    " -> (Tensor, Tensor, Tensor)",
    meta=lambda of_input, of_grid, grad_output, input, grid, *modes: (
        grad_output.contiguous_,
        input.contiguous_,
        grid.contiguous_,
    ),
    kernel=_grid_double_kernel,
    vjp={
        "of_input of_grid grad_output input grid": no_derivative("grid_sampler's second derivative")
    },
)
_declare(2)
_declare(3)


@composite(
    "grid_sampler(Tensor input, Tensor grid, int interpolation_mode, int padding_mode,"
    " bool align_corners) -> Tensor"
)
def grid_sampler(
    input: Any, grid: Any, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Any:
    _check("grid_sampler", input._spec, grid._spec, interpolation_mode)
    sample = fn.grid_sampler_2d if input._spec.ndim == 4 else fn.grid_sampler_3d
    return sample(input, grid, interpolation_mode, padding_mode, align_corners)


# ------------------------------------------------------------------------------- affine grids --
def _axis_places(size: Ints, aligned: bool, dtype: Any) -> Any:
    """Return the places (prod(size), n + 1) of an image's elements from -1 to 1, the last dim
    first, then a one."""
    lines = []
    for m in size:
        line = np.linspace(-1, 1, m, dtype=dtype) if m > 1 else np.zeros(1, dtype)
        lines.append(line if aligned else (line * dtype.type((m - 1) / m)).astype(dtype))
    parts = np.meshgrid(*lines, indexing="ij")
    columns = [p.reshape(-1) for p in reversed(parts)]
    return np.stack([*columns, np.ones_like(columns[0])], 1)


def _affine_spec(theta: Spec, size: Ints) -> Spec:
    if len(size) not in (4, 5):
        raise ParameterError("AffineGridGenerator needs 4d (spatial) or 5d (volumetric) inputs.")
    n = len(size) - 2
    if theta.shape != (size[0], n, n + 1):
        raise ShapeError(
            f"Expected a batch of {n}D affine matrices of shape Nx{n}x{n + 1} for size "
            f"{list(size)}. Got {list(theta.shape)}."
        )
    return theta.with_(shape=(size[0], *size[2:], n))


def _affine_kernel(xp: Any, theta: Any, size: Ints, align_corners: bool) -> Any:
    base = xp.asarray(_axis_places(tuple(size[2:]), align_corners, theta.dtype))
    return xp.matmul(base, theta.swapaxes(1, 2)).reshape(theta.shape[0], *size[2:], len(size) - 2)


def _affine_backward_kernel(xp: Any, grad: Any, size: Ints, align_corners: bool) -> Any:
    n = len(size) - 2
    if not grad.size:
        return xp.zeros((grad.shape[0], n, n + 1), grad.dtype)
    base = xp.asarray(_axis_places(tuple(size[2:]), align_corners, grad.dtype))
    flat = grad.reshape(grad.shape[0], base.shape[0], n)
    return xp.matmul(flat.swapaxes(1, 2), base)


def _affine_backward_spec(grad: Spec, size: Ints, align_corners: bool) -> Spec:
    n = len(size) - 2
    if n not in (2, 3) or grad.shape != (size[0], *size[2:], n):
        raise ShapeError(
            f"a gradient of shape {list(grad.shape)} for an affine grid of size {list(size)}"
        )
    return grad.with_(shape=(size[0], n, n + 1), stride=(n * (n + 1), 1, n))


structured(
    "affine_grid_generator(Tensor theta, SymInt[] size, bool align_corners) -> Tensor",
    meta=lambda theta, size, align_corners: _affine_spec(theta, size),
    kernel=_affine_kernel,
    vjp={
        "theta": lambda g, size, align_corners: fn.affine_grid_generator_backward(
            g, size, align_corners
        )
    },
)
structured(
    "affine_grid_generator_backward(Tensor grad, SymInt[] size, bool align_corners) -> Tensor",
    meta=_affine_backward_spec,
    kernel=_affine_backward_kernel,
    vjp={"grad": lambda g, size, align_corners: fn.affine_grid_generator(g, size, align_corners)},
)
