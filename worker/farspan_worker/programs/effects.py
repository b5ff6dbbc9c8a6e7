"""What a program changes outside of itself, and how that is taken back when a kernel raises.

A Call that fails must leave everything as it was, so that its commands can be run one by one, and
fail where they do. Before a store into an input that a step which may raise comes after, the
elements are kept; so is a generator's state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..store import Storage
from .graph import Step, Window

if TYPE_CHECKING:
    from ..engine import Engine
    from .flat import FlatPlan


class HalfDone(Exception):
    """A kernel raised that never should, after stores into `torn`, which cannot be taken back."""

    def __init__(self, message: str, torn: Sequence[Storage]) -> None:
        super().__init__(message)
        self.torn = torn


#: Families and ops whose kernels never raise for the values of elements.
_CALM_FAMILIES: Final = frozenset({"reduction", "view", "step", "random"})
_CALM: Final = frozenset(
    "mm addmm bmm baddbmm linear matmul addmv mv dot convolution convolution_backward copy clone "
    "_softmax _log_softmax _softmax_backward_data _log_softmax_backward_data native_batch_norm "
    "native_batch_norm_backward native_layer_norm native_layer_norm_backward fill zero "
    "threshold_backward max_pool2d_with_indices max_pool2d_with_indices_backward cat stack "
    "_scaled_dot_product_attention _scaled_dot_product_attention_backward "
    "zeros_like ones_like new_zeros new_ones".split()
)
_RAISING_POINTWISE: Final = frozenset("pow remainder fmod floor_divide div".split())


def may_raise(step: Step) -> bool:
    """Return whether values of elements can make the step raise."""
    if step.fused:
        return any(map(may_raise, step.fused))
    op = step.op
    if getattr(getattr(step.bound, "bound", None), "raises", False):
        return True  # a primitive that looks whether values fit it
    if op.family == "pointwise":
        floating = all(w.spec.dtype.category >= 2 for w in step.inputs)
        return op.base in _RAISING_POINTWISE and not floating
    return op.family not in _CALM_FAMILIES and op.base not in _CALM


class Undo:
    """What the stores of one FlatPlan overwrite, while a later step may still raise."""

    def __init__(self, plan: FlatPlan, engine: Engine) -> None:
        steps = plan.graph.steps
        raising = [k for k, step in enumerate(steps) if may_raise(step)]
        self._plan, self._engine = plan, engine
        self._last = raising[-1] if raising else -1  # no step after it raises
        drawing = [k for k, step in enumerate(steps) if step.generator >= 0]
        self._numbers = {steps[k].generator for k in drawing if k <= self._last}
        self._states: dict[int, Any] = {}
        #: (list of the target, its old elements; None while the plan sleeps)
        self._kept: list[tuple[list[Any], list[Storage | None]]] = []
        self._done = 0
        self._final = len(steps) * 4 + 1  # beyond every bound step

    def before(self, k: int) -> list[tuple[Callable[..., Any], list[Any]]]:
        """Return the steps that go ahead of step k: they keep what it overwrites."""
        step = self._plan.graph.steps[k]
        if k >= self._last:
            return []
        return [self._keep(w) for w in step.outs if w.memory.input >= 0]

    def _keep(self, window: Window) -> tuple[Callable[..., Any], list[Any]]:
        where = self._plan.arrays([window])
        room: list[Storage | None] = [self._room(where[0])]
        number = len(self._kept)
        self._kept.append((where, room))

        def keep() -> None:
            copy = room[0]
            assert copy is not None
            np.copyto(copy.array, where[0])
            self._done = number + 1

        return keep, []

    def _room(self, like: Any) -> Storage:
        self._engine.budget.check(like.nbytes)
        return Storage(np.empty(like.shape, like.dtype), self._engine.budget)

    @property
    def kept_bytes(self) -> int:
        """The bytes of room for old elements."""
        return sum(room.nbytes for _, (room,) in self._kept if room is not None)

    def let_go(self) -> None:
        """Have no room for old elements until `take_room`."""
        for _, room in self._kept:
            room[0] = None

    def close(self) -> None:
        """Let go of all."""
        self._kept.clear()

    def take_room(self) -> None:
        """Have room again. OutOfMemoryError: there is none."""
        for where, room in self._kept:
            room[0] = room[0] or self._room(where[0])

    def begin(self) -> None:
        """Start a Call."""
        self._done = 0
        if self._numbers:
            self._states = {n: self._engine.generator(n).get_state() for n in self._numbers}

    def covers(self, k: int) -> bool:
        """Return whether what step k stores is kept, since a later one may raise."""
        return k < self._last

    def final_from(self, bound: int) -> None:
        """Note that from this bound step on there are stores that nothing takes back."""
        self._final = min(self._final, bound)

    def roll_back(self, error: Exception, bound: int) -> None:
        """Put everything back after this bound step has raised.

        HalfDone: stores that cannot be taken back came before it; that is a fault of `may_raise`.
        """
        if bound > self._final:
            torn = [self._plan.storage(memory).memory for memory in self._plan.graph.written]
            raise HalfDone(f"{type(error).__name__}: {error}", torn) from error
        for where, room in reversed(self._kept[: self._done]):
            assert room[0] is not None
            np.copyto(where[0], room[0].array)
        for number, state in self._states.items():
            self._engine.generator(number).set_state(state)


def stores(step: Step) -> bool:
    """Return whether a step changes an input."""
    return any(w.memory.input >= 0 for w in step.outs)
