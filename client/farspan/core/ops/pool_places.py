"""Pooling by places: adaptive and fractional maxima, and their way back, max_unpool.

All of it is a choice of elements by their index in the plane, so that every gradient is a scatter
by index and the gradient's gradient a gather.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import int64
from ..errors import DTypeError, ParameterError, ShapeError
from ..family import composite, only, refuse, structured
from ..spec import Spec
from .pool import check_1d, one
from .pool_mean import adaptive_spec, spans
from .pool_windows import (
    Ints,
    check_images,
    gather_from_planes,
    gradient_of,
    ints,
    scatter_to_planes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


# ------------------------------------------------------------------------------ adaptive maxima --
def _argmax(xp: Any, x: Any) -> Any:
    """Return where along axis 0 the maxima are: the first of equal ones, but the last NaN."""
    at = x.argmax(axis=0)
    if x.dtype.kind == "f":
        missing = xp.isnan(x)
        if bool(missing.any()):
            last = x.shape[0] - 1 - missing[::-1].argmax(axis=0)
            at = xp.where(missing.any(axis=0), last, at)
    return at


def _adaptive_kernel(xp: Any, self: Any, output_size: Ints) -> tuple[Any, Any]:
    """Take maxima along one dim after the other, the last first: ties go as in C order."""
    n = len(output_size)
    size = self.shape[-n:]
    best, found = self, xp.broadcast_to(xp.arange(math.prod(size)).reshape(size), self.shape)
    for d in range(self.ndim - 1, self.ndim - n - 1, -1):
        m = output_size[d - self.ndim]
        values, indices = xp.moveaxis(best, d, 0), xp.moveaxis(found, d, 0)
        best = xp.empty((m, *values.shape[1:]), self.dtype)
        found = xp.empty(best.shape, "int64")
        for i, (start, end) in enumerate(spans(self.shape[d], m)):
            at = _argmax(xp, values[start:end])[None]
            best[i] = xp.take_along_axis(values[start:end], at, 0)[0]
            found[i] = xp.take_along_axis(indices[start:end], at, 0)[0]
        best, found = xp.moveaxis(best, 0, d), xp.moveaxis(found, 0, d)
    return best, found


def _declare_adaptive(n: int) -> None:
    """Declare adaptive_max_pool{n}d and its backward."""
    name = f"adaptive_max_pool{n}d"

    def meta(self: Spec, output_size: Ints) -> tuple[Spec, Spec]:
        out = adaptive_spec(name, self, output_size, n)
        return out, out.with_(dtype=int64)

    structured(
        f"{name}(Tensor self, int[{n}] output_size) -> (Tensor, Tensor)",
        meta=meta,
        kernel=_adaptive_kernel,
        vjp={"self": lambda g, self, out_1: getattr(fn, f"{name}_backward")(g[0], self, out_1)},
    )
    structured(
        f"{name}_backward(Tensor grad_output, Tensor self, Tensor indices) -> Tensor",
        meta=gradient_of(
            f"{name}_backward", lambda self, g: adaptive_spec(name, self, g.shape[-n:], n), True
        ),
        kernel=lambda xp, grad_output, self, indices: scatter_to_planes(
            xp, grad_output, indices, self.shape, n, disjoint=False
        ),
        vjp={"grad_output": lambda g, indices: gather_from_planes(g, indices, n)},
    )


_declare_adaptive(2)
_declare_adaptive(3)


@composite("adaptive_max_pool1d(Tensor self, int[1] output_size) -> (Tensor, Tensor)")
def adaptive_max_pool1d(self: Any, output_size: Any) -> tuple[Any, Any]:
    check_1d("adaptive_max_pool1d", self)
    size = (1, one(output_size, "output_size"))
    values, indices = fn.adaptive_max_pool2d(fn.unsqueeze(self, -2), size)
    return fn.squeeze(values, -2), fn.squeeze(indices, -2)


# ----------------------------------------------------------------------------------- fractional --
def _starts(xp: Any, sample: Any, n: int, out: int, kernel: int) -> Any:
    """Return where the windows along a dim start: (planes, out), from a number for each plane.

    The pseudo-random sequence of Graham, "Fractional Max-Pooling" (2014), as ATen rounds it.
    """
    starts = xp.full((sample.shape[0], out), n - kernel, "int64")
    if out > 1:
        one = sample.dtype.type(1)
        alpha = one * (n - kernel) / (one * (out - 1))
        steps = xp.arange(out - 1).astype(sample.dtype)
        start = (sample * alpha).astype("int64")
        starts[:, :-1] = ((steps + sample[:, None]) * alpha).astype("int64") - start[:, None]
    return starts


def _fractional_kernel(
    xp: Any, self: Any, kernel_size: Ints, output_size: Ints, random_samples: Any
) -> tuple[Any, Any]:
    n = len(kernel_size)
    size = self.shape[-n:]
    planes = math.prod(self.shape[:-n])
    samples = random_samples.reshape(planes, n)
    flat = self.reshape(planes, math.prod(size))
    # In two dims the first number is the width's.
    order = range(n) if n == 3 else range(n - 1, -1, -1)
    base = xp.zeros((planes,), "int64")
    for i, k, m, at in zip(range(n), kernel_size, output_size, order, strict=True):
        starts = _starts(xp, samples[:, at], size[i], m, k)
        shape = (planes, *[1] * i, m)
        base = base[..., None] * size[i] + starts.reshape(shape)
    best = found = None
    row = xp.arange(planes).reshape(planes, *[1] * n)
    for place in itertools.product(*[range(k) for k in kernel_size]):
        offset = 0
        for p, m in zip(place, size, strict=True):
            offset = offset * m + p
        index = base + offset
        value = flat[row, index]
        if best is None:
            best, found = value, index
            continue
        larger = (value > best) | xp.isnan(value)
        best, found = xp.where(larger, value, best), xp.where(larger, index, found)
    shape = (*self.shape[:-n], *output_size)
    assert best is not None and found is not None
    return best.reshape(shape), found.reshape(shape)


def _check_samples(name: str, self: Spec, samples: Spec, n: int) -> None:
    """Raise unless there are n random numbers for each plane."""
    batch = self.shape[0] if self.ndim == n + 2 else 1
    channels = self.shape[-n - 1]
    if samples.dtype is not self.dtype:
        raise DTypeError("Expect _random_samples to have the same dtype as input")
    if samples.ndim != 3:
        raise ShapeError(f"Expect _random_samples to have 3 dimensions, got {samples.ndim}")
    if samples.shape[0] < batch:
        raise ShapeError("Expect _random_samples.size(0) no less then input batch size.")
    if samples.shape[1] != channels:
        raise ShapeError("Expect _random_samples.size(1) equals to input channel size.")
    if samples.shape[2] != n:
        raise ShapeError(f"Expect _random_samples.size(2) equals to {n} got {samples.shape[2]}.")


def _declare_fractional(n: int) -> None:
    """Declare fractional_max_pool{n}d and its backward."""
    name = f"fractional_max_pool{n}d"
    words = ("height", "width") if n == 2 else ("time", "height", "width")

    def meta(
        self: Spec, kernel_size: Ints, output_size: Ints, random_samples: Spec
    ) -> tuple[Spec, Spec]:
        for what, values in (("kernel_size", kernel_size), ("output_size", output_size)):
            if len(values) != n:
                raise ShapeError(f"{name}: {what} must either be a single int or {n} ints")
        check_images(name, self, n)
        _check_samples(name, self, random_samples, n)
        refuse(name, self.dtype, "bic")
        for word, k, m, size in zip(words, kernel_size, output_size, self.shape[-n:], strict=True):
            if m + k - 1 > size:
                raise ParameterError(
                    f"{name}(): pool {word} {k} too large relative to input {word} {size}"
                )
        out = self.with_(shape=(*self.shape[:-n], *output_size))
        return out, out.with_(dtype=int64)

    back = gradient_of(
        f"{name}_backward",
        lambda self, g, kernel_size, output_size: self.with_(
            shape=(*self.shape[:-n], *_exactly(output_size, n, "output_size"))
        ),
        True,
    )
    structured(
        f"{name}(Tensor self, int[{n}] kernel_size, int[{n}] output_size, Tensor random_samples)"
        " -> (Tensor, Tensor)",
        meta=meta,
        kernel=_fractional_kernel,
        vjp={
            "self": lambda g, self, kernel_size, output_size, out_1: getattr(
                fn, f"{name}_backward"
            )(g[0], self, kernel_size, output_size, out_1)
        },
    )
    structured(
        f"{name}_backward(Tensor grad_output, Tensor self, int[{n}] kernel_size,"
        f" int[{n}] output_size, Tensor indices) -> Tensor",
        meta=lambda *given: back(*given).contiguous_,
        kernel=lambda xp, grad_output, self, kernel_size, output_size, indices: scatter_to_planes(
            xp, grad_output, indices, self.shape, n, disjoint=False
        ),
        vjp={"grad_output": lambda g, indices: gather_from_planes(g, indices, n)},
    )


_declare_fractional(2)
_declare_fractional(3)


# ------------------------------------------------------------------------------------- unpooling --
def _unpool_meta(self: Spec, indices: Spec, output_size: Sequence[int]) -> Spec:
    n = len(output_size)
    if indices.dtype is not int64:
        raise DTypeError(
            f"elements in indices should be type int64 but got: {indices.dtype.name.title()}"
        )
    if self.ndim not in (n + 1, n + 2):
        raise ShapeError(
            f"Input to max_unpooling{n}d should be a {n + 1}d or {n + 2}d Tensor, but got a tensor "
            f"with dim {self.ndim}"
        )
    if self.shape != indices.shape:
        raise ShapeError(
            "Expected shape of indices to be same as that of the input tensor "
            f"({list(self.shape)}) but got indices tensor with shape: {list(indices.shape)}"
        )
    if 0 in self.shape[1:]:
        raise ShapeError(
            f"max_unpooling{n}d(): Expected input to have non-zero size for non-batch dimensions, "
            f"but got {list(self.shape)}"
        )
    only(f"max_unpool{n}d", self.dtype, "float32 float64 float16 bfloat16")
    return self.as_images((*self.shape[:-n], *output_size))


def _unpool_kernel(xp: Any, self: Any, indices: Any, output_size: Sequence[int]) -> Any:
    n = len(output_size)
    planes, volume = math.prod(self.shape[:-n]), math.prod(output_size)
    at = indices.reshape(planes, math.prod(self.shape[-n:]))
    outside = (at < 0) | (at >= volume)
    if bool(outside.any()):
        shown = "x".join(map(str, output_size))
        raise ParameterError(
            f"Found an invalid max index: {int(at[outside][0])} (output volumes are of size {shown}"
        )
    out = xp.zeros((planes, volume), self.dtype)
    out[xp.arange(planes)[:, None], at] = self.reshape(at.shape)
    return out.reshape(*self.shape[:-n], *output_size)


structured(
    "max_unpool2d(Tensor self, Tensor indices, SymInt[2] output_size) -> Tensor",
    meta=lambda self, indices, output_size: _unpool_meta(
        self, indices, _exactly(output_size, 2, "output_size")
    ),
    kernel=_unpool_kernel,
    vjp={"self": lambda g, indices: gather_from_planes(g, indices, 2)},
    moves=True,
)


def _exactly(values: Sequence[int], n: int, name: str) -> Ints:
    if len(values) != n:
        raise ShapeError(
            f"There should be exactly {n} elements in {name}, but got {len(values)} elements."
        )
    return tuple(values)


def _unpool3d_meta(
    self: Spec, indices: Spec, output_size: Ints, stride: Ints, padding: Ints
) -> Spec:
    for name, values in (("output_size", output_size), ("stride", stride), ("padding", padding)):
        _exactly(values, 3, name)
    if min(stride) <= 0:
        raise ParameterError(
            f"strides should be greater than zero, but got stride: {ints(stride, 3)}"
        )
    return _unpool_meta(self, indices, output_size).contiguous_


structured(
    "max_unpool3d(Tensor self, Tensor indices, SymInt[3] output_size, int[3] stride,"
    " int[3] padding) -> Tensor",
    meta=_unpool3d_meta,
    kernel=lambda xp, self, indices, output_size, stride, padding: _unpool_kernel(
        xp, self, indices, output_size
    ),
    vjp={"self": lambda g, indices: gather_from_planes(g, indices, 3)},
    moves=True,
)
