"""Graph: expressions of one element as nodes without duplicates, in order of first appearance.

Types are numpy's names; "bool" is one bit. What a node means: see `instructions.py`.
"""

from __future__ import annotations

from typing import Any, Final

#: Nodes of one graph: a longer expression spills registers, and compiles for seconds.
NODES_MAX: Final = 2_000


class Node:
    """One value: `op` over `args`; `attr` tells what the op alone does not. `at` is its place."""

    __slots__ = ("args", "at", "attr", "dtype", "op")

    def __init__(self, op: str, dtype: str, args: tuple[Node, ...], attr: Any, at: int) -> None:
        self.op, self.dtype, self.args, self.attr, self.at = op, dtype, args, attr, at

    def __repr__(self) -> str:
        inner = ", ".join(f"%{a.at}" for a in self.args)
        return f"%{self.at} = {self.op}[{self.dtype}]({inner}) {self.attr}"


class Graph:
    """All nodes, in an order in which arguments stand before what uses them."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        self.nodes: list[Node] = []
        self._known: dict[Any, Node] = {}

    def node(self, op: str, dtype: str, *args: Node, attr: Any = None) -> Node:
        """Return the one node of this description."""
        key = (op, dtype, attr, *[a.at for a in args])
        found = self._known.get(key)
        if found is None:
            if len(self.nodes) >= NODES_MAX:
                from .group import Unfused

                raise Unfused(f"an expression of more than {NODES_MAX} nodes")
            found = self._known[key] = Node(op, dtype, args, attr, len(self.nodes))
            self.nodes.append(found)
        return found

    def const(self, value: Any, dtype: str) -> Node:
        """Return a constant; floats by value and sign, so that -0.0 is not 0.0."""
        text = value.hex() if isinstance(value, float) else repr(value)
        found = self.node("const", dtype, attr=text)
        return found


def value_of(node: Node) -> Any:
    """Return the Python number of a constant."""
    text: str = node.attr
    if node.dtype == "bool":
        return text == "True"
    return float.fromhex(text) if "float" in node.dtype else int(text)
