"""Pooling of images by oneDNN: maxima with their places, means, and the gradients of means.

The library knows of a maximum its place in the window, from which follows that in the image.
Measured by benchmarks/kernels.py on 64x32x28x28, 2 by 2, fast / numpy / torch in ms: maxima 1.2 /
8.6 / 7.5, means 0.5 / 0.8 / 2.3, their gradient 0.6 / 1.6 / 2.5.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from farspan.core.op import table
from farspan.core.ops.pool_windows import ints, pooled_size, steps_of

from .. import Fast, Registry, single
from .checks import is_finite
from .onednn import (
    DIFF_DST,
    DIFF_SRC,
    DST,
    INFERENCE,
    SRC,
    TRAINING,
    WORKSPACE,
    Kind,
    Route,
    cached,
    dims,
    plain,
)

Ints = tuple[int, ...]
MAX, MEAN, MEAN_INSIDE = 0x1FF, 0x2FF, 0x3FF
_SMALL: Final = 2_048
#: Of larger windows oneDNN keeps places as int32, not as bytes (it asks whether the size fits one).
WINDOW_MAX: Final = 255


def steps_given(size: Ints, out: Ints, kernel: Ints, stride: Ints, padding: Ints) -> list[Any]:
    """Return stride, kernel, dilation and both paddings; in ceil mode the far one is as needed."""
    far = [
        max(p, (m - 1) * s + k - n - p)
        for n, m, k, s, p in zip(size, out, kernel, stride, padding, strict=True)
    ]
    return [dims(stride), dims(kernel), dims([0] * len(size)), dims(padding), dims(far)]


@cached
def _max_route(x: Ints, y: Ints, kernel: Ints, stride: Ints, padding: Ints) -> Route:
    wide, narrow = plain(x), plain(y)
    kind = Kind(
        "pooling_forward", TRAINING, MAX, wide, narrow,
        *steps_given(x[2:], y[2:], kernel, stride, padding),
    )  # fmt: skip
    return Route(kind, [(SRC, wide)], [(DST, narrow), (WORKSPACE, kind.desc(WORKSPACE))])


@cached
def _mean_route(x: Ints, y: Ints, algorithm: int, backward: bool, *steps: Ints) -> Route:
    wide, narrow = plain(x), plain(y)
    given = steps_given(x[2:], y[2:], *steps)
    prop = TRAINING if backward else INFERENCE
    forward = Kind("pooling_forward", prop, algorithm, wide, narrow, *given)
    if not backward:
        return Route(forward, [(SRC, wide)], [(DST, narrow)])
    kind = Kind("pooling_backward", algorithm, wide, narrow, *given, forward)
    return Route(kind, [(DIFF_DST, narrow)], [(DIFF_SRC, wide)])


@cached
def _places(size: Ints, out: Ints, kernel: Ints, stride: Ints, padding: Ints) -> tuple[Any, Any]:
    """Return the place in an image of a window's corner, and of each place in it from there."""
    width = size[1]
    down, right = (np.arange(m) * s - p for m, s, p in zip(out, stride, padding, strict=True))
    within = np.arange(kernel[0])[:, None] * width + np.arange(kernel[1])
    return down[:, None] * width + right, within.reshape(-1)


def _max(plain_kernel: Any) -> Any:
    def kernel(
        xp: Any, self: Any, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints,
        ceil_mode: bool,
    ) -> tuple[Any, Any]:  # fmt: skip
        flat = np.ascontiguousarray(self)
        x = flat.reshape(1, *self.shape) if self.ndim == 3 else flat
        if not is_finite(flat):  # NaN and infinities count there as absent
            return plain_kernel(xp, self, kernel_size, stride, padding, dilation, ceil_mode)
        window = ints(kernel_size, 2)
        steps = (window, steps_of(window, stride, 2), ints(padding, 2))
        size = x.shape[2:]
        out = tuple(
            pooled_size(n, k, s, p, 1, ceil_mode) for n, k, s, p in zip(size, *steps, strict=True)
        )
        shape = (*x.shape[:2], *out)
        best, at = np.empty(shape, np.float32), np.empty(shape, np.uint8)
        _max_route(x.shape, shape, *steps)(x, best, at)
        corners, within = _places(size, out, *steps)
        found = within.take(at)
        found += corners
        shape = (*self.shape[:-2], *out)
        return best.reshape(shape), found.reshape(shape)

    return kernel


def _max_when(
    self: Any, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool
) -> bool:
    return (
        single(self)
        and self.contiguous
        and set(ints(dilation, 2)) == {1}
        and math.prod(ints(kernel_size, 2)) <= WINDOW_MAX
    )


# ---------------------------------------------------------------------------------------- means --
def _mean(
    x: Any, shape: Ints, backward: bool, kernel_size: Ints, stride: Ints, padding: Ints,
    ceil_mode: bool, count_include_pad: bool,
) -> Any:  # fmt: skip
    """Return means of images of this shape, or from gradients of means those of the images."""
    window = ints(kernel_size, 2)
    steps = (window, steps_of(window, stride, 2), ints(padding, 2))
    out = tuple(
        pooled_size(n, k, s, p, 1, ceil_mode) for n, k, s, p in zip(shape[-2:], *steps, strict=True)
    )
    wide = (1, math.prod(shape[:-2]), *shape[-2:])
    narrow = (*wide[:2], *out)
    algorithm = MEAN if count_include_pad else MEAN_INSIDE
    made = np.empty(shape if backward else (*shape[:-2], *out), np.float32)
    route = _mean_route(wide, narrow, algorithm, backward, *steps)
    route(np.ascontiguousarray(x), made)
    return made


def _mean_when(
    self: Any, kernel_size: Ints, stride: Ints, padding: Ints, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> bool:  # fmt: skip
    # In ceil mode a last window may reach beyond the padding, which does not count there.
    padded = ceil_mode and count_include_pad
    return single(self) and self.contiguous and divisor_override is None and not padded


def register(registry: Registry) -> None:
    """Enter the pools; a small tensor is done in numpy before oneDNN has begun."""
    name = "max_pool2d_with_indices"
    registry[name] = Fast(_max(table()[name].kernel), _max_when, _SMALL)
    registry["avg_pool2d"] = Fast(
        lambda xp, self, *rest: _mean(self, self.shape, False, *rest[:-1]), _mean_when, _SMALL
    )
    registry["avg_pool2d_backward"] = Fast(
        lambda xp, g, self, *rest: _mean(g, self.shape, True, *rest[:-1]),
        lambda grad_output, self, *rest: single(grad_output) and _mean_when(self, *rest),
        _SMALL,
    )
