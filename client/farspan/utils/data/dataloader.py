"""DataLoader: iterates over a dataset in batches, in this process.

Worker processes (num_workers > 0) are not there yet and are refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import farspan
from farspan._tensor import Tensor
from farspan.utils.data.collate import default_collate, default_convert
from farspan.utils.data.dataset import IterableDataset, Subset, TensorDataset
from farspan.utils.data.sampler import BatchSampler, RandomSampler, SequentialSampler

__all__ = ["DataLoader"]


class DataLoader:
    """Batches of ``dataset``: ``for x, y in DataLoader(data, batch_size=64, shuffle=True)``.

    With the same seed the batches are torch's. Batches of a TensorDataset are cut out in the
    worker with one operator a tensor, not put together from single samples.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        _check_workers(num_workers, timeout, prefetch_factor, persistent_workers)
        self._streams = isinstance(dataset, IterableDataset)
        _check_samplers(self._streams, batch_size, shuffle, sampler, batch_sampler, drop_last)
        if batch_sampler is not None:
            batch_size = None
        if sampler is None and not self._streams:
            sampler = (
                RandomSampler(dataset, generator=generator)
                if shuffle
                else SequentialSampler(dataset)
            )
        if batch_size is not None and batch_sampler is None and not self._streams:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)  # type: ignore[arg-type]
        self.dataset = dataset
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.generator = generator
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        if collate_fn is None:
            batched = batch_sampler is not None or (self._streams and batch_size is not None)
            collate_fn = default_collate if batched else default_convert
        self.collate_fn = collate_fn

    def __iter__(self) -> Iterator[Any]:
        # torch draws a base seed for worker processes at every start, also without any; the
        # draw keeps the default generator in step with torch's. Nobody reads it: no wait.
        farspan.empty((), dtype=farspan.int64).random_(generator=self.generator)
        return self._stream() if self._streams else self._samples()

    def _samples(self) -> Iterator[Any]:
        if self.batch_sampler is None:
            for index in self.sampler or ():
                yield self.collate_fn(self.dataset[index])
            return
        for indices in self.batch_sampler:
            tensors, rows = _tensor_rows(self.dataset, indices)
            if tensors is not None and self.collate_fn is default_collate:
                yield _gathered(tensors, rows)
            elif callable(getattr(self.dataset, "__getitems__", None)):
                yield self.collate_fn(self.dataset.__getitems__(indices))
            else:
                yield self.collate_fn([self.dataset[i] for i in indices])

    def _stream(self) -> Iterator[Any]:
        if self.batch_size is None:
            yield from map(self.collate_fn, self.dataset)
            return
        batch: list[Any] = []
        for sample in self.dataset:
            batch.append(sample)
            if len(batch) == self.batch_size:
                yield self.collate_fn(batch)
                batch = []
        if batch and not self.drop_last:
            yield self.collate_fn(batch)

    def __len__(self) -> int:
        if not self._streams:
            return len(self.batch_sampler if self.batch_sampler is not None else self.sampler)  # type: ignore[arg-type]
        length = len(self.dataset)
        if self.batch_size is None:
            return length
        return length // self.batch_size if self.drop_last else -(-length // self.batch_size)


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


def _check_workers(
    num_workers: int, timeout: float, prefetch_factor: int | None, persistent_workers: bool
) -> None:
    if num_workers < 0:
        raise ValueError(
            "num_workers option should be non-negative; use num_workers=0 to disable "
            "multiprocessing."
        )
    if num_workers > 0:
        raise NotImplementedError(
            f"DataLoader(num_workers={num_workers}): loading in worker processes is not there "
            "yet. Use num_workers=0; batches are prepared in this process."
        )
    if timeout < 0:
        raise ValueError("timeout option should be non-negative")
    if prefetch_factor is not None:
        raise ValueError(
            "prefetch_factor option could only be specified in multiprocessing.let num_workers > "
            "0 to enable multiprocessing, otherwise set prefetch_factor to None."
        )
    if persistent_workers:
        raise ValueError("persistent_workers option needs num_workers > 0")


def _check_samplers(
    streams: bool,
    batch_size: int | None,
    shuffle: bool | None,
    sampler: Any,
    batch_sampler: Any,
    drop_last: bool,
) -> None:
    if streams:
        for name, value in (
            ("shuffle", shuffle or None),
            ("sampler", sampler),
            ("batch_sampler", batch_sampler),
        ):
            if value is not None:
                raise ValueError(
                    f"DataLoader with IterableDataset: expected unspecified {name} option, "
                    f"but got {name}={value}"
                )
    if sampler is not None and shuffle:
        raise ValueError("sampler option is mutually exclusive with shuffle")
    if batch_sampler is not None:
        if batch_size != 1 or shuffle or sampler is not None or drop_last:
            raise ValueError(
                "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, "
                "and drop_last"
            )
    elif batch_size is None and drop_last:
        raise ValueError(
            "batch_size=None option disables auto-batching and is mutually exclusive with drop_last"
        )
