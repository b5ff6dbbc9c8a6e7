"""Reverse-mode differentiation over anything with a place in the graph.

`record` notes one op: its edges to the inputs' nodes and what its formulas mention. `walk` runs the
formulas backwards. Client and engine run this same code - the client over proxies, to know the
graph, the engine over arrays, to compute - so both always agree on it. Nodes are data, no closures.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from .call import fn
from .errors import AutogradError
from .op import OPS, OUT_NAME, NumberList, Op, Recipe, VjpPlan

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from .command import Static
    from .spec import Spec


class Storage(Protocol):
    """Memory that views share; each write makes `version` one larger."""

    version: int


class Variable:
    """A tensor's place in memory and in the graph. Client and engine add what else they know."""

    __slots__ = ("_base", "_generation", "_index", "_node", "_offset", "_spec", "_storage")

    _spec: Spec
    _offset: int  # elements from the start of the storage
    _storage: Any
    _node: Node | None  # what made it; a leaf's own node; None without gradient
    _index: int  # which output of the node
    _base: Variable | None  # the tensor that this one is a differentiable view of
    _generation: int  # of a base: times its graph was rewritten; of a view: the time of its node

    def _save(self) -> Any:
        """Return what the tape keeps of this tensor: its value, without its place in the graph."""
        raise NotImplementedError


class Node:
    """One recorded op. `edges[i]` is where the gradient of flat input i goes."""

    __slots__ = (
        "__weakref__", "edges", "freed", "hooks", "number", "op", "outs", "plan", "saved",
        "scalars", "sequence", "site", "specs", "static", "versions",
    )  # fmt: skip

    op: Op | None
    edges: tuple[tuple[Node, int] | None, ...]
    plan: VjpPlan  # which formulas run
    static: Static
    scalars: tuple[Any, ...]
    specs: tuple[Spec, ...]  # of the inputs
    outs: tuple[Spec, ...]  # of the outputs
    number: int  # of the command that it records

    def __init__(self, op: Op | None, edges: tuple[tuple[Node, int] | None, ...] = ()) -> None:
        self.op = op
        self.edges = edges
        self.sequence = next(_sequence)
        self.outs = ()
        self.saved: dict[str, Any] = {}
        self.versions: tuple[tuple[Any, int], ...] = ()
        self.hooks: dict[int, list[Any]] | None = None  # of an output; the client's only
        self.freed = False
        self.site: Any = None
        self.number = -1


class Leaf(Node):
    """The node of a tensor that the user asked gradients for."""

    __slots__ = ("variable",)

    def __init__(self, variable: Any = None) -> None:
        super().__init__(None)
        self.variable = variable  # the client's weak reference to the tensor


Edge = tuple[Node, int]  # an output of a node: where the gradient of what it made goes
_sequence = itertools.count()


def edge_of(x: Any) -> Edge | None:
    """Return the place where a gradient of `x` goes, or None.

    A view whose base was rewritten since gets a new node here: it is a strided window of what the
    base is now.
    """
    base = x._base
    if base is not None and x._generation != base._generation:
        x._generation = base._generation
        x._node, x._index = _window_of(base, x) or (None, 0)
    return None if x._node is None else (x._node, x._index)


def _window_of(base: Any, view: Any) -> Edge | None:
    """Return the place of `view`, as a strided window of what `base` is now."""
    whole, part, static = _window(base, view)
    edge = edge_of(base)
    if whole is not base._spec:
        edge = _node_of("view_as_real", (), (base._spec,), whole, (edge,))
    edge = _node_of("_window", static, (whole,), part, (edge,))
    if part is not view._spec:
        edge = _node_of("view_as_complex", (), (part,), view._spec, (edge,))
    return edge


def _scattered(base: Any, view: Any, written: Edge) -> Edge | None:
    """Return the place of `base`, as what it was with `written` in the window `view`."""
    whole, part, static = _window(base, view)
    old: Edge | None = edge_of(base)
    new: Edge | None = written
    if whole is not base._spec:
        old = _node_of("view_as_real", (), (base._spec,), whole, (old,))
    if part is not view._spec:
        new = _node_of("view_as_real", (), (view._spec,), part, (new,))
    edge = _node_of("_window_scatter", static, (whole, part), whole, (old, new))
    if whole is not base._spec:
        edge = _node_of("view_as_complex", (), (whole,), base._spec, (edge,))
    return edge


def _window(base: Any, view: Any) -> tuple[Spec, Spec, Static]:
    """Return base and view in elements that both have, and the window's place among them.

    If one is complex and the other shows its parts, these are the parts.
    """
    whole, part = base._spec, view._spec
    if whole.dtype is not part.dtype:
        whole, part = _parts(whole), _parts(part)
    start, begin = (
        x._offset * x._spec.dtype.itemsize // spec.dtype.itemsize
        for x, spec in ((view, part), (base, whole))
    )
    return whole, part, (whole.stride, part.shape, part.stride, start - begin)


def _parts(spec: Spec) -> Spec:
    if not spec.dtype.is_complex:
        return spec
    stride = (*[2 * s for s in spec.stride], 1)
    return spec.with_((*spec.shape, 2), spec.dtype.to_real(), stride=stride)


def _node_of(
    name: str, static: Static, specs: tuple[Spec, ...], out: Spec, edges: tuple[Edge | None, ...]
) -> Edge | None:
    """Return the place of the result of an op that saves nothing; None if no edge leads on."""
    mask = sum(1 << i for i, e in enumerate(edges) if e is not None)
    if not mask:
        return None
    op = OPS[name]
    node = Node(op, edges)
    plan = op.vjp_plan(static, mask)
    assert plan is not None and not plan.saved_args and not plan.saved_outs
    node.plan, node.static, node.scalars = plan, static, ()
    node.specs, node.outs = specs, (out,)
    return node, 0


def record(
    op: Op,
    plan: VjpPlan,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    static: Static,
    scalars: tuple[Any, ...],
    edges: tuple[Edge | None, ...] | None = None,
) -> Node:
    """Give the outputs a node that knows how to send gradients to the inputs in `plan.mask`."""
    node = Node(op, edges_of(inputs, plan.mask) if edges is None else edges)
    node.plan, node.static, node.scalars = plan, static, scalars
    node.specs = tuple([x._spec for x in inputs])
    if len(outputs) == 1:
        (out,) = outputs
        node.outs = (out._spec,)
    else:
        node.outs = tuple([x._spec for x in outputs])
    if plan.saves or plan.saved_outs:
        _save(node, plan, inputs, outputs)
    for i, out in enumerate(outputs):
        if out._spec.dtype.category >= 2:
            out._node, out._index = node, i
    return node


def edges_of(inputs: Sequence[Any], mask: int) -> tuple[Edge | None, ...]:
    """Return the edges to the inputs in `mask`."""
    edges: list[Edge | None] = []
    for x in inputs:
        if not mask & 1:
            edges.append(None)
        elif x._base is None:
            edges.append(None if x._node is None else (x._node, x._index))
        else:
            edges.append(edge_of(x))
        mask >>= 1
    return tuple(edges)


def _save(node: Node, plan: VjpPlan, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    saved, versions = node.saved, []
    for name, slot in plan.saves:
        if isinstance(slot, int):
            x = inputs[slot]
            saved[name] = x._save()
            versions.append((x._storage, x._storage.version))
        else:
            chosen = [None if i is None else inputs[i] for i in slot]
            saved[name] = [None if x is None else x._save() for x in chosen]
            versions += [(x._storage, x._storage.version) for x in chosen if x is not None]
    for name in plan.saved_outs:
        results = outputs if name == "out" else (outputs[int(name[4:])],)
        kept = [x._save() for x in results]
        saved[name] = kept[0] if len(kept) == 1 else kept
        versions += [(x._storage, x._storage.version) for x in results]
    node.versions = tuple(versions)


def record_inplace(
    op: Op, plan: VjpPlan, inputs: Sequence[Any], static: Static, scalars: tuple[Any, ...]
) -> Node:
    """Rewrite the graph for an op that stored its result into `inputs[0]` (version already new).

    If that is a view, its base becomes "what it was, with the window replaced", and every other
    view of the base follows when it is looked at next.
    """
    target = inputs[0]
    edges = edges_of(inputs, plan.mask)
    node = record(op, plan, inputs, [target], static, scalars, edges)
    base = target._base
    if base is None:
        target._generation += 1
        return node
    base._node, base._index = _scattered(base, target, (node, 0)) or (None, 0)
    base._generation += 1
    return node


# ------------------------------------------------------------------------------------ backward --
def needed_nodes(roots: Iterable[Edge], wanted: Collection[Edge]) -> set[Node]:
    """Return the nodes on a path from the roots to a wanted edge, whose formulas have to run."""
    targets = {node for node, _ in wanted}
    needed: set[Node] = set()
    done: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(node, False) for node, _ in roots]
    while stack:
        node, leaving = stack.pop()
        if leaving:
            for e in node.edges:
                if e is not None and (e[0] in needed or e[0] in targets):
                    needed.add(node)
                    break
            continue
        if node in done:
            continue
        done.add(node)
        stack.append((node, True))
        stack += [(e[0], False) for e in node.edges if e is not None and e[0] not in done]
    return needed


def leaves_of(roots: Iterable[Edge]) -> list[Leaf]:
    """Return the leaves that gradients from the roots reach, in order of their creation."""
    return leaves_in(reachable(roots))


def leaves_in(nodes: Iterable[Node]) -> list[Leaf]:
    """Return the leaves among the nodes, in order of their creation."""
    found = [node for node in nodes if type(node) is Leaf]
    return sorted(found, key=lambda n: n.sequence)


def reachable(roots: Iterable[Edge]) -> set[Node]:
    """Return every node that a gradient of the roots may come to."""
    seen: set[Node] = set()
    stack = [node for node, _ in roots]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            for edge in node.edges:
                if edge is not None:
                    stack.append(edge[0])
    return seen


def leads_to_freed(root: Node, known: set[Node]) -> bool:
    """Return whether a gradient of the root would come to a node whose saved values are gone.

    known: nodes that do, to which the root is added if it does; so a question about many roots of
    one graph takes one look at it.
    """
    seen: set[Node] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if node.freed or node in known:
            known.add(root)
            return True
        if node not in seen:
            seen.add(node)
            stack += [edge[0] for edge in node.edges if edge is not None]
    return False


def walk(
    roots: Sequence[tuple[Edge, Any]],
    wanted: Collection[Edge],
    unpack: Callable[[Node, str, Any], Any],
    *,
    keep: bool,
    watch: Watch | None = None,
) -> dict[Edge, Any]:
    """Return the gradients of the wanted edges, given those of the roots.

    Nodes run from the latest recorded to the earliest, so contributions to one gradient are added
    in the order of their consumers, whatever the timing. `unpack` turns saved data into values;
    `watch`, if given, sees every node and may replace gradients (hooks). Without `keep` the saved
    values of the nodes that ran are let go.
    """
    wanted = set(wanted)
    needed = needed_nodes([edge for edge, _ in roots], wanted)
    wanted_nodes = {node for node, _ in wanted}
    pending: dict[Node, list[Any]] = {}
    heap: list[tuple[int, Node]] = []

    def send(edge: Edge, gradient: Any) -> None:
        node, index = edge
        if node not in needed and node not in wanted_nodes:
            return
        slots = pending.get(node)
        if slots is None:
            slots = pending[node] = [None] * (len(node.outs) or 1)
            heapq.heappush(heap, (-node.sequence, node))
        old = slots[index]
        slots[index] = gradient if old is None else fn.add(old, gradient)

    for edge, gradient in roots:
        send(edge, gradient)
    results: dict[Edge, Any] = {}
    while heap:
        _, node = heapq.heappop(heap)
        gradients = pending.pop(node)
        for i, g in enumerate(gradients):
            if g is not None:
                if watch is not None:
                    g = gradients[i] = watch.arrived(node, i, g)
                if (node, i) in wanted:
                    results[node, i] = g
        if node in needed:
            if watch is None:
                pairs = backward_of(node, gradients, unpack)
            else:
                pairs = watch.run(node, gradients, unpack)
            for edge, gradient in pairs:
                send(edge, gradient)
            if not keep:
                release(node)
    return results


class Watch:
    """Sees a pass go by. What is not overridden changes nothing."""

    def arrived(self, node: Node, index: int, gradient: Any) -> Any:
        """Return the complete gradient of an output, or what takes its place."""
        return gradient

    def run(self, node: Node, gradients: list[Any], unpack: Any) -> list[tuple[Edge, Any]]:
        """Run the node's formulas."""
        return backward_of(node, gradients, unpack)


def first_bad(node: Node, pairs: Iterable[tuple[Edge, Any]], bad: Callable[[Any], bool]) -> int:
    """Return which input's gradient is bad, -1 if none is."""
    used: set[int] = set()
    for edge, gradient in pairs:
        at = next(i for i, e in enumerate(node.edges) if e == edge and i not in used)
        used.add(at)
        if bad(gradient):
            return at
    return -1


def release(node: Node) -> None:
    """Let go of the node's saved values; a second backward through it is an error."""
    if node.saved or (node.op is not None and node.op.name in _KEEP_NUMBERS):
        node.saved = {}
        node.versions = ()
        node.freed = True


#: torch makes a tensor of a number here, and saves it.
_KEEP_NUMBERS = frozenset({"mul.Scalar", "div.Scalar", "div.Scalar_mode"})


def let_go(roots: Iterable[Edge]) -> None:
    """Release every node that the roots reach."""
    for node in reachable(roots):
        release(node)


FREED_MESSAGE = (
    "Trying to backward through the graph a second time (or directly access saved tensors after "
    "they have already been freed). Saved intermediate values of the graph are freed when you call "
    ".backward() or autograd.grad(). Specify retain_graph=True if you need to backward through the "
    "graph a second time or if you need to access saved tensors after calling backward."
)


def check_node(node: Node) -> None:
    """Raise AutogradError if what the node saved is gone or was changed since."""
    if node.freed:
        raise AutogradError(FREED_MESSAGE)
    for storage, version in node.versions:
        if storage.version != version:
            name = node.op.base if node.op else "this op"
            raise AutogradError(
                "one of the variables needed for gradient computation has been modified by an "
                f"inplace operation: a tensor saved by {name}() is at version {storage.version}; "
                f"expected version {version} instead."
            )


def backward_of(
    node: Node, gradients: list[Any], unpack: Callable[[Node, str, Any], Any]
) -> list[tuple[Edge, Any]]:
    """Run the node's formulas; return (edge, gradient) pairs, shaped as the inputs were."""
    if node.op is None:
        return node.run_python(gradients)  # type: ignore[attr-defined, no-any-return]
    check_node(node)
    edges = node.edges
    return [(edges[i], g) for i, g in formulas_of(node, gradients, unpack)]  # type: ignore[misc]


def formulas_of(
    node: Node, gradients: list[Any], unpack: Callable[[Node, str, Any], Any]
) -> list[tuple[int, Any]]:
    """Run the formulas of an op's node; return (flat input, its gradient), shaped as that was."""
    if len(gradients) > 1:
        some = next(g for g in gradients if g is not None)
        gradients = [
            fn.new_zeros(some, spec.shape, dtype=spec.dtype)
            if g is None and spec.dtype.category >= 2
            else g
            for g, spec in zip(gradients, node.outs, strict=True)
        ]
    edges, sent = node.edges, []
    for formula, getters, slots in node.plan.steps or _steps(node):
        result = formula(*[get(node, gradients, unpack) for get in getters])
        for slot, part in zip(slots, result if len(slots) > 1 else (result,), strict=True):
            if slot is None or part is None:
                continue
            pairs = ((slot, part),) if isinstance(slot, int) else zip(slot, part, strict=True)
            for i, gradient in pairs:
                if i is not None and gradient is not None and edges[i] is not None:
                    sent.append((i, fit(gradient, node.specs[i])))
    return sent


Getter = Callable[[Node, list[Any], Callable[[Node, str, Any], Any]], Any]
Slot = int | tuple[int | None, ...] | None


def _steps(node: Node) -> tuple[Any, ...]:
    """Return how the formulas of all nodes of this op, static form and mask run.

    Of each: the formula, what fetches the values it mentions, and the slots of what it gives.
    """
    assert node.op is not None
    recipe = node.op.recipe(node.static)
    places = {a.name: at for at, a in enumerate(node.op.args)}
    steps = []
    for call in node.plan.calls:
        slots = tuple([recipe.slots.get(at) for at in call.positions])
        getters = tuple([_getter(node.op, recipe, places, name, slots) for name in call.mentions])
        steps.append((call.formula, getters, slots))
    node.plan.steps = tuple(steps)
    return node.plan.steps  # type: ignore[no-any-return]


def _getter(
    op: Op, recipe: Recipe, places: dict[str, int], name: str, slots: tuple[Slot, ...]
) -> Getter:
    """Return what fetches the value of a name that a formula mentions, from a node."""
    if name == "g":
        if op.lists:
            return lambda node, gradients, unpack: gradients
        return lambda node, gradients, unpack: gradients if len(node.outs) > 1 else gradients[0]
    if name == "needed":
        return lambda node, gradients, unpack: [_is_needed(node, slot) for slot in slots]
    if name == "out_spec":
        return lambda node, gradients, unpack: node.outs if len(node.outs) > 1 else node.outs[0]
    at = places.get(name)
    if at is None and OUT_NAME.fullmatch(name):
        return lambda node, gradients, unpack: _unpacked(node, name, node.saved[name], unpack)
    if at is not None and op.args[at].is_tensor:
        return lambda node, gradients, unpack: _unpacked(node, name, node.saved.get(name), unpack)
    if at is not None:
        return _constant(recipe.template[at], dict(recipe.fill).get(at))
    slot = recipe.slots.get(places[name.removesuffix("_spec")])
    if slot is None:
        return lambda node, gradients, unpack: None
    if isinstance(slot, int):
        return lambda node, gradients, unpack: node.specs[slot]
    return lambda node, gradients, unpack: [None if i is None else node.specs[i] for i in slot]


def _unpacked(node: Node, name: str, saved: Any, unpack: Any) -> Any:
    if type(saved) is list:
        return [None if s is None else unpack(node, name, s) for s in saved]
    return None if saved is None else unpack(node, name, saved)


def _constant(value: Any, scalar: int | None) -> Getter:
    if scalar is not None:
        return lambda node, gradients, unpack: node.scalars[scalar]
    if type(value) is NumberList:
        return lambda node, gradients, unpack: [node.scalars[i] for i in value]
    return lambda node, gradients, unpack: value


def _is_needed(node: Node, slot: Slot) -> Any:
    if slot is None or isinstance(slot, int):
        return slot is not None and node.edges[slot] is not None
    return [i is not None and node.edges[i] is not None for i in slot]


def fit(gradient: Any, spec: Spec) -> Any:
    """Return the gradient with the input's shape and dtype: summed over what was broadcast."""
    have = gradient._spec
    if have is spec:
        return gradient
    if have.shape != spec.shape:
        gradient = fn.sum_to_size(gradient, spec.shape)
    if have.dtype is not spec.dtype:
        if have.dtype.is_complex and not spec.dtype.is_complex:
            gradient = fn.real(gradient)
        if gradient._spec.dtype is not spec.dtype:
            gradient = fn._cast(gradient, spec.dtype)
    return gradient
