"""Composites of views: reshape, flatten, movedim, narrow, chunk and their kin.

Each is a function of the views in view.py (and of `clone` where memory must move), so strides,
aliasing and gradients follow from those. Torch's words where an argument does not fit.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from .. import notice
from ..call import fn
from ..coerce import memory_format as format_code
from ..errors import DTypeError, ShapeError, ValueRangeError
from ..family import composite
from ..spec import view_stride, wrap_dim
from .view import as_ints, infer_size, section_bounds

if TYPE_CHECKING:
    from collections.abc import Sequence


# ---------------------------------------------------------------------------------- same order --
@composite("reshape(Tensor(a) self, SymInt[] shape) -> Tensor(a)")
def reshape(self: Any, shape: Sequence[int]) -> Any:
    spec = self._spec
    shape = (shape,) if isinstance(shape, int) else shape
    size = infer_size(shape, spec.numel)
    if size == spec.shape and spec.contiguous:
        return fn.alias(self)
    if view_stride(spec, size) is None:
        self = fn.clone(self, memory_format=0)
    return fn.view(self, size)


@composite("view_as(Tensor(a) self, Tensor other) -> Tensor(a)")
def view_as(self: Any, other: Any) -> Any:
    return fn.view(self, other._spec.shape)


@composite("reshape_as(Tensor(a) self, Tensor other) -> Tensor(a)")
def reshape_as(self: Any, other: Any) -> Any:
    return fn.reshape(self, other._spec.shape)


@composite("flatten.using_ints(Tensor(a) self, int start_dim=0, int end_dim=-1) -> Tensor(a)")
def flatten(self: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    shape = self._spec.shape
    first, last = wrap_dim(start_dim, len(shape)), wrap_dim(end_dim, len(shape))
    if first > last:
        raise ShapeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if not shape:
        return fn.reshape(self, (1,))
    if first == last:
        return self
    merged = math.prod(shape[first : last + 1])
    return fn.reshape(self, (*shape[:first], merged, *shape[last + 1 :]))


@composite("unflatten.int(Tensor(a) self, int dim, SymInt[] sizes) -> Tensor(a)")
def unflatten(self: Any, dim: int, sizes: Sequence[int]) -> Any:
    shape = self._spec.shape
    dim = wrap_dim(dim, len(shape))
    if not sizes:
        raise ShapeError("unflatten: sizes must be non-empty")
    try:
        sizes = infer_size(sizes, shape[dim])
    except ShapeError as e:
        if list(sizes).count(-1) > 1:
            raise ShapeError(f"unflatten got an unexpected error:\n{e}") from None
        raise ShapeError(
            f"unflatten: Provided sizes {list(sizes)} don't multiply up to the size of dim {dim} "
            f"({shape[dim]}) in the input tensor"
        ) from None
    return fn.view(self, (*shape[:dim], *sizes, *shape[dim + 1 :]))


@composite("ravel(Tensor(a) self) -> Tensor(a)")
def ravel(self: Any) -> Any:
    return fn.view(fn.contiguous(self), (-1,))


@composite("contiguous(Tensor(a) self, *, MemoryFormat memory_format=0) -> Tensor(a)")
def contiguous(self: Any, *, memory_format: Any = 0) -> Any:
    code = format_code(memory_format)
    if self._spec.is_in_format(code):
        return self
    if code == 1:
        raise ShapeError("preserve memory format is unsupported by the contiguous operator")
    return fn.clone(self, memory_format=code)


@composite("expand_as(Tensor(a) self, Tensor other) -> Tensor(a)")
def expand_as(self: Any, other: Any) -> Any:
    return fn.expand(self, other._spec.shape)


@composite("broadcast_to(Tensor(a) self, SymInt[] size) -> Tensor(a)")
def broadcast_to(self: Any, size: Sequence[int]) -> Any:
    return fn.expand(self, size)


@composite("sum_to_size(Tensor self, SymInt[] size) -> Tensor")
def sum_to_size(self: Any, size: Sequence[int]) -> Any:
    have = self._spec.shape
    size = tuple(size)
    if not size:
        return fn.sum(self)  # an int64 of ints and bools, also where there is nothing to add
    lead = len(have) - len(size)
    if lead < 0 or any(n not in (1, m) for n, m in zip(size, have[lead:], strict=True)):
        raise ShapeError(f"size {list(size)} is not expandable to size {list(have)}.")
    dims = [i for i in range(len(have)) if i < lead or (size[i - lead] == 1 and have[i] != 1)]
    if dims:
        self = fn.sum(self, dims, True)
    return fn.view(self, size) if lead else self


@composite(
    "as_strided(Tensor(a) self, SymInt[] size, SymInt[] stride, SymInt? storage_offset=None)"
    " -> Tensor(a)"
)
def as_strided(
    self: Any, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Any:
    offset = 0 if storage_offset is None else storage_offset - self._offset
    if storage_offset is not None and storage_offset < 0:
        raise ShapeError(f"Tensor: invalid storage offset {storage_offset}")
    return fn._as_strided(self, size, stride, offset)


# --------------------------------------------------------------------------------- other order --
@composite("swapaxes(Tensor(a) self, int axis0, int axis1) -> Tensor(a)")
def swapaxes(self: Any, axis0: int, axis1: int) -> Any:
    return fn.transpose(self, axis0, axis1)


@composite("swapdims(Tensor(a) self, int dim0, int dim1) -> Tensor(a)")
def swapdims(self: Any, dim0: int, dim1: int) -> Any:
    return fn.transpose(self, dim0, dim1)


@composite("numpy_T(Tensor(a) self) -> Tensor(a)")
def numpy_T(self: Any) -> Any:
    ndim = self._spec.ndim
    if ndim not in (0, 2):
        notice.warn(
            "The use of `x.T` on tensors of dimension other than 2 to reverse their shape is "
            "deprecated and it will throw an error in a future release. Consider `x.mT` to "
            "transpose batches of matrices or `x.permute(*torch.arange(x.ndim - 1, -1, -1))` to "
            "reverse the dimensions of a tensor.",
        )
    return fn.permute(self, tuple(range(ndim))[::-1])


def _check_matrices(name: str, ndim: int) -> None:
    if ndim < 2:
        raise ShapeError(
            f"tensor.{name} is only supported on matrices or batches of matrices. "
            f"Got {ndim}-D tensor."
        )


@composite("mT(Tensor(a) self) -> Tensor(a)")
def mT(self: Any) -> Any:
    if not self._spec.ndim:
        return fn.alias(self)
    _check_matrices("mT", self._spec.ndim)
    return fn.transpose(self, -2, -1)


@composite("mH(Tensor(a) self) -> Tensor(a)")
def mH(self: Any) -> Any:
    if not self._spec.ndim:
        return fn.conj(self)
    _check_matrices("mH", self._spec.ndim)
    return fn.conj(fn.transpose(self, -2, -1))


@composite("adjoint(Tensor(a) self) -> Tensor(a)")
def adjoint(self: Any) -> Any:
    if not self._spec.ndim:
        return fn.conj(self)
    _check_matrices("adjoint()", self._spec.ndim)
    return fn.conj(fn.transpose(self, -2, -1))


@composite("matrix_H(Tensor(a) self) -> Tensor(a)")
def matrix_H(self: Any) -> Any:
    ndim = self._spec.ndim
    if ndim not in (0, 2):
        more = " For batches of matrices, consider using tensor.mH" if ndim > 2 else ""
        raise ShapeError(
            f"tensor.H is only supported on matrices (2-D tensors). Got {ndim}-D tensor.{more}"
        )
    return fn.conj(fn.t(self))


@composite("movedim.intlist(Tensor(a) self, int[] source, int[] destination) -> Tensor(a)")
def movedim(self: Any, source: Sequence[int], destination: Sequence[int]) -> Any:
    ndim = self._spec.ndim
    if len(source) != len(destination):
        raise ShapeError(
            f"movedim: Invalid source or destination dims: source ({list(source)} dims) should "
            f"contain the same number of dims as destination ({list(destination)} dims)"
        )
    have = [wrap_dim(d, ndim) for d in source]
    want = [wrap_dim(d, ndim) for d in destination]
    for name, dims, given in (("source", have, source), ("destination", want, destination)):
        if len({*dims}) != len(dims):
            raise ShapeError(f"movedim: repeated dim in `{name}` ({list(given)})")
    if not ndim:
        return fn.alias(self)
    placed = dict(zip(want, have, strict=True))
    rest = iter([d for d in range(ndim) if d not in have])
    return fn.permute(self, [placed[d] if d in placed else next(rest) for d in range(ndim)])


@composite("movedim.int(Tensor(a) self, int source, int destination) -> Tensor(a)")
def movedim_int(self: Any, source: int, destination: int) -> Any:
    return movedim.body(self, (source,), (destination,))  # type: ignore[misc]


@composite("moveaxis.intlist(Tensor(a) self, int[] source, int[] destination) -> Tensor(a)")
def moveaxis(self: Any, source: Sequence[int], destination: Sequence[int]) -> Any:
    return movedim.body(self, source, destination)  # type: ignore[misc]


@composite("moveaxis.int(Tensor(a) self, int source, int destination) -> Tensor(a)")
def moveaxis_int(self: Any, source: int, destination: int) -> Any:
    return movedim.body(self, (source,), (destination,))  # type: ignore[misc]


# --------------------------------------------------------------------------------------- parts --
@composite("narrow(Tensor(a) self, int dim, SymInt start, SymInt length) -> Tensor(a)")
def narrow(self: Any, dim: int, start: int, length: int) -> Any:
    spec = self._spec
    if not spec.shape:
        raise ShapeError("narrow() cannot be applied to a 0-dim tensor.")
    n = spec.shape[wrap_dim(dim, spec.ndim)]
    if length < 0:
        raise ShapeError("narrow(): length must be non-negative.")
    if not -n <= start <= n:
        raise ValueRangeError(
            f"start out of range (expected to be in range of [{-n}, {n}], but got {start})"
        )
    start = start + n if start < 0 else start
    if start + length > n:
        raise ShapeError(f"start ({start}) + length ({length}) exceeds dimension size ({n}).")
    return fn.slice(self, dim, start, start + length, 1)


@composite("narrow.Tensor(Tensor(a) self, int dim, Tensor start, SymInt length) -> Tensor(a)")
def narrow_tensor(self: Any, dim: int, start: Any, length: int) -> Any:
    if start._spec.ndim or start._spec.dtype.category != 1:
        raise ShapeError("start must be an 0-dim integral Tensor.")
    return fn.narrow(self, dim, int(start.item()), length)


@composite("split.sizes(Tensor(a -> *) self, SymInt[] split_size, int dim=0) -> Tensor(a)[]")
def split_sizes(self: Any, split_size: Sequence[int], dim: int = 0) -> Any:
    return fn.split_with_sizes(self, split_size, dim)


# First of the three: a 0-d tensor would also pass for an int.
@composite(
    "tensor_split.tensor_indices_or_sections(Tensor(a -> *) self, Tensor tensor_indices_or_sections"
    ", int dim=0) -> Tensor(a)[]"
)
def tensor_split_tensor(self: Any, tensor_indices_or_sections: Any, dim: int = 0) -> Any:
    how = tensor_indices_or_sections
    name, rank = how._spec.dtype.c_name, how._spec.ndim
    if rank > 1:
        raise ShapeError(
            "tensor_split expected tensor_indices_or_sections to be a zero-dimensional or "
            f"one-dimensional tensor, but got a tensor with {rank} dims"
        )
    if name != "Long":
        raise DTypeError(
            "tensor_split expected tensor_indices_or_sections to have dtype of long, but got "
            + name
        )
    if not how._spec.ndim:
        return tensor_split.body(self, int(how.item()), dim)  # type: ignore[misc]
    return tensor_split_indices.body(self, as_ints(how), dim)  # type: ignore[misc]


@composite("chunk(Tensor(a -> *) self, int chunks, int dim=0) -> Tensor(a)[]")
def chunk(self: Any, chunks: int, dim: int = 0) -> Any:
    spec = self._spec
    if not spec.shape:
        raise ShapeError("chunk expects at least a 1-dimensional tensor")
    if chunks <= 0:
        raise ShapeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    n = spec.shape[wrap_dim(dim, spec.ndim)]
    size = -(-n // chunks)
    if not size:
        return fn.split_with_sizes(self, [0] * chunks, dim)
    return fn.split(self, size, dim)


def _cut(self: Any, bounds: Sequence[int], dim: int) -> tuple[Any, ...]:
    return tuple([fn.slice(self, dim, a, b, 1) for a, b in itertools.pairwise(bounds)])


def _check_splittable(self: Any, dim: int) -> int:
    """Return the size of the dim that `tensor_split` cuts."""
    spec = self._spec
    if not spec.shape:
        raise ShapeError(
            "tensor_split expected at least a 1-dimensional tensor, but got a tensor with 0 dims"
        )
    return spec.shape[wrap_dim(dim, spec.ndim)]  # type: ignore[no-any-return]


@composite("tensor_split.sections(Tensor(a -> *) self, SymInt sections, int dim=0) -> Tensor(a)[]")
def tensor_split(self: Any, sections: int, dim: int = 0) -> Any:
    n = _check_splittable(self, dim)
    if sections <= 0:
        raise ShapeError(f"number of sections must be larger than 0, got {sections}")
    return _cut(self, section_bounds(n, sections), dim)


@composite("tensor_split.indices(Tensor(a -> *) self, SymInt[] indices, int dim=0) -> Tensor(a)[]")
def tensor_split_indices(self: Any, indices: Sequence[int], dim: int = 0) -> Any:
    n = _check_splittable(self, dim)
    starts, ends = [0, *indices], [*indices, n]
    return tuple([fn.slice(self, dim, a, b, 1) for a, b in zip(starts, ends, strict=True)])


def _declare_split(name: str, dims_min: int, dim_of: Any) -> None:
    """Declare hsplit, vsplit or dsplit: `tensor_split` along a dim that follows from the name."""

    def check(self: Any) -> int:
        ndim = self._spec.ndim
        if ndim < dims_min:
            raise ShapeError(
                f"torch.{name} requires a tensor with at least {dims_min} dimension, but "
                f"got a tensor with {ndim} dimensions!"
            )
        return dim_of(ndim)  # type: ignore[no-any-return]

    @composite(f"{name}.int(Tensor(a -> *) self, int sections) -> Tensor(a)[]")
    def by_sections(self: Any, sections: int) -> Any:
        dim = check(self)
        n = self._spec.shape[dim]
        if sections <= 0 or n % sections:
            raise ShapeError(
                f"torch.{name} attempted to split along dimension {dim}, but the size of the "
                f"dimension {n} is not divisible by the split_size {sections}!"
            )
        return fn.tensor_split(self, sections, dim)

    @composite(f"{name}.array(Tensor(a -> *) self, int[] indices) -> Tensor(a)[]")
    def by_indices(self: Any, indices: Sequence[int]) -> Any:
        return fn.tensor_split(self, indices, check(self))


_declare_split("hsplit", 1, lambda ndim: 0 if ndim == 1 else 1)
_declare_split("vsplit", 2, lambda ndim: 0)
_declare_split("dsplit", 3, lambda ndim: 2)


# --------------------------------------------------------------------------- at least n dims --
def _declare_atleast(name: str, widen: Any) -> None:
    @composite(f"{name}(Tensor self) -> Tensor")
    def one(self: Any) -> Any:
        return widen(self, self._spec.shape)

    @composite(f"{name}.Sequence(Tensor[] tensors) -> Tensor[]")
    def several(tensors: Sequence[Any]) -> Any:
        return tuple([widen(t, t._spec.shape) for t in tensors])


_declare_atleast("atleast_1d", lambda x, shape: x if shape else fn.reshape(x, (1,)))
_declare_atleast(
    "atleast_2d",
    lambda x, shape: x if len(shape) > 1 else fn.unsqueeze(fn.reshape(x, shape or (1,)), 0),
)
_declare_atleast(
    "atleast_3d",
    lambda x, shape: (
        x
        if len(shape) > 2
        else fn.unsqueeze(x, 2)
        if len(shape) == 2
        else fn.reshape(x, (1, math.prod(shape), 1))
    ),
)


@composite("broadcast_tensors(Tensor[] tensors) -> Tensor[]")
def broadcast_tensors(tensors: Sequence[Any]) -> Any:
    from ..spec import broadcast_shapes

    shape = broadcast_shapes(*[t._spec.shape for t in tensors])
    return tuple([t if t._spec.shape == shape else fn.expand(t, shape) for t in tensors])
