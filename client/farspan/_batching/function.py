"""autograd.Function under vmap: its own batched form, or forward and backward over batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .._dispatch import mode
from .._tensor import Tensor
from ..autograd.function import Function, run
from ..utils._pytree import _broadcast_to_and_flatten, tree_flatten, tree_unflatten
from .tensor import Level, VmapError, lower, outside_of, raise_, union

if TYPE_CHECKING:
    from ..autograd.function import FunctionMeta


class VmapInfo(NamedTuple):
    """What a Function's vmap is told."""

    batch_size: int
    randomness: str


def apply_batched(cls: Any, args: tuple[Any, ...]) -> Any:
    """Apply a Function to arguments of which some are batched."""
    own = cls.vmap is not Function.vmap
    if own and cls.generate_vmap_rule:
        raise VmapError(
            f"You tried to vmap over {cls.__name__}, but it has both generate_vmap_rule=True and an"
            " overridden vmap staticmethod. Please set generate_vmap_rule=False or delete the "
            "overridden vmap staticmethod to avoid ambiguity. For more details, please see "
            "https://pytorch.org/docs/main/notes/extending.func.html"
        )
    if cls.generate_vmap_rule:
        return run(cls, cls.forward, args, {})
    if not own:
        raise VmapError(
            f"You tried to vmap over {cls.__name__}, but it does not have vmap support. Please "
            "override and implement the vmap staticmethod or set generate_vmap_rule=True. For more "
            "details, please see https://pytorch.org/docs/main/notes/extending.func.html"
        )
    levels = union(a for a in args if isinstance(a, Tensor))
    if mode.transforms and mode.transforms[-1] is None:
        # A gradient is taken inside of the vmap: forward is batched, and backward is the class's.
        return run(cls, lambda *xs: _by_rule(cls, xs, levels[-1]), args, {})
    return _by_rule(cls, args, levels[-1])


def _by_rule(cls: FunctionMeta, args: tuple[Any, ...], level: Level) -> Any:
    """Call the class's vmap for one level."""
    flat, spec = tree_flatten(args)
    there = [isinstance(x, Tensor) and level in x._levels for x in flat]
    shown = [lower(x, (level,)) if b else x for x, b in zip(flat, there, strict=True)]
    dims = [0 if b else None for b in there]
    info = VmapInfo(level.size, level.randomness)
    with outside_of(level):
        made = cls.vmap(  # type: ignore[attr-defined]
            info, tree_unflatten(dims, spec), *tree_unflatten(shown, spec)
        )
    if not (isinstance(made, tuple) and len(made) == 2):
        raise VmapError(
            "Expected the vmap staticmethod to have two returns, an output and out_dims with pytree"
            f" structure compatible with the output. Got a {type(made)} instead"
        )
    output, out_dims = made
    results, out_spec = tree_flatten(output)
    where = _broadcast_to_and_flatten(out_dims, out_spec, is_leaf=lambda d: d is None)
    if where is None:
        raise VmapError(
            "The output of the vmap staticmethod and its out_dims do not have one structure"
        )
    from ..core.call import fn

    hidden = [
        x if d is None else raise_(fn.movedim(x, d, 0), (level,))
        for x, d in zip(results, where, strict=True)
    ]
    return tree_unflatten(hidden, out_spec)
