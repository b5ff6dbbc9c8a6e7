"""How a list of samples becomes a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import numpy as np

import farspan
from farspan._tensor import Tensor

__all__ = ["default_collate", "default_convert"]


def default_collate(batch: Sequence[Any]) -> Any:
    """Return the samples as one batch: tensors stacked, numbers as tensors, containers kept.

    >>> default_collate([{"x": 1}, {"x": 2}])
    {'x': tensor([1, 2])}
    """
    first = batch[0]
    if isinstance(first, Tensor):
        return farspan.stack(list(batch), 0)
    if isinstance(first, np.ndarray):
        _require_numbers(first)
        return farspan.stack([farspan.as_tensor(sample) for sample in batch], 0)
    if isinstance(first, (np.bool_, np.number)):
        return farspan.as_tensor(np.asarray(batch))
    if isinstance(first, float):
        return farspan.tensor(list(batch), dtype=farspan.float64)
    if isinstance(first, int):
        return farspan.tensor(list(batch))
    if isinstance(first, (str, bytes)):
        return batch
    if isinstance(first, Mapping):
        return _like_mapping(
            first, {key: default_collate([sample[key] for sample in batch]) for key in first}
        )
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*map(default_collate, zip(*batch, strict=True)))
    if isinstance(first, Sequence):
        if any(len(sample) != len(first) for sample in batch):
            raise RuntimeError("each element in list of batch should be of equal size")
        columns = [default_collate(column) for column in zip(*batch, strict=True)]
        return columns if isinstance(first, tuple) else _like_sequence(first, columns)
    raise TypeError(
        "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; "
        f"found {type(first)}"
    )


def default_convert(data: Any) -> Any:
    """Return a sample with its numpy values as tensors; used where nothing is batched."""
    if isinstance(data, (np.ndarray, np.bool_, np.number)):
        is_text = isinstance(data, np.ndarray) and data.dtype.kind in "SUO"
        return data if is_text else farspan.as_tensor(data)
    if isinstance(data, Tensor) or isinstance(data, (str, bytes)):
        return data
    if isinstance(data, Mapping):
        return _like_mapping(data, {key: default_convert(data[key]) for key in data})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(default_convert, data))
    if isinstance(data, Sequence):
        items = [default_convert(item) for item in data]
        return items if isinstance(data, tuple) else _like_sequence(data, items)
    return data


def _require_numbers(array: np.ndarray[Any, Any]) -> None:
    if array.dtype.kind in "SUO":
        raise TypeError(
            "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; "
            f"found {array.dtype}"
        )


def _like_mapping(original: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    """Return ``values`` in the class of ``original`` where that class allows it."""
    if isinstance(original, MutableMapping):
        return _or_plain(lambda: _updated(copy.copy(original), values), values)
    return _or_plain(lambda: type(original)(values), values)  # type: ignore[call-arg]


def _updated(mapping: Any, values: dict[Any, Any]) -> Any:
    mapping.update(values)
    return mapping


def _like_sequence(original: Sequence[Any], items: list[Any]) -> Any:
    if isinstance(original, MutableSequence):
        return _or_plain(lambda: _filled(copy.copy(original), items), items)
    return _or_plain(lambda: type(original)(items), items)  # type: ignore[call-arg]


def _filled(sequence: Any, items: list[Any]) -> Any:
    for i, item in enumerate(items):
        sequence[i] = item
    return sequence


def _or_plain(make: Callable[[], Any], plain: Any) -> Any:
    """Return what ``make`` returns, or ``plain`` if the class cannot be made this way."""
    try:
        return make()
    except TypeError:
        return plain
