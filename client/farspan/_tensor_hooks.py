"""Hooks of tensors and of the graph's nodes: how they are added, kept and run in a pass.

They run on the client, in the order in which they were added; those of modules are in `nn`. Which
tensors want their gradient kept (`retain_grad`) is noted here too.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from ._dispatch import mode
from .core import tape
from .core.call import Value
from .core.errors import ArgumentError, AutogradError
from .core.tape import Edge

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._tensor import Tensor


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


# ------------------------------------------------------------------------------- in a pass --
def run_hooks(node: tape.Node, index: int, gradient: Tensor) -> Tensor:
    """Return the gradient of a node's output after the hooks of the tensor that it is of."""
    for hook in list((node.hooks or {}).get(index, ())):
        replaced = hook(gradient)
        if replaced is None:
            continue
        if not isinstance(replaced, Value):
            raise ArgumentError(f"expected Variable, but hook returned '{type(replaced).__name__}'")
        if replaced._spec.shape != gradient._spec.shape:  # type: ignore[attr-defined]
            name = getattr(hook, "__name__", type(hook).__name__)
            raise AutogradError(f"hook '{name}' has changed the size of value")
        gradient = replaced  # type: ignore[assignment]
    return gradient


def run_prehooks(node: tape.Node, gradients: list[Any]) -> list[Any]:
    """Return the gradients of a node's outputs after the hooks that see all of them."""
    for hook in list((node.hooks or {}).get("pre", ())):
        replaced = hook(tuple(gradients))
        if replaced is not None:
            gradients = list(_as_many(hook, replaced, len(gradients)))
    return gradients


def _as_many(hook: Any, replaced: Any, count: int) -> tuple[Any, ...]:
    """Return what a hook gives in place of `count` gradients. AutogradError if it gives others."""
    given = tuple(replaced) if isinstance(replaced, (tuple, list)) else (replaced,)
    if len(given) != count:
        name = getattr(hook, "__name__", type(hook).__name__)
        raise AutogradError(
            f"hook '{name}' has returned an incorrect number of values (got {len(given)}, but "
            f"expected {count})"
        )
    return given


def run_node_hooks(
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
            given = _as_many(hook, replaced, len(given))
    return [
        (e, g) for e, g in zip(node.edges, given, strict=True) if e is not None and g is not None
    ]


def run_post_hooks(leaf: Tensor, create_graph: bool) -> None:
    """Call a leaf's hooks once its `grad` has been added to."""
    before, mode.grad = mode.grad, create_graph
    try:
        for hook in list(leaf._hooks):
            hook(leaf)
    finally:
        mode.grad = before


# ------------------------------------------------------------------------------- retain_grad --
#: Tensors that are no leaves and want their gradient kept, by id.
_retained: dict[int, weakref.ref[Tensor]] = {}


def retained_of(edges: list[Edge]) -> list[tuple[Tensor, Edge]]:
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
