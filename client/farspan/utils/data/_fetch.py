"""Loading one batch of samples by their indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import farspan
from farspan._tensor import Tensor
from farspan.utils.data.collate import default_collate
from farspan.utils.data.dataset import Subset, TensorDataset

__all__ = ["fetch_batch"]


def fetch_batch(dataset: Any, indices: list[int], collate: Callable[[Any], Any]) -> Any:
    """Return the batch of some samples; of a TensorDataset it is cut out, one op a tensor."""
    tensors, rows = _tensor_rows(dataset, indices)
    if tensors is not None and collate is default_collate:
        return _gathered(tensors, rows)
    if callable(getattr(dataset, "__getitems__", None)):
        return collate(dataset.__getitems__(indices))
    return collate([dataset[i] for i in indices])


def _tensor_rows(dataset: Any, indices: list[int]) -> tuple[tuple[Tensor, ...] | None, list[int]]:
    """Return the tensors of a (subset of a) TensorDataset and the rows to take, or None.

    Only for these very classes: a subclass may have its own ``__getitem__``.
    """
    rows = list(indices)
    while type(dataset) is Subset:
        rows = [dataset.indices[i] for i in rows]
        dataset = dataset.dataset
    return (dataset.tensors, rows) if type(dataset) is TensorDataset else (None, rows)


def _gathered(tensors: tuple[Tensor, ...], rows: list[int]) -> list[Tensor]:
    size = tensors[0].shape[0]
    positions = [row + size if row < 0 else row for row in rows]
    index_on: dict[str, Tensor] = {}
    batch = []
    for tensor in tensors:
        place = str(tensor.device)
        if place not in index_on:
            index_on[place] = farspan.tensor(positions, dtype=farspan.int64, device=tensor.device)
        batch.append(tensor.index_select(0, index_on[place]))
    return batch
