"""Derivative formulas, run once over specs and from then on as a list of bound ops.

A formula is Python over `fn`: it decides by metadata and Python numbers alone, since on the client
it sees proxies. So for one kind of node, specs and numbers it always issues the same ops, and the
engine need not ask again which ones. What it computes, and in which order, is what
`tape.formulas_of` would. A formula that looks at more than that is run as it is, every time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from farspan.core import limits, tape
from farspan.core.call import Value
from farspan.core.command import FUNCTIONAL
from farspan.core.dtype import Defaults

from . import plan as plans
from .store import Array

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from farspan.core.op import Op
    from farspan.core.spec import Spec

_SEEN = object()  # stands for a kind of node that has been met once
_PLAIN = object()  # and for one whose formulas look at more than metadata
_scripts: dict[Any, Any] = {}


def run(
    node: tape.Node, gradients: list[Any], unpack: Callable[[tape.Node, str, Any], Any]
) -> list[tuple[tape.Edge, Any]]:
    """Return (edge, gradient) pairs as `tape.backward_of` does; the second time by a script."""
    if node.op is None:
        return tape.backward_of(node, gradients, unpack)
    plan = node.plan
    key: Any = (plan, Defaults.dtype, *node.specs, *node.outs)
    for g in gradients:
        if g is None:
            key += (None,)
        elif type(g) is Array:
            key += (g._spec,)
        else:  # a subclass of the engine computes with values of its own
            return tape.backward_of(node, gradients, unpack)
    if node.scalars:
        key += (repr(node.scalars),)  # 0.0 equals -0.0, and 1 equals True
    script = _scripts.get(key)
    if script is None:
        if len(_scripts) > limits.MEMO_ENTRIES_MAX:
            _scripts.clear()
        _scripts[key] = _SEEN
    elif script is _SEEN:
        script = _scripts[key] = _traced(node, gradients) or _PLAIN
    edges = node.edges
    if type(script) is not Script or [e is None for e in edges] != script.absent:
        return tape.backward_of(node, gradients, unpack)
    tape.check_node(node)
    values = [g for g in gradients if g is not None]
    saved = node.saved
    for name, at in script.fetches:
        entry = saved.get(name)
        if at >= 0:
            entry = entry and entry[at]
        if type(entry) is not Array:
            return tape.backward_of(node, gradients, unpack)
        values.append(unpack(node, name, entry))
    script.run(values, values[0]._storage.budget)
    return [(edges[i], values[at]) for i, at in script.results]  # type: ignore[misc]


class Script:
    """The ops that the formulas of one kind of node come to, over numbered values."""

    __slots__ = ("absent", "fetches", "results", "steps")

    def __init__(self, absent: list[bool]) -> None:
        self.absent = absent  # of each input: whether no gradient goes there
        self.fetches: list[tuple[str, int]] = []  # saved values: name, and place in its list or -1
        #: of each op: how it runs, its numbers, the places of its inputs, and of what is done with
        self.steps: list[tuple[Any, tuple[Any, ...], tuple[int, ...], tuple[int, ...]]] = []
        self.results: list[tuple[int, int]] = []  # (flat input, place of its gradient)

    def run(self, values: list[Any], budget: Any) -> None:
        """Append to the values what the ops make of them."""
        for direct, scalars, places, done in self.steps:
            values += direct([values[i] for i in places], scalars, budget)
            for i in done:
                values[i] = None


class _Traced(tape.Variable, Value):
    """A value of which only the metadata is known, as yet."""

    __slots__ = ("at", "trace")

    def __init__(self, trace: _Trace, spec: Spec) -> None:
        self.trace, self._spec = trace, spec
        self.at = trace.count
        trace.count += 1

    @classmethod
    def _apply(
        cls, op: Op, tensors: Sequence[Any], static: Any, scalars: tuple[Any, ...], form: int
    ) -> Any:
        made = tensors[0].trace.apply(op, tensors, static, scalars, form)
        return made[0] if len(made) == 1 and not op.lists else tuple(made)


class _Untraceable(Exception):
    """A formula does what a script cannot hold."""


class _Trace:
    """Writes down the ops that formulas issue."""

    def __init__(self) -> None:
        self.count = 0  # of values
        self.steps: list[tuple[Any, tuple[Any, ...], tuple[int, ...]]] = []

    def apply(
        self, op: Op, tensors: Sequence[Any], static: Any, scalars: tuple[Any, ...], form: int
    ) -> list[_Traced]:
        if form != FUNCTIONAL:
            raise _Untraceable
        plan = plans.plan_for(op, tensors, static, scalars)
        if plan.direct is None:
            raise _Untraceable
        self.steps.append((plan.direct, scalars, tuple([t.at for t in tensors])))
        return [_Traced(self, spec) for spec in plan.outs]


def _traced(node: tape.Node, gradients: list[Any]) -> Script | None:
    """Return the script of the node's kind; None if there can be none."""
    script = Script([e is None for e in node.edges])
    trace = _Trace()
    traced = [None if g is None else _Traced(trace, g._spec) for g in gradients]
    fetched: list[_Traced] = []
    entries = _entries(node)
    # All that may be fetched comes first, so that its places are known before any op's.
    for name, at, saved in entries:
        script.fetches.append((name, at))
        fetched.append(_Traced(trace, saved._spec))

    def unpack(node: tape.Node, name: str, saved: Any) -> _Traced:
        at = next(i for i, (_, _, entry) in enumerate(entries) if entry is saved)
        return fetched[at]

    try:
        pairs = tape.formulas_of(node, list(traced), unpack)
        script.results = [(i, g.at) for i, g in pairs if g.trace is trace]
    except (_Untraceable, AttributeError):
        return None
    if len(script.results) != len(pairs):
        return None
    last = {}
    for k, (_, _, places) in enumerate(trace.steps):
        last.update(dict.fromkeys(places, k))
    for _, at in script.results:
        last.pop(at, None)
    for k, (direct, scalars, places) in enumerate(trace.steps):
        done = tuple([i for i in set(places) if last.get(i) == k])
        script.steps.append((direct, scalars, places, done))
    return script


def _entries(node: tape.Node) -> list[tuple[str, int, Any]]:
    """Return every saved value: its name, its place in a list or -1, and itself."""
    found: list[tuple[str, int, Any]] = []
    for name, saved in node.saved.items():
        if type(saved) is list:
            found += [(name, i, s) for i, s in enumerate(saved) if s is not None]
        else:
            found.append((name, -1, saved))
    return found
