"""BatchedTensor: a proxy that hides batch dims of a physical tensor, one for each level of vmap.

The hidden dims lead, in the order of their levels, so an op sees them as any leading dims. Graph,
storage and versions are the physical tensor's; only the shape is the sample's.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from typing import TYPE_CHECKING, Any

from .. import _interpose
from .._dispatch import mode
from .._tensor import Tensor
from ..core import tape
from ..core.call import fn
from ..core.errors import AutogradError, ProgramError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ..core.spec import Spec


class VmapError(ProgramError, RuntimeError):
    """Something that a function under vmap cannot do."""


class Level:
    """One running `vmap`: its batch size, and what random ops do."""

    __slots__ = ("number", "randomness", "silent", "size")

    def __init__(self, number: int, size: int, randomness: str) -> None:
        self.number, self.size, self.randomness = number, size, randomness
        self.silent = False  # no tensor of the function has it: jacfwd's, for its tangents only

    def __repr__(self) -> str:
        return f"<level {self.number} of vmap: {self.size} samples>"


Levels = tuple[Level, ...]


class _Running(threading.local):
    """The levels of this thread, outermost first; numbers only grow, so that they sort."""

    levels: Levels = ()


running = _Running()
_numbers = itertools.count(1)


def _look_at_all(
    call: Any, op: Any, tensors: Sequence[Any], static: Any, scalars: tuple[Any, ...], form: int
) -> Any:
    """Hand an op to the rules of batching if one of its tensors is batched, not only the first."""
    from .apply import apply

    if (op.random and running.levels) or any(t._levels for t in tensors):
        return apply(op, tensors, static, scalars, form)
    return call(op, tensors, static, scalars, form)


def interposed() -> Any:
    """Let ops whose first tensor is plain look at the others too, while some may be batched."""
    return _interpose.interposed(_interpose.VMAP, _look_at_all)


@contextlib.contextmanager
def level_of(size: int, randomness: str) -> Iterator[Level]:
    """Open a level of vmap for this thread."""
    level = Level(next(_numbers), size, randomness)
    before = running.levels, mode.transforms
    running.levels = (*before[0], level)
    mode.transforms = (*before[1], level)
    try:
        with interposed():
            yield level
    finally:
        running.levels, mode.transforms = before


@contextlib.contextmanager
def outside_of(level: Level) -> Iterator[None]:
    """Run as if `level`, the innermost one, were not there."""
    before = running.levels, mode.transforms
    running.levels = tuple(x for x in before[0] if x is not level)
    mode.transforms = tuple(x for x in before[1] if x is not level)
    try:
        yield
    finally:
        running.levels, mode.transforms = before


class BatchedTensor(Tensor):
    """A tensor with hidden batch dims. `_value` is the physical tensor, `_spec` the sample's."""

    _value: Tensor
    _levels: Levels  # type: ignore[assignment]

    @classmethod
    def _apply(
        cls, op: Any, tensors: Sequence[Any], static: Any, scalars: tuple[Any, ...], form: int
    ) -> Any:
        from .apply import apply

        if running.levels:
            return apply(op, tensors, static, scalars, form)
        with interposed():
            return apply(op, tensors, static, scalars, form)

    # The place in memory and in the graph is the physical tensor's.
    @property
    def _ref(self) -> Any:  # type: ignore[override]
        raise VmapError(
            "a batched tensor is used outside of the vmap that made it, or by something that does "
            "not support vmap"
        )

    @property
    def session(self) -> Any:
        return self._value.session

    @property
    def _node(self) -> tape.Node | None:  # type: ignore[override]
        edge = tape.edge_of(self._value)
        return None if edge is None else edge[0]

    @_node.setter
    def _node(self, node: tape.Node | None) -> None:
        self._value._node = node

    @property
    def _index(self) -> int:  # type: ignore[override]
        return self._value._index

    @_index.setter
    def _index(self, index: int) -> None:
        self._value._index = index

    def _save(self) -> Any:
        raise VmapError("a batched tensor cannot be saved by the tape itself")

    def _become(self, other: Tensor) -> None:
        made = other if isinstance(other, BatchedTensor) else expand(other, self._levels)
        self._value, self._levels, self._spec = made._value, made._levels, made._spec
        self._storage, self._offset = made._storage, made._offset

    # What needs values cannot have one a sample.
    def _fetch(self) -> Any:
        raise VmapError(
            "vmap: It looks like you're calling .item() on a Tensor. We don't support vmap over "
            "calling .item() on a Tensor, please try to rewrite what you're doing with other "
            "operations. If error is occurring somewhere inside farspan, please report it."
        )

    def __bool__(self) -> bool:
        raise VmapError(
            "vmap: It looks like you're attempting to use a Tensor in some data-dependent control "
            "flow. We don't support that yet; use torch.where, or compute both sides."
        )

    def numpy(self, *, force: bool = False) -> Any:
        return self._fetch()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        memo[id(self)] = copied = fn.clone(fn.detach(self))
        return copied  # type: ignore[no-any-return]

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        raise AutogradError(REQUIRES_GRAD_MESSAGE)

    def backward(self, *args: Any, **kwargs: Any) -> None:
        raise AutogradError(BACKWARD_MESSAGE)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        text = repr(self._value)
        for level in self._levels:
            inner = "\n".join("    " + line for line in text.splitlines())
            text = f"BatchedTensor(lvl={_depth(level)}, bdim=0, value=\n{inner}\n)"
        return text


REQUIRES_GRAD_MESSAGE = (
    "You are attempting to call Tensor.requires_grad_() (or perhaps using "
    "torch.autograd.functional.* APIs) inside of a function being transformed by a functorch "
    "transform. This is unsupported, please attempt to use the functorch transforms (e.g. grad, "
    "vjp, jacrev, jacfwd, hessian) or call requires_grad_() outside of a function being transformed"
    " instead."
)
BACKWARD_MESSAGE = (
    "backward() called inside a functorch transform. This is not supported, please use "
    "functorch.grad or functorch.vjp instead or call backward() outside of functorch transforms."
)


def _depth(level: Level) -> int:
    return mode.transforms.index(level) + 1 if level in mode.transforms else level.number


# ------------------------------------------------------------------------------------- helpers --
def union(tensors: Iterable[Any]) -> Levels:
    """Return the levels that some of the tensors have, outermost first."""
    found: Levels = ()
    for t in tensors:
        levels = t._levels if t is not None else ()
        if levels and levels != found:
            found = tuple(sorted({*found, *levels}, key=_number)) if found else levels
    return found


def _number(level: Level) -> int:
    return level.number


def sizes(levels: Levels) -> tuple[int, ...]:
    return tuple([level.size for level in levels])


def value(t: Tensor) -> Tensor:
    """Return the physical tensor."""
    return t._value if t._levels else t  # type: ignore[attr-defined, no-any-return]


def wrap(physical: Tensor, levels: Levels) -> Tensor:
    """Return the physical tensor with its leading dims hidden, one for each level."""
    if not levels:
        return physical
    t = object.__new__(BatchedTensor)
    k = len(levels)
    spec: Spec = physical._spec
    t._value, t._levels = physical, levels
    t._spec = spec.with_(spec.shape[k:], stride=spec.stride[k:])
    t._storage, t._offset = physical._storage, physical._offset
    t._base = None
    return t


def front(t: Tensor, levels: Levels, ndim: int | None = None) -> Tensor:
    """Return the physical tensor with a dim for each of `levels` in front; 1 where it has none.

    ndim: how many dims follow at least; missing ones are put in with size 1.
    """
    have = t._levels
    shape = t._spec.shape
    pad = max(0, (ndim or 0) - len(shape))
    physical = value(t)
    if have == levels and not pad:
        return physical
    lead = tuple([level.size if level in have else 1 for level in levels])
    return fn.view(physical, (*lead, *(1,) * pad, *shape))  # type: ignore[no-any-return]


def full(t: Tensor, levels: Levels, ndim: int | None = None) -> Tensor:
    """As `front`, with the batch dims expanded to their sizes."""
    physical = front(t, levels, ndim)
    if t._levels == levels:
        return physical
    shape = (*sizes(levels), *physical._spec.shape[len(levels) :])
    return fn.expand(physical, shape)  # type: ignore[no-any-return]


def expand(t: Tensor, levels: Levels) -> BatchedTensor:
    """Return the tensor as one that has (at least) these levels."""
    levels = tuple(sorted({*t._levels, *levels}, key=_number))
    return wrap(full(t, levels), levels)  # type: ignore[return-value]


def lower(t: Tensor, levels: Levels) -> Tensor:
    """Return the tensor with the batch dims of `levels` as ordinary leading dims."""
    if not levels:
        return t
    rest = tuple(sorted({*t._levels} - {*levels}, key=_number))
    all_levels = tuple(sorted({*rest, *levels}, key=_number))
    physical = full(t, all_levels)
    if rest:
        order = [all_levels.index(level) for level in (*rest, *levels)]
        if order != list(range(len(order))):
            after = range(len(order), physical._spec.ndim)
            physical = fn.permute(physical, (*order, *after))
    return wrap(physical, rest)


def raise_(t: Tensor, levels: Levels) -> Tensor:
    """Return the tensor with its first ordinary dims as the batch dims of `levels`."""
    if not levels:
        return t
    have = t._levels
    physical = value(t)
    now = (*have, *levels)
    all_levels = tuple(sorted(now, key=_number))
    if now != all_levels:
        order = [now.index(level) for level in all_levels]
        physical = fn.permute(physical, (*order, *range(len(order), physical._spec.ndim)))
    return wrap(physical, all_levels)
