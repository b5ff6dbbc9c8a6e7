"""Function: an operation whose backward is the user's Python, run on the client at backward time.

`apply` records one PythonNode. Its tensors are proxies: nothing waits unless the user's code reads
a value.
"""

from __future__ import annotations

import functools
import inspect
import warnings
import weakref
from typing import TYPE_CHECKING, Any

from .._autograd import gradients
from .._dispatch import mode, wrap
from .._grad_mode import no_grad
from .._python_node import PythonNode
from .._tensor import Tensor
from ..core import tape
from ..core.call import fn
from ..core.errors import AutogradError, ShapeError, UnsupportedError

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
        self._for_forward: tuple[Tensor | None, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep inputs or results for backward, with a check that nobody writes to them until then.

        They are found in `saved_tensors`. Without a backward pass nothing is kept.
        """
        self._to_save = tensors

    def save_for_forward(self, *tensors: Tensor | None) -> None:
        """Keep inputs or results for `jvp`; it finds them in `saved_tensors`."""
        self._for_forward = tensors

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What `save_for_backward` was given, with its place in the graph."""
        node = self._node()
        if node is None:
            return self._to_save
        tape.check_node(node)
        kept = tuple(None if s is None else _unpack(node, s) for s in node.saved.get("tensors", ()))
        return kept or self._for_forward

    def mark_non_differentiable(self, *results: Tensor) -> None:
        """Say that these results have no gradient."""
        self._constant = results

    def mark_dirty(self, *inputs: Tensor) -> None:
        """Say that forward wrote to these inputs in place; it must return them."""
        self._dirty = inputs

    def set_materialize_grads(self, value: bool) -> None:
        """Let backward see None (False) or zeros (True) for results that nobody used."""
        self._materialize = value


def _unpack(node: PythonNode, saved: tuple[Any, Any, Any]) -> Tensor:
    kept, edge, levels = saved
    x = wrap(*kept) if type(kept) is tuple else kept.open()
    if edge is not None:
        x._node, x._index = (node, edge) if isinstance(edge, int) else edge
    if levels:
        from .._batching.tensor import wrap as hide

        return hide(x, levels)
    return x


class FunctionMeta(type):
    """The class of Functions; it has no part of its own here."""


class Function(metaclass=FunctionMeta):
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

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        raise NotImplementedError(
            "You must implement the jvp function for custom autograd.Function to use it with "
            "forward mode AD."
        )

    #: Whether `vmap` may run forward and backward on batched tensors.
    generate_vmap_rule = False
    #: Whether saved tensors are let go of when backward has read them.
    clear_saved_tensors_on_access = False

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Return (results, their batch dims) for inputs whose batch dims are `in_dims`."""
        raise NotImplementedError(
            "To use autograd.Function with vmap, you must either override the vmap staticmethod or "
            "set generate_vmap_rule=True."
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn(
            f"{self.__class__} should not be instantiated. Methods on autograd functions are all "
            "static, so you should invoke them on the class itself. Instantiating an autograd "
            "function will raise an error in a future version of PyTorch.",
            DeprecationWarning,
            stacklevel=2,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise AutogradError(
            "Legacy autograd function with non-static forward method is deprecated. Please use "
            "new-style autograd function with static forward method. (Example: "
            "https://pytorch.org/docs/stable/autograd.html#torch.autograd.Function)"
        )

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run forward, recording a node whose backward is the class's."""
        apart = _is_setup_context_defined(cls.setup_context)
        if apart:
            bound = inspect.signature(cls.forward).bind(*args, **kwargs)
            bound.apply_defaults()
            args, kwargs = bound.args, bound.kwargs
        if mode.transforms:
            if not apart:
                raise AutogradError(
                    "In order to use an autograd.Function with functorch transforms (vmap, grad, "
                    "jvp, jacrev, ...), it must override the setup_context staticmethod. For more "
                    "details, please see "
                    "https://pytorch.org/docs/main/notes/extending.func.html"
                )
            if any(isinstance(a, Tensor) and a._levels for a in args):
                from .._batching.function import apply_batched

                return apply_batched(cls, args)
        return run(cls, cls.forward, args, kwargs)


def run(cls: type[Function], forward: Any, args: Any, kwargs: Any) -> Any:
    """Run a forward and record it, if it is to be."""
    edges = tuple([tape.edge_of(a) if isinstance(a, Tensor) else None for a in args])
    records = mode.grad and any(e is not None for e in edges)
    ctx = FunctionCtx(tuple(records and e is not None for e in edges))
    with no_grad():
        if not _is_setup_context_defined(cls.setup_context):
            made = forward(ctx, *args, **kwargs)
        else:
            made = forward(*args, **kwargs)
            cls.setup_context(ctx, args, made)
    if not records:
        return made
    several = isinstance(made, (tuple, list))
    results = tuple(made) if several else (made,)
    outs = _record(cls, ctx, args, edges, results)
    return type(made)(outs) if type(made) in (tuple, list) else outs[0]


def _is_setup_context_defined(function: Any) -> bool:
    return function is not Function.setup_context


def pack_saved(x: Tensor) -> Any:
    from .graph import pack_saved as pack

    return pack(x)


def _physical(x: Any) -> Any:
    return x._value if x._levels else x


def _check_dirty(args: Any, dirty: set[int], results: tuple[Any, ...]) -> None:
    if dirty - {id(x) for x in results}:
        raise AutogradError(
            "Some elements marked as dirty during the forward method were not returned as output. "
            "The inputs that are modified inplace must all be outputs of the Function."
        )
    for a in args:
        if isinstance(a, Tensor) and id(a) in dirty and type(a._node) is tape.Leaf:
            raise AutogradError(
                "a leaf Variable that requires grad has been used in an in-place operation."
            )


def _record(
    cls: type[Function], ctx: FunctionCtx, args: Any, edges: Any, results: tuple[Any, ...]
) -> list[Any]:
    """Give the results a node whose backward is the class's; return them."""
    constant = {id(x) for x in ctx._constant}
    dirty = {id(x) for x in ctx._dirty}
    _check_dirty(args, dirty, results)
    given = {id(a) for a in args if isinstance(a, Tensor)}
    outs = []
    for x in results:
        if isinstance(x, Tensor) and id(x) not in dirty:
            if id(x) in given or x._base is not None or x._node is not None:
                x = _alone(x)  # an input handed through is another place in the graph
        outs.append(x)
    tensors = [x for x in outs if isinstance(x, Tensor)]
    places = [i for i, x in enumerate(outs) if isinstance(x, Tensor)]
    call = _Backward(cls, ctx, args, len(outs), places, [x._levels for x in tensors])
    specs = tuple(_physical(x)._spec for x in tensors)
    node = PythonNode(f"{cls.__name__}Backward", edges, specs, call)
    ctx._node = weakref.ref(node)
    made = {id(results[at]): i for i, at in enumerate(places)}
    saved: list[Any] = []
    for x in ctx._to_save:
        if x is None:
            saved.append(None)
            continue
        edge: Any = tape.edge_of(x)
        if id(x) in made and id(x) not in given:
            edge = made[id(x)]
        kept = pack_saved(x) if mode.saved is not None else None
        if kept is not None:
            node.hooks = {"saved": True}
        saved.append((kept or _physical(x)._save(), edge, x._levels))
    node.saved["tensors"] = saved
    plain = [s[0][3] for s in saved if s is not None and type(s[0]) is tuple]
    node.versions = tuple((storage, storage.version) for storage in plain)
    ctx._to_save = ()
    for i, at in enumerate(places):
        x, old = _physical(outs[at]), results[at]
        if x._spec.dtype.category >= 2 and id(old) not in constant:
            x._node, x._index = node, i
            x._generation += id(old) in dirty
    return outs


def _alone(x: Tensor) -> Tensor:
    """Return x as a place of its own in the graph, which a recorded write would cut off."""
    with no_grad():
        alone = fn.detach(x)
    alone._made_by = "function"
    return alone  # type: ignore[no-any-return]


class _Backward:
    """The user's backward, as the tape calls it: with a gradient for each tensor of the results."""

    __slots__ = ("cls", "count", "ctx", "inputs", "levels", "places")

    def __init__(
        self, cls: type[Function], ctx: FunctionCtx, args: Any, count: int, places: list[int],
        levels: list[Any],
    ) -> None:  # fmt: skip
        self.cls, self.ctx, self.count, self.places = cls, ctx, count, places
        self.levels = levels  # of the results that are tensors
        #: of each argument that is a tensor: its shape, dtype, device and levels
        self.inputs = [(a._spec, a._levels) if isinstance(a, Tensor) else None for a in args]

    def __call__(self, gradients_: list[Any]) -> Sequence[Any]:
        node = self.ctx._node()
        assert node is not None
        if self.ctx._materialize:
            some = next(g for g in gradients_ if g is not None)
            gradients_ = [
                fn.new_zeros(some, s.shape, dtype=s.dtype) if g is None else g
                for g, s in zip(gradients_, node.outs, strict=True)
            ]
        given: list[Any] = [None] * self.count
        hidden = any(self.levels)
        for at, g, levels in zip(self.places, gradients_, self.levels, strict=True):
            given[at] = _raised(g, levels) if levels and g is not None else g
        found = self._run(given)
        found = tuple(found) if isinstance(found, (tuple, list)) else (found,)
        count = len(self.inputs)
        if len(found) > count and all(g is None for g in found[count:]):
            found = found[:count]
        if len(found) != count:
            raise AutogradError(
                f"function {node.label} returned an incorrect number of gradients (expected "
                f"{count}, got {len(found)})"
            )
        return [
            None if g is None or to is None else self._fitted(node, i, g, to, hidden)
            for i, (g, to) in enumerate(zip(found, self.inputs, strict=True))
        ]

    def _run(self, given: list[Any]) -> Any:
        cls = self.cls
        forward = cls.jvp is not Function.jvp
        own = cls.backward if cls.backward is not Function.backward else cls.vjp
        if forward and (mode.forward or own in (Function.backward, Function.vjp)):
            return self._transposed(given)
        if own is cls.backward and cls.vjp is not Function.vjp:
            raise AutogradError(
                "Implementing both 'backward' and 'vjp' for a custom Function is not allowed. You "
                "should only implement one of them."
            )
        return own(self.ctx, *given)

    def _transposed(self, given: list[Any]) -> Any:
        """Return what a backward would: the transpose of the user's jvp, which is linear."""
        with no_grad():
            zeros = [
                None if to is None else fn.new_zeros(given[self.places[0]], to[0].shape,
                                                     dtype=to[0].dtype)
                for to in self.inputs
            ]  # fmt: skip
        for z in zeros:
            if z is not None:
                z._node = tape.Leaf(weakref.ref(z))
        before, mode.grad = mode.grad, True
        try:
            made = self.cls.jvp(self.ctx, *zeros)
            made = made if isinstance(made, (tuple, list)) else (made,)
            pairs = [(m, g) for m, g in zip(made, given, strict=False)
                     if isinstance(m, Tensor) and m.requires_grad and g is not None]  # fmt: skip
            leaves = [z for z in zeros if z is not None]
            found: list[Any] = [None] * len(leaves)
            if pairs:
                found = gradients([m for m, _ in pairs], leaves, [g for _, g in pairs], True, True)
        finally:
            mode.grad = before
        rest = iter(found)
        return tuple(None if z is None else next(rest) for z in zeros)

    def _fitted(self, node: PythonNode, at: int, g: Any, to: Any, hidden: bool) -> Any:
        """Return a gradient as the tape wants it: without levels, in the input's shape."""
        spec, levels = to
        if not isinstance(g, Tensor):
            raise AutogradError(f"expected Variable or None (got {type(g).__name__})")
        if hidden or levels:
            from .._batching.tensor import lower

            own = {level for of in self.levels for level in of}
            extra = tuple(x for x in g._levels if x in own and x not in levels)
            if extra:  # the input is one for all samples: their gradients are summed
                g = fn.sum(lower(g, extra), list(range(len(extra))))
            if not levels:
                return g
            return lower(g, levels)
        if g._spec.shape != spec.shape:
            try:
                return tape.fit(g, spec)
            except (ShapeError, AutogradError):
                raise ShapeError(
                    f"Function {node.label} returned an invalid gradient at index {at} - got "
                    f"{list(g.shape)} but expected shape compatible with {list(spec.shape)}"
                ) from None
        return g if g._spec.dtype is spec.dtype else tape.fit(g, spec)


def _raised(g: Any, levels: Any) -> Any:
    from .._batching.tensor import raise_

    return raise_(g, levels)


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


class InplaceFunction(Function):
    """Kept for old programs; a Function says `mark_dirty` itself."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace


class NestedIOFunction(Function):
    """Functions over nested containers are not supported; flatten the arguments yourself."""

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(
            "NestedIOFunction is not supported: torch deprecates it; write a Function over flat "
            "arguments"
        )


BackwardCFunction = FunctionCtx
