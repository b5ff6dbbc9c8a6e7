"""Plans: how one op runs on inputs of given specs - computed once, then reused.

A plan holds the result's metadata (from the op's own rule: a client's shapes are not trusted), the
casts of its inputs and the kernel. Half precision computes in float32 and is rounded once, as
torch's CPU kernels do.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from farspan.core import limits
from farspan.core.command import FUNCTIONAL, INPLACE
from farspan.core.dtype import Defaults, DType, float32, int64
from farspan.core.errors import ProtocolError
from farspan.core.op import weight
from farspan.core.spec import Spec

from . import direct, workspace
from . import store as stores
from .backend import HOST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farspan.core.op import Op, Recipe

    from .backend import Host
    from .store import Array, Budget


#: Elements that a tensor's dims would hold, those of no length left out: of more it is vast.
_VAST: Final = 1 << 20


class Plan:
    """One op, bound to specs and static arguments."""

    __slots__ = (
        "casts", "compute", "direct", "into", "kernel", "nbytes", "op", "outs", "recipe", "views",
    )  # fmt: skip

    def __init__(
        self,
        op: Op,
        static: Any,
        specs: Sequence[Spec],
        scalars: Sequence[Any],
        backend: Host = HOST,
    ) -> None:
        self.op = op
        self.recipe: Recipe = op.recipe(static)
        if len(specs) != self.recipe.flat:
            raise ProtocolError(f"{op.name} got {len(specs)} tensors, not {self.recipe.flat}")
        args = self.recipe.args(specs, scalars)
        self.outs, self.views = op.infer(args)
        self.compute = None if op.moves else op.compute and op.compute(*args)
        self.casts = self._find_casts(specs, op.name in backend.halves)
        self.kernel: Any = backend.kernel(op, args)
        self.into = backend.into(op)
        #: What must be there before the kernel runs: its results and, on the host, its temporaries.
        self.nbytes = 0 if op.dynamic or self.views else sum(s.nbytes for s in self.outs)
        if self._makes_nothing(specs):
            self.kernel, self.into = self._nothing, None
        elif not (backend.remote or self.views):
            fast, outs = self.kernel is not op.kernel, () if op.dynamic else self.outs
            self.nbytes += workspace.temporaries(op, args, outs, self.casts, fast)
        if not self.views:
            # A kernel over an expanded view works through all of its elements, and often copies
            # them: without this a view of 2^60 elements of one byte would keep it busy for ever.
            share = workspace.expanded_share(op, args)
            expanded = (s.nbytes // share for s in specs if s.numel > s.span())
            self.nbytes = max(self.nbytes, *expanded, 0)
        # How a functional call runs, if so simple; it is written for arrays of this process.
        self.direct: Any = None if backend.remote else direct.bind(self, specs)

    def _find_casts(self, specs: Sequence[Spec], halves: bool) -> list[tuple[int, Any]]:
        if self.op.moves or self.op.writes:
            return []
        target = self.compute
        if target is not None and target.is_reduced and not halves:
            target = float32
        casts = []
        for at, slot in self.recipe.slots.items():
            for i in (slot,) if isinstance(slot, int) else slot:
                if i is None:
                    continue
                wanted: DType = specs[i].dtype
                if target is not None and self._is_operand(at):
                    wanted = target
                if wanted.is_reduced and not halves:
                    wanted = float32
                if wanted is not specs[i].dtype:
                    casts.append((i, wanted.numpy))
        return casts

    def _makes_nothing(self, specs: Sequence[Spec]) -> bool:
        """Return whether an op works on no element, along dims that are vast.

        (0, 2**40) costs nothing to have, but a kernel's tables of places along its dims would.
        """
        op, outs = self.op, self.outs
        if op.random or op.writes or op.dynamic or self.views or not outs:
            return False
        if any(s.numel for s in outs):
            return False
        return any(math.prod(filter(None, s.shape)) > _VAST for s in (*specs, *outs))

    def _nothing(self, xp: Any, *_: Any) -> tuple[Any, ...]:
        """Return the empty results, as a kernel would."""
        return tuple([xp.empty(s.shape, s.dtype.numpy) for s in self.outs])

    def _is_operand(self, at: int) -> bool:
        return self.op.casts(self.op.args[at].name)

    def numbers(self, scalars: Sequence[Any]) -> Sequence[Any]:
        """Return Python numbers as the kernel's integer type can hold them: wrapped, as in C."""
        dtype = self.compute
        if dtype is None or dtype.category != 1 or dtype is int64:
            return scalars
        info = np.iinfo(dtype.numpy)
        return [
            int(np.array(x, np.int64).astype(dtype.numpy))
            if type(x) is int and not info.min <= x <= info.max
            else x
            for x in scalars
        ]


_plans: dict[Any, Plan] = HOST.plans
_specs_of = operator.attrgetter("_spec")
lay_out, empty = HOST.lay_out, HOST.empty


def plan_for(
    op: Op,
    tensors: Sequence[Array],
    static: Any,
    scalars: Sequence[Any],
    backend: Host = HOST,
) -> Plan:
    """Return the plan for these inputs; raises what the op's metadata rule raises."""
    plans = backend.plans
    key = (op, static, Defaults.dtype, *map(_specs_of, tensors))
    if op.by_value:
        key += tuple([(type(x), x) for x in scalars])
    plan: Plan | None = plans.get(key)
    if plan is None:
        entries = weight(static) + len(tensors) // 16
        backend.planned += entries
        if backend.planned > limits.MEMO_ENTRIES_MAX:
            plans.clear()
            backend.planned = entries
        plan = plans[key] = Plan(op, static, [t._spec for t in tensors], scalars, backend)
    return plan


def run(
    op: Op,
    tensors: Sequence[Array],
    static: Any,
    scalars: Sequence[Any],
    form: int,
    budget: Budget,
    generator: Any = None,
) -> list[Array]:
    """Run one op and return its outputs; nothing is recorded. Charges memory before the kernel."""
    backend = budget.backend
    if form == FUNCTIONAL:
        plan = None
        if not op.by_value:  # spelled out, since every op comes by here
            plan = backend.plans.get((op, static, Defaults.dtype, *map(_specs_of, tensors)))
        if plan is None:
            plan = plan_for(op, tensors, static, scalars, backend)
        if plan.direct is not None:
            return plan.direct(tensors, scalars, budget)  # type: ignore[no-any-return]
        inputs, targets = tensors, tensors[:0]
    else:
        flat = op.recipe(static).flat
        targets = tensors[flat:]
        inputs = tensors[:flat] if targets else tensors
        plan = plan_for(op, inputs, static, scalars, backend)
    if op.family == "view":
        return [_view(inputs[0], spec, offset, op) for spec, offset in plan.views]
    if form == INPLACE and plan.into is not None and _writes_through(plan, inputs):
        arguments = plan.recipe.args([t.array for t in inputs], plan.numbers(scalars))
        try:
            plan.into(backend.xp, *arguments)
        except Exception:
            inputs[0]._storage.wrote()  # it may have raised halfway
            raise
        inputs[0]._storage.version += 1
        return list(inputs[:1])
    arrays = [t.array for t in inputs]
    made = 0
    if not backend.remote and workspace.depends(op):
        made = workspace.of_elements(op, arrays, static)
    budget.check(plan.nbytes + made)
    if op.writes:
        _write(plan, inputs, arrays, scalars, generator)
        return []
    results = compute(plan, arrays, scalars, generator, backend.xp)
    if form == FUNCTIONAL:
        outs = []
        for result, spec in zip(results, plan.outs, strict=True):
            if op.dynamic:  # only now is the shape known
                budget.check(result.nbytes)
                spec = spec.with_(shape=result.shape)
            array = backend.lay_out(result, spec, arrays)
            outs.append(stores.adopt(array, spec, budget))
        return outs
    if form == INPLACE:
        targets = inputs[:1]
    for target, result in zip(targets, results, strict=False):
        store(target, result)
    return list(targets)


def _write(
    plan: Plan, inputs: Sequence[Array], arrays: list[Any], scalars: Sequence[Any], generator: Any
) -> None:
    """Run an op that writes to some of its inputs by itself."""
    written = []
    for at in plan.op.written:
        slot = plan.recipe.slots.get(at, ())
        places = (slot,) if isinstance(slot, int) else slot
        written += [inputs[i]._storage for i in places if i is not None]
    try:
        compute(plan, arrays, scalars, generator, inputs[0]._storage.budget.backend.xp)
    except Exception:  # of the second tensor of many, say: the first has been written
        for storage in written:
            storage.wrote()
        raise
    for storage in written:
        storage.version += 1


def _writes_through(plan: Plan, inputs: Sequence[Array]) -> bool:
    """Return whether an in-place op may write to self at once, instead of copying it twice."""
    target = inputs[0]
    memory = target._storage.memory
    return (
        not plan.casts
        and target._spec.contiguous
        and plan.outs[0].dtype is target._spec.dtype
        and plan.outs[0].shape == target._spec.shape
        and all(t._storage.memory is not memory for t in inputs[1:])
    )


def compute(
    plan: Plan, arrays: list[Any], scalars: Sequence[Any], generator: Any, xp: Any = np
) -> Any:
    """Cast, call the kernel, and return its results as a tuple; as yet in the kernel's layout."""
    if plan.casts:
        arrays = list(arrays)
        for i, dtype in plan.casts:
            arrays[i] = arrays[i].astype(dtype)
    if scalars:
        scalars = plan.numbers(scalars)
    args = plan.recipe.args(arrays, scalars)
    if plan.op.random:
        result = plan.kernel(xp, generator, *args)
    else:
        result = plan.kernel(xp, *args)
    return result if isinstance(result, tuple) else (result,)


def store(target: Array, result: Any) -> None:
    """Write a result over a tensor's elements, cast to its dtype; its version goes up."""
    target._storage.budget.backend.write(target.array, result)
    target._storage.version += 1


def place(x: Any, spec: Spec, offset: int) -> int:
    """Return where a view of `x` starts in its storage, in elements of the view's type."""
    size = x._spec.dtype.itemsize
    if spec.dtype.itemsize != size:
        return offset + x._offset * size // spec.dtype.itemsize  # type: ignore[no-any-return]
    return offset + x._offset  # type: ignore[no-any-return]


def _view(x: Array, spec: Spec, offset: int, op: Op) -> Array:
    offset = place(x, spec, offset)
    storage = x._storage.apart() if op.unversioned else x._storage
    out = stores.Array(storage.window(spec, offset), spec, storage, offset)
    if not op.detaches:
        base = x._base or x
        out._base = base
        out._generation = base._generation
    return out
