"""Gradients of tensors with hidden batch dims, and of many seeds at once.

The graph is that of the physical tensors. A sample's gradient is the physical one, since samples
do not mix. A seed may have batch dims that its root has not: then the pass is walked here, over
batched gradients, and what comes out is batched as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _autograd
from .._walk import walk_here
from ..core.errors import AutogradError, ShapeError
from .tensor import interposed, level_of, lower, raise_, union, value

if TYPE_CHECKING:
    from .._tensor import Tensor


def gradients_of_samples(
    roots: list[Tensor],
    targets: list[Tensor],
    seeds: list[Tensor],
    keep: bool,
    create_graph: bool,
) -> list[Tensor | None]:
    """Return each target's gradients, batched as it is, and as the seeds are beyond the roots."""
    lowered = [lower(s, r._levels) for r, s in zip(roots, seeds, strict=True)]
    physical = [value(r) for r in roots]
    places = [value(t) for t in targets]
    for t in places:
        if not t.requires_grad:
            raise AutogradError("One of the differentiated Tensors does not require grad")
    edges, wanted = _autograd.edges_of(physical), _autograd.edges_of(places)
    if union(lowered):
        with interposed():
            found = walk_here(edges, lowered, wanted, keep, create_graph)
    else:
        pairs = list(zip(places, wanted, strict=True))
        found = _autograd.run_pass(edges, lowered, physical, pairs, keep, create_graph)
    return [
        None if g is None else raise_(g, t._levels) for g, t in zip(found, targets, strict=True)
    ]


def grads_of_batch(
    roots: list[Tensor],
    targets: list[Tensor],
    seeds: list[Any],
    keep: bool,
    create_graph: bool,
) -> list[Tensor | None]:
    """Return the gradients for a batch of seeds: the first dim of each seed and result counts it.

    All rows share one pass: it issues each op once, whatever their number.
    """
    if any(s is None for s in seeds):
        raise AutogradError("grad(): is_grads_batched=True needs grad_outputs for all outputs")
    for i, (root, seed) in enumerate(zip(roots, seeds, strict=True)):
        if seed._spec.shape[1:] != root._spec.shape:
            raise ShapeError(
                "If `is_grads_batched=True`, we interpret the first dimension of each grad_output "
                "as the batch dimension. The sizes of the remaining dimensions are expected to "
                f"match the shape of corresponding output, but a mismatch was detected: "
                f"grad_output[{i}] has a shape of {seed.shape} and output[{i}] has a shape of "
                f"{root.shape}."
            )
    with level_of(seeds[0]._spec.shape[0], "error") as level:
        batched = [raise_(s, (level,)) for s in seeds]
        found = _autograd.gradients(roots, targets, batched, keep, create_graph)
        return [None if g is None else lower(g, (level,)) for g in found]
