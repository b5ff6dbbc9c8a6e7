"""DistributedSampler: one replica's share of a dataset's indices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import farspan
from farspan.utils.data.sampler import Sampler

__all__ = ["DistributedSampler"]


class DistributedSampler(Sampler[int]):
    """The indices ``rank, rank + num_replicas, …`` of the (shuffled) dataset, padded or cut.

    All replicas get equally many: without drop_last the first indices come again at the end.
    Call `set_epoch` before every epoch for another order. Raises RuntimeError if the number of
    replicas or the rank is left out, since there is no process group to ask.
    """

    def __init__(
        self,
        dataset: Any,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if num_replicas is None or rank is None:
            raise RuntimeError("Requires distributed package to be available")
        if not 0 <= rank < num_replicas:
            raise ValueError(
                f"Invalid rank {rank}, rank should be in the interval [0, {num_replicas - 1}]"
            )
        self.dataset = dataset
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0
        self.drop_last = drop_last
        self.shuffle = shuffle
        self.seed = seed
        n = len(dataset)
        spare = n % num_replicas if drop_last else 0
        self.num_samples = (n - spare) // num_replicas if drop_last else math.ceil(n / num_replicas)
        self.total_size = self.num_samples * num_replicas

    def __iter__(self) -> Iterator[int]:
        indices = list(range(len(self.dataset)))
        if self.shuffle:
            generator = farspan.Generator()
            generator.manual_seed(self.seed + self.epoch)
            indices = farspan.randperm(len(indices), generator=generator).tolist()
        if self.drop_last:
            indices = indices[: self.total_size]
        while len(indices) < self.total_size:
            indices += indices[: self.total_size - len(indices)]
        return iter(indices[self.rank : self.total_size : self.num_replicas])

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Make the next shuffles differ: the seed is ``seed + epoch``."""
        self.epoch = epoch
