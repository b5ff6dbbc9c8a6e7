"""Windows over images: how many fit, where their elements lie, and what is stored of them.

Shared by all pooling: an image has the last n dims, two or three; what leads is called planes.
Kernels run over the few places within a window, each time over all windows at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import int64
from ..errors import ParameterError, ShapeError, ValueRangeError
from ..spec import Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

Ints = tuple[int, ...]
Slices = tuple[Any, ...]


def pooled_size(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """Return how many windows fit n elements; in ceil mode the last one starts within them."""
    room = n + 2 * padding - dilation * (kernel - 1) - 1 + (stride - 1 if ceil else 0)
    out = room // stride + 1
    return out - 1 if ceil and (out - 1) * stride >= n + padding else out


def ints(x: Any, n: int, name: str = "an argument") -> Ints:
    """Return n ints, of one or n."""
    values = (x,) if isinstance(x, int) else tuple(x)
    if len(values) not in (1, n):
        kind = "a single int or a tuple of two ints" if n == 2 else f"one int or {n} ints"
        raise ShapeError(f"{name} must either be {kind}")
    return values * n if len(values) == 1 else values


def steps_of(kernel: Ints, stride: Any, n: int) -> Ints:
    """Return the strides; none given means windows side by side."""
    return ints(stride, n, "stride") if stride or stride == 0 else kernel


def check_images(name: str, self: Spec, n: int) -> None:
    """Raise unless self is images of n dims in planes, with or without a batch."""
    if self.ndim not in (n + 1, n + 2) or 0 in self.shape[self.ndim - n - 1 :]:
        raise ShapeError(
            f"{name}: Expected {n + 1}D or {n + 2}D (batch mode) tensor with optional 0 dim batch "
            f"size for input, but got: {list(self.shape)}"
        )


def pooled_spec(
    name: str, self: Spec, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil: bool
) -> Spec:
    """Return the spec of pooled images, or raise what torch raises."""
    n = len(kernel)
    check_images(name, self, n)
    for what, values in (("kernel_size", kernel), ("stride", stride), ("dilation", dilation)):
        if min(values) <= 0:
            raise ParameterError(f"{name}: {what} should be greater than zero, got {list(values)}")
    for p, k, d in zip(padding, kernel, dilation, strict=True):
        if p < 0:
            raise ParameterError(f"{name}: pad must be non-negative, but got pad: {p}")
        if p > (d * (k - 1) + 1) // 2:
            raise ParameterError(
                f"{name}: pad should be at most half of effective kernel size, but got pad={p}, "
                f"kernel_size={k} and dilation={d}"
            )
    sizes = [
        pooled_size(m, k, s, p, d, ceil)
        for m, k, s, p, d in zip(self.shape[-n:], kernel, stride, padding, dilation, strict=True)
    ]
    if min(sizes) < 1:
        shown = "x".join(map(str, (self.shape[-n - 1], *sizes)))
        raise ShapeError(
            f"Given input size: ({'x'.join(map(str, self.shape[-n - 1 :]))}). Calculated output "
            f"size: ({shown}). Output size is too small"
        )
    return self.as_images((*self.shape[:-n], *sizes))


def places(out: Ints, kernel: Ints, stride: Ints, dilation: Ints) -> Iterator[tuple[Ints, Slices]]:
    """Yield each place within a window, and the slices of padded images that hold it."""
    for at in itertools.product(*[range(k) for k in kernel]):
        yield (
            at,
            tuple(
                slice(i * d, i * d + (m - 1) * s + 1, s)
                for i, d, m, s in zip(at, dilation, out, stride, strict=True)
            ),
        )


def reach(size: Ints, out: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Ints:
    """Return the sizes of padded images, as far as windows go."""
    return tuple(
        max(n + 2 * p, (m - 1) * s + (k - 1) * d + 1)
        for n, p, m, s, k, d in zip(size, padding, out, stride, kernel, dilation, strict=True)
    )


def inside(size: Sequence[int], padding: Ints) -> Slices:
    """Return the slices of padded images that hold the images."""
    return (..., *[slice(p, p + n) for n, p in zip(size, padding, strict=True)])


def padded(xp: Any, x: Any, wide: Ints, padding: Ints, value: Any) -> Any:
    """Return images with `value` around them, up to the sizes `wide`."""
    n = len(wide)
    if wide == x.shape[-n:]:
        return x
    out = xp.full((*x.shape[:-n], *wide), value, x.dtype)
    out[inside(x.shape[-n:], padding)] = x
    return out


def scatter_to_planes(xp: Any, g: Any, indices: Any, shape: Ints, n: int, disjoint: bool) -> Any:
    """Return images of zeros with each g added where its index points to in its plane."""
    plane = math.prod(shape[-n:])
    planes = math.prod(shape[:-n])
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < plane:
        # Else they would reach other planes, or ask for memory up to the largest of them.
        raise ValueRangeError(f"an index is out of range for a plane of {plane} elements")
    start = (xp.arange(planes) * plane)[:, None]
    at = (indices.reshape(planes, math.prod(indices.shape[-n:])) + start).reshape(-1)
    if disjoint:
        out = xp.zeros(planes * plane, g.dtype)
        out[at] = g.reshape(-1)
    else:
        out = xp.bincount(at, g.reshape(-1), planes * plane).astype(g.dtype)
    return out.reshape(shape)


def gather_from_planes(g: Any, indices: Any, n: int) -> Any:
    """Return the elements of images that the indices of their windows point to."""
    lead, found = g._spec.shape[:-n], indices._spec.shape
    flat = fn.reshape(g, (*lead, math.prod(g._spec.shape[-n:])))
    at = fn.reshape(indices, (*lead, math.prod(found[-n:])))
    return fn.reshape(fn.gather(flat, -1, at), found)


def gradient_of(
    name: str, out_of: Callable[..., Spec], with_indices: bool = False
) -> Callable[..., Spec]:
    """Return the metadata rule of a pooling's backward, whose first inputs are (g, self).

    out_of: (self, g, *arguments) -> what g must look like. with_indices: the last input holds
    places. Nobody but the formulas should call these ops, so torch hardly checks; we must.
    """

    def meta(grad_output: Spec, self: Spec, *rest: Any) -> Spec:
        if with_indices:
            *rest, indices = rest  # type: ignore[assignment]
            if indices.dtype is not int64 or indices.shape != grad_output.shape:
                raise ShapeError(
                    f"{name}: indices must be int64 of shape {list(grad_output.shape)}, got "
                    f"{indices.dtype.name} of {list(indices.shape)}"
                )
        wanted = out_of(self, grad_output, *rest)
        if grad_output.shape != wanted.shape:
            raise ShapeError(
                f"{name}: grad_output must have shape {list(wanted.shape)}, got "
                f"{list(grad_output.shape)}"
            )
        return self.as_images(self.shape)

    return meta
