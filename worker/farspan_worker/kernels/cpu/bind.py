"""Ops as primitives at fixed addresses: `bound_for`, and which of them keep the library's layouts.

What is bound with `exact` gives the bits of the op's eager kernel. Binders stand in bind_images.py
and bind_rows.py; each is called with the op's arguments in schema order, operands for tensors, and
adds primitives. Read bound.py first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ... import kernels
from . import onednn
from .bound import Binding, Bound, Layout, Operand
from .onednn import After, OneDnnError, plain

if TYPE_CHECKING:
    from farspan.core.op import Op, Recipe
    from farspan.core.spec import Spec

#: For an output: the layout that the primitive likes best.
ANY: Final = "any"

Binder = Callable[..., bool | None]

#: What can be done to each element of a result: eltwise functions by algorithm; `add` of a tensor.
_AFTER: Final = {"relu": 32, "gelu": 49, "gelu_tanh": 43, "sigmoid": 41, "tanh": 35}
_BINARY_ADD: Final = 0x1FFF0


@dataclass(frozen=True, slots=True)
class Entry:
    """How one op is bound."""

    binder: Binder  # (binding, *args): False where it cannot
    #: whether it gives the bits of numpy's kernel too, which eager runs for small tensors; or a
    #: function of the op's arguments that tells
    always: bool | Callable[..., bool] = False
    #: whether the op's fast kernel is this primitive, so that it gives these bits
    eager: bool = True
    #: inputs and outputs, by index among the tensors, that may lie in a layout of the library's
    given: tuple[int, ...] = ()
    made: tuple[int, ...] = ()
    #: whether it works in any layout, so that it takes what comes and wishes for nothing
    passes: bool = False

    def is_exact(self, args: Sequence[Any]) -> bool:
        """Return whether any kernel gives the same bits, for arguments in schema order."""
        return self.always(*args) if callable(self.always) else self.always


def bound_for(
    op: Op,
    recipe: Recipe,
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    scalars: Sequence[Any] = (),
    *,
    given: Mapping[int, Layout] | None = None,
    wanted: Mapping[int, Layout | str] | None = None,
    exact: bool = True,
    then: Sequence[str] = (),
    others: Sequence[Spec | Layout] = (),
    finite: Collection[int] = (),
) -> Bound | None:
    """Return the op bound to specs and layouts, or None: its plain kernel is to run.

    given, wanted: layouts of inputs and outputs, by index, that are no plain tensors; `ANY` for an
    output lets the primitive choose, and `Bound.outputs` tells. exact: only what gives the bits of
    the eager kernels. then: what is done to each element of the only result before it is stored,
    of "relu", "gelu", "gelu_tanh", "sigmoid", "tanh" and "add", which takes the next of `others`;
    slots of these follow the inputs. finite: inputs known to hold neither NaN nor infinities; where
    that matters and is not known, a run checks, and raises UnfitError. Never raises itself for what
    the library has not.
    """
    entry = entries().get(op.name)
    if entry is None or not kernels.overrides() or onednn.available():
        return None
    given, wanted = given or {}, wanted or {}
    known = [s for i, s in enumerate(inputs) if i not in given]
    if not all(s.dtype.name == "float32" and s.numel and _is_dense(s) for s in known):
        return None
    if exact and not may_bind(op, recipe, inputs, scalars):
        return None
    operands = [_operand(s, i, given.get(i)) for i, s in enumerate(inputs)]
    after = [_after_operand(o, len(inputs) + i) for i, o in enumerate(others)]
    made = len(operands) + len(after)
    results = [_operand(s, made + i, wanted.get(i)) for i, s in enumerate(outputs)]
    binding = Binding([*operands, *after], results)
    binding.then, binding.others = _steps(then, after), after
    binding.finite, binding.exact = frozenset(finite), exact
    try:
        if entry.binder(binding, *recipe.args(operands, scalars)) is False:
            return None
        return binding.bound()
    except OneDnnError as error:
        if error.unimplemented:
            return None
        raise


def may_bind(op: Op, recipe: Recipe, inputs: Sequence[Spec], scalars: Sequence[Any]) -> bool:
    """Return whether a primitive for the op would give the bits of its eager kernel."""
    entry = entries().get(op.name)
    args = recipe.args(inputs, scalars)
    if entry is None:
        return False
    return entry.is_exact(args) or (entry.eager and bool(kernels.choose(op.name, args)))


def _is_dense(spec: Spec) -> bool:
    """Return whether each element has a place of its own."""
    return all(step or n == 1 for n, step in zip(spec.shape, spec.stride, strict=True))


def _operand(spec: Spec, slot: int, layout: Layout | str | None) -> Operand:
    if isinstance(layout, Layout):
        return Operand(layout.desc, slot, spec=spec, is_plain=False)
    if layout == ANY:
        return Operand(None, slot, spec=spec, is_plain=False)
    if spec.dtype.name != "float32" or not spec.numel:
        return Operand(None, slot, spec=spec)
    if not spec.shape:
        return Operand(plain((1,)), slot, shape=(1,), spec=None).seen_as((1,))
    return Operand(plain(spec.shape, spec.stride), slot, spec=spec)


def _after_operand(other: Spec | Layout, slot: int) -> Operand:
    if isinstance(other, Layout):
        return Operand(other.desc, slot, shape=other.shape)
    return _operand(other, slot, None)


def _steps(then: Sequence[str], others: Sequence[Operand]) -> tuple[After, ...]:
    rest, steps = iter(others), []
    for name in then:
        if name == "add":
            steps.append(After(_BINARY_ADD, other=next(rest).desc))
        else:
            steps.append(After(_AFTER[name], 0.0, 0.0))
    return tuple(steps)


@functools.cache
def entries() -> Mapping[str, Entry]:
    """Return how ops are bound, by name."""
    from . import bind_images, bind_rows

    return {**bind_images.ENTRIES, **bind_rows.ENTRIES}
