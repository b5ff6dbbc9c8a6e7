"""Backward, as the client sees it: which gradients there will be, and who computes them.

A plain pass is one command: the engine walks its tape, the client only wraps the results' ids. A
pass that needs Python in its middle (hooks), a graph of its own (`create_graph`) or several devices
is walked by the client itself: read `_walk.py` next.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from ._anomaly import anomaly, wait_for_anomaly
from ._dispatch import mode, wrap
from ._gather import Ref
from ._reach import is_plain, is_python, nodes_of
from ._tensor_hooks import retained_of, run_post_hooks, run_prehooks
from ._walk import walk_here
from .core import command as cmd
from .core import tape
from .core.call import Value, fn
from .core.errors import AutogradError, BadValueError, ShapeError
from .core.spec import Spec
from .core.tape import Edge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._tensor import Tensor


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
    edges = edges_of(roots)
    keep = create_graph if retain_graph is None else retain_graph
    reached = None
    if inputs is not None:
        targets = _as_list(inputs)
        if not targets:
            raise AutogradError("`inputs` argument to `backward()` cannot be empty.")
        wanted = edges_of(targets)
    else:
        reached = tape.reachable(edges)
        leaves = tape.leaves_in(reached)
        targets = [leaf.variable() for leaf in leaves]
        wanted = [(leaf, 0) for leaf in leaves]
    # A tensor that is gone, or no longer requires a gradient, gets none.
    alive = ((t, w) for t, w in zip(targets, wanted, strict=True) if t is not None)
    pairs = [(t, w) for t, w in alive if t._node is not None]
    retained = retained_of(edges)
    wanted_pairs: list[Any] = pairs + retained
    if reached is not None and len(pairs) < len(wanted):
        if any(node.hooks or is_python(node) for node in reached):
            # Hooks and Functions on the way to a tensor that is gone are run all the same.
            gone = (w for t, w in zip(targets, wanted, strict=True) if t is None)
            wanted_pairs += [(None, w) for w in gone]
        reached = None  # not all of the graph leads to a wanted gradient
    whole = inputs is None
    found = run_pass(edges, seeds, roots, wanted_pairs, keep, create_graph, whole, reached)
    arrived = [(t, e[0], g) for (t, e), g in zip(pairs, found, strict=False) if g is not None]
    for t, node, gradient in arrived:
        if node.hooks and type(node) is tape.Leaf:
            _accumulate_hooked(t, node, gradient, create_graph)
        else:
            _accumulate(t, gradient, create_graph)
    for (t, _), gradient in zip(retained, found[len(pairs) :], strict=False):
        if gradient is not None and not any(t is one for one, _ in pairs):
            t._grad = gradient if t._grad is None else _sum(t._grad, gradient, create_graph)
    for t, _, _ in arrived:
        if t._hooks:
            run_post_hooks(t, create_graph)


def _sum(a: Tensor, b: Tensor, create_graph: bool) -> Tensor:
    """Return a sum of gradients, which is part of the graph if `create_graph`."""
    before, mode.grad = mode.grad, create_graph
    try:
        return fn.add(a, b)  # type: ignore[no-any-return]
    finally:
        mode.grad = before


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
    edges = edges_of(roots)
    for t in targets:
        if not t.requires_grad:
            raise AutogradError("One of the differentiated Tensors does not require grad")
    pairs = list(zip(targets, edges_of(targets), strict=True))
    return run_pass(edges, seeds, roots, pairs, keep, create_graph)


def run_pass(
    edges: list[Edge],
    seeds: list[Tensor],
    roots: list[Tensor],
    pairs: Sequence[tuple[Tensor | None, Edge]],
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
        found = walk_here(edges, seeds, wanted, keep, create_graph)
        if whole and not keep:
            _let_go(roots, seeds)
        return found
    session = roots[0]._ref.session
    chosen = [(t, edge) for t, edge in pairs if t is not None and edge[0] in reached]
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
            wait_for_anomaly(session, needed)
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
    return spec if spec.contiguous or spec.dense else spec.contiguous_


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


def edges_of(tensors: Iterable[Tensor]) -> list[Edge]:
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
