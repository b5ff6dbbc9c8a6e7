"""Means over windows of images, fixed or adaptive, and their gradients.

A mean is linear, so the gradient's gradient is the mean again. Declared for images of two and
three dims; the 1d forms are composites over images of height one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..call import fn
from ..errors import ParameterError, ShapeError
from ..family import composite, only, refuse, structured
from ..spec import Spec
from .pool import check_1d, one
from .pool_windows import (
    Ints,
    gradient_of,
    inside,
    ints,
    padded,
    places,
    pooled_size,
    pooled_spec,
    reach,
    steps_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


# ---------------------------------------------------------------------------------------- fixed --
class _Windows:
    """The arguments of a mean over images of one size, as tuples; and the divisors."""

    def __init__(
        self, n: int, shape: Ints, kernel_size: Ints, stride: Ints, padding: Ints, ceil_mode: bool,
        count_include_pad: bool, divisor_override: int | None,
    ) -> None:  # fmt: skip
        self.kernel = ints(kernel_size, n, "kernel_size")
        self.step = steps_of(self.kernel, stride, n)
        self.edge = ints(padding, n, "padding")
        self.gap = (1,) * n
        self.size = shape[-n:]
        self.ceil = ceil_mode
        self.counts_padding = count_include_pad
        self.divisor = divisor_override
        self.out = tuple(
            pooled_size(m, k, s, p, 1, ceil_mode)
            for m, k, s, p in zip(self.size, self.kernel, self.step, self.edge, strict=True)
        )

    def wide(self) -> Ints:
        return reach(self.size, self.out, self.kernel, self.step, self.edge, self.gap)

    def divisors(self, xp: Any) -> Any:
        """Return the number of elements in each window; beyond the padding nothing counts."""
        if self.divisor:
            return self.divisor
        counts = xp.ones((), "int64")
        for n, m, k, s, p in zip(
            self.size, self.out, self.kernel, self.step, self.edge, strict=True
        ):
            start = xp.arange(m) * s - p
            end = xp.minimum(start + k, n + p)
            if not self.counts_padding:
                start, end = xp.maximum(start, 0), xp.minimum(end, n)
            counts = counts[..., None] * (end - start)
        return counts


def _avg_kernel(xp: Any, self: Any, windows: _Windows) -> Any:
    n = len(windows.kernel)
    total = xp.zeros((*self.shape[:-n], *windows.out), self.dtype)
    x = padded(xp, self, windows.wide(), windows.edge, 0)
    for _, where in places(windows.out, windows.kernel, windows.step, windows.gap):
        total += x[(..., *where)]
    count = windows.divisors(xp)
    if self.dtype.kind in "iu":  # as C divides: towards zero
        return xp.sign(total) * xp.sign(count) * (abs(total) // abs(count))
    return total / xp.asarray(count, self.dtype)


def _avg_backward_kernel(xp: Any, grad_output: Any, self: Any, windows: _Windows) -> Any:
    share = grad_output / xp.asarray(windows.divisors(xp), grad_output.dtype)
    n = len(windows.kernel)
    total = xp.zeros((*self.shape[:-n], *windows.wide()), grad_output.dtype)
    for _, where in places(windows.out, windows.kernel, windows.step, windows.gap):
        total[(..., *where)] += share
    return total[inside(windows.size, windows.edge)]


def _declare_fixed(n: int) -> None:
    """Declare avg_pool{n}d and its backward."""
    name = f"avg_pool{n}d"
    windows = f"int[{n}] kernel_size, int[{n}] stride"

    def meta(self: Spec, *rest: Any) -> Spec:
        kernel_size, stride, padding, ceil_mode, _, divisor = rest
        if divisor == 0:
            raise ParameterError("divisor must be not zero")
        kernel = ints(kernel_size, n, "kernel_size")
        found = pooled_spec(
            name, self, kernel, steps_of(kernel, stride, n), ints(padding, n, "padding"),
            (1,) * n, ceil_mode,
        )  # fmt: skip
        halves = " float16 bfloat16" if n == 2 else ""
        only(name if n == 2 else f"{name}_out_frame", self.dtype, "float32 float64 int64" + halves)
        return found if n == 2 else found.contiguous_

    def grad(
        g: Any, self: Any, kernel_size: Ints, stride: Ints, padding: Ints, ceil_mode: bool,
        count_include_pad: bool, divisor_override: int | None,
    ) -> Any:  # fmt: skip
        return getattr(fn, f"{name}_backward")(
            g, self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )

    def again(
        g: Any, kernel_size: Ints, stride: Ints, padding: Ints, ceil_mode: bool,
        count_include_pad: bool, divisor_override: int | None,
    ) -> Any:  # fmt: skip
        return getattr(fn, name)(
            g, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )

    structured(
        f"{name}(Tensor self, {windows}=[], int[{n}] padding=0, bool ceil_mode=False,"
        " bool count_include_pad=True, int? divisor_override=None) -> Tensor",
        meta=meta,
        kernel=lambda xp, self, *rest: _avg_kernel(xp, self, _Windows(n, self.shape, *rest)),
        vjp={"self": grad},
    )
    structured(
        f"{name}_backward(Tensor grad_output, Tensor self, {windows}, int[{n}] padding,"
        " bool ceil_mode, bool count_include_pad, int? divisor_override) -> Tensor",
        meta=gradient_of(f"{name}_backward", lambda self, g, *rest: meta(self, *rest)),
        kernel=lambda xp, grad_output, self, *rest: _avg_backward_kernel(
            xp, grad_output, self, _Windows(n, self.shape, *rest)
        ),
        vjp={"grad_output": again},
    )


_declare_fixed(2)
_declare_fixed(3)


@composite(
    "avg_pool1d(Tensor self, int[1] kernel_size, int[1] stride=[], int[1] padding=[0],"
    " bool ceil_mode=False, bool count_include_pad=True) -> Tensor"
)
def avg_pool1d(
    self: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:  # fmt: skip
    check_1d("avg_pool1d", self)
    kernel = one(kernel_size, "kernel_size")
    step = one(stride, "stride") if stride or stride == 0 else kernel
    out = fn.avg_pool2d(
        fn.unsqueeze(self, -2), (1, kernel), (1, step), (0, one(padding, "padding")), ceil_mode,
        count_include_pad,
    )  # fmt: skip
    return fn.squeeze(out, -2)


# ------------------------------------------------------------------------------------- adaptive --
def adaptive_spec(name: str, self: Spec, output_size: Ints, n: int) -> Spec:
    """Return the spec of images pooled to `output_size`, or raise what torch raises."""
    if len(output_size) != n:
        raise ShapeError(f"{name}: internal error: output_size.size() must be {n}")
    if self.ndim not in (n + 1, n + 2):
        raise ShapeError(
            f"{name}(): Expected {n + 1}D or {n + 2}D tensor, but got {list(self.shape)}"
        )
    for d in range(self.ndim - n, self.ndim):
        if self.shape[d] == 0:
            raise ShapeError(
                f"{name}(): Expected input to have non-zero size for non-batch dimensions, but "
                f"input has sizes {list(self.shape)} with dimension {d} being empty"
            )
    if min(output_size) < 0:
        raise ShapeError(
            f"{name}(): elements of output_size must be greater than or equal to 0 but received "
            f"{list(output_size)}"
        )
    refuse(name, self.dtype, "bic")
    shape = (*self.shape[:-n], *output_size)
    return self.as_images(shape) if n == 2 else self.with_(shape=shape)


def spans(n: int, m: int) -> list[tuple[int, int]]:
    """Return start and end of the m windows that cover n elements as evenly as they can."""
    return [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]


def _volumes(xp: Any, size: Sequence[int], out: Sequence[int], dtype: Any) -> Any:
    """Return the number of elements in each window."""
    found = xp.ones((), dtype)
    for n, m in zip(size, out, strict=True):
        found = found[..., None] * xp.asarray([e - s for s, e in spans(n, m)], dtype)
    return found


def _adaptive_kernel(xp: Any, self: Any, output_size: Ints) -> Any:
    n = len(output_size)
    total = self
    for d, m in zip(range(self.ndim - n, self.ndim), output_size, strict=True):
        moved = xp.moveaxis(total, d, 0)
        sums = xp.empty((m, *moved.shape[1:]), self.dtype)
        for i, (start, end) in enumerate(spans(self.shape[d], m)):
            moved[start:end].sum(axis=0, out=sums[i])
        total = xp.moveaxis(sums, 0, d)
    return total / _volumes(xp, self.shape[-n:], output_size, self.dtype)


def _adaptive_backward_kernel(xp: Any, grad_output: Any, self: Any, n: int) -> Any:
    size, out = self.shape[-n:], grad_output.shape[-n:]
    total = grad_output / _volumes(xp, size, out, grad_output.dtype)
    for d, m in zip(range(self.ndim - n, self.ndim), out, strict=True):
        moved = xp.moveaxis(total, d, 0)
        sums = xp.zeros((self.shape[d], *moved.shape[1:]), total.dtype)
        for i, (start, end) in enumerate(spans(self.shape[d], m)):
            sums[start:end] += moved[i]
        total = xp.moveaxis(sums, 0, d)
    return total


def _declare_adaptive(n: int) -> None:
    """Declare _adaptive_avg_pool{n}d, its backward and adaptive_avg_pool{n}d."""
    name = f"_adaptive_avg_pool{n}d"
    structured(
        f"{name}(Tensor self, SymInt[{n}] output_size) -> Tensor",
        meta=lambda self, output_size: adaptive_spec(name[1:], self, output_size, n),
        kernel=_adaptive_kernel,
        vjp={"self": lambda g, self: getattr(fn, f"{name}_backward")(g, self)},
    )
    structured(
        f"{name}_backward(Tensor grad_output, Tensor self) -> Tensor",
        meta=gradient_of(
            f"{name}_backward", lambda self, g: adaptive_spec(name, self, g.shape[-n:], n)
        ),
        kernel=lambda xp, grad_output, self: _adaptive_backward_kernel(xp, grad_output, self, n),
        vjp={
            "grad_output": lambda g, grad_output_spec: getattr(fn, name)(
                g, grad_output_spec.shape[-n:]
            )
        },
    )

    @composite(f"{name[1:]}(Tensor self, SymInt[{n}] output_size) -> Tensor")
    def adaptive_avg_pool(self: Any, output_size: Any) -> Any:
        size = ints(output_size, n, "output_size")
        spec = self._spec
        if size == (1,) * n and spec.ndim in (n + 1, n + 2):
            return fn.mean(self, tuple(range(-n, 0)), True)
        return getattr(fn, name)(self, size)


_declare_adaptive(2)
_declare_adaptive(3)


@composite("adaptive_avg_pool1d(Tensor self, int[1] output_size) -> Tensor")
def adaptive_avg_pool1d(self: Any, output_size: Any) -> Any:
    check_1d("adaptive_avg_pool1d", self)
    size = (1, one(output_size, "output_size"))
    return fn.squeeze(fn.adaptive_avg_pool2d(fn.unsqueeze(self, -2), size), -2)
