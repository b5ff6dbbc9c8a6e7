"""Short ways for steps where a kernel's Python, or its fresh memory, costs more than its work.

Each does what the op's own kernel does, by the same functions in the same order, so to the same
bits, but into memory that is there and with everything looked up when it is bound. What a way does
not cover it leaves to the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from farspan.core.command import FUNCTIONAL, INPLACE

from ..kernels.cpu import product
from ..kernels.cpu.loops import losses, native, rows
from ..kernels.cpu.loops.steps import address_of
from .graph import Number, Step, Window

if TYPE_CHECKING:
    from .flat import FlatPlan

Calls = list[tuple[Callable[..., Any], list[Any]]]
_NONE, _MEAN = 0, 1  # codes of reductions


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
    """The loss of rows without weights; classes that are not there are the kernel's."""
    args = step.plan.recipe.args(step.inputs, step.scalars)
    if args[2] is not None or args[3] == _NONE or step.inputs[0].spec.ndim != 2:
        return None
    if not plan.graph.exact and _is_plain(step.inputs[0], step.inputs[1]):
        return _by_loop(plan, step, losses.forward(), (0, 1), args[3], args[4])
    if args[3] != _MEAN:
        return None
    rows, classes = step.inputs[0].spec.shape
    index, dtype = np.arange(rows), step.inputs[0].spec.dtype.numpy.type
    kernel, given = step.plan.kernel, step.plan.recipe
    scalars, ignored = step.scalars, args[4]
    may_skip = 0 <= ignored < classes  # any other class that is ignored is out of range

    def run(logs: Any, target: Any, loss: Any, total: Any) -> None:
        odd = target.min() < 0 or target.max() >= classes
        if odd or (may_skip and (target == ignored).any()):
            made = kernel(np, *given.args([logs, target], scalars))
            loss[...], total[...] = made
            return
        picked = -logs[index, target]
        loss[...] = picked.sum() / dtype(rows)
        total[...] = rows

    return [(run, plan.arrays((*step.inputs, *step.outs)))]


def _nll_backward(plan: FlatPlan, step: Step) -> Calls | None:
    args = step.plan.recipe.args(step.inputs, step.scalars)
    if args[3] is not None or args[4] == _NONE or step.inputs[1].spec.ndim != 2:
        return None
    if _is_plain(step.outs[0], step.inputs[2]):
        return _by_loop(plan, step, losses.backward(), (0, 2, 3), args[4], args[5])
    return None


def _filled(value: int) -> Callable[[FlatPlan, Step], Calls]:
    def bind(plan: FlatPlan, step: Step) -> Calls:
        args: list[Any] = [None, value]
        plan.follow(step.outs[0], _into(args, 0))
        return [(_fill, args)]

    return bind


def _fill(out: Any, value: int) -> None:
    out.fill(value)


def _is_plain(scores: Window, target: Window) -> bool:
    """Return whether loops take scores and classes that lie like this."""
    return (
        not native.absent()
        and scores.spec.dtype.name == "float32"
        and target.spec.dtype.name == "int64"
        and scores.spec.contiguous
        and target.spec.contiguous
    )


def _by_loop(
    plan: FlatPlan, step: Step, function: Any, taken: Sequence[int], how: int, ignored: int
) -> Calls:
    """A loss of kernels/cpu/loops/losses.py; the kernel runs where a class is not there."""
    windows = [*[step.inputs[i] for i in taken], *step.outs]
    bad = np.zeros((), np.int64)
    rows, classes = max((w.spec.shape for w in windows), key=len)
    numbers = (rows, classes, ignored, how == _MEAN)
    args: list[Any] = [*[0] * len(windows), bad.ctypes.data, *numbers]
    for i, window in enumerate(windows):
        plan.follow(window, _into(args, i, address_of))
    arrays = plan.arrays((*step.inputs, *step.outs))
    count, recipe, scalars, kernel = (
        len(step.inputs),
        step.plan.recipe,
        step.scalars,
        step.plan.kernel,
    )

    def run(*args: Any) -> None:
        function(*args)
        if bad:
            bad[...] = 0
            kernel(np, *recipe.args(arrays[:count], scalars))
            raise AssertionError("the kernel takes a class that the loop refuses")

    return [(run, args)]


# ------------------------------------------------------------------------------ rows by an index --
def _taken(plan: FlatPlan, step: Step) -> Calls | None:
    """index_select, embedding and gather: rows or elements go to where the result lies."""
    x, index = (w.spec for w in step.inputs)
    out = step.outs[0].spec
    if step.form != FUNCTIONAL or not out.contiguous or native.absent() or not rows.moves(x):
        return None
    static = step.plan.recipe.args(step.inputs, step.scalars)
    looks_up = step.op.name == "embedding"
    dim = 0 if looks_up else static[1] % x.ndim
    if step.op.name == "gather" and not rows.fits(x.shape, index.shape, dim):
        return None
    if index.ndim != 1 and step.op.name == "index_select":
        return None

    def look_up(x: Any, index: Any, out: Any) -> None:
        rows.take_at(x, 0, index.reshape(-1), out.reshape(-1, x.shape[1]))

    def take(x: Any, index: Any, out: Any) -> None:
        rows.take_at(x, dim, index, out)

    return [(look_up if looks_up else take, plan.arrays((*step.inputs, step.outs[0])))]


def _added(plan: FlatPlan, step: Step) -> Calls | None:
    """index_add and scatter_add, also of the in-place form: sums in the order of the index."""
    target, index, source = step.inputs
    static = step.plan.recipe.args(step.inputs, step.scalars)
    if step.op.name == "index_add":
        fits = index.spec.ndim == 1 and static[4] == 1
    else:
        shape = index.spec.shape
        fits = shape == source.spec.shape and target.spec.ndim > 0
        fits = fits and rows.fits(target.spec.shape, shape, static[1] % target.spec.ndim)
    out = step.outs[0]
    apart = all(w.memory is not out.memory for w in (index, source))
    known = step.form in (FUNCTIONAL, INPLACE) and rows.sums(out.spec) and not native.absent()
    if not (fits and apart and known and out.spec.contiguous):
        return None
    dim = static[1] % target.spec.ndim

    def add(index: Any, source: Any, out: Any) -> None:
        rows.add_at(out, dim, index, source)

    calls: Calls = [(add, plan.arrays((index, source, out)))]
    if step.form == FUNCTIONAL:
        calls.insert(0, (np.copyto, plan.arrays((out, target))))
    return calls


def _embedded(plan: FlatPlan, step: Step) -> Calls | None:
    """The gradient of embedding without padding: sums of rows."""
    g, indices, _, padding, scale = step.plan.recipe.args(step.inputs, step.scalars)
    out = step.outs[0].spec
    if padding >= 0 or scale or not rows.sums(out) or native.absent() or not out.contiguous:
        return None

    def add(g: Any, index: Any, out: Any) -> None:
        out.fill(0)
        rows.add_at(out, 0, index.reshape(-1), g.reshape(-1, out.shape[1]))

    return [(add, plan.arrays((g, indices, step.outs[0])))]


_WAYS: Final[dict[str, Callable[[FlatPlan, Step], Calls | None]]] = {
    "mm": _matmul,
    "linear": _matmul,
    "nll_loss_forward": _nll,
    "nll_loss_backward": _nll_backward,
    "zeros_like": _filled(0),
    "new_zeros": _filled(0),
    "ones_like": _filled(1),
    "new_ones": _filled(1),
    "index_select": _taken,
    "embedding": _taken,
    "gather": _taken,
    "index_add": _added,
    "scatter_add": _added,
    "embedding_dense_backward": _embedded,
}
