"""Function: an operation whose backward is the user's Python, run on the client at backward time.

`apply` records one PythonNode. Its tensors are proxies: nothing waits unless the user's code reads
a value.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

from .._autograd import PythonNode
from .._dispatch import mode, wrap
from .._grad_mode import no_grad
from .._tensor import Tensor
from ..core import tape
from ..core.call import fn
from ..core.errors import AutogradError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class FunctionCtx:
    """What forward hands to backward; both may keep anything else as attributes."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self._to_save: tuple[Tensor | None, ...] = ()
        self._constant: tuple[Tensor, ...] = ()
        self._dirty: tuple[Tensor, ...] = ()
        self._materialize = True
        self._node: Callable[[], PythonNode | None] = lambda: None

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep inputs or results for backward, with a check that nobody writes to them until then.

        They are found in `saved_tensors`. Without a backward pass nothing is kept.
        """
        self._to_save = tensors

    save_for_forward = save_for_backward

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What `save_for_backward` was given, with its place in the graph."""
        node = self._node()
        if node is None:
            return self._to_save
        tape.check_node(node)
        return tuple(None if s is None else _unpack(node, s) for s in node.saved.get("tensors", ()))

    def mark_non_differentiable(self, *results: Tensor) -> None:
        """Say that these results have no gradient."""
        self._constant = results

    def mark_dirty(self, *inputs: Tensor) -> None:
        """Say that forward wrote to these inputs in place; it must return them."""
        self._dirty = inputs

    def set_materialize_grads(self, value: bool) -> None:
        """Let backward see None (False) or zeros (True) for results that nobody used."""
        self._materialize = value


def _unpack(node: PythonNode, saved: tuple[Any, Any]) -> Tensor:
    (ref, spec, offset, storage), edge = saved
    x = wrap(ref, spec, offset, storage)
    if edge is not None:
        x._node, x._index = (node, edge) if isinstance(edge, int) else edge
    return x


class Function:
    """Base of operations with a backward of their own.

    ::

        class Square(farspan.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x * x

            @staticmethod
            def backward(ctx, grad):
                (x,) = ctx.saved_tensors
                return 2 * x * grad

        y = Square.apply(x)

    `forward` may also come without ctx, with ``setup_context(ctx, inputs, output)`` beside it.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("a Function needs a static forward")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        raise NotImplementedError("a forward without ctx needs a setup_context")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        raise NotImplementedError(
            "You must implement either the backward or vjp method for your custom autograd.Function"
            " to use it with backward mode AD."
        )

    vjp = backward

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run forward, recording a node whose backward is the class's."""
        edges = tuple([tape.edge_of(a) if isinstance(a, Tensor) else None for a in args])
        records = mode.grad and any(e is not None for e in edges)
        ctx = FunctionCtx(tuple(records and e is not None for e in edges))
        with no_grad():
            if cls.setup_context is Function.setup_context:
                made = cls.forward(ctx, *args)
            else:
                made = cls.forward(*args)
                cls.setup_context(ctx, args, made)
        if not records:
            return made
        several = isinstance(made, (tuple, list))
        results = tuple(made) if several else (made,)
        outs = _record(cls, ctx, args, edges, results)
        return type(made)(outs) if type(made) in (tuple, list) else outs[0]


def _record(
    cls: type[Function], ctx: FunctionCtx, args: Any, edges: Any, results: tuple[Any, ...]
) -> list[Any]:
    """Give the results a node whose backward is the class's; return them."""
    constant = {id(x) for x in ctx._constant}
    dirty = {id(x) for x in ctx._dirty}
    given = {id(a) for a in args if isinstance(a, Tensor)}
    outs = []
    for x in results:
        if isinstance(x, Tensor) and id(x) not in dirty:
            if id(x) in given or x._base is not None or x._node is not None:
                x = _alone(x)  # an input handed through is another place in the graph
        outs.append(x)
    tensors = [x for x in outs if isinstance(x, Tensor)]
    user = cls.backward if cls.backward is not Function.backward else cls.vjp
    specs = [a._spec if isinstance(a, Tensor) else None for a in args]
    call = functools.partial(_run_backward, cls.__name__, user, ctx, specs)
    node = PythonNode(f"{cls.__name__}Backward", edges, tuple(x._spec for x in tensors), call)
    ctx._node = weakref.ref(node)
    places = {id(old): (i, new) for i, (old, new) in enumerate(zip(results, outs, strict=True))}
    saved: list[Any] = []
    for x in ctx._to_save:
        if x is None:
            saved.append(None)
            continue
        edge: Any = tape.edge_of(x)
        if id(x) in places and id(x) not in given:
            edge = places[id(x)][0]
        saved.append((x._save(), edge))
    node.saved["tensors"] = saved
    node.versions = tuple((s[0][3], s[0][3].version) for s in saved if s is not None)
    ctx._to_save = ()
    for i, (x, old) in enumerate(zip(tensors, results, strict=False)):
        if x._spec.dtype.kind >= 2 and id(old) not in constant:
            x._node, x._index = node, i
            x._generation += id(x) in dirty
    return outs


def _alone(x: Tensor) -> Tensor:
    with no_grad():
        return fn.detach(x)  # type: ignore[no-any-return]


def _run_backward(
    name: str, user: Any, ctx: FunctionCtx, specs: list[Any], gradients: list[Any]
) -> Sequence[Any]:
    node, count = ctx._node(), len(specs)
    assert node is not None
    tape.check_node(node)
    if ctx._materialize:
        some = next(g for g in gradients if g is not None)
        gradients = [
            fn.new_zeros(some, s.shape, dtype=s.dtype) if g is None else g
            for g, s in zip(gradients, node.outs, strict=True)
        ]
    found = user(ctx, *gradients)
    found = tuple(found) if isinstance(found, (tuple, list)) else (found,)
    if len(found) > count and all(g is None for g in found[count:]):
        found = found[:count]
    if len(found) != count:
        raise AutogradError(
            f"function {name}Backward returned an incorrect number of gradients (expected {count}, "
            f"got {len(found)})"
        )
    return tuple([_in_dtype_of(g, spec) for g, spec in zip(found, specs, strict=True)])


def _in_dtype_of(gradient: Any, spec: Any) -> Any:
    """Return a user's gradient in the dtype of its input, as after a backward in half precision."""
    if gradient is None or spec is None or gradient._spec.dtype is spec.dtype:
        return gradient
    return tape.fit(gradient, spec.with_(shape=gradient._spec.shape))


def once_differentiable(function: Any) -> Any:
    """Make a backward that is not recorded; differentiating it again is an error."""

    @functools.wraps(function)
    def once(ctx: Any, *gradients: Any) -> Any:
        with no_grad():
            found = function(ctx, *gradients)
        sources = [x for x in (*gradients, *ctx.saved_tensors) if isinstance(x, Tensor)]
        edges = tuple(e for e in map(tape.edge_of, sources) if e is not None)
        if not mode.grad or not edges:
            return found
        parts = found if isinstance(found, tuple) else (found,)
        guarded = tuple(None if g is None else _not_twice(g, edges) for g in parts)
        return guarded if isinstance(found, tuple) else guarded[0]

    return once


def _not_twice(gradient: Tensor, edges: tuple[Any, ...]) -> Tensor:
    """Return the gradient with a node that refuses, on the way to what it was computed from."""

    def refuse(gradients: list[Any]) -> Sequence[Any]:
        raise AutogradError(
            "trying to differentiate twice a function that was marked with @once_differentiable"
        )

    out = _alone(gradient)
    out._node, out._index = PythonNode("DelayedError", edges, (out._spec,), refuse), 0
    return out
