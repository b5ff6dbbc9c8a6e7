"""Backward, as the client sees it: which gradients there will be, and who computes them.

A plain pass is one command: the engine walks its tape, the client only wraps the results' ids. A
pass that needs Python in its middle (hooks), a graph of its own (`create_graph`) or several devices
is walked here, by the same code over proxies; it issues ordinary commands and does not wait.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any

from ._dispatch import mode, wrap
from ._gather import Ref
from ._reach import is_plain, nodes_of
from ._sites import call_site, describe_site
from .core import command as cmd
from .core import tape
from .core.call import Value, fn
from .core.errors import AutogradError, BadValueError, FarspanError, ShapeError
from .core.names import backward_name
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
        self.site = call_site()

    def run_python(self, gradients: list[Any]) -> list[tuple[Edge, Any]]:
        """Return (edge, gradient) pairs for the inputs that need one."""
        results = self.function(gradients)
        pairs = zip(self.edges, results, strict=True)
        return [(e, g) for e, g in pairs if e is not None and g is not None]


def crossing(x: Tensor, device: Device) -> Tensor:
    """Return a copy of x on another device of its session; its gradient comes back the same way."""
    if x._levels:
        from ._batching.tensor import value
        from ._batching.tensor import wrap as hide

        return hide(crossing(value(x), device), x._levels)
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
    if mode.transforms:
        raise AutogradError(
            "backward() called inside a functorch transform. This is not supported, please use "
            "functorch.grad or functorch.vjp instead or call backward() outside of functorch "
            "transforms."
        )
    roots = _as_list(tensors)
    seeds = _seeds(roots, _as_list(grad_tensors, len(roots)))
    edges = _edges(roots)
    keep = create_graph if retain_graph is None else retain_graph
    reached = None
    if inputs is not None:
        targets = _as_list(inputs)
        if not targets:
            raise AutogradError("`inputs` argument to `backward()` cannot be empty.")
        wanted = _edges(targets)
    else:
        reached = tape.reachable(edges)
        leaves = tape.leaves_in(reached)
        targets = [leaf.variable() for leaf in leaves]
        wanted = [(leaf, 0) for leaf in leaves]
    # A tensor that is gone, or no longer requires a gradient, gets none.
    alive = ((t, w) for t, w in zip(targets, wanted, strict=True) if t is not None)
    pairs = [(t, w) for t, w in alive if t._node is not None]
    retained = _retained_of(edges)
    if reached is not None and len(pairs) < len(wanted):
        reached = None  # not all of the graph leads to a wanted gradient
    wanted_pairs = pairs + retained
    whole = inputs is None
    found = _run(edges, seeds, roots, wanted_pairs, keep, create_graph, whole, reached)
    arrived = [(t, e[0], g) for (t, e), g in zip(pairs, found, strict=False) if g is not None]
    for t, node, gradient in arrived:
        if node.hooks and type(node) is tape.Leaf:
            _accumulate_hooked(t, node, gradient, create_graph)
        else:
            _accumulate(t, gradient, create_graph)
    for (t, _), gradient in zip(retained, found[len(pairs) :], strict=True):
        if gradient is not None:
            t._grad = gradient
    for t, _, _ in arrived:
        if t._hooks:
            _run_post_hooks(t, create_graph)


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    """Return the gradients of `outputs` with respect to `inputs`, weighted by `grad_outputs`.

    One tensor (or None, with `allow_unused`) an input. Does not wait and touches no `grad`.
    """
    if not only_inputs:
        warnings.warn(
            "only_inputs argument is deprecated and is ignored now (defaults to True). To "
            "accumulate gradient for other parts of the graph, please use torch.autograd.backward.",
            FutureWarning,
            stacklevel=2,
        )
    roots = _as_list(outputs)
    targets = _as_list(inputs)
    given = _as_list(grad_outputs, len(roots))
    if materialize_grads and allow_unused is False:
        raise BadValueError(
            "Expected allow_unused to be True or not passed when materialize_grads=True, but got: "
            "allow_unused=False."
        )
    keep = create_graph if retain_graph is None else retain_graph
    if is_grads_batched:
        from ._batching.gradient import grads_of_batch

        found = grads_of_batch(roots, targets, given, keep, create_graph)
    else:
        found = gradients(roots, targets, given, keep, create_graph)
    for i, (t, g) in enumerate(zip(targets, found, strict=True)):
        if g is None and materialize_grads:
            found[i] = fn.zeros_like(t)
        elif g is None and not allow_unused:
            raise AutogradError(
                "One of the differentiated Tensors appears to not have been used in the graph. "
                "Set allow_unused=True if this is the desired behavior."
            )
    return tuple(found)


def gradients(
    roots: list[Tensor],
    targets: list[Tensor],
    given: list[Tensor | None],
    keep: bool,
    create_graph: bool,
) -> list[Tensor | None]:
    """Return the gradient of each target, None where the roots do not reach it."""
    seeds = _seeds(roots, given)
    if any(t._levels for t in (*roots, *targets, *seeds)):
        from ._batching.gradient import gradients_of_samples

        return gradients_of_samples(roots, targets, seeds, keep, create_graph)
    edges = _edges(roots)
    for t in targets:
        if not t.requires_grad:
            raise AutogradError("One of the differentiated Tensors does not require grad")
    pairs = list(zip(targets, _edges(targets), strict=True))
    return _run(edges, seeds, roots, pairs, keep, create_graph)


def _run(
    edges: list[Edge],
    seeds: list[Tensor],
    roots: list[Tensor],
    pairs: Sequence[tuple[Tensor, Edge]],
    keep: bool,
    create_graph: bool,
    whole: bool = False,
    reached: set[tape.Node] | None = None,
) -> list[Tensor | None]:
    """Return the gradient of each pair's edge, or None where the roots do not reach it.

    whole: the pass goes to all leaves, so that nothing of the graph is of use after it.
    reached: the nodes that the roots reach, if the gradients of all leaves among them are wanted.
    """
    wanted = [edge for _, edge in pairs]
    needed, reached = nodes_of(edges, wanted, reached)
    plain = is_plain(needed, reached, roots) and not create_graph
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
    check = cmd.CHECK_NAN if anomaly.enabled and anomaly.check_nan else 0
    if outs:
        lines = {n.number: n.site for n in needed}
        static = (len(roots), int(keep) | check)
        session.walking = (session.last_number, lines)  # the worker may answer at once
        number = session.issue(roots[0]._ref.device, cmd.BACKWARD, 0, ids, static, ())
        session.note_forward(number, lines)
        session.walking = None
        if anomaly.enabled:
            _wait_for_anomaly(session, needed)
    if not keep:
        for node in needed:
            tape.release(node)
    return [outs.get(edge) for edge in wanted]


class _Anomaly:
    """Whether backward looks for what is wrong; of the whole process, as in torch."""

    enabled = False
    check_nan = True


anomaly = _Anomaly()


def _wait_for_anomaly(session: Any, needed: Iterable[tape.Node]) -> None:
    """Let what goes wrong in the pass be raised by the call that asked for it. Waits."""
    try:
        session.synchronize()
    except FarspanError as error:
        node = next((n for n in needed if n.number == error.forward), None)
        if node is not None:
            _tell_forward(node)
        raise


def _tell_forward(node: tape.Node) -> None:
    """Warn with the stack of the forward call that recorded a node, as torch does."""
    stack = node.site[2] if node.site is not None and len(node.site) > 2 else None
    where = (
        f"Traceback of forward call that caused the error:\n{stack}"
        if stack
        else "No forward pass information available. Enable detect anomaly during forward pass for "
        "more information."
    )
    warnings.warn(f"Error detected in {backward_name(node)}. {where}", stacklevel=6)


def _let_go(roots: list[Tensor], seeds: list[Tensor]) -> None:
    """Let the engines forget what they saved for a pass that was walked here."""
    session = roots[0]._ref.session
    for device in {root._ref.device for root in roots}:
        mine = [i for i, root in enumerate(roots) if root._ref.device == device]
        ids = [roots[i]._ref.id for i in mine] + [seeds[i]._ref.id for i in mine]
        session.issue(device, cmd.BACKWARD, 0, ids, (len(mine), 0), ())


def _gradient_spec(spec: Spec) -> Spec:
    """Return the layout of a gradient: its tensor's own if dense, else contiguous."""
    return spec if spec.contiguous or spec.dense else spec.contiguous_


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

    before, mode.grad = mode.grad, create_graph
    outer, current.watch = current.watch, _Watch(shared, edges, wanted)
    try:
        pairs = list(zip(edges, seeds, strict=True))
        found = tape.walk(pairs, wanted, unpack, keep=keep, watch=current.watch)
        if not create_graph:
            found = {edge: _own(gradient, shared) for edge, gradient in found.items()}
    finally:
        mode.grad, current.watch = before, outer
    return [found.get(edge) for edge in wanted]


class _Current(threading.local):
    """The pass that runs on this thread, for hooks that count within it."""

    watch: Any = None


current = _Current()


class _Watch(tape.Watch):
    """Runs hooks on the way of a pass, and knows whose formulas run when something fails."""

    def __init__(self, shared: set[int], roots: list[Edge], wanted: list[Edge]) -> None:
        self.shared = shared
        self.roots, self.wanted = roots, wanted

    def reaches(self, edge: Edge | None) -> bool:
        """Return whether a gradient of this pass comes to the edge."""
        if edge is None:
            return False
        on_the_way = tape.needed_nodes(self.roots, self.wanted) | {e[0] for e in self.wanted}
        return edge[0] in on_the_way and edge[0] in tape.reachable(self.roots)

    def arrived(self, node: tape.Node, index: int, gradient: Any) -> Any:
        replaced = _run_hooks(node, index, gradient)
        if node.hooks:  # it may have been kept, or come from anywhere
            self.shared.add(id(replaced._storage.memory))
        return replaced

    def run(self, node: tape.Node, gradients: list[Any], unpack: Any) -> Any:
        if node.hooks:
            gradients = run_prehooks(node, gradients)
        session = next(g for g in gradients if g is not None).session
        begin = session.last_number
        session.walking = (begin, node.site)
        try:
            pairs = list(tape.backward_of(node, gradients, unpack))
            if anomaly.enabled and anomaly.check_nan:
                _check_nan(node, pairs)
        except Exception as error:
            if node.site is not None:
                error.add_note(
                    f"in {backward_name(node)}, the backward of {describe_site(node.site)}"
                )
            if anomaly.enabled:
                _tell_forward(node)
            raise
        finally:
            session.walking = None
        for number in range(begin + 1, session.last_number + 1):
            session.note_forward(number, node.site)
        if node.hooks and "post" in node.hooks:
            pairs = _run_node_hooks(node, pairs, gradients)
        return pairs


def _check_nan(node: tape.Node, pairs: list[tuple[Edge, Any]]) -> None:
    at = tape.first_bad(node, pairs, lambda g: bool(fn.any(fn.isnan(g))))
    if at >= 0:
        raise AutogradError(
            f"Function '{backward_name(node)}' returned nan values in its {at}th output."
        )


def _run_node_hooks(
    node: tape.Node, pairs: list[tuple[Edge, Any]], gradients: list[Any]
) -> list[tuple[Edge, Any]]:
    """Run the hooks that see a node's gradients on both sides; they may replace the outgoing."""
    places = []
    inputs: list[Any] = [None] * len(node.edges)
    for edge, gradient in pairs:
        at = next(i for i, e in enumerate(node.edges) if e == edge and i not in places)
        places.append(at)
        inputs[at] = gradient
    given = tuple(inputs)
    assert node.hooks is not None
    for hook in list(node.hooks["post"]):
        replaced = hook(given, tuple(gradients))
        if replaced is not None:
            given = replaced if isinstance(replaced, tuple) else (replaced,)
    return [
        (e, g) for e, g in zip(node.edges, given, strict=True) if e is not None and g is not None
    ]


def _own(gradient: Tensor, shared: set[int]) -> Tensor:
    """Return the gradient in memory that nothing else looks at, so that sums may go into it."""
    whole = gradient._spec.dense and gradient._storage.nbytes == gradient._spec.nbytes
    if whole and gradient._base is None and id(gradient._storage.memory) not in shared:
        shared.add(id(gradient._storage.memory))
        return gradient
    return fn.clone(gradient)  # type: ignore[no-any-return]


def _unpack(node: tape.Node, name: str, saved: Any) -> Tensor:
    """Return a saved value as a tensor with the place in the graph that it had."""
    if type(saved) is Packed:
        x = saved.open()
    else:
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


class Packed:
    """A saved value that `saved_tensors_hooks` packed."""

    __slots__ = ("spec", "unpack", "value")

    def __init__(self, value: Any, unpack: Callable[[Any], Any], spec: Spec) -> None:
        self.value, self.unpack, self.spec = value, unpack, spec

    def open(self) -> Tensor:
        """Return the value, as a tensor without a place in the graph."""
        from ._tensor import Tensor

        x = self.unpack(self.value)
        if not isinstance(x, Tensor):
            raise TypeError(
                "Output of saved tensor unpack_hook expected to be a Tensor but got result of type "
                f"{type(x).__name__}"
            )
        before, mode.grad = mode.grad, False
        try:
            return fn.detach(x)  # type: ignore[no-any-return]
        finally:
            mode.grad = before


def _run_hooks(node: tape.Node, index: int, gradient: Tensor) -> Tensor:
    for hook in list((node.hooks or {}).get(index, ())):
        replaced = hook(gradient)
        if replaced is not None:
            gradient = replaced
    return gradient


def _accumulate(leaf: Tensor, gradient: Tensor, create_graph: bool) -> None:
    before, mode.grad = mode.grad, create_graph
    try:
        if leaf._grad_dtype and gradient._spec.dtype is not leaf._grad_dtype:
            gradient = fn._cast(gradient, leaf._grad_dtype)
        if leaf._grad is None:
            leaf._grad = fn.clone(gradient) if create_graph else gradient
        elif create_graph:
            leaf._grad = fn.add(leaf._grad, gradient)
        else:
            fn.add_(leaf._grad, gradient)
    finally:
        mode.grad = before


def _accumulate_hooked(leaf: Tensor, node: tape.Node, gradient: Tensor, create_graph: bool) -> None:
    """Accumulate between the hooks of the leaf's own node."""
    (changed,) = run_prehooks(node, [gradient])
    _accumulate(leaf, changed, create_graph)
    for hook in list((node.hooks or {}).get("post", ())):
        hook((), (changed,))


def run_prehooks(node: tape.Node, gradients: list[Any]) -> list[Any]:
    """Return the gradients of a node's outputs after the hooks that see all of them."""
    for hook in list((node.hooks or {}).get("pre", ())):
        replaced = hook(tuple(gradients))
        if replaced is not None:
            gradients = list(replaced) if isinstance(replaced, (tuple, list)) else [replaced]
    return gradients


def _run_post_hooks(leaf: Tensor, create_graph: bool) -> None:
    before, mode.grad = mode.grad, create_graph
    try:
        for hook in list(leaf._hooks):
            hook(leaf)
    finally:
        mode.grad = before


# ------------------------------------------------------------------------------------- helpers --
def _as_list(x: Any, count: int = 0) -> list[Any]:
    if x is None:
        return [None] * count
    if isinstance(x, Value):
        return [x]
    if hasattr(x, "ownership_token"):
        x = [x]
    # A GradientEdge stands for the tensor whose gradient goes there.
    return [i if isinstance(i, Value) else getattr(i, "ownership_token", i) for i in x]


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
