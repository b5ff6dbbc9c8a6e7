"""Random ops under vmap: refused, one draw for all samples, or one for each.

"different" draws one tensor with the batch dims in front, so the numbers are those of a batched
call; "same" draws a sample's numbers once. Each level of vmap has its own say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _dispatch
from .._tensor import Tensor
from ..core.call import fn
from ..core.command import FUNCTIONAL, INPLACE
from .apply import Batch
from .tensor import VmapError, full, running, sizes, union, value, wrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..core.op import Op
    from .tensor import Levels


def _drawn_levels() -> Levels:
    """Return the levels whose samples draw for themselves. VmapError if one forbids drawing."""
    if any(level.randomness == "error" for level in running.levels):
        raise VmapError(
            "vmap: called random operation while in randomness error mode. Please either use the "
            "'same' or 'different' randomness flags on vmap or perform the randomness operation "
            "out of vmap"
        )
    return tuple(level for level in running.levels if level.randomness == "different")


#: The result has the shape of the first tensor and does not depend on its values.
_LIKE = frozenset(
    "rand_like randn_like randint_like uniform exponential geometric cauchy log_normal random "
    "normal_functional bernoulli.p".split()
)


def apply_random(op: Op, tensors: Sequence[Any], static: Any, scalars: tuple[Any, ...]) -> Any:
    """Issue a random op under vmap."""
    drawn = _drawn_levels()
    b = Batch(op, tensors, static, scalars, drawn)
    if not tensors:
        return _made(b)
    if op.base in _LIKE or op.name in _LIKE:
        shape = (*b.sizes, *tensors[0]._spec.shape)
        first = fn.new_empty(value(tensors[0]), shape)
        return wrap(run(op, first, *b.args[1:]), drawn)
    have = union(tensors)
    if op.base == "native_dropout":
        return _dropout(b, have)
    if not {*have} <= {*drawn}:
        raise VmapError(
            "Vmap does not currently support same randomness with a batched tensor input."
        )
    given = [full(t, drawn) for t in tensors]
    if op.base == "multinomial":
        return wrap(_multinomial(b, given[0]), drawn)
    made = _dispatch.apply(Tensor, op, given, static, scalars, FUNCTIONAL)
    return wrap(made, drawn)


def run(op: Op, *args: Any) -> Any:
    """Draw on physical tensors; arguments in the schema's order."""
    names = [a.name for a in op.args]
    split = next((i for i, a in enumerate(op.args) if a.keyword_only), len(names))
    keywords = dict(zip(names[split:], args[split:], strict=True))
    tensors, static, scalars = op.bind(*args[:split], **keywords)
    return _dispatch.apply(Tensor, op, tensors, static, scalars, FUNCTIONAL)


def _multinomial(b: Batch, p: Any) -> Any:
    rows = fn.reshape(p, (-1, p._spec.shape[-1]))
    return b.shaped(run(b.op, rows, *b.args[1:]))


def _made(b: Batch) -> Any:
    """Draw a tensor from nothing."""
    if not b.levels:
        return run(b.op, *b.args)
    at = b.position("size")
    if at < 0:  # a permutation: one after the other
        count = 1
        for n in b.sizes:
            count *= n
        rows = [run(b.op, *b.args) for _ in range(count)]
        return wrap(b.shaped(fn.stack(rows)), b.levels)
    args = list(b.args)
    args[at] = [*b.sizes, *args[at]]
    return wrap(run(b.op, *args), b.levels)


def _dropout(b: Batch, have: Levels) -> Any:
    x, p, train = b.args
    everything = tuple(sorted({*have, *b.levels}, key=lambda level: level.number))
    if everything == b.levels:
        made = run(b.op, full(x, b.levels), p, train)
        return tuple(wrap(t, b.levels) for t in made)
    one = fn.new_ones(value(x), (*b.sizes, *x._spec.shape))
    noise, mask = run(b.op, one, p, train)
    return fn.mul(x, wrap(noise, b.levels)), wrap(mask, b.levels)


def fill_random(op: Op, tensors: Sequence[Any], static: Any, scalars: tuple[Any, ...]) -> Any:
    """Fill a tensor with random numbers, in place."""
    drawn = _drawn_levels()
    target = tensors[0]
    have = target._levels
    if not {*drawn} <= {*have}:
        raise VmapError(
            "vmap: Cannot ask for different inplace randomness on an unbatched tensor. This will "
            "appear like same randomness. If this is necessary for your usage, please file an issue"
            " with functorch."
        )
    if have == drawn:
        ndim = target._spec.ndim
        rest = [full(t, drawn, ndim) if t._levels else t for t in tensors[1:]]
        _dispatch.apply(Tensor, op, [value(target), *rest], static, scalars, INPLACE)
        return target
    noise = wrap(fn.new_empty(value(target), (*sizes(drawn), *target._spec.shape)), drawn)
    given = [noise, *tensors[1:]]
    if drawn:
        fill_random(op, given, static, scalars)
    elif union(tensors[1:]):
        raise VmapError(
            "Vmap does not currently support same randomness with a batched tensor input."
        )
    else:
        _dispatch.apply(Tensor, op, given, static, scalars, INPLACE)
    return fn.copy_(target, noise)
