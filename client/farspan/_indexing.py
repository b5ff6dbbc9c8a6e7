"""``x[index]`` and ``x[index] = value`` by torch's rules: views where torch gives views.

Ints, slices, None and ... become views. Tensors, arrays, lists and boolean masks become one
`index` or `index_put_`. Two things wait, since they need a value: reading by a mask (the count of
its true elements) and an integer tensor without dims (which selects, as an int does).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from .core.call import Value, fn
from .core.dtype import bool_, int32, int64, uint8
from .core.errors import ArgumentError, BadValueError, DTypeError, ValueRangeError
from .core.ops.index import coordinates

if TYPE_CHECKING:
    from ._tensor import Tensor


def get(x: Tensor, index: Any) -> Tensor:
    """Return ``x[index]``."""
    if type(index) is int:
        return _select(x, 0, index, 0)  # type: ignore[no-any-return]
    view, tensors = _basic(x, index)
    if not tensors:
        return view if view is not x else fn.alias(x)  # type: ignore[no-any-return]
    _warn_of_bytes(tensors)
    return fn.index(view, coordinates(view, tensors))  # type: ignore[no-any-return]


def set(x: Tensor, index: Any, value: Any) -> None:
    """Do ``x[index] = value``; the value broadcasts and is cast."""
    if index is False:
        return
    view, tensors = _basic(x, index)
    if not isinstance(value, Value):
        value = _number(value, x)
        if not tensors:
            fn.fill_(view, value)
            return
        value = _as_tensor(value, x)
    value = _on_device(value, x)
    if tensors:
        fn.index_put_(view, tensors, value)
        _warn_of_bytes(tensors)
    else:
        value = _fit(value, view._spec.shape)
        if value._spec.shape != view._spec.shape and value._storage.memory is x._storage.memory:
            value = fn.expand(value, view._spec.shape)  # ``x[:] = x[0]``: copy_ would refuse it
        fn.copy_(view, value)


def _warn_of_bytes(tensors: list[Any]) -> None:
    for item in tensors:
        if item is not None and item.dtype is uint8:
            warnings.warn(
                "indexing with dtype torch.uint8 is now deprecated, please use a dtype torch.bool "
                "instead.",
                stacklevel=4,
            )


def _number(value: Any, x: Tensor) -> Any:
    """Return a value that is no tensor as a number that x can hold."""
    if not isinstance(value, (bool, int, float, complex, np.generic)):
        kind = f"torch.{_LEGACY.get(x.dtype.name, 'Float')}Tensor"
        raise ArgumentError(f"can't assign a {_type_name(value)} to a {kind}")
    if isinstance(value, (complex, np.complexfloating)) and not x.dtype.is_complex:
        kind = x.dtype.name.removesuffix("32")
        raise DTypeError(f"value cannot be converted to type {kind} without overflow")
    return value


_LEGACY = {
    "float64": "Double", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long",
    "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte", "bool": "Bool",
}  # fmt: skip


def _type_name(value: Any) -> str:
    cls = type(value)
    return cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"


def _on_device(value: Any, x: Tensor) -> Any:
    if value.device is not x.device and not value._spec.shape:
        return value.to(x.device)
    return value


def _fit(value: Any, shape: tuple[int, ...]) -> Any:
    """Drop leading dims of size 1 that the target lacks, as torch does."""
    have = value._spec.shape
    while len(have) > len(shape) and have[0] == 1:
        have = have[1:]
    return value if have == value._spec.shape else fn.reshape(value, have)


def _as_tensor(value: Any, x: Tensor) -> Tensor:
    from ._creation import tensor

    return tensor(value, dtype=x.dtype, device=x.device)


# ---------------------------------------------------------------------------- the index's items --
def _basic(x: Tensor, index: Any) -> tuple[Any, list[Any]]:
    """Apply what makes views; return the view and the index tensors by its dims (or [])."""
    if type(index) is slice and not x._spec.shape:
        raise ValueRangeError("slice() cannot be applied to a 0-dim tensor.")
    if type(index) is int or (type(index) is not tuple and _is_int(index)):
        return _select(x, 0, int(index), 0), []
    items = [_normal(i, x) for i in _as_tuple(index)]
    consumed = sum(_dims_of(i) for i in items)
    if consumed > x.ndim:
        raise ValueRangeError(f"too many indices for tensor of dimension {x.ndim}")
    view: Any = x
    dim = 0
    tensors: list[Any] = []
    for place, item in enumerate(items):
        if item is Ellipsis:
            dim += x.ndim - consumed
        elif item is None:
            view = fn.unsqueeze(view, dim)
            dim += 1
        elif item is True or item is False:
            view = fn.unsqueeze(view, dim)
            tensors += [None] * (dim - len(tensors)) + [_one_bool(item, x)]
            dim += 1
        elif isinstance(item, slice):
            view = _slice(view, dim, item)
            dim += 1
        elif isinstance(item, Value):
            if not item._spec.shape and _is_mask(item):  # type: ignore[attr-defined]
                view = fn.unsqueeze(view, dim)
                item = fn.ne(fn.reshape(item, (1,)), 0)
            tensors += [None] * (dim - len(tensors)) + [item]
            dim += item.ndim if _is_mask(item) else 1
        else:
            view = _select(view, dim, item, place)
    return view, tensors


def _as_tuple(index: Any) -> tuple[Any, ...]:
    """Return the items of an index. A short list that holds more than numbers is a tuple, too."""
    if type(index) is tuple:
        return index
    if type(index) is list and len(index) < 32:
        kinds = (slice, list, tuple, np.ndarray, Value, type(None), type(Ellipsis))
        if any(isinstance(i, kinds) for i in index):
            return tuple(index)
    return (index,)


def _is_int(item: Any) -> bool:
    return isinstance(item, np.integer) or (isinstance(item, int) and not isinstance(item, bool))


def _is_mask(item: Any) -> bool:
    return item.dtype is bool_ or item.dtype is uint8


def _normal(item: Any, x: Tensor) -> Any:
    """Return an item as None, Ellipsis, a bool, an int, a slice, or an index tensor."""
    if item is None or item is Ellipsis or isinstance(item, (slice, bool)):
        return item
    if isinstance(item, Value):
        whole = not item._levels and not item._spec.shape  # type: ignore[attr-defined]
        if whole and item.dtype in (int32, int64):  # type: ignore[attr-defined]
            return item.item()  # type: ignore[attr-defined]
        return _checked(item)
    if isinstance(item, np.ndarray) and not item.ndim:
        item = item[()]
    if isinstance(item, np.bool_):
        return bool(item)
    if isinstance(item, (list, tuple, range, np.ndarray)):
        return _checked(_from_list(item, x))
    if isinstance(item, str):
        raise ArgumentError("new(): invalid data type 'str'")
    if hasattr(item, "__index__"):
        return int(item.__index__())
    raise ValueRangeError(
        "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid "
        f"indices (got {type(item).__name__})"
    )


def _from_list(item: Any, x: Tensor) -> Tensor:
    """Return lists and arrays as an index tensor: bools are a mask, other numbers become int64."""
    from ._creation import tensor

    made = tensor(item if isinstance(item, np.ndarray) else list(item), device=x.device)
    if made.numel() and _is_mask(made):
        return made
    return made.to(int64)  # type: ignore[no-any-return, attr-defined]


def _checked(item: Any) -> Any:
    if item.dtype not in (int64, int32, uint8, bool_):
        raise ValueRangeError("tensors used as indices must be long, int, byte or bool tensors")
    return item


def _dims_of(item: Any) -> int:
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    if isinstance(item, Value) and _is_mask(item):
        return item.ndim  # type: ignore[attr-defined, no-any-return]
    return 1


def _one_bool(item: bool, x: Tensor) -> Tensor:
    """Return the index of a new dim of size 1 that keeps it (True) or empties it (False)."""
    from ._creation import tensor

    return tensor([0] if item else [], dtype=int64, device=x.device)


def _slice(x: Any, dim: int, item: slice) -> Any:
    start, stop, step = map(_bound, (item.start, item.stop, item.step))
    step = 1 if step is None else step
    if step == 0:
        raise BadValueError("slice step cannot be zero")
    if step < 0:
        raise BadValueError("step must be greater than zero")
    if start is None and stop is None and step == 1:
        return x
    return fn.slice(x, dim, start, stop, step)


def _bound(x: Any) -> int | None:
    if x is None or type(x) is int:
        return x
    try:
        return int(x.__index__())
    except AttributeError:
        raise ArgumentError(
            "slice indices must be integers or None or have an __index__ method"
        ) from None


def _select(x: Any, dim: int, index: int, place: int) -> Any:
    if not x._spec.shape:
        raise ValueRangeError(
            "invalid index of a 0-dim tensor. Use `tensor.item()` in Python or `tensor.item<T>()` "
            "in C++ to convert a 0-dim tensor to a number"
        )
    n = x._spec.shape[dim]
    if not -n <= index < n:
        raise ValueRangeError(f"index {index} is out of bounds for dimension {place} with size {n}")
    return fn.select(x, dim, index)
