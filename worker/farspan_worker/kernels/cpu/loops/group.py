"""Group: what is to become one loop nest - steps of the op table over inputs of known specs.

Values are numbered in one row: the inputs, then one result a step. A group is a value: equal groups
are equal keys. Nothing here computes; trace.py reads it next.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from farspan.core.spec import broadcast_shapes

if TYPE_CHECKING:
    from farspan.core.op import Op
    from farspan.core.spec import Spec

#: A Python number of each kind, standing for one that is known only when the loop runs.
EXAMPLES: Final[dict[str, Any]] = {"f": 0.625, "i": 1, "b": True}


class Unfused(Exception):
    """A step, or what a kernel does with its arguments, has no place in a loop; says why."""


@dataclass(frozen=True, slots=True)
class Number:
    """A Python number that is an argument of the loop: its place among them, and its kind.

    kind: "f" a float (passed as a double), "i" an int or "b" a bool (passed as int64).
    """

    index: int
    kind: str


@dataclass(frozen=True, slots=True)
class Step:
    """One op with one result.

    tensors: numbers of the values it takes, in the order in which a command lists its ids.
    scalars: Python numbers, or `Number`s, as a command has them.
    """

    op: Op
    static: Any
    tensors: tuple[int, ...]
    scalars: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Steps that become one loop nest.

    inputs: specs; a dim that is broadcast has stride 0 or size 1, or is absent in front.
    outputs: (number of a value, spec) of what is stored; several at once are allowed.
    exact: the results are, bit for bit, those of the table's kernels one by one, but for the sign
    and payload of NaNs. Otherwise functions are good to a few ulp, products and sums may be fused,
    and sums are added in an order of their own.

    An output may share memory with an input only if both are laid out alike and no dim of that
    input is broadcast.
    """

    inputs: tuple[Spec, ...]
    steps: tuple[Step, ...]
    outputs: tuple[tuple[int, Spec], ...]
    exact: bool = True

    @property
    def numbers(self) -> tuple[str, ...]:
        """The kinds of the numbers that the loop takes, in their order."""
        scalars = itertools.chain.from_iterable(step.scalars for step in self.steps)
        kinds = {s.index: s.kind for s in scalars if type(s) is Number}
        if sorted(kinds) != list(range(len(kinds))):
            raise ValueError(f"numbers of a group are counted from 0 without gaps: {kinds}")
        return tuple([kinds[i] for i in range(len(kinds))])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that all inputs broadcast to: what the loop runs over."""
        return broadcast_shapes(*[s.shape for s in self.inputs]) if self.inputs else ()


def key_of(group: Group) -> Any:
    """Return a key that also tells True from 1 and 1 from 1.0, and 0.0 from -0.0."""
    scalars = tuple([(type(s), repr(s)) for step in group.steps for s in step.scalars])
    return group, scalars
