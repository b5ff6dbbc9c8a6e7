"""Tensors between processes of the client: as arrays, by multiprocessing's pipes and queues.

A tensor that arrives belongs to the session of the process that receives it. Importing this
module registers tensors with multiprocessing; `send` and `receive` move their memory unpickled.
"""

from __future__ import annotations

import threading
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

import farspan
from farspan._tensor import Tensor
from farspan.nn.parameter import Parameter

#: Arrays of tensors, by id, fetched before the workers start.
fetched: dict[int, tuple[Tensor, np.ndarray[Any, Any]]] = {}


class _Arrays(threading.local):
    """The arrays of the message that this thread sends or receives."""

    leaving: list[np.ndarray[Any, Any]] | None = None
    arrived: list[np.ndarray[Any, Any]] | None = None


_arrays = _Arrays()


def array_of(x: Tensor) -> np.ndarray[Any, Any]:
    """Return the values in C order, of bfloat16 as int16. Waits, if they were not fetched."""
    known = fetched.get(id(x))
    if known is not None:
        return known[1]
    x = x.detach().cpu()
    bits = x.contiguous().view(farspan.int16) if x.dtype == farspan.bfloat16 else x
    # Not numpy(), which tells whoever means to write that it is a copy; and not
    # ascontiguousarray, which adds a dim to 0-d.
    return np.asarray(bits._fetch(), order="C")


def tensor_of(array: np.ndarray[Any, Any], dtype: str) -> Tensor:
    """Return the tensor of `array_of`'s values."""
    made = farspan.from_numpy(array)
    return made.view(farspan.bfloat16) if dtype == "bfloat16" else made


def _restored(array: Any, dtype: str, requires_grad: bool, is_parameter: bool) -> Tensor:
    """Return the tensor that another process sent; `array` is a position if it came apart."""
    x = tensor_of(array if _arrays.arrived is None else _arrays.arrived[array], dtype)
    if is_parameter:
        return Parameter(x, requires_grad)
    return x.requires_grad_() if requires_grad else x


def _reduce(x: Tensor) -> Any:
    array: Any = array_of(x)
    if _arrays.leaving is not None:
        _arrays.leaving.append(array)
        array = len(_arrays.leaving) - 1
    return _restored, (array, x.dtype.name, x.requires_grad, isinstance(x, Parameter))


ForkingPickler.register(Tensor, _reduce)
ForkingPickler.register(Parameter, _reduce)


def send(connection: Connection, message: Any) -> None:
    """Send a message of a worker: arrays first, each as it lies in memory, then what holds them."""
    arrays = _arrays.leaving = []
    try:
        body = bytes(ForkingPickler.dumps(message))
    finally:
        _arrays.leaving = None
    connection.send([(a.shape, a.dtype.str) for a in arrays])
    for array in arrays:
        if array.nbytes:
            connection.send_bytes(memoryview(array).cast("B"))
    connection.send_bytes(body)


def receive(connection: Connection) -> Any:
    """Return what `send` sent. Waits. EOFError or OSError: the other end is gone."""
    arrays = []
    for shape, dtype in connection.recv():
        array = np.empty(shape, dtype)
        if array.nbytes:
            connection.recv_bytes_into(memoryview(array).cast("B"))
        arrays.append(array)
    body = connection.recv_bytes()
    _arrays.arrived = arrays
    try:
        return ForkingPickler.loads(body)
    finally:
        _arrays.arrived = None
