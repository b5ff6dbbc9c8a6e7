"""Spec: all that is known of a tensor without its values - shape, strides, dtype, device.

Specs are interned, so equal specs are one object: they compare and hash by identity, which makes
them cheap keys for memoised metadata. Strides and offsets count elements, as torch's do.
"""

from __future__ import annotations

import math
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from . import limits
from .dtype import CPU, Device, DType
from .errors import BadValueError, DTypeError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence

Shape = tuple[int, ...]


class Spec:
    """Shape, strides, dtype and device of a tensor; immutable and interned (see `make`)."""

    __slots__ = ("__weakref__", "contiguous", "device", "dtype", "numel", "shape", "stride")

    shape: Shape
    stride: Shape
    dtype: DType
    device: Device
    numel: int
    contiguous: bool  # in C order

    @staticmethod
    def make(shape: Shape, dtype: DType, device: Device = CPU, stride: Shape | None = None) -> Spec:
        """Return the one Spec with these fields; without `stride` it is C-contiguous."""
        if stride is None:
            stride = contiguous_stride(shape)
        key = (shape, stride, dtype, device)
        found = _interned.get(key)
        if found is None:
            with _lock:
                found = _interned.get(key)
                if found is None:
                    found = _interned[key] = _new(*key)
        return found

    def with_(
        self,
        shape: Shape | None = None,
        dtype: DType | None = None,
        device: Device | None = None,
        stride: Shape | None = None,
    ) -> Spec:
        """Return this spec with some fields replaced; a new shape without strides is contiguous."""
        if shape is None:
            shape, stride = self.shape, self.stride if stride is None else stride
        return Spec.make(shape, dtype or self.dtype, device or self.device, stride)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, each counted once (an expanded tensor has more than it stores)."""
        return self.numel * self.dtype.itemsize

    @property
    def dense(self) -> bool:
        """Whether the elements fill their storage without overlaps or gaps, in some order."""
        return is_dense(self.shape, self.stride)

    @property
    def contiguous_(self) -> Spec:
        """The same tensor laid out in C order."""
        return self if self.contiguous else Spec.make(self.shape, self.dtype, self.device)

    @property
    def packed(self) -> Spec:
        """The same tensor without gaps or overlaps, its dims in the same order in memory.

        What `empty_like` and `clone` make (torch's preserve_format).
        """
        if self.contiguous or self.dense:
            return self
        return self.with_(stride=pointwise_stride(self.shape, (self,)))

    def as_images(self, shape: Shape) -> Spec:
        """Return a spec of this shape that keeps channels innermost where they are in this one.

        What torch's kernels over images make: channels innermost or C order, nothing between.
        """
        code = self.suggested_format
        return self.with_(shape=shape, stride=format_stride(shape, code) if code else None)

    @property
    def suggested_format(self) -> int:
        """The code of the memory format that results take: 2 or 3 where channels are innermost."""
        return self.ndim - 2 if _channels_innermost(self.shape, self.stride) else 0

    def in_format(self, code: int | None) -> Spec:
        """Return the spec laid out in a memory format; None and 1 keep the order of the dims."""
        if code is None or code == 1:
            return self.packed
        return self.with_(stride=format_stride(self.shape, code))

    def is_in_format(self, code: int | None) -> bool:
        """Return whether elements lie without gaps in the order of a memory format; None: C's."""
        if code in (None, 0, 1):
            return self.contiguous
        if self.ndim != code + 2:
            return False
        wanted = format_stride(self.shape, code)
        sizes = zip(self.shape, self.stride, wanted, strict=True)
        return all(n == 1 or have == want for n, have, want in sizes)

    def span(self) -> int:
        """Return the elements from the first to the last one addressed, both included."""
        if not self.numel:
            return 0
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))

    def __repr__(self) -> str:
        layout = "" if self.contiguous else f", stride={self.stride}"
        return f"Spec({self.shape}, {self.dtype.name}, {str(self.device)!r}{layout})"


_interned: weakref.WeakValueDictionary[Any, Spec] = weakref.WeakValueDictionary()
_lock: Final = threading.Lock()


def _new(shape: Shape, stride: Shape, dtype: DType, device: Device) -> Spec:
    check_shape(shape)
    spec = object.__new__(Spec)
    spec.shape, spec.stride, spec.dtype, spec.device = shape, stride, dtype, device
    spec.numel = math.prod(shape)
    spec.contiguous = is_contiguous(shape, stride)
    return spec


def check_shape(shape: Sequence[int]) -> None:
    """Raise unless the shape is one a tensor may have: rank, signs and size within limits."""
    if len(shape) > limits.RANK_MAX:
        raise BadValueError(f"a tensor has at most {limits.RANK_MAX} dims, got {len(shape)}")
    for n in shape:
        if n < 0:
            raise ShapeError(f"Trying to create tensor with negative dimension {n}: {list(shape)}")
    if math.prod(shape) > limits.NUMEL_MAX:
        raise ShapeError(f"a tensor of shape {list(shape)} has more than 2^62 elements")


def contiguous_stride(shape: Sequence[int]) -> Shape:
    """Return the strides of a C-ordered tensor; dims of size 0 count as 1, as in torch."""
    stride, step = [0] * len(shape), 1
    for i in range(len(shape) - 1, -1, -1):
        stride[i] = step
        step *= max(shape[i], 1)
    return tuple(stride)


def format_stride(shape: Sequence[int], code: int) -> Shape:
    """Return the strides of a shape in a memory format, by its code (see `torch.memory_format`)."""
    if code == 1:
        raise ShapeError("Unsupported memory format Preserve")
    if code < 2:
        return contiguous_stride(shape)
    if len(shape) != code + 2:
        name = "channels_last" + "_3d" * (code == 3)
        raise ShapeError(f"required rank {code + 2} tensor to use {name} format")
    # Sizes of 0 count as they are: unlike in C order, strides beyond them are 0.
    stride, step = [0] * len(shape), 1
    for d in (1, *range(len(shape) - 1, 1, -1), 0):
        stride[d], step = step, step * shape[d]
    return tuple(stride)


def _channels_innermost(shape: Shape, stride: Shape) -> bool:
    """Return whether (N, C, *) reads as stored with its channels innermost.

    The rule of `is_channels_last_strides_2d` in c10/core/MemoryFormat.h: strides grow in that
    order, gaps are allowed, and what is both (N, 1, 1, 1) counts as C order.
    """
    if len(shape) not in (4, 5) or stride[1] == 0:
        return False
    least = 0
    for d in (1, *range(len(shape) - 1, 1, -1), 0):
        if shape[d] == 0 or stride[d] < least or (d == 0 and least == stride[1]):
            return False
        least = stride[d] * max(shape[d], 1)
    return True


def is_contiguous(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Return whether elements lie in C order without gaps; strides of dims of size 1 are free."""
    step = 1
    for n, s in zip(reversed(shape), reversed(stride), strict=True):
        if n != 1:
            if s != step:
                return 0 in shape  # without elements nothing has gaps
            step *= n
    return True


def is_dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Return whether some order of the dims makes the tensor contiguous."""
    step = 1
    for s, n in sorted((s, n) for n, s in zip(shape, stride, strict=True) if n != 1):
        if n == 0:
            return True
        if s != step:
            return False
        step *= n
    return True


def broadcast_shapes(*shapes: Sequence[int]) -> Shape:
    """Return the shape that all broadcast to. Raises ShapeError in torch's words."""
    rank = max(map(len, shapes), default=0)
    out = [1] * rank
    for shape in shapes:
        lead = rank - len(shape)
        for i, n in reversed([*enumerate(shape, lead)]):  # torch names the last pair that differs
            if n != out[i] and n != 1:
                if out[i] != 1:
                    raise ShapeError(_mismatch(out, (1,) * lead + tuple(shape)))
                out[i] = n
    return tuple(out)


def _mismatch(a: Sequence[int], b: Sequence[int]) -> str:
    """Return what torch says of two shapes that do not go together: of the last such dim."""
    i = max(i for i, (n, m) in enumerate(zip(a, b, strict=True)) if n != m and 1 not in (n, m))
    return (
        f"The size of tensor a ({a[i]}) must match the size of tensor b ({b[i]}) at "
        f"non-singleton dimension {i}"
    )


def check_cast(have: DType, want: DType) -> None:
    """Raise if a result of type `have` may not be stored as `want`: a kind may not get lower."""
    if have.category > want.category:
        raise DTypeError(
            f"result type {have.c_name} can't be cast to the desired output type {want.c_name}"
        )


def check_stored(result: Spec, target: Spec) -> None:
    """Raise if a result may not be stored into a tensor in place: its shape or kind is another."""
    if result.shape != target.shape:
        raise ShapeError(
            f"output with shape {list(target.shape)} doesn't match the broadcast shape "
            f"{list(result.shape)}"
        )
    check_cast(result.dtype, target.dtype)


def wrap_dim(dim: int, ndim: int) -> int:
    """Return `dim` counted from the front. IndexError outside of [-ndim, ndim); 0-d counts as 1."""
    from .errors import ValueRangeError

    rank = max(ndim, 1)
    if not -rank <= dim < rank:
        raise ValueRangeError(
            f"Dimension out of range (expected to be in range of [{-rank}, {rank - 1}], "
            f"but got {dim})"
        )
    return dim % rank


def wrap_dims(dims: Sequence[int] | int | None, ndim: int) -> tuple[int, ...]:
    """Return the dims of a reduction in order; None and () mean all. Repeats are an error."""
    if dims is None:
        return tuple(range(ndim))
    if isinstance(dims, int):
        dims = (dims,)
    if not dims:
        return tuple(range(ndim))
    wrapped = [wrap_dim(d, ndim) for d in dims]
    for d in wrapped:
        if wrapped.count(d) > 1:
            raise ShapeError(f"dim {d} appears multiple times in the list of dims")
    return tuple(sorted(wrapped)) if ndim else ()


def pointwise_stride(shape: Shape, specs: Sequence[Spec]) -> Shape:
    """Return the strides of an elementwise result: the order of dims that the inputs agree on.

    The first input decides between dims, later ones break ties, C order breaks the rest: the rule
    of ATen/TensorIterator.cpp (`reorder_dimensions`). Each pair of dims is compared once while
    dims are inserted from the fastest to the slowest.
    """
    same = specs[0]
    if all(s is same or (s.stride == same.stride and s.shape == same.shape) for s in specs):
        if same.shape == shape and (same.contiguous or same.dense):
            return same.stride
    rank = len(shape)
    if rank < 2 or all(s.contiguous and s.shape == shape for s in specs):
        return contiguous_stride(shape)
    aligned = [_align(s, shape) for s in specs if s.shape]
    order = list(range(rank - 1, -1, -1))  # fastest first
    for i in range(1, rank):
        at = i
        for j in range(i - 1, -1, -1):
            verdict = _compare_dims(order[j], order[at], aligned, shape)
            if verdict > 0:
                order[j], order[at] = order[at], order[j]
                at = j
            elif verdict < 0:
                break
    stride, step = [0] * rank, 1
    for d in order:
        stride[d] = step
        step *= max(shape[d], 1)
    return tuple(stride)


def _align(spec: Spec, shape: Shape) -> Shape:
    lead = len(shape) - len(spec.shape)
    own = (0 if n == 1 and shape[lead + i] != 1 else s
           for i, (n, s) in enumerate(zip(spec.shape, spec.stride, strict=True)))  # fmt: skip
    return (0,) * lead + tuple(own)


def _compare_dims(a: int, b: int, strides: Sequence[Shape], shape: Shape) -> int:
    for stride in strides:
        if stride[a] == 0 or stride[b] == 0:
            continue
        if stride[a] != stride[b]:
            return 1 if stride[a] > stride[b] else -1
        if shape[a] > shape[b]:
            return 1
    return 0


def view_stride(spec: Spec, shape: Shape) -> Shape | None:
    """Return the strides that show `spec`'s elements as `shape` without a copy, or None.

    Runs of dims that are contiguous among themselves may be cut or joined freely; the rule of
    `computeStride` in ATen/TensorUtils.cpp.
    """
    if spec.contiguous:
        return contiguous_stride(shape)
    if not spec.numel:
        return spec.stride if shape == spec.shape else contiguous_stride(shape)
    stride = [0] * len(shape)
    out = len(shape) - 1
    run, base = 1, spec.stride[-1] if spec.stride else 1
    for d in range(len(spec.shape) - 1, -1, -1):
        run *= spec.shape[d]
        ends = d == 0 or (spec.shape[d - 1] != 1 and spec.stride[d - 1] != run * base)
        if ends:
            left = run
            done = 1
            while out >= 0 and (done < run or shape[out] == 1):
                stride[out] = done * base
                done *= shape[out]
                out -= 1
            if done != left:
                return None
            if d > 0:
                run, base = 1, spec.stride[d - 1]
    return tuple(stride) if out == -1 else None
