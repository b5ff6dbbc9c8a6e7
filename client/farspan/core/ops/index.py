"""Indexing by tensors: `x[i, :, j]`, index_put, and index_select/add/copy/fill along one dim.

Whether an index lies in range is known only from its values, so the kernels check. Boolean masks
become coordinates before `index` (their number is a value); `index_put` takes them as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..call import fn
from ..dtype import int32, int64, uint8
from ..errors import DTypeError, ShapeError, ValueRangeError
from ..family import common_device, structured
from ..places import as_element, assign
from ..spec import Spec, broadcast_shapes, pointwise_stride, wrap_dim
from .compare import check_fill_mask
from .view import expand_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

_MASKS = ("bool", "uint8")


# --------------------------------------------------------------------------- one index per dim --
def coordinates(x: Any, indices: Sequence[Any]) -> list[Any]:
    """Return the indices with each mask as the coordinates of its true elements.

    Waits for masks, on the client: their number is a value. ValueRangeError if a shape is wrong.
    """
    found: list[Any] = []
    for item in indices:
        if item is None or item._spec.dtype.name not in _MASKS:
            found.append(item)
            continue
        check_mask(x._spec, item._spec, len(found))
        found += list(fn.unbind(fn.nonzero(item), 1))
    return found


def check_mask(self: Spec, mask: Spec, dim: int) -> None:
    """Raise unless the mask fits the dims of `self` from `dim` on."""
    for i, n in enumerate(mask.shape):
        if dim + i >= self.ndim:
            raise ValueRangeError(f"too many indices for tensor of dimension {self.ndim}")
        if self.shape[dim + i] != n:
            raise ValueRangeError(
                f"The shape of the mask {list(mask.shape)} at index {i} does not match the shape "
                f"of the indexed tensor {list(self.shape)} at index {dim + i}"
            )


def _check_indices(self: Spec, indices: Sequence[Spec | None]) -> None:
    for i in indices:
        if i is not None and i.dtype.name not in ("int64", "int32", *_MASKS):
            raise ValueRangeError("tensors used as indices must be long, int, byte or bool tensors")
    used = sum(1 if i is None or i.dtype.name not in _MASKS else i.ndim for i in indices)
    if used > self.ndim:
        raise ValueRangeError(f"too many indices for tensor of dimension {self.ndim}")
    dim = 0
    for i in indices:
        if i is not None and i.dtype.name not in _MASKS and i.numel and not self.shape[dim]:
            raise ValueRangeError("index is out of bounds for dimension with size 0")
        dim += 1 if i is None or i.dtype.name not in _MASKS else i.ndim


def _picked_shape(indices: Sequence[Spec | None]) -> tuple[int, ...]:
    shapes = [i.shape for i in indices if i is not None]
    try:
        return broadcast_shapes(*shapes)
    except ShapeError:
        raise ValueRangeError(
            "shape mismatch: indexing tensors could not be broadcast together with shapes "
            + ", ".join(str(list(s)) for s in shapes)
        ) from None


def _index_layout(
    self: Spec, indices: Sequence[Spec | None]
) -> tuple[tuple[int, ...], list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Return the result's shape, and (shape, strides) that torch's iterator sees of each input.

    Dims picked by indices stand together in the place of the first, or in front if a dim that is
    kept stands between them.
    """
    picked = _picked_shape(indices)
    dims = [d for d, i in enumerate(indices) if i is not None]
    kept = [d for d in range(self.ndim) if d not in dims]
    adjacent = not dims or dims == list(range(dims[0], dims[-1] + 1))
    lead = [d for d in kept if d < dims[0]] if adjacent and dims else []
    rest = [d for d in kept if d not in lead]
    shape = (*[self.shape[d] for d in lead], *picked, *[self.shape[d] for d in rest])
    stride = (*[self.stride[d] for d in lead], *[0] * len(picked), *[self.stride[d] for d in rest])
    operands = [(shape, stride)]
    for i in indices:
        if i is not None:
            wide = expand_spec(i, picked)[0].stride
            operands.append(((*[1] * len(lead), *picked, *[1] * len(rest)),
                             (*[0] * len(lead), *wide, *[0] * len(rest))))  # fmt: skip
    return shape, operands


def _index_meta(self: Spec, indices: Sequence[Spec | None]) -> Spec:
    _check_indices(self, indices)
    if any(i is not None and i.dtype.name in _MASKS for i in indices):
        raise DTypeError("index() takes coordinates; turn masks into them with nonzero()")
    shape, operands = _index_layout(self, indices)
    seen = [self.with_(shape=s, stride=t) for s, t in operands]
    return self.with_(shape=shape, stride=pointwise_stride(shape, seen))


def checked(xp: Any, index: Any, n: int, dim: int) -> Any:
    """Return an index array, all of it in [-n, n). ValueRangeError in torch's words."""
    if index.size:
        low, high = int(index.min()), int(index.max())
        if low < -n or high >= n:
            bad = high if high >= n else low
            raise ValueRangeError(f"index {bad} is out of bounds for dimension {dim} with size {n}")
    return index


def _fancy(xp: Any, self: Any, indices: Sequence[Any]) -> tuple[Any, ...]:
    """Return numpy's index for torch's, checked; the two agree on where picked dims go."""
    found: list[Any] = []
    dim = 0
    for i in indices:
        if i is None:
            found.append(slice(None))
            dim += 1
        elif i.dtype.kind == "b" or i.dtype.name == "uint8":
            found.append(i.astype(bool))
            dim += i.ndim
        else:
            found.append(checked(xp, i, self.shape[dim], dim))
            dim += 1
    return tuple(found)


structured(
    "index.Tensor(Tensor self, Tensor?[] indices) -> Tensor",
    meta=_index_meta,
    kernel=lambda xp, self, indices: self[_fancy(xp, self, indices)],
    vjp={
        "self": lambda g, self_spec, indices: fn.index_put(
            fn.new_zeros(g, self_spec.shape), indices, g, True
        )
    },
    moves=True,
)


def _index_put_meta(
    self: Spec, indices: Sequence[Spec | None], values: Spec, accumulate: bool
) -> Spec:
    _check_indices(self, indices)
    fills = _fills_mask(indices, values, accumulate)
    dim = 0
    for i in indices:
        if i is not None and i.dtype.name in _MASKS:
            if fills and i.dtype is uint8:
                check_fill_mask(i)
            check_mask(self, i, dim)
            dim += i.ndim
        else:
            dim += 1
    if not any(i is not None and i.dtype.name in _MASKS for i in indices):
        lead = values.ndim if not any(i is not None for i in indices) else 0
        _check_values(values.shape, _index_layout(self, indices)[0], lead > self.ndim)
    if self.dtype is not values.dtype and not fills:
        raise DTypeError(
            "Index put requires the source and destination dtypes match, got "
            f"{self.dtype.c_name} for the destination and {values.dtype.c_name} for the source."
        )
    return self.packed


def _fills_mask(indices: Sequence[Spec | None], values: Spec, accumulate: bool) -> bool:
    """Return whether this is a masked_fill, which casts its value: one mask and one value."""
    given = [i for i in indices if i is not None]
    masks = len(given) == 1 and given[0].dtype.name in _MASKS
    return masks and values.numel == 1 and not accumulate


def _check_values(have: Sequence[int], want: Sequence[int], longer: bool = False) -> None:
    lead = len(have) - len(want)
    fits = (
        not longer
        and all(n == 1 for n in have[: max(lead, 0)])
        and all(n in (1, m) for n, m in zip(have[::-1], want[::-1], strict=False))
    )
    if not fits:
        raise ShapeError(
            f"shape mismatch: value tensor of shape {list(have)} cannot be broadcast to indexing "
            f"result of shape {list(want)}"
        )


def _index_put_kernel(
    xp: Any, self: Any, indices: Sequence[Any], values: Any, accumulate: bool
) -> Any:
    out = self.copy(order="C")
    _index_put_into(xp, out, indices, values, accumulate)
    return out


def _index_put_into(
    xp: Any, out: Any, indices: Sequence[Any], values: Any, accumulate: bool
) -> None:
    where = _fancy(xp, out, indices)
    if not accumulate and (xp is np or not values.ndim):
        try:
            out[where] = _without_ones(values, out.ndim)
        except ValueError:
            _check_values(values.shape, out[where].shape)
            raise
        return
    used = sum(i.ndim if not isinstance(i, slice) and i.dtype.kind == "b" else 1 for i in where)
    rows = xp.arange(_numel(out.shape[:used])).reshape(out.shape[:used])[where]
    shape = rows.shape + out.shape[used:]
    _check_values(values.shape, shape)
    values = xp.broadcast_to(_without_ones(values, len(shape)), shape)
    if accumulate:
        add_rows(xp, out, rows, values)
    else:
        assign(xp, out.reshape(-1), _elements(xp, rows, values), values.reshape(-1))


def _without_ones(values: Any, rank: int) -> Any:
    return values.reshape(values.shape[max(values.ndim - rank, 0) :])


def _numel(shape: Sequence[int]) -> int:
    n = 1
    for i in shape:
        n *= i
    return n


def add_rows(xp: Any, out: Any, rows: Any, values: Any) -> None:
    """Add values to out, seen as rows: row `rows[i]` grows by `values[i]`, in this order.

    `ufunc.at` is fast on flat indices only, so each element gets its own.
    """
    xp.add.at(out.reshape(-1), _elements(xp, rows, values), values.reshape(-1))


def _elements(xp: Any, rows: Any, values: Any) -> Any:
    """Return the flat places of all elements of rows, which hold as many values each."""
    width = values.size // max(rows.size, 1)
    places = rows.reshape(-1)
    return places if width == 1 else (places[:, None] * width + xp.arange(width)).reshape(-1)


def _index_put_values_grad(g: Any, indices: Any) -> Any:
    return fn.index(g, coordinates(g, indices))


structured(
    "index_put(Tensor self, Tensor?[] indices, Tensor values, bool accumulate=False) -> Tensor",
    meta=_index_put_meta,
    kernel=_index_put_kernel,
    into=_index_put_into,
    vjp={
        "self": lambda g, indices, accumulate: (
            g if accumulate else fn.index_put(g, indices, fn.new_zeros(g, ()))
        ),
        "values": _index_put_values_grad,
    },
)


# ----------------------------------------------------------------------------- along one dim --
def check_vector(name: str, index: Spec) -> int:
    """Return the length of an index along one dim; a 0-d one counts as one element."""
    if index.ndim > 1:
        raise ValueRangeError(f"{name}(): Index is supposed to be a vector")
    if index.dtype not in (int32, int64):
        raise DTypeError(f"{name}(): Expected dtype int32 or int64 for index")
    return index.numel


def _index_select_meta(self: Spec, dim: int, index: Spec) -> Spec:
    dim = wrap_dim(dim, self.ndim)
    n = check_vector("index_select", index)
    if not self.shape:
        if n != 1:
            raise ValueRangeError("index_select(): Index to scalar can have only 1 value")
        return self
    return Spec.make(
        (*self.shape[:dim], n, *self.shape[dim + 1 :]), self.dtype, common_device((self, index))
    )


def in_self(index: Any, n: int) -> Any:
    """Return an index array, all of it in [0, n). ValueRangeError in torch's words."""
    if index.size and (int(index.min()) < 0 or int(index.max()) >= n):
        raise ValueRangeError("index out of range in self")
    return index


def taken(xp: Any, x: Any, index: Any, dim: int) -> Any:
    """Return what an index array picks along a dim, out of where it lies.

    `take` first makes a copy of all that does not lie in order: of an expanded view all of it.
    """
    if x.flags.c_contiguous:
        return xp.take(x, index, axis=dim)
    return x[(slice(None),) * (dim % x.ndim) + (index,)]


def _index_select_kernel(xp: Any, self: Any, dim: int, index: Any) -> Any:
    if not self.ndim:
        in_self(index, 1)
        return self
    return taken(xp, self, in_self(index.reshape(-1), self.shape[dim]), dim)


structured(
    "index_select(Tensor self, int dim, Tensor index) -> Tensor",
    meta=_index_select_meta,
    kernel=_index_select_kernel,
    vjp={
        "self": lambda g, self_spec, dim, index: fn.index_add(
            fn.new_zeros(g, self_spec.shape), dim, index, g
        )
    },
    moves=True,
)


def _check_source(name: str, self: Spec, dim: int, index: Spec, source: Spec) -> None:
    """Raise unless `source` has the index's length along `dim` and self's sizes elsewhere."""
    dim = wrap_dim(dim, self.ndim)
    n = check_vector(name, index)
    if self.dtype is not source.dtype:
        raise DTypeError(
            f"{name}(): self ({self.dtype.name}) and source ({source.dtype.name}) expected to "
            "have the same dtype"
        )
    length = source.shape[dim] if source.shape else 1
    if n != length:
        raise ValueRangeError(
            f"{name}_(): Number of indices ({n}) should be equal to source.size(dim): ({length}), "
            f"for dim: {dim}"
        )
    have = [m for d, m in enumerate(source.shape) if d != dim]
    want = [m for d, m in enumerate(self.shape) if d != dim]
    if have != want:
        raise ShapeError(
            f"{name}_(): source {list(source.shape)} and destination {list(self.shape)} must have "
            f"the same sizes except in dimension {dim}"
        )


def _source_meta(name: str) -> Any:
    def meta(self: Spec, dim: int, index: Spec, source: Spec, *_: Any) -> Spec:
        _check_source(name, self, dim, index, source)
        return self.contiguous_

    return meta


def places_along(xp: Any, shape: Sequence[int], dim: int, index: Any) -> Any:
    """Return the flat places in a C-ordered array of `shape` of all elements with these indices."""
    outer, inner = _numel(shape[:dim]), _numel(shape[dim + 1 :])
    rows = xp.arange(outer)[:, None] * shape[dim] + index
    return (rows[..., None] * inner + xp.arange(inner)).reshape(-1)


def _index_add_kernel(xp: Any, self: Any, dim: int, index: Any, source: Any, alpha: Any) -> Any:
    out = self.copy(order="C")
    _index_add_into(xp, out, dim, index, source, alpha)
    return out


def _index_add_into(xp: Any, out: Any, dim: int, index: Any, source: Any, alpha: Any) -> None:
    shape = out.shape or (1,)
    dim = dim % len(shape)
    index = checked_forward(index.reshape(-1), shape[dim], dim)
    source = source if alpha == 1 else source * out.dtype.type(as_element(alpha, out.dtype))
    places = places_along(xp, shape, dim, index)
    xp.add.at(out.reshape(-1), places, xp.ascontiguousarray(source).reshape(-1))


def checked_forward(index: Any, n: int, dim: int, error: type[Exception] = ShapeError) -> Any:
    """Return an index array, all of it in [0, n). torch calls it a RuntimeError in most places."""
    if index.size:
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= n:
            bad = low if low < 0 else high
            raise error(f"index {bad} is out of bounds for dimension {dim} with size {n}")
    return index


def _index_add_source_grad(
    g: Any, self_spec: Spec, dim: int, index: Any, source_spec: Spec, alpha: Any
) -> Any:
    picked = fn.reshape(fn.index_select(g, dim, index), source_spec.shape)
    return picked if alpha == 1 else fn.mul(picked, alpha)


structured(
    "index_add(Tensor self, int dim, Tensor index, Tensor source, *, Scalar alpha=1) -> Tensor",
    meta=_source_meta("index_add"),
    kernel=_index_add_kernel,
    into=_index_add_into,
    vjp={"self": lambda g: g, "source": _index_add_source_grad},
)


def _index_copy_kernel(xp: Any, self: Any, dim: int, index: Any, source: Any) -> Any:
    shape = self.shape or (1,)
    dim = dim % len(shape)
    index = checked_forward(index.reshape(-1), shape[dim], dim, ValueRangeError)
    out = self.copy(order="C")
    source = source.reshape(source.shape or (1,))
    if xp is np:
        xp.moveaxis(out.reshape(shape), dim, 0)[index] = xp.moveaxis(source, dim, 0)
    else:
        assign(xp, out.reshape(-1), places_along(xp, shape, dim, index), source.reshape(-1))
    return out


structured(
    "index_copy(Tensor self, int dim, Tensor index, Tensor source) -> Tensor",
    meta=_source_meta("index_copy"),
    kernel=_index_copy_kernel,
    vjp={
        "self": lambda g, dim, index: fn.index_fill(g, dim, index, 0),
        "source": lambda g, dim, index, source_spec: fn.reshape(
            fn.index_select(g, dim, index), source_spec.shape
        ),
    },
    moves=True,
)


def _index_fill_meta(self: Spec, dim: int, index: Spec, value: Any) -> Spec:
    wrap_dim(dim, self.ndim)
    if index.dtype is not int64:
        raise ValueRangeError("index_fill_(): Expected dtype int64 for index.")
    if index.ndim > 1:
        raise ValueRangeError("index_fill_(): Index is supposed to be a vector")
    if isinstance(value, Spec) and value.shape:
        raise ShapeError(
            "index_fill_ only supports a 0-dimensional value tensor, but got tensor with "
            f"{value.ndim} dimension(s)."
        )
    return self.packed


def _index_fill_kernel(xp: Any, self: Any, dim: int, index: Any, value: Any) -> Any:
    shape = self.shape or (1,)
    dim = dim % len(shape)
    out = self.copy(order="C")
    place = (slice(None),) * dim + (checked(xp, index.reshape(-1), shape[dim], dim),)
    out.reshape(shape)[place] = as_element(value, out.dtype)
    return out


structured(
    "index_fill.int_Scalar(Tensor self, int dim, Tensor index, Scalar value) -> Tensor",
    meta=_index_fill_meta,
    kernel=_index_fill_kernel,
    vjp={"self": lambda g, dim, index: fn.index_fill(g, dim, index, 0)},
    moves=True,
)
structured(
    "index_fill.int_Tensor(Tensor self, int dim, Tensor index, Tensor value) -> Tensor",
    meta=_index_fill_meta,
    kernel=_index_fill_kernel,
    vjp={
        "self": lambda g, dim, index: fn.index_fill(g, dim, index, 0),
        "value": lambda g, dim, index: fn.sum(fn.sub(g, fn.index_fill(g, dim, index, 0))),
    },
    moves=True,
)
