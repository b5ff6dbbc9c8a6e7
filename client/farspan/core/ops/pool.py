"""Maxima over windows of images, with the places they come from; and their gradients.

Declared for images of two and three dims; the 1d forms are composites over images of height one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import int64
from ..errors import ShapeError
from ..family import composite, refuse, structured
from ..spec import Spec
from .pool_windows import (
    Ints,
    gather_from_planes,
    gradient_of,
    ints,
    padded,
    places,
    pooled_size,
    pooled_spec,
    reach,
    scatter_to_planes,
    steps_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable


# --------------------------------------------------------------------------------------- kernels --
def _arguments(
    n: int, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> tuple[Ints, Ints, Ints, Ints]:
    kernel = ints(kernel_size, n, "kernel_size")
    return (
        kernel,
        steps_of(kernel, stride, n),
        ints(padding, n, "padding"),
        ints(dilation, n, "dilation"),
    )


def _max_meta(n: int) -> Callable[..., tuple[Spec, Spec]]:
    def meta(
        self: Spec, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool
    ) -> tuple[Spec, Spec]:
        arguments = _arguments(n, kernel_size, stride, padding, dilation)
        out = pooled_spec(f"max_pool{n}d", self, *arguments, ceil_mode)
        refuse(f"max_pool{n}d", self.dtype, "bc")
        return out, out.with_(dtype=int64)

    return meta


def _max_kernel(
    xp: Any, self: Any, arguments: tuple[Ints, Ints, Ints, Ints], ceil_mode: bool
) -> tuple[Any, Any]:
    kernel, step, edge, gap = arguments
    n = len(kernel)
    size = self.shape[-n:]
    out = tuple(
        pooled_size(m, k, s, p, d, ceil_mode)
        for m, k, s, p, d in zip(size, kernel, step, edge, gap, strict=True)
    )
    lowest = -xp.inf if self.dtype.kind == "f" else xp.iinfo(self.dtype).min
    x = padded(xp, self, reach(size, out, kernel, step, edge, gap), edge, lowest)
    x = _planes_last(xp, x, n, out)
    corners = [xp.arange(m) * s - p for m, s, p in zip(out, step, edge, strict=True)]
    # The first place within each window that lies on the image.
    firsts = [-(xp.minimum(c, 0) // d) for c, d in zip(corners, gap, strict=True)]
    best = xp.full_like(x[tuple(slice(0, m) for m in out)], lowest)
    place = xp.full_like(best, 0, "int16" if math.prod(kernel) < 2**15 else "int64")
    place += _grid(xp, firsts, kernel).astype(place.dtype)[..., None]
    has_nan = self.dtype.kind == "f" and bool(xp.isnan(self.sum()))  # or infinities of both signs
    for k, (_, where) in enumerate(places(out, kernel, step, gap)):
        value = x[where]
        larger = value > best
        if has_nan:
            larger |= xp.isnan(value)  # as in torch, the last NaN wins
        xp.copyto(place, k, where=larger)
        xp.maximum(best, value, out=best)
    steps = _grid(xp, [xp.arange(k) * d for k, d in zip(kernel, gap, strict=True)], size)
    found = steps.reshape(-1)[place]
    found += _grid(xp, corners, size)[..., None]
    shape = (*self.shape[:-n], *out)
    return _planes_first(best, shape), _planes_first(found, shape)


def _grid(xp: Any, at: list[Any], size: Ints) -> Any:
    """Return the flat places in an image of all combinations of places along its dims."""
    flat = xp.zeros((), "int64")
    for positions, n in zip(at, size, strict=True):
        flat = (flat * n)[..., None] + positions
    return flat


def _planes_last(xp: Any, x: Any, n: int, out: Ints) -> Any:
    """Return images as (*spatial, planes).

    Where windows are few to a row the planes are also innermost in memory, so that each step of a
    kernel runs over a long row (measured on 512 planes of 8 x 8: twice as fast).
    """
    moved = x.reshape(-1, *x.shape[-n:]).transpose(*range(1, n + 1), 0)
    return xp.ascontiguousarray(moved) if out[-1] < 32 else moved


def _planes_first(x: Any, shape: Ints) -> Any:
    return x.transpose(x.ndim - 1, *range(x.ndim - 1)).reshape(shape)


def _declare(n: int) -> None:
    """Declare max_pool{n}d_with_indices, its backward and max_pool{n}d."""
    name = f"max_pool{n}d_with_indices"
    given = f"int[{n}] kernel_size, int[{n}] stride"

    def kernel(
        xp: Any, self: Any, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints,
        ceil_mode: bool,
    ) -> tuple[Any, Any]:  # fmt: skip
        return _max_kernel(
            xp, self, _arguments(n, kernel_size, stride, padding, dilation), ceil_mode
        )

    def backward(
        xp: Any, grad_output: Any, self: Any, kernel_size: Ints, stride: Ints, padding: Ints,
        dilation: Ints, ceil_mode: bool, indices: Any,
    ) -> Any:  # fmt: skip
        sizes, steps, _, gap = _arguments(n, kernel_size, stride, padding, dilation)
        disjoint = all(s > d * (k - 1) for s, d, k in zip(steps, gap, sizes, strict=True))
        return scatter_to_planes(xp, grad_output, indices, self.shape, n, disjoint)

    structured(
        f"{name}(Tensor self, {given}=[], int[{n}] padding=0, int[{n}] dilation=1,"
        " bool ceil_mode=False) -> (Tensor, Tensor)",
        meta=_max_meta(n),
        kernel=kernel,
        vjp={
            "self": lambda g, self, kernel_size, stride, padding, dilation, ceil_mode, out_1: (
                getattr(fn, f"{name}_backward")(
                    g[0], self, kernel_size, stride, padding, dilation, ceil_mode, out_1
                )
            )
        },
    )
    structured(
        f"{name}_backward(Tensor grad_output, Tensor self, {given}, int[{n}] padding,"
        f" int[{n}] dilation, bool ceil_mode, Tensor indices) -> Tensor",
        meta=gradient_of(
            f"{name}_backward", lambda self, g, *rest: _max_meta(n)(self, *rest)[0], True
        ),
        kernel=backward,
        vjp={"grad_output": lambda g, indices: gather_from_planes(g, indices, n)},
    )

    @composite(
        f"max_pool{n}d(Tensor self, {given}=[], int[{n}] padding=0, int[{n}] dilation=1,"
        " bool ceil_mode=False) -> Tensor"
    )
    def max_pool(
        self: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Any:  # fmt: skip
        return getattr(fn, name)(self, kernel_size, stride, padding, dilation, ceil_mode)[0]


_declare(2)
_declare(3)


# ------------------------------------------------------------------------------ one dimension --
def one(x: Any, name: str) -> int:
    """Return an int given as itself or as a list of one."""
    values = (x,) if isinstance(x, int) else tuple(x)
    if len(values) != 1:
        raise ShapeError(f"{name} should be one int, but got {list(values)}")
    return int(values[0])


def check_1d(name: str, x: Any) -> None:
    """Raise unless x is (C, L) or (N, C, L)."""
    shape = x._spec.shape
    if len(shape) not in (2, 3) or 0 in shape[-2:]:
        raise ShapeError(
            f"{name}() Expected 2D or 3D (batch mode) tensor with optional 0 dim batch size for "
            f"input, but got {list(shape)}"
        )


@composite(
    "max_pool1d_with_indices(Tensor self, int[1] kernel_size, int[1] stride=[],"
    " int[1] padding=[0], int[1] dilation=[1], bool ceil_mode=False) -> (Tensor, Tensor)"
)
def max_pool1d_with_indices(
    self: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    check_1d("max_pool1d", self)
    kernel = one(kernel_size, "kernel_size")
    step = one(stride, "stride") if stride or stride == 0 else kernel
    values, indices = fn.max_pool2d_with_indices(
        fn.unsqueeze(self, -2), (1, kernel), (1, step), (0, one(padding, "padding")),
        (1, one(dilation, "dilation")), ceil_mode,
    )  # fmt: skip
    return fn.squeeze(values, -2), fn.squeeze(indices, -2)


@composite(
    "max_pool1d(Tensor self, int[1] kernel_size, int[1] stride=[], int[1] padding=[0],"
    " int[1] dilation=[1], bool ceil_mode=False) -> Tensor"
)
def max_pool1d(
    self: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:  # fmt: skip
    return fn.max_pool1d_with_indices(self, kernel_size, stride, padding, dilation, ceil_mode)[0]
