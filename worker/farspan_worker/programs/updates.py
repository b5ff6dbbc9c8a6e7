"""Optimizer steps of plans: one native call over a table of addresses that stays as it is.

The kernels of kernels/cpu/loops/steps.py, and so their bits; only what those look up at each call
is looked up when a step is bound. What does not fit is left to the kernel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .. import plan as plans
from ..kernels.cpu import loops
from ..kernels.cpu.loops import steps, team
from .graph import Number, Step

if TYPE_CHECKING:
    from .flat import FlatPlan

Calls = list[tuple[Callable[..., Any], list[Any]]]
_ONE: Final = np.float32(1)


def bind(plan: FlatPlan, step: Step) -> Calls | None:
    """Return how a step runs by a table, None if it does not."""
    make = _WAYS.get(step.op.name)
    if make is None or step.plan.casts or loops.missing():
        return None
    return make(plan, step)


class _Table:
    """The rows of all parameters: addresses, the count of elements, then numbers."""

    def __init__(
        self, plan: FlatPlan, step: Step, lists: Sequence[Sequence[int]], numbers: int
    ) -> None:
        """lists: by kind of array, for each parameter which of the step's inputs it is."""
        count = len(lists[0])
        head, self._tail = Struct(f"{len(lists) + 1}q"), Struct(f"{numbers}d")
        self._head_bytes, self._width = head.size, head.size + self._tail.size
        self._rows = bytearray(count * self._width)
        self.count = count
        sizes = [step.inputs[i].spec.numel for i in lists[0]]
        self.many = int(sum(sizes) >= team.PARALLEL)
        for row, each in enumerate(zip(*lists, strict=True)):
            places = np.frombuffer(self._rows, np.int64, len(lists) + 1, row * self._width)
            places[-1] = sizes[row]
            for k, i in enumerate(each):
                plan.follow(step.inputs[i], _address(places, k))
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._rows))

    def set_row(self, row: int, *numbers: float) -> None:
        self._tail.pack_into(self._rows, row * self._width + self._head_bytes, *numbers)


def _address(places: Any, k: int) -> Callable[[Any], None]:
    def setter(array: Any) -> None:
        places[k] = steps.address_of(array)

    return setter


def _fits(step: Step, lists: Sequence[Sequence[int]]) -> bool:
    """Return whether all arrays of a parameter lie alike, in one type that loops compute in."""
    if not lists[0] or any(len(one) != len(lists[0]) for one in lists):
        return False
    windows = [[step.inputs[i] for i in each] for each in zip(*lists, strict=True)]
    dtype = windows[0][0].spec.dtype
    return dtype.name in steps.NATIVE and all(
        w.spec.dtype is dtype and w.spec.contiguous and w.spec.shape == each[0].spec.shape
        for each in windows
        for w in each
    )


def _named(step: Step, numbers: Sequence[Any]) -> dict[str, Any]:
    """Return the step's arguments by name; tensors as which of its inputs they are."""
    args = step.plan.recipe.args(range(len(step.inputs)), numbers)
    return {a.name: value for a, value in zip(step.op.args, args, strict=True)}


def _sgd(plan: FlatPlan, step: Step) -> Calls | None:
    given = _named(step, step.scalars)
    if given["rate"] is not None or given["found_inf"] is not None:
        return None
    lists = [given["self"], given["grads"]]
    momentum = bool(given["momentum_buffers"])
    if momentum:
        lists.append(given["momentum_buffers"])
    if not _fits(step, lists):
        return None
    table = _Table(plan, step, lists, 1)
    dtype = step.inputs[0].spec.dtype.name
    numbers, inputs = plan.numbers(step.scalars), plan.arrays(step.inputs)
    known: list[Any] = []
    native: list[Any] = [None]

    def run(numbers: list[Any]) -> None:
        if numbers != known:
            now = _named(step, step.plan.numbers(numbers))
            if bool(now["momentum"]) != momentum:
                plans.compute(step.plan, inputs, numbers, None)
                return
            options = [now[n] for n in _SGD]
            native[0] = steps.sgd(dtype, *options).function
            for row in range(table.count):
                table.set_row(row, -now["lr"])
            known[:] = numbers
        native[0](table.address, table.count, table.many)

    return [(run, [numbers])]


_SGD: Final = ("momentum", "dampening", "weight_decay", "nesterov", "maximize", "first")


def _adam(plan: FlatPlan, step: Step) -> Calls | None:
    given = _named(step, step.scalars)
    if given["rate"] is not None or given["found_inf"] is not None:
        return None
    if type(given["amsgrad"]) is Number:
        return None
    lists = [given[n] for n in ("self", "grads", "exp_avgs", "exp_avg_sqs")]
    if given["amsgrad"]:
        lists.append(given["max_exp_avg_sqs"])
    counters = [step.inputs[i] for i in given["state_steps"]]
    if not _fits(step, lists) or any(w.spec.dtype.name != "float32" for w in counters):
        return None
    table = _Table(plan, step, lists, 3)
    dtype = step.inputs[0].spec.dtype.name
    arrays, numbers = plan.arrays(counters), plan.numbers(step.scalars)
    known: list[Any] = []
    now: dict[str, Any] = {}
    native: list[Any] = [None]

    def run(numbers: list[Any], arrays: list[Any]) -> None:
        if numbers != known:
            now.update(_named(step, step.plan.numbers(numbers)))
            now["decay"] = bool(now["weight_decay"])
            native[0] = steps.adam(dtype, *[now[n] for n in _ADAM]).function
            known[:] = numbers
        lr, beta1, beta2, decay = now["lr"], now["beta1"], now["beta2"], now["weight_decay"]
        shrink = 1 - lr * decay if now["decoupled"] else decay
        before, scale, slope = 0.0, 1.0, 0.0
        for row, counter in enumerate(arrays):
            count = float(np.add(counter, _ONE, counter))
            if count != before:
                scale = (1 - beta2**count) ** 0.5
                slope = -(lr / (1 - beta1**count))
                before = count
            table.set_row(row, shrink, scale, slope)
        native[0](table.address, table.count, table.many)

    return [(run, [numbers, arrays])]


_ADAM: Final = ("beta1", "beta2", "eps", "decay", "decoupled", "amsgrad", "maximize")
_WAYS: Final[dict[str, Callable[[FlatPlan, Step], Calls | None]]] = {
    "_sgd_step_": _sgd,
    "_adam_step_": _adam,
}
