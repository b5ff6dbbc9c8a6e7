"""A backward pass that the client walks itself, over proxies: where Python stands in its middle.

It issues ordinary commands and does not wait; `_autograd.py` says when it is needed. The walk
itself, and what it may free, is `core/tape.py`, which the engine runs too.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ._anomaly import anomaly, check_nan, tell_forward
from ._dispatch import mode, wrap
from ._sites import describe_site
from ._tensor_hooks import run_hooks, run_node_hooks, run_prehooks
from .core import tape
from .core.call import fn
from .core.names import backward_name
from .core.tape import Edge

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._tensor import Tensor
    from .core.spec import Spec


def walk_here(
    edges: list[Edge], seeds: list[Tensor], wanted: list[Edge], keep: bool, create_graph: bool
) -> list[Tensor | None]:
    """Return the gradients that arrive at the edges in `wanted`, None where none does.

    keep: what nodes saved stays for another pass. create_graph: this one is recorded itself.
    """
    # Memory that a gradient may not take over.
    shared = {id(seed._storage.memory) for seed in seeds}

    def unpack(node: tape.Node, name: str, saved: Any) -> Tensor:
        x = unpack_saved(node, name, saved)
        shared.add(id(x._storage.memory))
        return x

    before, mode.grad = mode.grad, create_graph
    outer, current.watch = current.watch, Watch(shared, edges, wanted)
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


class Watch(tape.Watch):
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
        replaced = run_hooks(node, index, gradient)
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
                check_nan(node, pairs)
        except Exception as error:
            if node.site is not None:
                error.add_note(
                    f"in {backward_name(node)}, the backward of {describe_site(node.site)}"
                )
            if anomaly.enabled:
                tell_forward(node)
            raise
        finally:
            session.walking = None
        for number in range(begin + 1, session.last_number + 1):
            session.note_forward(number, node.site)
        if node.hooks and "post" in node.hooks:
            pairs = run_node_hooks(node, pairs, gradients)
        return pairs


def _own(gradient: Tensor, shared: set[int]) -> Tensor:
    """Return the gradient in memory that nothing else looks at, so that sums may go into it."""
    whole = gradient._spec.dense and gradient._storage.nbytes == gradient._spec.nbytes
    if whole and gradient._base is None and id(gradient._storage.memory) not in shared:
        shared.add(id(gradient._storage.memory))
        return gradient
    return fn.clone(gradient)  # type: ignore[no-any-return]


def unpack_saved(node: tape.Node, name: str, saved: Any) -> Tensor:
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
