"""Worker processes of a DataLoader: torch's batches, torch's random numbers, and their failures."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import farspan
import numpy as np
import pytest
import torch
from beside_torch import failure, same


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
            "scalar": torch.tensor(3.0),
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


@same
def test_a_pass_that_was_left_early_leaves_nothing_behind(torch):
    torch.manual_seed(0)
    loader = torch.utils.data.DataLoader(
        Drawn(torch), batch_size=2, shuffle=True, num_workers=2, persistent_workers=True
    )
    first = iter(loader)
    next(first)
    passes = [[x.tolist() for x, *_ in loader] for _ in range(2)]
    again = iter(loader)
    return passes, again is first


def test_answers_of_an_aborted_pass_are_not_taken_for_new_ones() -> None:
    order = [[0], [1], [2], [3]]
    loader = farspan.utils.data.DataLoader(
        Numbers(8), batch_sampler=order, num_workers=1, persistent_workers=True
    )
    next(iter(loader))
    order[:] = [[7], [6], [5]]
    assert [i.item() for _, i in loader] == [7, 6, 5]


def test_persistent_workers_are_started_anew_after_a_death() -> None:
    loader = farspan.utils.data.DataLoader(
        Numbers(6), batch_size=1, num_workers=1, persistent_workers=True, prefetch_factor=1
    )
    batches = iter(loader)
    next(batches)
    (process,) = batches.workers.processes
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with pytest.raises(RuntimeError, match=f"{process.pid}.*exited unexpectedly"):
        list(batches)
    assert len(list(loader)) == 6


class Unready:
    def __iter__(self) -> Any:
        raise KeyError("no such shard")


@same
def test_an_error_before_the_first_sample_is_told(torch):
    stream = type("Stream", (Unready, torch.utils.data.IterableDataset), {})()
    return failure(lambda: list(torch.utils.data.DataLoader(stream, num_workers=1)), "shard")


def test_workers_need_something_to_do_ahead() -> None:
    with pytest.raises(AssertionError, match="prefetch_factor"):
        iter(farspan.utils.data.DataLoader(Numbers(2), num_workers=1, prefetch_factor=0))


class Holder:
    """Tensors wherever a program may keep what its samples need."""

    __slots__ = ("slot",)
    of_class = farspan.tensor(10.0)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int) -> Any:
        return self.slot + self.of_class + helper(i)


def helper(i: int) -> Any:
    return sum(HELD["x"] * i for _ in range(1))


HELD: dict[str, Any] = {}


def added(tensor: Any, samples: list[Any]) -> Any:
    return farspan.nn.Parameter(farspan.stack(samples) + tensor)


def test_tensors_in_globals_classes_slots_and_partials_come_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FARSPAN_DEVICES", "cuda:1")  # of the program, not of its workers
    with farspan.connect("local:", devices="cpu"):
        monkeypatch.setattr(Holder, "of_class", farspan.tensor(10.0))
        monkeypatch.setitem(HELD, "x", farspan.tensor(100.0))
        data = Holder()
        data.slot = farspan.tensor(1.0)
        collate = functools.partial(added, farspan.tensor(1000.0))
        loader = farspan.utils.data.DataLoader(data, 2, num_workers=1, collate_fn=collate)
        (batch,) = loader
        assert isinstance(batch, farspan.nn.Parameter) and batch.tolist() == [1011.0, 1111.0]


def test_parameters_go_to_processes_that_are_not_forked() -> None:
    data = [farspan.nn.Parameter(farspan.ones(2)), farspan.zeros(2)]
    loader = farspan.utils.data.DataLoader(data, 2, num_workers=1, multiprocessing_context="spawn")
    assert [x.tolist() for x in loader] == [[[1.0, 1.0], [0.0, 0.0]]]


PROGRAM = """
import os, signal, sys, time
from farspan.utils.data import DataLoader

class Data:
    def __len__(self):
        return 100
    def __getitem__(self, i):
        print("sample", os.getpid())
        return bytes(1 << 20)

batches = iter(DataLoader(Data(), 1, num_workers=2, collate_fn=list))
next(batches)
"""


def run_program(end: str) -> tuple[str, list[int]]:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    pids = "print(*[p.pid for p in batches.workers.processes], file=sys.stderr, flush=True)\n"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + pids + end],
        capture_output=True, text=True, timeout=60, env=env,
    )  # fmt: skip
    return done.stdout, [int(pid) for pid in done.stderr.split()]


def test_no_worker_outlives_its_parent_and_no_line_is_lost() -> None:
    # `run` returns when the last process has closed the pipes, so it waits for the workers.
    said, pids = run_program("os.kill(os.getpid(), signal.SIGKILL)")
    assert len(pids) == 2
    assert all(not os.path.exists(f"/proc/{pid}") or is_ended(pid) for pid in pids)
    assert all(f"sample {pid}" in said for pid in pids)


def is_ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_forked_copy_of_the_program_does_not_end_its_workers() -> None:
    end = """
child = os.fork()
if not child:
    workers = batches.workers
    del batches
    workers.stop()
    os._exit(0)
os.waitpid(child, 0)
time.sleep(0.2)
assert all(p.is_alive() for p in batches.workers.processes)
assert sum(1 for _ in batches) == 99
"""
    _, pids = run_program(end)
    assert len(pids) == 2  # and no traceback


def test_workers_end_with_their_loader() -> None:
    loader = farspan.utils.data.DataLoader(Numbers(100), batch_size=1, num_workers=2)
    batches = iter(loader)
    next(batches)
    processes = batches.workers.processes
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
