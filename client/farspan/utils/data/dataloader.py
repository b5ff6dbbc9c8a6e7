"""DataLoader: iterates over a dataset in batches, loaded here or in worker processes."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import farspan
from farspan.utils.data._fetch import fetch_batch
from farspan.utils.data._workers import Epoch, Job, Workers
from farspan.utils.data.collate import default_collate, default_convert
from farspan.utils.data.dataset import IterableDataset
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
        _check_context(num_workers, multiprocessing_context)
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
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.persistent_workers = persistent_workers
        self.multiprocessing_context = multiprocessing_context
        self.pin_memory_device = pin_memory_device
        self.in_order = in_order
        self._epoch: Epoch | None = None  # of persistent workers
        self.pin_memory = pin_memory
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        if collate_fn is None:
            collate_fn = default_collate if self._auto_collation else default_convert
        self.collate_fn = collate_fn

    @property
    def _auto_collation(self) -> bool:
        return self.batch_sampler is not None or (self._streams and self.batch_size is not None)

    @property
    def _index_sampler(self) -> Any:
        return self.sampler if self.batch_sampler is None else self.batch_sampler

    @property
    def _dataset_kind(self) -> int:
        return _DatasetKind.Iterable if self._streams else _DatasetKind.Map

    def __iter__(self) -> Iterator[Any]:
        tasks = self._tasks()
        if self._epoch is not None and self._epoch.workers.stop.alive:
            self._epoch.restart(tasks)  # with the seeds of their start
            return self._epoch
        # torch draws a base seed for worker processes at every start, also without any; the
        # draw keeps the default generator in step with torch's. Alone, nobody reads it: no wait.
        drawn = farspan.empty((), dtype=farspan.int64).random_(generator=self.generator)
        if not self.num_workers:
            batches = self._stream() if self._streams else self._samples(tasks)
            return _SingleProcessDataLoaderIter(batches, self)
        epoch = Epoch(self._started(drawn.item()), tasks, self)
        if self.persistent_workers:
            self._epoch = epoch
        return epoch

    def _started(self, base_seed: int) -> Workers:
        assert self.prefetch_factor, "prefetch_factor must be greater than 0"
        job = Job(
            self.dataset,
            self.collate_fn,
            self._streams,
            self._auto_collation,
            self.drop_last,
            self.worker_init_fn,
            base_seed,
            self.num_workers,
        )
        return Workers(job, self.multiprocessing_context, self.timeout, self.in_order)

    def _tasks(self) -> Iterator[Any]:
        """Return what workers are told to load: indices, or how many samples of their stream."""
        if self._streams:
            return itertools.repeat(self.batch_size)
        return iter(self._index_sampler)

    def _samples(self, tasks: Iterator[Any]) -> Iterator[Any]:
        if self.batch_sampler is None:
            for index in tasks:
                yield self.collate_fn(self.dataset[index])
            return
        for indices in tasks:
            yield fetch_batch(self.dataset, indices, self.collate_fn)

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
            return len(self._index_sampler)
        length = len(self.dataset)
        if self.batch_size is None:
            return length
        return length // self.batch_size if self.drop_last else -(-length // self.batch_size)


class _BaseDataLoaderIter(Iterator[Any]):
    """What a loader's iterator is, for programs that ask."""

    def __init__(self, batches: Iterator[Any], loader: DataLoader) -> None:
        self._batches, self._loader = batches, loader

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._batches)

    def __len__(self) -> int:
        return len(self._loader)


class _SingleProcessDataLoaderIter(_BaseDataLoaderIter):
    """The batches of one pass, made in this process when they are asked for."""


_MultiProcessingDataLoaderIter = Epoch
_BaseDataLoaderIter.register(Epoch)


class _DatasetKind:
    """How a dataset is read: by index, or as a stream."""

    Map = 0
    Iterable = 1


def _check_workers(
    num_workers: int, timeout: float, prefetch_factor: int | None, persistent_workers: bool
) -> None:
    if num_workers < 0:
        raise ValueError(
            "num_workers option should be non-negative; use num_workers=0 to disable "
            "multiprocessing."
        )
    if timeout < 0:
        raise ValueError("timeout option should be non-negative")
    if num_workers == 0 and prefetch_factor is not None:
        raise ValueError(
            "prefetch_factor option could only be specified in multiprocessing.let num_workers > "
            "0 to enable multiprocessing, otherwise set prefetch_factor to None."
        )
    if num_workers > 0 and prefetch_factor is not None and prefetch_factor < 0:
        raise ValueError("prefetch_factor option should be non-negative")
    if num_workers == 0 and persistent_workers:
        raise ValueError("persistent_workers option needs num_workers > 0")


def _check_context(num_workers: int, context: Any) -> None:
    if context is None:
        return
    if num_workers == 0:
        raise ValueError(
            "multiprocessing_context can only be used with multi-process loading (num_workers > 0)"
            f", but got num_workers={num_workers}"
        )
    known = multiprocessing.get_all_start_methods()
    if isinstance(context, str) and context not in known:
        raise ValueError(
            "multiprocessing_context option should specify a valid start method in "
            f"{known!r}, but got multiprocessing_context={context!r}"
        )


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
