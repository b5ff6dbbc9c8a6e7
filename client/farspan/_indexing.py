"""``x[index]`` and ``x[index] = value`` by torch's rules: views where torch gives views.

Ints, slices, None and ... become views. Tensors, arrays, lists and boolean masks become one
`index` or `index_put_`; reading by a boolean mask waits, since its count is a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .core.call import Value, fn
from .core.errors import ProgramError, ValueRangeError

if TYPE_CHECKING:
    from ._tensor import Tensor


def get(x: Tensor, index: Any) -> Tensor:
    """Return ``x[index]``."""
    if type(index) is int:
        return _select(x, 0, index, 0)
    view, tensors = _basic(x, index)
    if not tensors:
        return view if view is not x else fn.alias(x)
    return fn.index(view, _expand_masks(view, tensors))


def set(x: Tensor, index: Any, value: Any) -> None:
    """Do ``x[index] = value``; the value broadcasts and is cast."""
    view, tensors = _basic(x, index)
    if not tensors:
        if isinstance(value, Value):
            fn.copy_(view, _fit(_on_device(value, x), view._spec.shape))
        elif isinstance(value, (bool, int, float, complex, np.generic)):
            fn.fill_(view, value)
        else:
            fn.copy_(view, _as_tensor(value, x))
        return
    values = value if isinstance(value, Value) else _as_tensor(value, x)
    if values.dtype is not x.dtype:
        if not isinstance(value, Value):
            values = fn._cast(values, x.dtype)
        else:
            raise ProgramError(
                f"Index put requires the source and destination dtypes match, got "
                f"{x.dtype!r} for the destination and {values.dtype!r} for the source."
            )
    fn.index_put_(view, tensors, _on_device(values, x))


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


def _basic(x: Tensor, index: Any) -> tuple[Any, list[Any]]:
    """Apply what makes views; return the view and the index tensors by its dims (or [])."""
    items = list(index) if type(index) is tuple else [index]
    items = [_normal(i, x) for i in items]
    consumed = sum(_dims_of(i) for i in items)
    if consumed > x.ndim:
        raise ValueRangeError(f"too many indices for tensor of dimension {x.ndim}")
    if Ellipsis in [i for i in items if i is Ellipsis]:
        at = next(k for k, i in enumerate(items) if i is Ellipsis)
        items[at : at + 1] = [slice(None)] * (x.ndim - consumed)
        items = [i for i in items if i is not Ellipsis]
    view: Any = x
    dim = 0
    tensors: list[Any] = []
    for k, item in enumerate(items):
        if item is None:
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
            tensors += [None] * (dim - len(tensors)) + [item]
            dim += max(1, item.ndim) if item.dtype.name in ("bool", "uint8") else 1  # type: ignore[attr-defined]
        else:
            view = _select(view, dim, item, k)
    return view, tensors


def _normal(item: Any, x: Tensor) -> Any:
    if item is None or item is Ellipsis or isinstance(item, (slice, bool)):
        return item
    if isinstance(item, Value):
        if not item._spec.shape and item.dtype.kind == 1:  # type: ignore[attr-defined]
            return item.item() if not item.requires_grad else item  # type: ignore[attr-defined]
        return _checked(item)
    if isinstance(item, (list, tuple, range, np.ndarray)):
        from ._creation import tensor

        made = tensor(np.asarray(item) if not isinstance(item, np.ndarray) else item,
                      device=x.device)  # fmt: skip
        return _checked(made if made.numel() else made.long())
    if isinstance(item, np.bool_):
        return bool(item)
    if hasattr(item, "__index__"):
        return int(item.__index__())
    raise ValueRangeError(
        "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid "
        f"indices (got {type(item).__name__})"
    )


def _checked(item: Any) -> Any:
    if item.dtype.kind > 1:
        raise ValueRangeError("tensors used as indices must be long, int, byte or bool tensors")
    return item


def _dims_of(item: Any) -> int:
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    if isinstance(item, Value) and item.dtype.name in ("bool", "uint8"):  # type: ignore[attr-defined]
        return max(0, item.ndim)  # type: ignore[attr-defined]
    return 1


def _one_bool(item: bool, x: Tensor) -> Tensor:
    from ._creation import tensor

    return tensor([item], device=x.device)


def _slice(x: Any, dim: int, item: slice) -> Any:
    step = 1 if item.step is None else int(item.step)
    if step <= 0:
        raise ProgramError("slice step must be positive")
    if item.start is None and item.stop is None and step == 1:
        return x
    start = None if item.start is None else int(item.start)
    stop = None if item.stop is None else int(item.stop)
    return fn.slice(x, dim, start, stop, step)


def _select(x: Any, dim: int, index: int, k: int) -> Any:
    if not x._spec.shape:
        raise ValueRangeError(
            "invalid index of a 0-dim tensor. Use `tensor.item()` in Python or `tensor.item<T>()` "
            "in C++ to convert a 0-dim tensor to a number"
        )
    n = x._spec.shape[dim]
    if not -n <= index < n:
        raise ValueRangeError(f"index {index} is out of bounds for dimension {k} with size {n}")
    return fn.select(x, dim, index)


def _expand_masks(x: Any, tensors: list[Any]) -> list[Any]:
    """Return the indices with each boolean mask as the coordinates of its true elements. Waits."""
    found: list[Any] = []
    for item in tensors:
        if item is None or item.dtype.name not in ("bool", "uint8"):
            found.append(item)
            continue
        shape = x._spec.shape[len(found) : len(found) + item.ndim]
        if tuple(item._spec.shape) != tuple(shape):
            bad = next(i for i, (a, b) in enumerate(zip(item.shape, shape, strict=True)) if a != b)
            raise ValueRangeError(
                f"The shape of the mask {list(item.shape)} at index {bad} does not match the shape "
                f"of the indexed tensor {list(x.shape)} at index {len(found) + bad}"
            )
        found += list(fn.unbind(fn.nonzero(item), 1))
    return found
