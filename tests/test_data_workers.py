"""Worker processes of a DataLoader: torch's batches, torch's random numbers, and their failures."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from typing import Any

import farspan
import numpy as np
import pytest
import torch
from beside_torch import same


class Drawn:
    """Samples that draw from every generator, as augmentations do."""

    def __init__(self, lib: Any, n: int = 10) -> None:
        self.lib = lib
        self.x = lib.arange(2.0 * n).reshape(n, 2)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        return self.x[i] + self.lib.rand(2), i, random.random(), np.random.rand()


class Numbers:
    """Samples without tensors, so that any start method can send it."""

    def __init__(self, n: int = 8, bad: int | None = None) -> None:
        self.n, self.bad = n, bad

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        if i == self.bad:
            raise KeyError("no such sample")
        return np.full((2, 3), i, np.float32), i


class Ends(Numbers):
    """A worker that meets the last sample is killed."""

    def __getitem__(self, i: int) -> Any:
        if i == self.n - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(i)


class Slow(Numbers):
    def __getitem__(self, i: int) -> Any:
        time.sleep(60)


def stream_of(lib: Any, n: int) -> Any:
    class Stream(lib.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            info = lib.utils.data.get_worker_info()
            return iter(range(n)[info.id :: info.num_workers] if info else range(n))

    return Stream()


@same
def test_batches_and_random_numbers_are_torchs(torch):
    torch.manual_seed(0)
    seen = []
    loader = torch.utils.data.DataLoader(Drawn(torch), batch_size=3, shuffle=True, num_workers=2)
    for _ in range(2):
        seen += [list(batch) for batch in loader]
    return seen, torch.rand(2), len(loader)


@same
def test_persistent_workers_go_on_with_their_generators(torch):
    torch.manual_seed(0)
    loader = torch.utils.data.DataLoader(
        Drawn(torch), batch_size=4, shuffle=True, num_workers=2, persistent_workers=True,
        prefetch_factor=1,
    )  # fmt: skip
    return [list(batch) for _ in range(3) for batch in loader]


@same
def test_streams_end_worker_by_worker(torch):
    made = []
    for n, size, drop in ((11, 2, False), (11, 2, True), (3, None, False), (1, 4, False)):
        loader = torch.utils.data.DataLoader(
            stream_of(torch, n), batch_size=size, drop_last=drop and size is not None, num_workers=2
        )
        made.append([x.tolist() if hasattr(x, "tolist") else x for x in loader])
    return made, torch.utils.data.get_worker_info() is None


@same
def test_batches_of_any_kind_cross(torch):
    def collate(samples):
        values = torch.tensor([i for _, i in samples])
        return {
            "half": values.to(torch.bfloat16).float(),
            "bool": values > 2,
            "empty": torch.empty(0, 2),
            "text": ["a", ("b", None)],
            "array": np.ones(2),
            "grad": torch.ones(2, requires_grad=True),
        }

    loader = torch.utils.data.DataLoader(Numbers(4), 2, collate_fn=collate, num_workers=1)
    batches = list(loader)
    return [list(b.values()) for b in batches], [b["grad"].requires_grad for b in batches]


@same
def test_worker_init_and_info(torch):
    def collate(samples):
        info = torch.utils.data.get_worker_info()
        return info.id, info.num_workers, info.seed, type(info.dataset).__name__, started[0]

    started = [None]

    def init(i):
        started[0] = i * 10

    torch.manual_seed(3)
    loader = torch.utils.data.DataLoader(
        Numbers(6), 2, num_workers=3, collate_fn=collate, worker_init_fn=init
    )
    return list(loader)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_every_start_method(method: str) -> None:
    data = farspan.utils.data.TensorDataset(farspan.arange(6.0), farspan.arange(6) * 10)
    loader = farspan.utils.data.DataLoader(
        data, batch_size=4, num_workers=2, multiprocessing_context=method
    )
    assert [[x.tolist() for x in batch] for batch in loader] == [
        [[0.0, 1.0, 2.0, 3.0], [0, 10, 20, 30]], [[4.0, 5.0], [40, 50]],
    ]  # fmt: skip


def test_remote_tensors_are_fetched_once_and_batches_uploaded(session: Any) -> None:
    data = farspan.utils.data.TensorDataset(farspan.arange(64.0).reshape(32, 2))
    loader = farspan.utils.data.DataLoader(data, batch_size=4, num_workers=2)
    before = session.stats()["sync_points"]
    batches = list(loader)
    assert session.stats()["sync_points"] - before <= 2  # the dataset's tensor, and the base seed
    assert all(x._ref.session is session for (x,) in batches)
    assert farspan.cat([x for (x,) in batches]).sum().item() == sum(range(64))


@pytest.mark.parametrize("lib", [torch, farspan], ids=["torch", "farspan"])
def test_an_error_in_a_worker_is_raised_with_its_story(lib: Any) -> None:
    loader = lib.utils.data.DataLoader(Numbers(8, bad=5), batch_size=2, num_workers=2)
    batches = iter(loader)
    next(batches), next(batches)
    with pytest.raises(
        KeyError, match=r"(?s)Caught KeyError in DataLoader worker process 0.*no such"
    ):
        next(batches)


def test_a_killed_worker_and_a_slow_one_are_errors() -> None:
    lib = farspan
    with pytest.raises(RuntimeError, match=r"worker .*exited unexpectedly"):
        list(lib.utils.data.DataLoader(Ends(4), batch_size=2, num_workers=1))
    with pytest.raises(RuntimeError, match="timed out after 1"):
        list(lib.utils.data.DataLoader(Slow(4), batch_size=2, num_workers=1, timeout=1))


def test_workers_end_with_their_loader() -> None:
    loader = farspan.utils.data.DataLoader(Numbers(100), batch_size=1, num_workers=2)
    batches = iter(loader)
    next(batches)
    processes = batches._workers.processes
    assert all(p.is_alive() for p in processes)
    del batches
    assert not any(p.is_alive() for p in processes)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_workers": -1}, {"timeout": -1}, {"prefetch_factor": 2}, {"persistent_workers": True},
        {"num_workers": 1, "prefetch_factor": -1}, {"multiprocessing_context": "fork"},
        {"num_workers": 1, "multiprocessing_context": "nothing"},
    ],
)  # fmt: skip
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    for lib in (torch, farspan):
        with pytest.raises(ValueError):
            lib.utils.data.DataLoader(Numbers(2), **arguments)


@same
def test_distributed_sampler_takes_its_share(torch):
    made = []
    for n, replicas, drop in ((10, 3, False), (10, 3, True), (2, 4, False)):
        for rank in range(replicas):
            sampler = torch.utils.data.DistributedSampler(
                range(n), replicas, rank, shuffle=True, seed=5, drop_last=drop
            )
            sampler.set_epoch(2)
            made.append((list(sampler), len(sampler)))
    return made


@same
def test_pipes_are_chained_by_registered_names(torch):
    data = torch.utils.data
    name = f"doubled_{torch.__name__}"

    @data.functional_datapipe(name)
    class Doubled(data.IterDataPipe):
        def __init__(self, source):
            self.source = source

        def __iter__(self):
            return (2 * x for x in self.source)

    class Source(data.IterDataPipe):
        def __iter__(self):
            return iter(range(4))

    class Keys(data.MapDataPipe):
        def __getitem__(self, key):
            return key

    @data.non_deterministic
    class Random(data.IterDataPipe):
        def __iter__(self):
            return iter(())

    made = [list(getattr(Source(), name)()), Keys()[3], data.DataChunk([1, 2]).as_str()]
    with data.guaranteed_datapipes_determinism():
        try:
            Random()
        except TypeError as error:
            made.append(str(error)[:6])
    with data.runtime_validation_disabled():
        made += [data.argument_validation(len)("ab"), data.runtime_validation(Source.__iter__)]
        made[-1] = list(made[-1](Source()))
    return made, issubclass(data.DFIterDataPipe, data.IterDataPipe)
