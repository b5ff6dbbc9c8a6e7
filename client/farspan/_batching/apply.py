"""How an op on batched tensors runs: a rule turns it into ops on the physical tensors.

A rule takes a `Batch` and returns physical results whose leading dims are those of its levels.
Without a rule the op runs once a sample and the results are stacked: right, but slower.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from .. import _dispatch
from .._tensor import Tensor
from ..core.call import fn
from ..core.command import FUNCTIONAL, INPLACE
from ..core.spec import check_cast
from .tensor import VmapError, front, full, sizes, union, value, wrap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..core.op import Op
    from ..core.spec import Spec
    from .tensor import Levels

RULES: dict[str, Callable[[Batch], Any]] = {}  # by name with overload, or by base name


def rule(*names: str) -> Callable[[Callable[[Batch], Any]], Callable[[Batch], Any]]:
    """Register a rule for ops by name with overload, or for all overloads of a base name."""

    def register(function: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
        for name in names:
            assert name not in RULES, f"{name} has two rules"
            RULES[name] = function
        return function

    return register


class Batch:
    """One op on tensors of which some are batched."""

    __slots__ = ("args", "levels", "op", "outs", "scalars", "static", "tensors")

    def __init__(
        self, op: Op, tensors: Sequence[Any], static: Any, scalars: Any, levels: Levels
    ) -> None:
        self.op, self.tensors, self.static, self.scalars = op, tensors, static, scalars
        self.levels = levels
        self.args: list[Any] = op.recipe(static).args(tensors, scalars)
        #: the specs of a sample's results; also raises what the op raises for a sample
        self.outs: tuple[Spec, ...] = ()
        if not op.dynamic:
            self.outs = sample_specs(op, tensors, static, scalars)

    @property
    def k(self) -> int:
        """How many dims are in front of the sample's."""
        return len(self.levels)

    @property
    def sizes(self) -> tuple[int, ...]:
        return sizes(self.levels)

    def __getitem__(self, name: str) -> Any:
        return self.args[self.position(name)]

    def position(self, name: str) -> int:
        """Return where an argument stands in the schema; -1 if there is none of this name."""
        return next((i for i, a in enumerate(self.op.args) if a.name == name), -1)

    def full(self, t: Any, ndim: int | None = None) -> Any:
        return None if t is None else full(t, self.levels, ndim)

    def front(self, t: Any, ndim: int | None = None) -> Any:
        return None if t is None else front(t, self.levels, ndim)

    def run(self, *args: Any) -> Any:
        """Run the op itself on physical tensors; arguments in the schema's order."""
        return run(self.op, *args)

    def shaped(self, results: Any) -> Any:
        """Return physical results with the shapes that the sample's have after the batch dims."""
        if not isinstance(results, tuple):
            return _shaped(results, (*self.sizes, *self.outs[0].shape))
        return tuple(
            _shaped(r, (*self.sizes, *spec.shape))
            for r, spec in zip(results, self.outs, strict=True)
        )


def _shaped(t: Any, shape: tuple[int, ...]) -> Any:
    return t if t._spec.shape == shape else fn.reshape(t, shape)


def run(op: Op, *args: Any) -> Any:
    """Run an op on physical tensors, its arguments in the schema's order."""
    names = [a.name for a in op.args]
    split = next((i for i, a in enumerate(op.args) if a.keyword_only), len(names))
    keywords = dict(zip(names[split:], args[split:], strict=True))
    tensors, static, scalars = op.bind(*args[:split], **keywords)
    return Tensor._apply(op, tensors, static, scalars, FUNCTIONAL)


def sample_specs(op: Op, tensors: Sequence[Any], static: Any, scalars: Any) -> tuple[Spec, ...]:
    """Return the specs that the op's results have for one sample. Raises as the op would."""
    facts = _dispatch.known(op, static, [t._spec for t in tensors], scalars)
    if facts.moved:
        at = facts.device
        specs = [t._spec.with_(device=at) for t in tensors]
        facts = _dispatch.known(op, static, specs, scalars)
    return tuple(facts.outs)


def apply(op: Op, tensors: Sequence[Any], static: Any, scalars: tuple[Any, ...], form: int) -> Any:
    """Issue one op on tensors of which some are batched, or a random op under vmap."""
    if form == INPLACE:
        return _apply_inplace(op, tensors, static, scalars)
    if form != FUNCTIONAL:
        return _apply_out(op, tensors, static, scalars)
    if op.random and op.family != "state":
        from .random import apply_random

        return apply_random(op, tensors, static, scalars)
    levels = union(tensors)
    if op.writes:
        raise inplace_error(op.base)
    if op.dynamic:
        raise VmapError(
            "vmap: We do not support batching operators that can output dynamic shape. Attempted "
            f"to vmap over aten::{op.base}."
        )
    return _hidden(op, batched(Batch(op, tensors, static, scalars, levels)), levels)


def _hidden(op: Op, results: Any, levels: Levels) -> Any:
    if isinstance(results, (tuple, list)):
        return tuple(wrap(r, levels) for r in results)
    return wrap(results, levels)


def batched(b: Batch) -> Any:
    """Return the physical results of an op."""
    from . import load

    load()
    op = b.op
    found = RULES.get(op.name) or RULES.get(op.base) or RULES.get(f"<{op.family}>")
    if found is not None:
        result = found(b)
        if result is not NotImplemented:
            return result
    return one_by_one(b)


def one_by_one(b: Batch) -> Any:
    """Run the op for each sample and stack the results."""
    rows = []
    for place in itertools.product(*map(range, b.sizes)):
        at = dict(zip(b.levels, place, strict=True))
        mine = [_sample(t, at) for t in b.tensors]
        made = Tensor._apply(b.op, mine, b.static, b.scalars, FUNCTIONAL)
        rows.append(made if isinstance(made, tuple) else (made,))
    if not rows:
        some = value(b.tensors[0])
        found = [fn.new_zeros(some, (*b.sizes, *spec.shape), dtype=spec.dtype) for spec in b.outs]
    else:
        found = [
            _shaped(fn.stack([row[i] for row in rows]), (*b.sizes, *rows[0][i]._spec.shape))
            for i in range(len(rows[0]))
        ]
    return tuple(found) if b.op.lists or len(found) > 1 else found[0]


def _sample(t: Any, at: dict[Any, int]) -> Any:
    physical = value(t)
    for level in t._levels:
        physical = fn.select(physical, 0, at[level])
    return physical


# ------------------------------------------------------------------------------------ in place --
def inplace_error(name: str) -> VmapError:
    return VmapError(
        f"vmap: {name}_(self, *extra_args) is not possible because there exists a Tensor `other` "
        "in extra_args that has more elements than `self`. This happened due to `other` being "
        "vmapped over but `self` not being vmapped over in a vmap. Please try to use out-of-place "
        f"operators instead of {name}_."
    )


def _apply_inplace(op: Op, tensors: Sequence[Any], static: Any, scalars: tuple[Any, ...]) -> Any:
    target = tensors[0]
    if op.random:
        from .random import fill_random

        return fill_random(op, tensors, static, scalars)
    levels = union(tensors)
    if levels != target._levels:
        raise inplace_error(op.base)
    spec = target._spec
    found = sample_specs(op, tensors, static, scalars)
    if len(found) != 1 or found[0].shape != spec.shape:
        from ..core.errors import ShapeError

        raise ShapeError(
            f"output with shape {list(spec.shape)} doesn't match the broadcast shape "
            f"{list(found[0].shape)}"
        )
    check_cast(found[0].dtype, spec.dtype)
    physical = value(target)
    direct = op.base in _DIRECT and not (op.name in _OF_NUMBER and tensors[-1]._levels)
    if op.family == "pointwise" or direct:
        # The op's own in-place form keeps what it has of checks and of derivatives.
        aligned = [front(t, levels, spec.ndim) if t._levels else t for t in tensors[1:]]
        Tensor._apply(op, [physical, *aligned], static, scalars, INPLACE)
    else:
        result = batched(Batch(op, tensors, static, scalars, levels))
        fn.copy_(physical, result)
    return target


#: Ops besides the pointwise ones that broadcast the others to the first.
_DIRECT = frozenset({"copy", "zero", "fill", "masked_fill"})
#: Of these, the ones that take a tensor without dims, which a batched one is not.
_OF_NUMBER = frozenset({"fill.Tensor", "masked_fill.Tensor"})


def _apply_out(op: Op, tensors: Sequence[Any], static: Any, scalars: tuple[Any, ...]) -> Any:
    flat = op.recipe(static).flat
    inputs, outs = tensors[:flat], tensors[flat:]
    results = Tensor._apply(op, inputs, static, scalars, FUNCTIONAL)
    for out, result in zip(outs, results if type(results) is tuple else (results,), strict=True):
        if not {*result._levels} <= {*out._levels}:
            raise inplace_error(op.base)
        _dispatch.write_out(out, result)
    return outs[0] if len(outs) == 1 else tuple(outs)
