"""torch.distributed.rpc as a peer of `vs_peers.py`.

Per op: tensors are RRefs on the worker, and an operation is `rpc.remote` of a function that takes
RRefs and does not wait. Modules: RemoteModule, distributed autograd and DistributedOptimizer, as
the tutorial has it. Whole step: one `rpc_sync`.
"""

from __future__ import annotations

import argparse
import os
import socket
import threading
import warnings
from multiprocessing import get_context, parent_process
from typing import Any

import numpy as np
from peer_programs import Refused, Shelf, Training, calls, named, training

try:
    import torch
    from torch.distributed import autograd, rpc
    from torch.distributed.nn.api.remote_module import RemoteModule
    from torch.distributed.optim import DistributedOptimizer
except ImportError as error:  # found out when the peer is asked for
    missing: ImportError | None = error
else:
    missing = None

WORKER = "worker"


# --------------------------------------------------------------------------------- on the worker --
def serve(port: int) -> None:
    """Be the worker until the other side shuts down."""
    warnings.simplefilter("ignore")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    join(port, 1)
    rpc.shutdown()


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, however it did."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def join(port: int, rank: int) -> None:
    """Enter the group of two: the caller is rank 0."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    options = rpc.TensorPipeRpcBackendOptions(rpc_timeout=120)
    rpc.init_rpc("caller" if rank == 0 else WORKER, rank=rank, world_size=2,
                 rpc_backend_options=options)  # fmt: skip


_shelves: list[Shelf] = []


def shelf() -> Shelf:
    """Return this worker's shelf."""
    if not _shelves:
        _shelves.append(Shelf())
    return _shelves[0]


def filled(value: float) -> Any:
    return torch.full((4, 4), value)


def stored(tensor: Any) -> Any:
    """Return the tensor: it came over the wire, and stays behind an RRef."""
    return tensor


def last_of(tensor: Any) -> float:
    """Return the last element of the tensor behind an RRef."""
    return float(tensor.local_value()[-1])


def value_of(tensor: Any) -> Any:
    return tensor.local_value()


def total_of(tensor: Any, after: Any = None) -> float:
    """Return the sum of the elements of the tensor behind an RRef, when `after` has run."""
    if after is not None:
        after.local_value()
    return float(tensor.local_value().sum())


def added(a: Any, b: Any) -> float:
    return float((a.local_value() + b.local_value()).sum())


def apply(function: str, arguments: list[Any], after: Any) -> Any:
    """Return what the function returns of the tensors behind RRefs, when `after` has run."""
    if after is not None:
        after.local_value()
    return shelf()._functions[function](*[a.local_value() for a in arguments])


def of_training(row: str) -> dict[str, Any]:
    """Return RRefs of all that a step by calls names at the start."""
    return {name: rpc.RRef(value) for name, value in named(training(torch, row)).items()}


def build(row: str) -> None:
    shelf().build(row)


def step() -> float:
    return shelf().step()


class Network(torch.nn.Module if missing is None else object):  # type: ignore[misc]
    """The row's model as a module, to be made on the worker."""

    def __init__(self, row: str) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(training(torch, row).layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = torch.nn.functional.relu(layer(x))
        return self.layers[-1](x)


# --------------------------------------------------------------------------------- on the caller --
class Rpc:
    modes = ("per op", "modules", "whole step")

    def __init__(self, options: argparse.Namespace) -> None:
        if missing is not None or not rpc.is_available():
            raise Refused("torch.distributed.rpc is not here (pip install torch)")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._process = get_context("spawn").Process(target=serve, args=(port,), daemon=True)
        self._process.start()
        join(port, 0)
        self._a, self._b = (rpc.remote(WORKER, filled, args=(v,)) for v in (0.0, 1.0))
        self._sent: Any = None
        self._held: dict[str, Any] = {}
        self._module: Any = None

    def ops(self, mode: str, count: int) -> float:
        x, b = self._a, self._b
        for _ in range(count):
            x = rpc.remote(WORKER, apply, args=("add", [x, b], None))
        return rpc.rpc_sync(WORKER, total_of, args=(x,))

    def read(self, mode: str, count: int) -> float:
        value = 0.0
        for _ in range(count):
            value = rpc.rpc_sync(WORKER, added, args=(self._a, self._b))
        return value

    def up(self, mode: str, array: np.ndarray) -> float:
        self._sent = None
        self._sent = rpc.remote(WORKER, stored, args=(torch.from_numpy(array),))
        return rpc.rpc_sync(WORKER, last_of, args=(self._sent,))

    def down(self, mode: str) -> np.ndarray:
        return self._sent.to_here().numpy()

    def prepare(self, row: str, mode: str) -> None:
        if mode == "whole step":
            rpc.rpc_sync(WORKER, build, args=(row,))
        elif mode == "per op":
            self._held = rpc.rpc_sync(WORKER, of_training, args=(row,))
        else:
            here: Training = training(torch, row)
            kind, more = (torch.optim.SGD, {"lr": 0.01}) if row == "tiny" else (
                torch.optim.Adam, {"lr": 1e-3})  # fmt: skip
            net = RemoteModule(WORKER, Network, args=(row,))
            optimizer = DistributedOptimizer(kind, net.remote_parameters(), **more)
            self._module = net, here.x, here.y, optimizer

    def steps(self, row: str, mode: str, count: int, each: bool) -> float:
        if mode == "whole step":
            for _ in range(count):
                loss = rpc.rpc_sync(WORKER, step)
            return loss
        return self._by_modules(count) if mode == "modules" else self._by_calls(row, count, each)

    def _by_modules(self, count: int) -> float:
        net, x, y, optimizer = self._module
        for _ in range(count):
            with autograd.context() as context:
                loss = torch.nn.functional.cross_entropy(net.forward(x), y)
                autograd.backward(context, [loss])
                optimizer.step(context)
        return float(loss.detach())

    def _by_calls(self, row: str, count: int, each: bool) -> float:
        program, held, value = calls(row), self._held, 0.0
        for _ in range(count):
            for function, out, names in program:
                arguments = [held[n] for n in names]
                held[out] = rpc.remote(WORKER, apply, args=(function, arguments, held.get("_")))
            if each:
                value = rpc.rpc_sync(WORKER, total_of, args=(held["loss"], held["_"]))
        return value if each else rpc.rpc_sync(WORKER, total_of, args=(held["loss"], held["_"]))

    def close(self) -> None:
        self._held, self._module, self._sent, self._a, self._b = {}, None, None, None, None
        rpc.shutdown()
        self._process.join(20)
