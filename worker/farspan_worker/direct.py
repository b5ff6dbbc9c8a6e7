"""Direct ways: what is left to do for one op on inputs of known specs, as one closure.

A plan knows once and for all whether an op casts, writes, draws or makes views; a direct way is the
plan's common case with those questions gone. It computes what `plan.run` would, charges memory
before the kernel, and hands anything unusual to the plan's own functions. Read plan.py first.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from farspan.core.dtype import int64
from farspan.core.op import NumberList

from . import plan as plans
from . import store as stores
from . import workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farspan.core.op import Op, Recipe
    from farspan.core.spec import Spec

    from .store import Array, Budget

_ARGUMENTS_MAX = 32  # of one call; longer ones (lists of parameters) go the general way


def bind(plan: plans.Plan, specs: Sequence[Spec]) -> Any:
    """Return the direct way of a plan for functional calls, None if it has none.

    specs: of the inputs. The way takes (tensors, scalars, budget) and returns the outputs.
    """
    op = plan.op
    if op.family == "view":
        return None if op.unversioned or not specs else _views(plan, specs[0], op)
    if plan.casts or op.writes or op.random or op.lists or not plan.outs:
        return None
    if workspace.depends(op):
        return None
    if plan.compute is not None and plan.compute.category == 1 and plan.compute is not int64:
        return None  # numbers wrap as in C
    call = _call(plan.recipe)
    if call is None:
        return None
    if len(plan.outs) == 1:
        return _one(plan, call, plan.outs[0])
    return _several(plan, call)


# ------------------------------------------------------------------------------------- results --
def _one(plan: plans.Plan, call: Any, spec: Spec) -> Any:
    kernel, constants = plan.kernel, plan.recipe.template
    shape, dtype, nbytes = spec.shape, spec.dtype.numpy, plan.nbytes
    strides = tuple([s * dtype.itemsize for s in spec.stride])
    ndarray, adopt = np.ndarray, stores.adopt

    def run(tensors: Sequence[Array], scalars: Sequence[Any], budget: Budget) -> list[Array]:
        if budget.used + nbytes > budget.limit:
            budget.check(nbytes)
        result = call(kernel, tensors, scalars, constants)
        if (
            type(result) is ndarray
            and result.base is None  # memory of its own, if it is no input
            and result.strides == strides
            and result.dtype is dtype
            and result.shape == shape
        ):
            for t in tensors:
                if t.array is result:
                    result = result.copy("K")
        else:
            if type(result) is tuple:
                (result,) = result
            result = plans.lay_out(result, spec, [t.array for t in tensors])
        return [adopt(result, spec, budget)]

    return run


def _several(plan: plans.Plan, call: Any) -> Any:
    kernel, constants, outs, nbytes = plan.kernel, plan.recipe.template, plan.outs, plan.nbytes
    adopt = stores.adopt

    def run(tensors: Sequence[Array], scalars: Sequence[Any], budget: Budget) -> list[Array]:
        if budget.used + nbytes > budget.limit:
            budget.check(nbytes)
        results = call(kernel, tensors, scalars, constants)
        inputs = [t.array for t in tensors]
        return [
            adopt(plans.lay_out(result, spec, inputs), spec, budget)
            for result, spec in zip(results, outs, strict=True)
        ]

    return run


def _views(plan: plans.Plan, whole: Spec, op: Op) -> Any:
    """Return the direct way of a view within its input's own type."""
    if any(spec.dtype is not whole.dtype for spec in plan.outs):
        return None
    dtype = whole.dtype.numpy
    size = dtype.itemsize
    parts = [
        (spec, offset, spec.shape, tuple([s * size for s in spec.stride]), spec.span() * size)
        for spec, offset in plan.views
    ]
    if not all(spec.numel for spec in plan.outs):
        return None
    attached, ndarray, new, kind = not op.detaches, np.ndarray, object.__new__, stores.Array

    def run(tensors: Sequence[Array], scalars: Sequence[Any], budget: Budget) -> list[Array]:
        x = tensors[0]
        storage = x._storage
        memory = storage._flat
        if memory is None:
            memory = storage.flat
        made = []
        for spec, offset, shape, strides, span in parts:
            offset += x._offset
            start = offset * size
            if offset < 0 or start + span > storage.nbytes:
                storage.window(spec, offset)  # raises
            out = new(kind)
            out.array = ndarray(shape, dtype, memory, start, strides)
            out._spec = spec
            out._storage = storage
            out._offset = offset
            out._node = None
            out._index = 0
            if attached:
                out._base = base = x._base or x
                out._generation = base._generation
            else:
                out._base = None
                out._generation = 0
            made.append(out)
        return made

    return run


# ----------------------------------------------------------------------------------- arguments --
def _call(recipe: Recipe) -> Any:
    """Return `(kernel, tensors, scalars, constants) -> kernel(np, *args)`, as one expression."""
    if len(recipe.template) > _ARGUMENTS_MAX or recipe.flat > _ARGUMENTS_MAX:
        return None
    fill = dict(recipe.fill)
    words = []
    for at, value in enumerate(recipe.template):
        slot = recipe.slots.get(at)
        if type(slot) is int:
            words.append(f"t[{slot}].array")
        elif slot is not None:
            items = ["None" if i is None else f"t[{i}].array" for i in slot]  # type: ignore[union-attr]
            words.append(f"[{', '.join(items)}]")
        elif at in fill:
            words.append(f"s[{fill[at]}]")
        elif type(value) is NumberList:
            if len(value) > _ARGUMENTS_MAX:
                return None
            words.append(f"[{', '.join(f's[{i}]' for i in value)}]")
        else:
            words.append(f"c[{at}]")
    return _compiled("".join(f", {word}" for word in words))


@functools.lru_cache(maxsize=4_096)
def _compiled(arguments: str) -> Any:
    """Compile a call; the text is made of places alone, never of what a frame holds."""
    return eval(f"lambda k, t, s, c: k(np{arguments})", {"np": np})
