"""Pooling over windows of images: maxima with their places, and means; fixed or adaptive.

Kernels run over the few places within a window, each time over all windows at once. The 1d forms
are composites over an image of height one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import int64
from ..errors import ParameterError, ShapeError
from ..family import composite, structured
from ..spec import Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

Ints = tuple[int, ...]


def pooled_size(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """Return how many windows fit n elements; in ceil mode the last one starts within them."""
    room = n + 2 * padding - dilation * (kernel - 1) - 1 + (stride - 1 if ceil else 0)
    out = room // stride + 1
    return out - 1 if ceil and (out - 1) * stride >= n + padding else out


def _pair(x: Any) -> Ints:
    """Return two ints of one or two."""
    values = (x,) if isinstance(x, int) else tuple(x)
    return values * 2 if len(values) == 1 else values


def _pooled_spec(
    name: str, self: Spec, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil: bool
) -> Spec:
    """Return the spec of pooled images, or raise what torch raises."""
    if self.ndim not in (3, 4) or 0 in self.shape[1:]:
        raise ShapeError(
            f"{name}: Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for "
            f"input, but got: {list(self.shape)}"
        )
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
        pooled_size(n, k, s, p, d, ceil)
        for n, k, s, p, d in zip(self.shape[-2:], kernel, stride, padding, dilation, strict=True)
    ]
    if min(sizes) < 1:
        raise ShapeError(
            f"Given input size: ({'x'.join(map(str, self.shape[-3:]))}). Calculated output size: "
            f"({self.shape[-3]}x{sizes[0]}x{sizes[1]}). Output size is too small"
        )
    return self.with_(shape=(*self.shape[:-2], *sizes), stride=None)


def _places(
    out: Ints, kernel: Ints, stride: Ints, dilation: Ints
) -> Iterator[tuple[Ints, tuple[Any, ...]]]:
    """Yield each place within a window, and the slices of padded images that hold it."""
    for at in itertools.product(*[range(k) for k in kernel]):
        yield (
            at,
            (
                ...,
                *[
                    slice(i * d, i * d + (m - 1) * s + 1, s)
                    for i, d, m, s in zip(at, dilation, out, stride, strict=True)
                ],
            ),
        )


def _pad(
    xp: Any,
    x: Any,
    out: Ints,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    value: Any,
) -> Any:
    """Return x with `value` around it, as far as windows reach."""
    reach = [
        max(n + 2 * p, (m - 1) * s + (k - 1) * d + 1)
        for n, p, m, s, k, d in zip(
            x.shape[-2:], padding, out, stride, kernel, dilation, strict=True
        )
    ]
    if tuple(reach) == x.shape[-2:]:
        return x
    wide = xp.full((*x.shape[:-2], *reach), value, x.dtype)
    wide[_inside(x.shape[-2:], padding)] = x
    return wide


def _inside(size: Sequence[int], padding: Ints) -> tuple[Any, ...]:
    return (..., *[slice(p, p + n) for n, p in zip(size, padding, strict=True)])


# --------------------------------------------------------------------------------------- maxima --
def _max_meta(
    self: Spec, kernel_size: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool
) -> tuple[Spec, Spec]:
    kernel = _pair(kernel_size)
    step = _pair(stride) if stride else kernel
    out = _pooled_spec("max_pool2d", self, kernel, step, _pair(padding), _pair(dilation), ceil_mode)
    return out, out.with_(dtype=int64)


def _max_kernel(
    xp: Any,
    self: Any,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    ceil_mode: bool,
) -> tuple[Any, Any]:
    kernel, edge, gap = _pair(kernel_size), _pair(padding), _pair(dilation)
    step = _pair(stride) if stride else kernel
    out = tuple(
        pooled_size(n, k, s, p, d, ceil_mode)
        for n, k, s, p, d in zip(self.shape[-2:], kernel, step, edge, gap, strict=True)
    )
    lowest = -xp.inf if self.dtype.kind == "f" else xp.iinfo(self.dtype).min
    x = _rows_first(xp, _pad(xp, self, out, kernel, step, edge, gap, lowest), out)
    corner = [xp.arange(m) * s - p for m, s, p in zip(out, step, edge, strict=True)]
    first = [-(xp.minimum(c, 0) // d) for c, d in zip(corner, gap, strict=True)]
    best = xp.full_like(x[: out[0], : out[1]], lowest)
    place = xp.full_like(best, 0, "int16" if math.prod(kernel) < 2**15 else "int64")
    place += (first[0][:, None] * kernel[1] + first[1]).astype(place.dtype)[:, :, None]
    has_nan = self.dtype.kind == "f" and bool(xp.isnan(self.sum()))  # or infinities of both signs
    for k, (_, where) in enumerate(_places(out, kernel, step, gap)):
        value = x[where[1:]]
        larger = value > best
        if has_nan:
            larger |= xp.isnan(value)  # as in torch, the last NaN wins
        xp.copyto(place, k, where=larger)
        xp.maximum(best, value, out=best)
    width = self.shape[-1]
    steps = xp.arange(kernel[0])[:, None] * gap[0] * width + xp.arange(kernel[1]) * gap[1]
    found = steps.reshape(-1)[place]
    found += (corner[0][:, None] * width + corner[1])[:, :, None]
    shape = (*self.shape[:-2], *out)
    return _planes_first(best, shape), _planes_first(found, shape)


def _rows_first(xp: Any, x: Any, out: Ints) -> Any:
    """Return images as (height, width, planes).

    Where windows are few to a row the planes are also innermost in memory, so that each step of a
    kernel runs over a long row (measured on 512 planes of 8 x 8: twice as fast).
    """
    moved = x.reshape(-1, *x.shape[-2:]).transpose(1, 2, 0)
    return xp.ascontiguousarray(moved) if out[1] < 32 else moved


def _planes_first(x: Any, shape: Ints) -> Any:
    return x.transpose(2, 0, 1).reshape(shape)


def _scatter_to_planes(xp: Any, g: Any, indices: Any, shape: Ints, disjoint: bool) -> Any:
    """Return images of zeros with each g added where its index points to in its plane."""
    plane = shape[-2] * shape[-1]
    planes = math.prod(shape[:-2])
    start = (xp.arange(planes) * plane)[:, None]
    at = (indices.reshape(planes, math.prod(indices.shape[-2:])) + start).reshape(-1)
    if disjoint:
        out = xp.zeros(planes * plane, g.dtype)
        out[at] = g.reshape(-1)
    else:
        out = xp.bincount(at, g.reshape(-1), planes * plane).astype(g.dtype)
    return out.reshape(shape)


def _max_backward_kernel(
    xp: Any,
    grad_output: Any,
    self: Any,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    ceil_mode: bool,
    indices: Any,
) -> Any:
    kernel, gap = _pair(kernel_size), _pair(dilation)
    step = _pair(stride) if stride else kernel
    disjoint = all(s > d * (k - 1) for s, d, k in zip(step, gap, kernel, strict=True))
    return _scatter_to_planes(xp, grad_output, indices, self.shape, disjoint)


def _gather_from_planes(g: Any, indices: Any) -> Any:
    """Return the elements of images that the indices of their windows point to."""
    lead, spatial = g._spec.shape[:-2], indices._spec.shape
    flat = fn.reshape(g, (*lead, math.prod(g._spec.shape[-2:])))
    at = fn.reshape(indices, (*lead, math.prod(spatial[-2:])))
    return fn.reshape(fn.gather(flat, -1, at), spatial)


def _like_self(grad_output: Spec, self: Spec, *rest: Any) -> Spec:
    return self.contiguous_


structured(
    "max_pool2d_with_indices(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0,"
    " int[2] dilation=1, bool ceil_mode=False) -> (Tensor, Tensor)",
    meta=_max_meta,
    kernel=_max_kernel,
    vjp={
        "self": lambda g, self, kernel_size, stride, padding, dilation, ceil_mode, out_1: (
            fn.max_pool2d_with_indices_backward(
                g[0], self, kernel_size, stride, padding, dilation, ceil_mode, out_1
            )
        )
    },
)
structured(
    "max_pool2d_with_indices_backward(Tensor grad_output, Tensor self, int[2] kernel_size,"
    " int[2] stride, int[2] padding, int[2] dilation, bool ceil_mode, Tensor indices) -> Tensor",
    meta=_like_self,
    kernel=_max_backward_kernel,
    vjp={"grad_output": lambda g, indices: _gather_from_planes(g, indices)},
)


@composite(
    "max_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0,"
    " int[2] dilation=1, bool ceil_mode=False) -> Tensor"
)
def max_pool2d(
    self: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:  # fmt: skip
    return fn.max_pool2d_with_indices(self, kernel_size, stride, padding, dilation, ceil_mode)[0]


def _one(x: Any, name: str) -> int:
    """Return an int given as itself or as a list of one."""
    values = (x,) if isinstance(x, int) else tuple(x)
    if len(values) != 1:
        raise ShapeError(f"{name} should be one int, but got {list(values)}")
    return int(values[0])


def _check_1d(name: str, x: Any) -> None:
    if x._spec.ndim not in (2, 3):
        raise ShapeError(f"{name}() Expected 2D or 3D input tensor, but got {list(x._spec.shape)}")


@composite(
    "max_pool1d_with_indices(Tensor self, int[1] kernel_size, int[1] stride=[],"
    " int[1] padding=[0], int[1] dilation=[1], bool ceil_mode=False) -> (Tensor, Tensor)"
)
def max_pool1d_with_indices(
    self: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    _check_1d("max_pool1d", self)
    kernel = _one(kernel_size, "kernel_size")
    step = kernel if stride == () or stride == [] else _one(stride, "stride")
    values, indices = fn.max_pool2d_with_indices(
        fn.unsqueeze(self, -2), (1, kernel), (1, step), (0, _one(padding, "padding")),
        (1, _one(dilation, "dilation")), ceil_mode,
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


# ---------------------------------------------------------------------------------------- means --
def _avg_meta(
    self: Spec,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Spec:
    if divisor_override == 0:
        raise ParameterError("divisor must be not zero")
    kernel = _pair(kernel_size)
    step = _pair(stride) if stride else kernel
    return _pooled_spec("avg_pool2d", self, kernel, step, _pair(padding), (1, 1), ceil_mode)


def _divisors(
    xp: Any, size: Ints, out: Ints, kernel: Ints, step: Ints, edge: Ints, padded: bool
) -> Any:
    """Return the number of elements in each window; beyond the padding nothing counts."""
    lengths = []
    for n, m, k, s, p in zip(size, out, kernel, step, edge, strict=True):
        start = xp.arange(m) * s - p
        end = xp.minimum(start + k, n + p)
        if not padded:
            start, end = xp.maximum(start, 0), xp.minimum(end, n)
        lengths.append(end - start)
    return lengths[0][:, None] * lengths[1]


def _avg_arguments(
    xp: Any, shape: Ints, kernel_size: Ints, stride: Ints, padding: Ints, ceil: bool, pad: bool,
    divisor: int | None,
) -> tuple[Ints, Ints, Ints, Ints, Any]:  # fmt: skip
    """Return result sizes, kernel, stride and padding as pairs, and the divisors."""
    kernel, edge = _pair(kernel_size), _pair(padding)
    step = _pair(stride) if stride else kernel
    out = tuple(
        pooled_size(n, k, s, p, 1, ceil)
        for n, k, s, p in zip(shape[-2:], kernel, step, edge, strict=True)
    )
    count = divisor or _divisors(xp, shape[-2:], out, kernel, step, edge, pad)
    return out, kernel, step, edge, count


def _avg_kernel(xp: Any, self: Any, *rest: Any) -> Any:
    out, kernel, step, edge, count = _avg_arguments(xp, self.shape, *rest)
    x = _pad(xp, self, out, kernel, step, edge, (1, 1), 0)
    total = xp.zeros((*self.shape[:-2], *out), self.dtype)
    for _, where in _places(out, kernel, step, (1, 1)):
        total += x[where]
    if self.dtype.kind in "iu":
        return total // count
    return total / xp.asarray(count, self.dtype)


def _avg_backward_kernel(xp: Any, grad_output: Any, self: Any, *rest: Any) -> Any:
    out, kernel, step, edge, count = _avg_arguments(xp, self.shape, *rest)
    share = grad_output / xp.asarray(count, grad_output.dtype)
    size = self.shape[-2:]
    reach = [
        max(n + 2 * p, (m - 1) * s + k)
        for n, p, m, s, k in zip(size, edge, out, step, kernel, strict=True)
    ]
    total = xp.zeros((*self.shape[:-2], *reach), grad_output.dtype)
    for _, where in _places(out, kernel, step, (1, 1)):
        total[where] += share
    return total[_inside(size, edge)]


def _avg_grad(
    g: Any, self: Any, kernel_size: Ints, stride: Ints, padding: Ints, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> Any:  # fmt: skip
    return fn.avg_pool2d_backward(
        g, self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def _avg_again(
    g: Any, kernel_size: Ints, stride: Ints, padding: Ints, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> Any:  # fmt: skip
    return fn.avg_pool2d(
        g, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


structured(
    "avg_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0,"
    " bool ceil_mode=False, bool count_include_pad=True, int? divisor_override=None) -> Tensor",
    meta=_avg_meta,
    kernel=_avg_kernel,
    vjp={"self": _avg_grad},
)
structured(
    "avg_pool2d_backward(Tensor grad_output, Tensor self, int[2] kernel_size, int[2] stride,"
    " int[2] padding, bool ceil_mode, bool count_include_pad, int? divisor_override) -> Tensor",
    meta=_like_self,
    kernel=_avg_backward_kernel,
    vjp={"grad_output": _avg_again},
)


@composite(
    "avg_pool1d(Tensor self, int[1] kernel_size, int[1] stride=[], int[1] padding=[0],"
    " bool ceil_mode=False, bool count_include_pad=True) -> Tensor"
)
def avg_pool1d(
    self: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:  # fmt: skip
    _check_1d("avg_pool1d", self)
    kernel = _one(kernel_size, "kernel_size")
    step = kernel if stride == () or stride == [] else _one(stride, "stride")
    out = fn.avg_pool2d(
        fn.unsqueeze(self, -2), (1, kernel), (1, step), (0, _one(padding, "padding")), ceil_mode,
        count_include_pad,
    )  # fmt: skip
    return fn.squeeze(out, -2)


# ------------------------------------------------------------------------------------- adaptive --
def _adaptive_spec(name: str, self: Spec, output_size: Ints) -> Spec:
    if self.ndim not in (3, 4) or 0 in self.shape[1:]:
        raise ShapeError(
            f"{name}(): Expected 3D or 4D tensor with non-zero size for non-batch dimensions, "
            f"but got {list(self.shape)}"
        )
    if len(output_size) != 2 or min(output_size) < 0:
        raise ShapeError(
            f"{name}(): elements of output_size must be two and at least 0, got {list(output_size)}"
        )
    return self.with_(shape=(*self.shape[:-2], *output_size), stride=None)


def _spans(n: int, m: int) -> list[tuple[int, int]]:
    """Return start and end of the m windows that cover n elements as evenly as they can."""
    return [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]


def _areas(xp: Any, size: Sequence[int], out: Sequence[int], dtype: Any) -> Any:
    rows, columns = (
        xp.asarray([e - s for s, e in _spans(n, m)], dtype) for n, m in zip(size, out, strict=True)
    )
    return rows[:, None] * columns


def _adaptive_avg_kernel(xp: Any, self: Any, output_size: Ints) -> Any:
    height, width = self.shape[-2:]
    lead = self.shape[:-2]
    rows = xp.empty((*lead, output_size[0], width), self.dtype)
    for i, (start, end) in enumerate(_spans(height, output_size[0])):
        rows[..., i, :] = self[..., start:end, :].sum(axis=-2)
    out = xp.empty((*lead, *output_size), self.dtype)
    for j, (start, end) in enumerate(_spans(width, output_size[1])):
        out[..., j] = rows[..., start:end].sum(axis=-1)
    return out / _areas(xp, (height, width), output_size, self.dtype)


def _adaptive_avg_backward_kernel(xp: Any, grad_output: Any, self: Any) -> Any:
    size, out = self.shape[-2:], grad_output.shape[-2:]
    share = grad_output / _areas(xp, size, out, grad_output.dtype)
    rows = xp.zeros((*self.shape[:-1], out[1]), grad_output.dtype)
    for i, (start, end) in enumerate(_spans(size[0], out[0])):
        rows[..., start:end, :] += share[..., i : i + 1, :]
    total = xp.zeros(self.shape, grad_output.dtype)
    for j, (start, end) in enumerate(_spans(size[1], out[1])):
        total[..., start:end] += rows[..., j : j + 1]
    return total


structured(
    "_adaptive_avg_pool2d(Tensor self, SymInt[2] output_size) -> Tensor",
    meta=lambda self, output_size: _adaptive_spec("adaptive_avg_pool2d", self, output_size),
    kernel=_adaptive_avg_kernel,
    vjp={"self": lambda g, self: fn._adaptive_avg_pool2d_backward(g, self)},
)
structured(
    "_adaptive_avg_pool2d_backward(Tensor grad_output, Tensor self) -> Tensor",
    meta=_like_self,
    kernel=_adaptive_avg_backward_kernel,
    vjp={
        "grad_output": lambda g, grad_output_spec: fn._adaptive_avg_pool2d(
            g, grad_output_spec.shape[-2:]
        )
    },
)


@composite("adaptive_avg_pool2d(Tensor self, SymInt[2] output_size) -> Tensor")
def adaptive_avg_pool2d(self: Any, output_size: Any) -> Any:
    size = _pair(output_size)
    if size == (1, 1) and self._spec.ndim in (3, 4):
        return fn.mean(self, (-2, -1), True)
    return fn._adaptive_avg_pool2d(self, size)


@composite("adaptive_avg_pool1d(Tensor self, int[1] output_size) -> Tensor")
def adaptive_avg_pool1d(self: Any, output_size: Any) -> Any:
    _check_1d("adaptive_avg_pool1d", self)
    size = (1, _one(output_size, "output_size"))
    return fn.squeeze(fn.adaptive_avg_pool2d(fn.unsqueeze(self, -2), size), -2)


def _adaptive_max_kernel(xp: Any, self: Any, output_size: Ints) -> tuple[Any, Any]:
    lead, (height, width) = self.shape[:-2], self.shape[-2:]
    best = xp.empty((*lead, *output_size), self.dtype)
    found = xp.empty(best.shape, "int64")
    for i, (top, bottom) in enumerate(_spans(height, output_size[0])):
        for j, (left, right) in enumerate(_spans(width, output_size[1])):
            block = self[..., top:bottom, left:right].reshape(*lead, -1)
            at = block.argmax(axis=-1)
            best[..., i, j] = xp.take_along_axis(block, at[..., None], -1)[..., 0]
            row, column = xp.divmod(at, right - left)
            found[..., i, j] = (top + row) * width + left + column
    return best, found


def _adaptive_max_meta(self: Spec, output_size: Ints) -> tuple[Spec, Spec]:
    out = _adaptive_spec("adaptive_max_pool2d", self, output_size)
    return out, out.with_(dtype=int64)


structured(
    "adaptive_max_pool2d(Tensor self, int[2] output_size) -> (Tensor, Tensor)",
    meta=_adaptive_max_meta,
    kernel=_adaptive_max_kernel,
    vjp={"self": lambda g, self, out_1: fn.adaptive_max_pool2d_backward(g[0], self, out_1)},
)
structured(
    "adaptive_max_pool2d_backward(Tensor grad_output, Tensor self, Tensor indices) -> Tensor",
    meta=_like_self,
    kernel=lambda xp, grad_output, self, indices: _scatter_to_planes(
        xp, grad_output, indices, self.shape, disjoint=False
    ),
    vjp={"grad_output": lambda g, indices: _gather_from_planes(g, indices)},
)


@composite("adaptive_max_pool1d(Tensor self, int[1] output_size) -> (Tensor, Tensor)")
def adaptive_max_pool1d(self: Any, output_size: Any) -> tuple[Any, Any]:
    _check_1d("adaptive_max_pool1d", self)
    size = (1, _one(output_size, "output_size"))
    values, indices = fn.adaptive_max_pool2d(fn.unsqueeze(self, -2), size)
    return fn.squeeze(values, -2), fn.squeeze(indices, -2)
