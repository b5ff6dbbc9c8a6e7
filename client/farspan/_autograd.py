"""Backward, as the client sees it: which gradients there will be, and who computes them.

A plain pass is one command: the engine walks its tape, the client only wraps the results' ids. A
pass that needs Python in its middle (hooks), a graph of its own (`create_graph`) or several devices
is walked here, by the same code over proxies; it issues ordinary commands and does not wait.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from ._dispatch import mode, wrap
from ._session import Ref
from .core import command as cmd
from .core import tape
from .core.call import fn
from .core.errors import AutogradError, BadValueError, ShapeError
from .core.spec import Spec
from .core.tape import Edge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ._tensor import Tensor
    from .core.dtype import Device

#: Tensors that are no leaves and want their gradient kept, by id.
_retained: dict[int, weakref.ref[Tensor]] = {}


class PythonNode(tape.Node):
    """A node whose backward is a Python function on the client."""

    __slots__ = ("function", "label")

    def __init__(
        self,
        label: str,
        edges: tuple[Edge | None, ...],
        outs: tuple[Spec, ...],
        function: Callable[[list[Any]], Sequence[Any]],
    ) -> None:
        super().__init__(None, edges)
        self.label = label
        self.outs = outs
        self.function = function

    def run_python(self, gradients: list[Any]) -> list[tuple[Edge, Any]]:
        """Return (edge, gradient) pairs for the inputs that need one."""
        results = self.function(gradients)
        pairs = zip(self.edges, results, strict=True)
        return [(e, g) for e, g in pairs if e is not None and g is not None]


def crossing(x: Tensor, device: Device) -> Tensor:
    """Return a copy of x on another device of its session; its gradient comes back the same way."""
    session = x._ref.session
    to = session.index_of(device)
    place = session.devices[to]
    spec = Spec.make(x._spec.shape, x._spec.dtype, place)
    id_ = session.new_id()
    out = wrap(Ref(session, to, id_, spec.nbytes), spec)
    session.copy_across(x._ref, id_, to, spec.dtype.code, spec.shape)
    out._copied = True  # type: ignore[attr-defined]
    edge = tape.edge_of(x)
    if edge is not None and mode.grad:
        home = x._spec.device
        out._node = PythonNode(
            "ToCopyBackward0", (edge,), (spec,), lambda gradients: [crossing(gradients[0], home)]
        )
    return out


# ------------------------------------------------------------------------------------ the pass --
def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Add the gradients of `tensors` to the `grad` of the leaves (or only of `inputs`)."""
    roots = _as_list(tensors)
    seeds = _seeds(roots, _as_list(grad_tensors, len(roots)))
    edges = _edges(roots)
    keep = create_graph if retain_graph is None else retain_graph
    if inputs is not None:
        targets = _as_list(inputs)
        if not targets:
            raise AutogradError("`inputs` argument to `backward()` cannot be empty.")
        wanted = _edges(targets)
    else:
        leaves = tape.leaves_of(edges)
        targets = [leaf.variable() for leaf in leaves]
        wanted = [(leaf, 0) for leaf in leaves]
    # A tensor that is gone, or no longer requires a gradient, gets none.
    alive = ((t, w) for t, w in zip(targets, wanted, strict=True) if t is not None)
    pairs = [(t, w) for t, w in alive if t._node is not None]
    retained = _retained_of(edges)
    found = _run(edges, seeds, roots, pairs + retained, keep, create_graph, whole=inputs is None)
    arrived = [(t, g) for (t, _), g in zip(pairs, found, strict=False) if g is not None]
    for t, gradient in arrived:
        _accumulate(t, gradient, create_graph)
    for (t, _), gradient in zip(retained, found[len(pairs) :], strict=True):
        if gradient is not None:
            t._grad = gradient
    for t, _ in arrived:
        if t._hooks:
            _run_post_hooks(t, create_graph)


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    """Return the gradients of `outputs` with respect to `inputs`, weighted by `grad_outputs`.

    One tensor (or None, with `allow_unused`) an input. Does not wait and touches no `grad`.
    """
    if is_grads_batched:
        raise BadValueError("grad(): is_grads_batched=True is not supported yet")
    roots = _as_list(outputs)
    targets = _as_list(inputs)
    seeds = _seeds(roots, _as_list(grad_outputs, len(roots)))
    edges = _edges(roots)
    for t in targets:
        if not t.requires_grad:
            raise AutogradError("One of the differentiated Tensors does not require grad")
    wanted = _edges(targets)
    keep = create_graph if retain_graph is None else retain_graph
    pairs = list(zip(targets, wanted, strict=True))
    found = _run(edges, seeds, roots, pairs, keep, create_graph)
    for i, (t, g) in enumerate(zip(targets, found, strict=True)):
        if g is None and materialize_grads:
            found[i] = fn.zeros_like(t)
        elif g is None and not allow_unused:
            raise AutogradError(
                "One of the differentiated Tensors appears to not have been used in the graph. "
                "Set allow_unused=True if this is the desired behavior."
            )
    return tuple(found)


def _run(
    edges: list[Edge],
    seeds: list[Tensor],
    roots: list[Tensor],
    pairs: Sequence[tuple[Tensor, Edge]],
    keep: bool,
    create_graph: bool,
    whole: bool = False,
) -> list[Tensor | None]:
    """Return the gradient of each pair's edge, or None where the roots do not reach it.

    whole: the pass goes to all leaves, so that nothing of the graph is of use after it.
    """
    wanted = [edge for _, edge in pairs]
    needed = tape.needed_nodes(edges, wanted)
    reached = needed | {node for node, _ in edges}
    for node in list(needed):
        reached |= {e[0] for e in node.edges if e is not None}
    plain = not create_graph
    device = roots[0]._spec.device
    for node in needed:
        if node.op is None:
            plain = plain and type(node) is tape.Leaf
        else:
            tape.check_node(node)
        if any(s.device is not device for s in node.outs):
            plain = False
    if any(node.hooks for node in reached):
        plain = False
    plain = plain and all(r._spec.device is device for r in roots)
    if not plain:
        found = _walk_here(edges, seeds, wanted, keep, create_graph)
        if whole and not keep:
            _let_go(roots, seeds)
        return found
    session = roots[0]._ref.session
    chosen = [(t, edge) for t, edge in pairs if edge[0] in reached]
    outs = {}
    ids = [r._ref.id for r in roots] + [s._ref.id for s in seeds]
    for t, edge in chosen:
        if edge not in outs:
            spec = _gradient_spec(t._spec)
            id_ = session.new_id()
            outs[edge] = wrap(Ref(session, t._ref.device, id_, spec.nbytes), spec)
            ids += [t._ref.id, id_]
    static = (len(roots), int(keep))
    if outs:
        session.issue(roots[0]._ref.device, cmd.BACKWARD, 0, ids, static, ())
    if not keep:
        for node in needed:
            tape.release(node)
    return [outs.get(edge) for edge in wanted]


def _let_go(roots: list[Tensor], seeds: list[Tensor]) -> None:
    """Let the engines forget what they saved for a pass that was walked here."""
    session = roots[0]._ref.session
    for device in {root._ref.device for root in roots}:
        mine = [i for i, root in enumerate(roots) if root._ref.device == device]
        ids = [roots[i]._ref.id for i in mine] + [seeds[i]._ref.id for i in mine]
        session.issue(device, cmd.BACKWARD, 0, ids, (len(mine), 0), ())


def _gradient_spec(spec: Spec) -> Spec:
    """Return the layout of a gradient: its tensor's own if dense, else contiguous."""
    return spec if spec.dense else spec.contiguous_


def _walk_here(
    edges: list[Edge], seeds: list[Tensor], wanted: list[Edge], keep: bool, create_graph: bool
) -> list[Tensor | None]:
    shared = {
        id(seed._storage.memory) for seed in seeds
    }  # memory that a gradient may not take over

    def unpack(node: tape.Node, name: str, saved: Any) -> Tensor:
        x = _unpack(node, name, saved)
        shared.add(id(x._storage.memory))
        return x

    def through(node: tape.Node, index: int, gradient: Tensor) -> Tensor:
        replaced = _run_hooks(node, index, gradient)
        if node.hooks:  # it may have been kept, or come from anywhere
            shared.add(id(replaced._storage.memory))
        return replaced

    before, mode.grad = mode.grad, create_graph
    try:
        pairs = list(zip(edges, seeds, strict=True))
        found = tape.walk(pairs, wanted, unpack, keep=keep, through=through)
        if not create_graph:
            found = {edge: _own(gradient, shared) for edge, gradient in found.items()}
    finally:
        mode.grad = before
    return [found.get(edge) for edge in wanted]


def _own(gradient: Tensor, shared: set[int]) -> Tensor:
    """Return the gradient in memory that nothing else looks at, so that sums may go into it."""
    whole = gradient._spec.dense and gradient._storage.nbytes == gradient._spec.nbytes
    if whole and gradient._base is None and id(gradient._storage.memory) not in shared:
        shared.add(id(gradient._storage.memory))
        return gradient
    return fn.clone(gradient)  # type: ignore[no-any-return]


def _unpack(node: tape.Node, name: str, saved: Any) -> Tensor:
    """Return a saved value as a tensor with the place in the graph that it had."""
    ref, spec, offset, storage = saved
    x = wrap(ref, spec, offset, storage)
    held = node.saved[name]
    at = next(i for i, s in enumerate(held) if s is saved) if isinstance(held, list) else 0
    edge: Edge | None
    if name in node.plan.saved_outs:
        edge = (node, at if name == "out" else int(name[4:]))
    else:
        assert node.op is not None
        position = next(i for i, a in enumerate(node.op.args) if a.name == name)
        slot = node.op.recipe(node.static).slots[position]
        index = slot if isinstance(slot, int) else slot[at]
        edge = None if index is None else node.edges[index]
    if edge is not None:
        x._node, x._index = edge
    return x


def _run_hooks(node: tape.Node, index: int, gradient: Tensor) -> Tensor:
    for hook in list((node.hooks or {}).get(index, ())):
        replaced = hook(gradient)
        if replaced is not None:
            gradient = replaced
    return gradient


def _accumulate(leaf: Tensor, gradient: Tensor, create_graph: bool) -> None:
    before, mode.grad = mode.grad, create_graph
    try:
        if leaf._grad is None:
            leaf._grad = fn.clone(gradient) if create_graph else gradient
        elif create_graph:
            leaf._grad = fn.add(leaf._grad, gradient)
        else:
            fn.add_(leaf._grad, gradient)
    finally:
        mode.grad = before


def _run_post_hooks(leaf: Tensor, create_graph: bool) -> None:
    before, mode.grad = mode.grad, create_graph
    try:
        for hook in list(leaf._hooks):
            hook(leaf)
    finally:
        mode.grad = before


# ------------------------------------------------------------------------------------- helpers --
def _as_list(x: Any, count: int = 0) -> list[Any]:
    from ._tensor import Tensor

    if x is None:
        return [None] * count
    return [x] if isinstance(x, Tensor) else list(x)


def _edges(tensors: Iterable[Tensor]) -> list[Edge]:
    edges = []
    for i, t in enumerate(tensors):
        edge = tape.edge_of(t)
        if edge is None:
            raise AutogradError(
                f"element {i} of tensors does not require grad and does not have a grad_fn"
            )
        edges.append(edge)
    return edges


def _seeds(roots: list[Tensor], given: list[Tensor | None]) -> list[Tensor]:
    if len(given) != len(roots):
        raise AutogradError(f"got {len(roots)} tensors and {len(given)} gradients")
    seeds = []
    for i, (root, seed) in enumerate(zip(roots, given, strict=True)):
        if seed is None:
            if root.requires_grad and root._spec.numel != 1:
                raise AutogradError("grad can be implicitly created only for scalar outputs")
            seed = fn.ones_like(root)
        elif seed._spec.shape != root._spec.shape:
            raise ShapeError(
                f"Mismatch in shape: grad_output[{i}] has a shape of {seed.shape} and "
                f"output[{i}] has a shape of {root.shape}."
            )
        seeds.append(seed)
    return seeds


def _retained_of(edges: list[Edge]) -> list[tuple[Tensor, Edge]]:
    """Return the tensors with `retain_grad` that the roots reach, with their edges."""
    if not _retained:
        return []
    seen = tape.reachable(edges)
    # A tensor that was written since has another node than when it asked.
    tensors = [t for t in [ref() for ref in _retained.values()] if t is not None]
    found = [(t, tape.edge_of(t)) for t in tensors]
    return [(t, edge) for t, edge in found if edge is not None and edge[0] in seen]


def remember_retained(t: Tensor) -> None:
    """Note that `t` wants its gradient kept."""
    key = id(t)
    _retained[key] = weakref.ref(t, lambda _: _retained.pop(key, None))


class RemovableHandle:
    """Takes a hook away again: by ``remove()``, or at the end of a ``with``."""

    def __init__(self, hooks: list[Any], hook: Any) -> None:
        self._hooks, self._hook = hooks, hook

    def remove(self) -> None:
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def add_post_hook(leaf: Tensor, hook: Callable[[Tensor], None]) -> RemovableHandle:
    """Call `hook` with the leaf after every pass that added to its `grad`."""
    if not leaf.is_leaf:
        raise AutogradError("post accumulate grad hooks cannot be registered on non-leaf tensors")
    if leaf._hooks is None:
        leaf._hooks = []
    leaf._hooks.append(hook)
    return RemovableHandle(leaf._hooks, hook)


def add_hook(t: Tensor, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call `hook` with the complete gradient of `t` in every pass that reaches it."""
    edge = tape.edge_of(t)
    if edge is None:
        raise AutogradError("cannot register a hook on a tensor that doesn't require gradient")
    node, index = edge
    if node.hooks is None:
        node.hooks = {}
    hooks = node.hooks.setdefault(index, [])
    hooks.append(hook)
    return RemovableHandle(hooks, hook)
