"""Short ways for steps on small tensors, where a kernel's Python costs more than its arithmetic.

Each does what the op's own kernel does, by the same functions of numpy in the same order, so to the
same bits, but into memory that is there and with everything looked up when it is bound. What a way
does not cover it leaves to the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..kernels.cpu import product
from .graph import Number, Step

if TYPE_CHECKING:
    from .flat import FlatPlan

Calls = list[tuple[Callable[..., Any], list[Any]]]
_MEAN: Final = 1  # a reduction's code


def bind(plan: FlatPlan, step: Step) -> Calls | None:
    """Return how a step runs the short way, None if there is none."""
    way = _WAYS.get(step.op.name)
    windows = (*step.inputs, *step.outs)
    if way is None or step.plan.casts or any(type(x) is Number for x in step.scalars):
        return None
    if not all(w.spec.numel for w in windows):
        return None
    return way(plan, step)


def _matmul(plan: FlatPlan, step: Step) -> Calls | None:
    """mm, and linear of matrices: a product by BLAS, then the bias."""
    if any(w.spec.ndim != 2 or w.spec.dtype.name != "float32" for w in step.inputs[:2]):
        return None
    linear = step.op.name == "linear"
    a, b = (w.spec.shape for w in step.inputs[:2])
    if product.is_large(a, b[::-1] if linear else b) or not step.outs[0].spec.contiguous:
        return None
    args = plan.arrays((*step.inputs, *step.outs))
    if not linear:
        return [(np.matmul, args)]
    out: list[Any] = [None, None, None]
    plan.follow(step.inputs[0], _into(out, 0))
    plan.follow(step.inputs[1], _into(out, 1, np.transpose))
    plan.follow(step.outs[0], _into(out, 2))
    calls: Calls = [(np.matmul, out)]
    if len(step.inputs) == 3:
        calls.append((np.add, plan.arrays((step.outs[0], step.inputs[2], step.outs[0]))))
    return calls


def _into(where: list[Any], i: int, seen: Callable[[Any], Any] | None = None) -> Any:
    def setter(array: Any) -> None:
        where[i] = array if seen is None else seen(array)

    return setter


def _nll(plan: FlatPlan, step: Step) -> Calls | None:
    """The mean loss of rows without weights; classes that are not there are the kernel's."""
    args = step.plan.recipe.args(step.inputs, step.scalars)
    if args[2] is not None or args[3] != _MEAN or step.inputs[0].spec.ndim != 2:
        return None
    rows, classes = step.inputs[0].spec.shape
    index, dtype = np.arange(rows), step.inputs[0].spec.dtype.numpy.type
    kernel, given = step.plan.kernel, step.plan.recipe
    scalars = step.scalars

    def run(logs: Any, target: Any, loss: Any, total: Any) -> None:
        if target.min() < 0 or target.max() >= classes:
            made = kernel(np, *given.args([logs, target], scalars))
            loss[...], total[...] = made
            return
        picked = -logs[index, target]
        loss[...] = picked.sum() / dtype(rows)
        total[...] = rows

    return [(run, plan.arrays((*step.inputs, *step.outs)))]


def _nll_backward(plan: FlatPlan, step: Step) -> Calls | None:
    args = step.plan.recipe.args(step.inputs, step.scalars)
    if args[3] is not None or args[4] != _MEAN or step.inputs[1].spec.ndim != 2:
        return None
    rows, classes = step.inputs[1].spec.shape
    index = np.arange(rows)
    kernel, given = step.plan.kernel, step.plan.recipe
    scalars = step.scalars

    def run(g: Any, logs: Any, target: Any, total: Any, out: Any) -> None:
        if target.min() < 0 or target.max() >= classes:
            out[...] = kernel(np, *given.args([g, logs, target, total], scalars))
            return
        out.fill(0)
        out[index, target] = -g / total

    return [(run, plan.arrays((*step.inputs, *step.outs)))]


_WAYS: Final[dict[str, Callable[[FlatPlan, Step], Calls | None]]] = {
    "mm": _matmul,
    "linear": _matmul,
    "nll_loss_forward": _nll,
    "nll_loss_backward": _nll_backward,
}
