"""What torch calls the derivative of an op: ``MulBackward0``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tape import Node

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


def _linear_name(node: Node) -> str:
    """Return how torch would have computed `linear`: by rank and bias."""
    bias = len(node.specs) == 3
    if node.specs[0].ndim == 2:
        return "AddmmBackward0" if bias else "MmBackward0"
    return "ViewBackward0" if bias else "UnsafeViewBackward0"


def backward_name(node: Node) -> str:
    """Return torch's name of a node: the op's in capitals, then the number of its overload."""
    if node.op is None:
        return getattr(node, "label", "torch::autograd::AccumulateGrad")
    base = node.op.base
    if base == "linear":
        return _linear_name(node)
    if base in _NAMES:
        return _NAMES[base]
    words = re.sub(r"(^|_|\d)([a-z])", lambda m: m[1].strip("_") + m[2].upper(), base)
    return f"{words}Backward{_NUMBERS.get(node.op.name, 0)}"
