"""GradFn: a node of the graph as users see it, under torch's names."""

from __future__ import annotations

import re
from typing import Any

from ._autograd import PythonNode
from .core import tape

#: torch numbers the derivatives of overloads by their order in derivatives.yaml.
_NUMBERS = {
    "clamp": 1, "div.Scalar_mode": 2, "div.Tensor_mode": 2, "fill.Tensor": 1, "fmod.Tensor": 1,
    "index_fill.int_Tensor": 1, "lerp.Tensor": 1, "masked_fill.Tensor": 1, "max": 1, "mean.dim": 1,
    "median.dim": 1, "min": 1, "pow.Tensor_Tensor": 1, "prod.dim_int": 1, "remainder.Tensor": 1,
    "round.decimals": 1, "rsub.Scalar": 1, "scatter.value": 1, "squeeze.dim": 1, "squeeze.dims": 2,
    "std.dim": 1, "sum.dim_IntList": 1, "var.dim": 1, "xlogy.Scalar_Other": 2,
}  # fmt: skip
#: Ops of ours, or of torch that it names otherwise.
_NAMES = {
    "_window": "AsStridedBackward0", "_window_scatter": "CopySlices", "copy": "CopyBackwards",
    "_cast": "ToCopyBackward0", "_batched_mm": "UnsafeViewBackward0", "_contract": "BmmBackward0",
    "_cdist_forward": "CdistBackward0", "_as_strided": "AsStridedBackward0",
    "_sample_dirichlet": "_DirichletBackward",
}  # fmt: skip


def _linear_name(node: tape.Node) -> str:
    """Return how torch would have computed `linear`: by rank and bias."""
    bias = len(node.specs) == 3
    if node.specs[0].ndim == 2:
        return "AddmmBackward0" if bias else "MmBackward0"
    return "ViewBackward0" if bias else "UnsafeViewBackward0"


class GradFn:
    """A node of the graph: ``name()``, ``next_functions``, ``variable`` of a leaf."""

    def __init__(self, node: tape.Node) -> None:
        self._node = node

    def name(self) -> str:
        """Return torch's name: the op's in capitals, then the number of its overload."""
        node = self._node
        if isinstance(node, PythonNode):
            return node.label
        if node.op is None:
            return "torch::autograd::AccumulateGrad"
        base = node.op.base
        if base == "linear":
            return _linear_name(node)
        if base in _NAMES:
            return _NAMES[base]
        words = re.sub(r"(^|_|\d)([a-z])", lambda m: m[1].strip("_") + m[2].upper(), base)
        return f"{words}Backward{_NUMBERS.get(node.op.name, 0)}"

    @property
    def next_functions(self) -> tuple[tuple[GradFn | None, int], ...]:
        """The nodes of the inputs, each with the number of its output; (None, 0) for constants."""
        return tuple((None, 0) if e is None else (GradFn(e[0]), e[1]) for e in self._node.edges)

    @property
    def variable(self) -> Any:
        """The tensor whose `grad` this node adds to; leaves only."""
        if not isinstance(self._node, tape.Leaf):
            raise AttributeError(f"{self.name()} has no attribute 'variable'")
        return self._node.variable()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GradFn) and other._node is self._node

    def __hash__(self) -> int:
        return hash(self._node)

    def __repr__(self) -> str:
        return f"<{self.name().rpartition(':')[2]} object at {id(self._node):#x}>"
