"""GradFn: a node of the graph as users see it, under torch's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._python_node import PythonNode
from ._tensor_hooks import RemovableHandle
from ._walk import unpack_saved
from .core import tape
from .core.names import backward_name

if TYPE_CHECKING:
    from collections.abc import Callable

_WRAPPED = frozenset({"add.Scalar", "sub.Scalar", "mul.Scalar", "div.Scalar", "div.Scalar_mode"})
_classes: dict[str, type[GradFn]] = {}


class GradFn:
    """A node of the graph: ``name()``, ``next_functions``, hooks, ``variable`` of a leaf."""

    _node: tape.Node

    def __new__(cls, node: tape.Node) -> GradFn:
        """Return the node's face; its class has the node's name, as torch's has."""
        name = backward_name(node).rpartition(":")[2]
        own = _classes.get(name)
        if own is None:
            own = _classes[name] = type(name, (GradFn,), {})
        made = object.__new__(own)
        made._node = node
        return made

    def name(self) -> str:
        """Return torch's name: the op's in capitals, then the number of its overload."""
        return backward_name(self._node)

    @property
    def next_functions(self) -> tuple[tuple[GradFn | None, int], ...]:
        """The nodes of the inputs, each with the number of its output; (None, 0) for constants."""
        found = [(None, 0) if e is None else (GradFn(e[0]), e[1]) for e in self._node.edges]
        op = self._node.op
        if op is not None and op.name in _WRAPPED:  # torch makes a tensor of the number
            found.append((None, 0))
        return tuple(found)

    @property
    def metadata(self) -> dict[Any, Any]:
        """A dict for whatever the user wants to keep with the node."""
        hooks = self._hooks()
        return hooks.setdefault("metadata", {})

    def _hooks(self) -> dict[Any, Any]:
        if self._node.hooks is None:
            self._node.hooks = {}
        return self._node.hooks

    def register_hook(self, fn: Callable[..., Any]) -> RemovableHandle:
        """Call ``fn(grad_inputs, grad_outputs)`` when the node has run; it may replace the first.

        The node of a leaf has no grad_inputs; the hook runs when `grad` has been added to.
        """
        hooks = self._hooks().setdefault("post", [])
        hooks.append(fn)
        return RemovableHandle(hooks, fn)

    def register_prehook(self, fn: Callable[..., Any]) -> RemovableHandle:
        """Call ``fn(grad_outputs)`` before the node runs; it may replace them."""
        hooks = self._hooks().setdefault("pre", [])
        hooks.append(fn)
        return RemovableHandle(hooks, fn)

    def _sequence_nr(self) -> int:
        return self._node.sequence

    @property
    def variable(self) -> Any:
        """The tensor whose `grad` this node adds to; leaves only."""
        if not isinstance(self._node, tape.Leaf):
            raise AttributeError(f"{self.name()} has no attribute 'variable'")
        return self._node.variable()

    def __getattr__(self, name: str) -> Any:
        """Return ``_saved_self`` and its kind; of a Function's node, what its ctx holds."""
        node = self.__dict__.get("_node")
        if isinstance(node, PythonNode):
            ctx = getattr(node.function, "ctx", None)
            if ctx is not None and not name.startswith("__"):
                return getattr(ctx, name)
        elif node is not None and name.startswith("_saved_"):
            return _saved(node, name.removeprefix("_saved_"))
        raise AttributeError(f"'{type(self).__name__}' object has no attribute {name!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GradFn) and other._node is self._node

    def __hash__(self) -> int:
        return hash(self._node)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} object at {id(self._node):#x}>"


def _saved(node: tape.Node, name: str) -> Any:
    """Return a value that the node saved, under torch's name of it."""
    tape.check_node(node)
    key = "out" if name == "result" else name
    if key in node.saved:
        saved = node.saved[key]
        if isinstance(saved, list):
            return tuple(None if s is None else unpack_saved(node, key, s) for s in saved)
        return unpack_saved(node, key, saved)
    op = node.op
    at = next((i for i, a in enumerate(op.args) if a.name == name), None) if op else None
    if op is None or at is None or op.args[at].is_tensor:
        raise AttributeError(f"'{backward_name(node)}' object has no attribute '_saved_{name}'")
    recipe = op.recipe(node.static)
    return recipe.args([None] * recipe.flat, node.scalars)[at]
