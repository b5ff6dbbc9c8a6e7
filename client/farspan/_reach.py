"""What of a graph a backward pass needs, and whether one command can run it.

Looked at for every pass, so each node is looked at once. Read `_autograd.py` for what comes of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .core import tape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .core.tape import Edge, Node

Nodes = set[tape.Node]


def nodes_of(edges: list[Edge], wanted: list[Edge], reached: Nodes | None) -> tuple[Nodes, Nodes]:
    """Return the nodes whose formulas run, and those with the nodes that gradients come to.

    reached: all nodes that the edges reach, if the gradients of all leaves among them are wanted.
    What an op recorded leads to a leaf; with a node of another kind one has to look.
    """
    if reached is not None and not any(map(is_python, reached)):
        return {node for node in reached if node.op is not None}, reached
    needed = tape.needed_nodes(edges, wanted)
    reached = needed | {node for node, _ in edges}
    for node in needed:
        reached |= {e[0] for e in node.edges if e is not None}
    return needed, reached


def is_python(node: Node) -> bool:
    """Return whether a node runs a function of Python."""
    return node.op is None and type(node) is not tape.Leaf


def is_plain(needed: Nodes, reached: Nodes, roots: Sequence[Any]) -> bool:
    """Return whether a pass over these nodes is one device's work, without Python in its middle.

    AutogradError if what a node saved is gone or was changed since.
    """
    device = roots[0]._spec.device
    plain = True
    for node in needed:
        if node.op is None:
            plain = plain and type(node) is tape.Leaf
        elif node.freed or node.versions:
            tape.check_node(node)
        for spec in node.outs:
            if spec.device is not device:
                plain = False
    for node in reached:
        if node.hooks:
            plain = False
    return plain and all(r._spec.device is device for r in roots)
