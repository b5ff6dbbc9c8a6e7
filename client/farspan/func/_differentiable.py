"""What the transforms share: inputs with a fresh place in the graph, results without it.

A transform differentiates by the tape: its inputs become leaves, or views of outer ones where a
graph outside is recorded. Levels need no numbers: a gradient is taken by a node, and the node of an
inner input is another than that of an outer one.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any

from .. import _autograd
from .._batching.tensor import expand, running, value
from .._dispatch import mode
from .._tensor import Tensor
from ..core import tape
from ..core.call import fn
from ..core.errors import DTypeError
from ..utils._pytree import tree_flatten, tree_map, tree_unflatten
from ._vmap import TransformError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def transform() -> Iterator[bool]:
    """Record ops inside, whatever the mode outside; yields whether that records."""
    before = mode.grad, mode.transforms
    mode.grad, mode.transforms = True, (*mode.transforms, None)
    try:
        yield before[0]
    finally:
        mode.grad, mode.transforms = before


class Inputs:
    """The differentiated inputs of one transform: fresh tensors and their structure."""

    def __init__(self, given: Any, tracked: bool, levels: Any = None) -> None:
        flat, self.spec = tree_flatten(given)
        self.tracked = tracked
        if levels is None:
            levels = tuple(level for level in running.levels if not level.silent)
        self.flat = [self._fresh(x, levels) for x in flat]
        self.tree = tree_unflatten(self.flat, self.spec)
        edges = (tape.edge_of(value(x)) for x in self.flat)
        self.leaves = {e[0] for e in edges if e is not None and type(e[0]) is tape.Leaf}

    def _fresh(self, x: Any, levels: Any) -> Tensor:
        """Return x under another place in the graph, with a gradient for each sample."""
        if not isinstance(x, Tensor):
            raise_not_tensor(x)
        if x._spec.dtype.category < 2:
            raise DTypeError(
                "only Tensors of floating point and complex dtype can require gradients"
            )
        y = expand(x, levels) if levels and x._levels != levels else x
        if self.tracked and y.requires_grad:
            return fn.alias(y) if y is x else y
        return leaf(fn.detach(y))

    def connected(self, tensors: Sequence[Any]) -> bool:
        """Return whether a graph outside of the transform would record what follows of these."""
        if not self.tracked:
            return False
        edges = [e for e in (tape.edge_of(t) for t in tensors) if e is not None]
        return any(node not in self.leaves for node in tape.leaves_of(edges))

    def leave(self, made: Any) -> Any:
        """Return results for the outside: without the graph, unless it leads further."""

        def left(x: Any) -> Any:
            if not isinstance(x, Tensor) or not x.requires_grad or self.connected([x]):
                return x
            return fn.detach(x)

        return tree_map(left, made)


def raise_not_tensor(x: Any) -> None:
    from ..core.errors import BadValueError

    raise BadValueError(f"Thing passed to transform API must be Tensor, got {type(x)}")


def leaf(x: Tensor) -> Tensor:
    """Let a tensor without history be a leaf of the graph; return it."""
    physical = value(x)
    physical._node = tape.Leaf(weakref.ref(physical))
    return x


def pulled(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None],
    keep: bool, create_graph: bool,
) -> list[Tensor | None]:  # fmt: skip
    """Return the gradients of what of the outputs has one; None where nothing comes."""
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    roots, seeds = [o for o, _ in pairs], [c for _, c in pairs]
    return _autograd.gradients(roots, list(inputs), seeds, keep, create_graph)


def filled(found: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients, with zeros where there is none."""
    return [
        fn.detach(fn.zeros_like(x)) if g is None else g for g, x in zip(found, like, strict=True)
    ]


class Linear:
    """The linear map of tangents to tangents, by differentiating the pulled-back map again.

    The gradient g = J^T u is linear in u, so the derivative of <g, t> by u is J t (J. Townsend,
    "A new trick for calculating Jacobian vector products", 2017).
    """

    def __init__(self, outputs: list[Tensor], inputs: list[Tensor]) -> None:
        self.outputs = outputs
        self.seeds = [leaf(fn.zeros_like(fn.detach(o))) if _moves(o) else None for o in outputs]
        active = [(o, u) for o, u in zip(outputs, self.seeds, strict=True) if u is not None]
        found: Sequence[Tensor | None] = [None] * len(inputs)
        if active:
            roots, seeds = [o for o, _ in active], [u for _, u in active]
            mode.forward += 1
            try:
                found = _autograd.gradients(roots, inputs, list(seeds), True, True)
            finally:
                mode.forward -= 1
        self.gradients = [g if g is not None and g.requires_grad else None for g in found]

    def push(self, tangents: Sequence[Tensor], create_graph: bool) -> list[Tensor | None]:
        """Return the tangents of the outputs; None for one that does not depend on the inputs."""
        used = [(g, t) for g, t in zip(self.gradients, tangents, strict=True) if g is not None]
        seeds = [u for u in self.seeds if u is not None]
        if not used or not seeds:
            return [None] * len(self.outputs)
        roots, given = [g for g, _ in used], [t for _, t in used]
        found = iter(_autograd.gradients(roots, seeds, list(given), True, create_graph))
        return [None if u is None else next(found) for u in self.seeds]

    def roots(self) -> list[Tensor]:
        return [g for g in self.gradients if g is not None]

    def own_leaves(self) -> set[Any]:
        edges = (tape.edge_of(value(u)) for u in self.seeds if u is not None)
        return {e[0] for e in edges if e is not None}


def _moves(x: Tensor) -> bool:
    return x.requires_grad and x._spec.dtype.category >= 2


def two(made: Any, message: str) -> tuple[Any, Any]:
    """Return (output, aux) of a function with has_aux."""
    if not (isinstance(made, tuple) and len(made) == 2):
        raise TransformError(message)
    return made
