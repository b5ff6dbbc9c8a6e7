"""Factories: tensors of constants and ranges.

Fresh memory is zero, so that nothing of an earlier tenant can be read from it: `empty` is `zeros`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..coerce import integers
from ..dtype import Defaults, DType, int64
from ..errors import ShapeError
from ..family import composite, creation, factory_spec, number_dtype, refuse, structured
from ..places import as_element
from ..spec import Spec, contiguous_stride

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: What every factory takes, and those `like` a tensor besides.
OPTIONS = "ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None"
FORMAT = "MemoryFormat? memory_format=None"


# ----------------------------------------------------------------------------------- constants --
def _size_spec(size: Sequence[int], dtype: DType | None, layout: Any, device: Any, *_: Any) -> Spec:
    return factory_spec(size, dtype, device)


def like_spec(
    self: Spec, dtype: DType | None, layout: Any, device: Any, pin: Any, memory_format: int | None
) -> Spec:
    return self.in_format(memory_format).with_(dtype=dtype, device=device)


def _formatted_spec(size: Any, *options: Any) -> Spec:
    """The spec of a new tensor laid out as the last option, a memory format, says."""
    return _size_spec(size, *options[:-1]).in_format(options[-1])


def _new_spec(
    self: Spec, size: Sequence[int], dtype: DType | None, layout: Any, device: Any, pin: Any
) -> Spec:
    return factory_spec(size, dtype, device, like=self)


def _filled(value: int) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Return kernels for `x(size)`, `x_like(self)` and `new_x(self, size)` of one value."""

    def make(xp: Any, shape: Any, dtype: Any) -> Any:
        return (xp.ones if value else xp.zeros)(tuple(shape), dtype)

    def by_size(xp: Any, size: Any, dtype: Any, *_: Any) -> Any:
        return make(xp, size, (dtype or Defaults.dtype).numpy)

    def like(xp: Any, self: Any, dtype: Any, *_: Any) -> Any:
        return make(xp, self.shape, dtype.numpy if dtype else self.dtype)

    def new(xp: Any, self: Any, size: Any, dtype: Any, *_: Any) -> Any:
        return make(xp, size, dtype.numpy if dtype else self.dtype)

    return by_size, like, new


def _declare_constant(name: str, value: int, overload: str = "", more: str = "") -> None:
    by_size, like, new = _filled(value)
    creation(
        f"{name}{overload}(SymInt[] size, *, {OPTIONS}{more}) -> Tensor",
        meta=_formatted_spec if more else _size_spec,
        kernel=by_size,
    )
    creation(
        f"{name}_like(Tensor self, *, {OPTIONS}, {FORMAT}) -> Tensor",
        meta=like_spec,
        kernel=like,
    )
    creation(
        f"new_{name}(Tensor self, SymInt[] size, *, {OPTIONS}) -> Tensor",
        meta=_new_spec,
        kernel=new,
    )


_declare_constant("zeros", 0)
_declare_constant("ones", 1)
_declare_constant("empty", 0, ".memory_format", f", {FORMAT}")


def _number(value: Any, dtype: Any) -> Any:
    """Return a Python number as an element of a numpy dtype: floats go to ints by truncation."""
    return int(value) if isinstance(value, float) and dtype.kind in "iu" else value


def _full(xp: Any, shape: Any, value: Any, dtype: Any) -> Any:
    return xp.full(tuple(shape), as_element(value, dtype), dtype)


creation(
    f"full(SymInt[] size, Scalar fill_value, *, {OPTIONS}) -> Tensor",
    meta=lambda size, fill_value, dtype, layout, device, pin: factory_spec(
        size, dtype, device, default=number_dtype(fill_value)
    ),
    kernel=lambda xp, size, fill_value, dtype, *_: _full(
        xp, size, fill_value, (dtype or number_dtype(fill_value)).numpy
    ),
)
creation(
    f"full_like(Tensor self, Scalar fill_value, *, {OPTIONS}, {FORMAT}) -> Tensor",
    meta=lambda self, fill_value, *options: like_spec(self, *options),
    kernel=lambda xp, self, fill_value, dtype, *_: _full(
        xp, self.shape, fill_value, dtype.numpy if dtype else self.dtype
    ),
)
creation(
    f"new_full(Tensor self, SymInt[] size, Scalar fill_value, *, {OPTIONS}) -> Tensor",
    meta=lambda self, size, fill_value, *options: _new_spec(self, size, *options),
    kernel=lambda xp, self, size, fill_value, dtype, *_: _full(
        xp, size, fill_value, dtype.numpy if dtype else self.dtype
    ),
)
creation(
    f"scalar_tensor(Scalar s, *, {OPTIONS}) -> Tensor",
    meta=lambda s, dtype, layout, device, pin: factory_spec((), dtype, device),
    kernel=lambda xp, s, dtype, *_: _full(xp, (), s, (dtype or Defaults.dtype).numpy),
)


def _stretch(size: Sequence[int], stride: Sequence[int]) -> int:
    """Return how many elements of storage a tensor of these sizes and strides reaches over."""
    if len(size) != len(stride):
        raise ShapeError(
            f"dimensionality of sizes ({len(size)}) must match dimensionality of strides "
            f"({len(stride)})"
        )
    if any(s < 0 for s in stride):
        raise ShapeError(
            f"Storage size calculation overflowed with sizes={list(size)} and "
            f"strides={list(stride)}"
        )
    if any(n < 0 for n in size):
        raise ShapeError(f"Trying to create tensor with negative dimension {min(size)}: {size}")
    return 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if all(size) else 0


@composite(f"empty_strided(SymInt[] size, SymInt[] stride, *, {OPTIONS}) -> Tensor")
def empty_strided(size: Sequence[int], stride: Sequence[int], **options: Any) -> Any:
    """Memory as long as the strides reach, whether they leave gaps or overlap."""
    size, stride = integers(size), integers(stride)
    memory = fn.empty((_stretch(size, stride),), **options)
    return fn.detach(fn.as_strided(memory, size, stride))


@composite(
    f"new_empty_strided(Tensor self, SymInt[] size, SymInt[] stride, *, {OPTIONS}) -> Tensor"
)
def new_empty_strided(self: Any, size: Sequence[int], stride: Sequence[int], **options: Any) -> Any:
    size, stride = integers(size), integers(stride)
    memory = fn.new_empty(self, (_stretch(size, stride),), **options)
    return fn.detach(fn.as_strided(memory, size, stride))


@composite(f"empty_permuted(SymInt[] size, int[] physical_layout, *, {OPTIONS}) -> Tensor")
def empty_permuted(size: Sequence[int], physical_layout: Sequence[int], **options: Any) -> Any:
    """The dims in memory in the order of `physical_layout`, the slowest first."""
    size, order = integers(size), integers(physical_layout)
    if len(size) != len(order):
        raise ShapeError(
            "Number of dimensions in size does not match the length of the physical_layout; i.e. "
            f"len(size) = {len(size)} is not equal to len(physical_layout) = {len(order)}"
        )
    for i, d in enumerate(order):
        if not 0 <= d < len(size):
            raise ShapeError(
                f"Dimension out of range (expected to be between 0 and {len(size) - 1}, but got "
                f"{d} at index {i}).  NB: negative dims not currently supported; file an issue if "
                "you want it."
            )
    if len(set(order)) < len(order):
        raise ShapeError("Duplicate dim not allowed")
    packed = contiguous_stride([size[d] for d in order])
    return fn.empty_strided(size, [packed[order.index(d)] for d in range(len(size))], **options)


# --------------------------------------------------------------------------------------- fills --
structured(
    "fill.Scalar(Tensor self, Scalar value) -> Tensor",
    meta=lambda self, value: self.packed,
    kernel=lambda xp, self, value: _full(xp, self.shape, value, self.dtype),
    vjp={"self": lambda g: fn.zeros_like(g)},
    moves=True,
    overwrites=True,
)


def _fill_meta(self: Spec, value: Spec) -> Spec:
    if value.shape:
        raise ShapeError(
            "fill_ only supports 0-dimension value tensor but got tensor with "
            f"{value.ndim} dimensions."
        )
    return self.packed


structured(
    "fill.Tensor(Tensor self, Tensor value) -> Tensor",
    meta=_fill_meta,
    kernel=lambda xp, self, value: xp.broadcast_to(value.astype(self.dtype), self.shape),
    vjp={"self": lambda g: fn.zeros_like(g), "value": lambda g: fn.sum(g)},
    moves=True,
    overwrites=True,
)
structured(
    "zero(Tensor self) -> Tensor",
    meta=lambda self: self.packed,
    kernel=lambda xp, self: xp.zeros(self.shape, self.dtype),
    vjp={"self": lambda g: fn.zeros_like(g)},
    moves=True,
    overwrites=True,
)


# -------------------------------------------------------------------------------------- ranges --
def _arange_dtype(dtype: DType | None, *numbers: Any) -> DType:
    if dtype is not None:
        return dtype
    return int64 if all(isinstance(x, int) for x in numbers) else Defaults.dtype


def _arange_size(start: Any, end: Any, step: Any, dtype: DType) -> int:
    """Return the number of elements; int64 bounds are truncated before, others are not."""
    refuse("arange_cpu", dtype, "b")
    if dtype is int64:
        start, end, step = int(start), int(end), int(step)
    if not step:
        raise ShapeError("step must be nonzero")
    if not (math.isfinite(start) and math.isfinite(end)):
        raise ShapeError(f"unsupported range: {start} -> {end}")
    if (end - start) * (1 if step > 0 else -1) < 0:
        raise ShapeError("upper bound and lower bound inconsistent with step sign")
    if all(isinstance(x, int) for x in (start, end, step)):
        return int(-((start - end) // step))
    return math.ceil((float(end) - float(start)) / float(step))


def _arange_spec(start: Any, end: Any, step: Any, dtype: Any, layout: Any, device: Any) -> Spec:
    found = _arange_dtype(dtype, start, end, step)
    return factory_spec((_arange_size(start, end, step, found),), found, device)


def _arange_kernel(xp: Any, start: Any, end: Any, step: Any, dtype: DType | None) -> Any:
    found = _arange_dtype(dtype, start, end, step)
    n = _arange_size(start, end, step, found)
    if found.category < 2:
        return (int(start) + int(step) * xp.arange(n, dtype="int64")).astype(found.numpy)
    return (start + step * xp.arange(n, dtype="float64")).astype(found.numpy)


creation(
    f"arange(Scalar end, *, {OPTIONS}) -> Tensor",
    meta=lambda end, dtype, layout, device, pin: _arange_spec(0, end, 1, dtype, layout, device),
    kernel=lambda xp, end, dtype, *_: _arange_kernel(xp, 0, end, 1, dtype),
    by_value=True,
)
creation(
    f"arange.start(Scalar start, Scalar end, *, {OPTIONS}) -> Tensor",
    meta=lambda start, end, dtype, layout, device, pin: _arange_spec(
        start, end, 1, dtype, layout, device
    ),
    kernel=lambda xp, start, end, dtype, *_: _arange_kernel(xp, start, end, 1, dtype),
    by_value=True,
)
creation(
    f"arange.start_step(Scalar start, Scalar end, Scalar step=1, *, {OPTIONS}) -> Tensor",
    meta=lambda start, end, step, dtype, layout, device, pin: _arange_spec(
        start, end, step, dtype, layout, device
    ),
    kernel=lambda xp, start, end, step, dtype, *_: _arange_kernel(xp, start, end, step, dtype),
    by_value=True,
)


def _steps_spec(start: Any, end: Any, steps: int, dtype: Any, device: Any) -> Spec:
    if steps < 0:
        raise ShapeError(f"number of steps must be non-negative, got {steps}")
    return factory_spec((steps,), dtype or _steps_dtype(start, end), device)


def _steps_dtype(start: Any, end: Any) -> DType:
    is_complex = isinstance(start, complex) or isinstance(end, complex)
    return Defaults.dtype.to_complex() if is_complex else Defaults.dtype


def _linspace(xp: Any, start: Any, end: Any, steps: int, dtype: DType | None) -> Any:
    """Count up from the start and down from the end, so that both ends are exact, as torch does."""
    found = dtype or _steps_dtype(start, end)
    start, end = _number(start, found.numpy), _number(end, found.numpy)
    if steps == 1:
        return xp.full(1, start, found.numpy)
    work = "complex128" if found.is_complex else "float64"
    at = xp.arange(steps)
    step = (end - start) / max(steps - 1, 1)
    low, high = start + at * xp.asarray(step, work), end - (steps - 1 - at) * xp.asarray(step, work)
    return xp.where(at < steps // 2, low, high)


creation(
    f"linspace(Scalar start, Scalar end, int steps, *, {OPTIONS}) -> Tensor",
    meta=lambda start, end, steps, dtype, layout, device, pin: _steps_spec(
        start, end, steps, dtype, device
    ),
    kernel=lambda xp, start, end, steps, dtype, *_: _linspace(xp, start, end, steps, dtype),
)
creation(
    f"logspace(Scalar start, Scalar end, int steps, float base=10., *, {OPTIONS}) -> Tensor",
    meta=lambda start, end, steps, base, dtype, layout, device, pin: _steps_spec(
        start, end, steps, dtype, device
    ),
    kernel=lambda xp, start, end, steps, base, dtype, *_: xp.power(
        xp.asarray(base), _linspace(xp, start, end, steps, dtype)
    ),
)


# ------------------------------------------------------------------------------------ matrices --
def _eye_spec(n: int, m: int, dtype: Any, device: Any) -> Spec:
    for name, x in (("n", n), ("m", m)):
        if x < 0:
            raise ShapeError(f"{name} must be greater or equal to 0, got {x}")
    return factory_spec((n, m), dtype, device)


creation(
    f"eye(SymInt n, *, {OPTIONS}) -> Tensor",
    meta=lambda n, dtype, layout, device, pin: _eye_spec(n, n, dtype, device),
    kernel=lambda xp, n, dtype, *_: xp.eye(n, dtype=(dtype or Defaults.dtype).numpy),
)
creation(
    f"eye.m(SymInt n, SymInt m, *, {OPTIONS}) -> Tensor",
    meta=lambda n, m, dtype, layout, device, pin: _eye_spec(n, m, dtype, device),
    kernel=lambda xp, n, m, dtype, *_: xp.eye(n, m, dtype=(dtype or Defaults.dtype).numpy),
)
_INDICES = OPTIONS.replace("dtype=None", "dtype=4", 1)


def triangle_numel(row: int, col: int, offset: int) -> int:
    """Return the number of elements of a matrix on and below a diagonal."""

    def up_to(last: int) -> int:
        """Return the elements in rows that would have 1, 2, ... `last` of them, but only `col`."""
        full = max(0, last - col)
        short = max(0, min(last, col))
        return short * (short + 1) // 2 + full * col

    return up_to(row + offset) - up_to(offset)


def _triangle_spec(
    row: int, col: int, offset: int, dtype: DType | None, device: Any, upper: bool
) -> Spec:
    for name, x in (("row", row), ("col", col)):
        if x < 0:
            raise ShapeError(f"{name} must be non-negative, got{x}")
    n = triangle_numel(row, col, offset - 1 if upper else offset)
    return factory_spec((2, row * col - n if upper else n), dtype or int64, device)


def _triangle_kernel(which: str) -> Callable[..., Any]:
    def kernel(xp: Any, row: int, col: int, offset: int, dtype: DType | None, *_: Any) -> Any:
        found = getattr(xp, which)(row, offset, col)
        return xp.stack(found).astype((dtype or int64).numpy)

    return kernel


creation(
    f"tril_indices(int row, int col, int offset=0, *, {_INDICES}) -> Tensor",
    meta=lambda row, col, offset, dtype, layout, device, pin: _triangle_spec(
        row, col, offset, dtype, device, False
    ),
    kernel=_triangle_kernel("tril_indices"),
)
creation(
    f"triu_indices(int row, int col, int offset=0, *, {_INDICES}) -> Tensor",
    meta=lambda row, col, offset, dtype, layout, device, pin: _triangle_spec(
        row, col, offset, dtype, device, True
    ),
    kernel=_triangle_kernel("triu_indices"),
)
