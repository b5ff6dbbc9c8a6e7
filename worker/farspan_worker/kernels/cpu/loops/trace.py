"""A group's graph: each step's table kernel over symbols, with `plan.py`'s casts around it.

Sums and extremes over dims end a group: what is computed from them is computed once for each of
their elements, after the loop, and may not meet single elements again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from farspan.core.errors import FarspanError
from farspan.core.spec import Spec, wrap_dims

from farspan_worker.plan import Plan

from .graph import Graph, Node
from .group import EXAMPLES, Group, Number, Step, Unfused
from .lowered import LOWERED
from .symbolic import Namespace, Scalar, Sym, cast, name_of

#: Ops without the family "pointwise" whose kernels are maps of elements all the same.
MAPS: Final = frozenset(
    ("_cast", "log_sigmoid", "masked_fill.Scalar", "pow.Scalar", "clone", "mse_loss_backward")
)
#: Reductions, and how elements are put together.
REDUCTIONS: Final = {
    "sum": "sum", "sum.dim_IntList": "sum", "mean": "mean", "mean.dim": "mean",
    "amax": "max", "amin": "min", "max": "max", "min": "min",
}  # fmt: skip
#: Maps of rows: each element of the result depends on its whole row.
ROWWISE: Final = frozenset(
    ("_softmax", "_log_softmax", "_softmax_backward_data", "_log_softmax_backward_data")
)
#: All of them by name: what may be a step without being of the family "pointwise".
ELIGIBLE: Final = frozenset((*MAPS, *LOWERED, *REDUCTIONS))


@dataclass(slots=True)
class Traced:
    """A loop's inside: which nodes are stored where, and what is reduced."""

    graph: Graph
    shape: tuple[int, ...]  # what the loop runs over
    inputs: list[tuple[str, tuple[int, ...]]]  # type, strides in elements for each dim of `shape`
    #: node, its type, strides; of reduced values 0 in the dims that are gone
    outputs: list[tuple[Node, str, tuple[int, ...]]]
    numbers: tuple[str, ...]
    dims: tuple[int, ...] | None = None  # what is reduced, None: nothing
    late: set[int] = field(default_factory=set)  # places of nodes that come after the reduction
    #: By place: how many reductions, one after the other, a node depends on.
    stages: list[int] = field(default_factory=list)
    rows: bool = False  # elements meet what their row was reduced to: rowwise.py


def trace(group: Group) -> Traced:
    """Return the graph of a group. Unfused, or what the ops' rules raise, if it has none."""
    graph = Graph(group.exact)
    shape, numbers = group.shape, group.numbers
    values = [
        Sym(graph, graph.node("load", _loaded(spec), attr=i), spec.shape)
        for i, spec in enumerate(group.inputs)
    ]
    specs = list(group.inputs)
    for step in group.steps:
        value, spec = _apply(graph, step, [values[i] for i in step.tensors],
                             [specs[i] for i in step.tensors])  # fmt: skip
        values.append(value)
        specs.append(spec)
    inputs = [(spec.dtype.name, _aligned(spec, shape)) for spec in group.inputs]
    traced = Traced(graph, shape, inputs, [], numbers)
    _find_late(traced)
    for at, spec in group.outputs:
        value = values[at]
        if spec.shape != specs[at].shape or spec.dtype is not specs[at].dtype:
            raise Unfused(f"value {at} is {specs[at]}, stored as {spec}")
        if value.node.at in traced.late:
            strides = _kept_strides(spec, shape, traced.dims or ())
        elif (1,) * (len(shape) - spec.ndim) + spec.shape == shape:
            strides = _aligned(spec, shape)
        else:
            raise Unfused(f"a result of shape {spec.shape} in a loop over {shape}")
        traced.outputs.append((value.node, spec.dtype.name, strides))
    return traced


def _loaded(spec: Spec) -> str:
    return name_of(spec.dtype.numpy)


def _apply(graph: Graph, step: Step, tensors: list[Sym], specs: Sequence[Spec]) -> tuple[Sym, Spec]:
    """Return what a step makes of symbols, and its spec."""
    op = step.op
    kind = REDUCTIONS.get(op.name)
    if op.name in ROWWISE and graph.exact:
        raise Unfused(f"{op.name} in an exact loop")
    if op.family != "pointwise" and op.name not in ELIGIBLE:
        raise Unfused(f"{op.name} is no map of elements")
    if op.random or op.by_value or op.writes or op.dynamic:
        raise Unfused(f"{op.name} depends on more than elements")
    examples = [EXAMPLES[s.kind] if type(s) is Number else s for s in step.scalars]
    plan = Plan(op, step.static, specs, examples)
    if len(plan.outs) != 1 or plan.views:
        raise Unfused(f"{op.name} has not one result")
    for i, dtype in plan.casts:
        tensors[i] = tensors[i].astype(dtype)
    scalars = [
        _number(graph, given, wrapped)
        for given, wrapped in zip(step.scalars, plan.numbers(examples), strict=True)
    ]
    args = plan.recipe.args(tensors, scalars)
    spec = plan.outs[0]
    if kind:
        value = _reduce(kind, op, args)
    else:
        kernel = op.kernel if graph.exact else LOWERED.get(op.name, op.kernel)
        assert kernel is not None
        value = kernel(Namespace(graph), *args)
    if not isinstance(value, Sym):
        raise Unfused(f"{op.name} without elements")
    value = value.astype(spec.dtype.numpy)
    if value.shape != spec.shape:
        raise Unfused(f"{op.name} of shape {value.shape} instead of {spec.shape}")
    return value, spec


def _number(graph: Graph, given: Any, wrapped: Any) -> Any:
    if type(given) is not Number:
        return wrapped
    name = "float64" if given.kind == "f" else "int64"
    node = graph.node("number", name, attr=given.index)
    if given.kind == "b":
        node = cast(graph, node, "bool")
    return Scalar(graph, node, given.kind)


# ---------------------------------------------------------------------------------- reductions --
def _reduce(kind: str, op: Any, args: list[Any]) -> Sym:
    named = {a.name: value for a, value in zip(op.args, args, strict=True)}
    x: Sym = named["self"]
    dims = wrap_dims(named.get("dim"), x.ndim)
    return reduced(x, kind, dims, bool(named.get("keepdim")))


def reduced(x: Sym, kind: str, dims: Sequence[int], keepdim: bool = False) -> Sym:
    """Return the sum, mean, max or min over dims. Unfused if an exact loop cannot have it."""
    if not x.ndim:
        raise Unfused("a reduction of a tensor without dims")
    name = x.node.dtype
    if x.graph.exact and "float" in name:
        raise Unfused(f"a {kind} of floats in an exact loop")
    if name == "bool" or name in ("float16", "bfloat16"):
        raise Unfused(f"a {kind} of {name}")
    how = "sum" if kind == "mean" else kind
    node = x.graph.node("reduce", name, x.node, attr=(how, tuple(dims), x.shape))
    shape = tuple(
        [1 if d in dims else n for d, n in enumerate(x.shape) if keepdim or d not in dims]
    )
    total = Sym(x.graph, node, shape)
    if kind != "mean":
        return total
    return total / total.dtype.type(math.prod(x.shape[d] for d in dims))


def _find_late(traced: Traced) -> None:
    """Enter what comes after a reduction, and whether elements meet it again."""
    late, early, stages = traced.late, set(), traced.stages
    for node in traced.graph.nodes:
        stages.append(max([stages[a.at] for a in node.args], default=0) + (node.op == "reduce"))
        if node.op == "reduce":
            _, dims, shape = node.attr
            if traced.dims not in (None, dims) or shape != traced.shape:
                raise Unfused("two different reductions in one loop")
            if node.args[0].at in late:
                raise Unfused("a reduction of a reduction")
            traced.dims = dims
            late.add(node.at)
        elif node.op == "load":
            early.add(node.at)
        elif any(a.at in late for a in node.args):
            if any(a.at in early for a in node.args):
                traced.rows = True
                early.add(node.at)
            else:
                late.add(node.at)
        elif any(a.at in early for a in node.args):
            early.add(node.at)


def _aligned(spec: Spec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return strides for each dim of the loop; 0 where the spec is broadcast."""
    lead = len(shape) - spec.ndim
    own = [0 if n == 1 else s for n, s in zip(spec.shape, spec.stride, strict=True)]
    return (*[0] * lead, *own)


def _kept_strides(spec: Spec, shape: tuple[int, ...], dims: Sequence[int]) -> tuple[int, ...]:
    if spec.ndim == len(shape):
        return tuple([0 if d in dims else s for d, s in enumerate(spec.stride)])
    rest = iter(spec.stride)
    return tuple([0 if d in dims else next(rest) for d in range(len(shape))])


def why_not(group: Group) -> str:
    """Return why a group is no loop, "" if it is one."""
    try:
        trace(group)
    except (Unfused, FarspanError, TypeError, ValueError) as error:
        return str(error)
    return ""
