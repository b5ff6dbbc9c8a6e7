"""Graph: a program as a straight list of steps over windows of memories.

`trace.py` makes one from a body and the specs of its inputs; passes rewrite it; `arena.py` says
where each memory lies and `flat.py` binds and runs it. Order is the program's order: passes may
drop, merge or replace steps, and move one only past steps that do not touch the same memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from farspan.core.command import INPLACE

if TYPE_CHECKING:
    from farspan.core.command import Static
    from farspan.core.op import Op
    from farspan.core.spec import Spec

    from ..kernels.cpu.bound import Layout
    from ..plan import Plan


class Memory:
    """Bytes that steps read and write: an input's storage, or the program's own.

    It is also what a traced tensor has for a storage: the tape counts its writes.
    """

    __slots__ = ("graph", "input", "layout", "nbytes", "output", "version")

    def __init__(self, graph: Any, nbytes: int, input_: int = -1) -> None:
        self.graph = graph  # the tracer whose tensors lie here
        self.nbytes = nbytes
        self.input = input_  # the first input that lies here; -1: the program's own
        self.output = False  # leaves the program, so that it is in no arena
        self.version = 0
        self.layout: Layout | None = (
            None  # a library's own, in which elements lie; None: as specs say
        )

    @property
    def memory(self) -> Memory:
        return self

    @property
    def budget(self) -> None:
        return None

    def __repr__(self) -> str:
        kind = "input" if self.input >= 0 else "output" if self.output else "own"
        return f"<{kind} memory of {self.nbytes} bytes>"


@dataclass(frozen=True, slots=True)
class Window:
    """A tensor: a spec over a memory, `offset` elements from its start."""

    memory: Memory
    spec: Spec
    offset: int = 0

    @property
    def begin(self) -> int:
        """The first byte."""
        return self.offset * self.spec.dtype.itemsize

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.begin + self.spec.span() * self.spec.dtype.itemsize

    @property
    def whole(self) -> bool:
        """Whether it covers its memory, without gaps."""
        return not self.offset and self.spec.dense and self.spec.nbytes == self.memory.nbytes


@dataclass(frozen=True, slots=True)
class Number:
    """A Python number that a Call brings: the one at `index` among the body's."""

    index: int
    kind: str  # "f" a float, "i" an int, "b" a bool, "c" complex


@dataclass(slots=True, eq=False)
class Step:
    """One kernel's work."""

    op: Op
    static: Static
    plan: Plan
    scalars: tuple[Any, ...]  # numbers, or Number
    form: int
    inputs: tuple[Window, ...]  # of an in-place form the first is the target
    outs: tuple[Window, ...]  # what it fills; of a functional form new memories
    generator: int = -1  # of a random op
    command: int = -1  # the number of the body's command that it belongs to
    note: str = ""  # what a pass did to it
    bound: Any = None  # a pass's own way to run it; see flat.py
    reads_target: bool = True  # whether old elements of what it fills matter
    fused: list[Step] = field(default_factory=list)  # the steps that it stands for

    @property
    def name(self) -> str:
        return "fused" if self.fused else self.op.name

    @property
    def writes(self) -> tuple[Memory, ...]:
        """The memories it changes."""
        return tuple(dict.fromkeys(w.memory for w in self.outs))

    @property
    def reads(self) -> tuple[Memory, ...]:
        """The memories whose elements it looks at."""
        inputs: Iterable[Window] = self.inputs
        if self.form == INPLACE and not self.reads_target:
            inputs = self.inputs[1:]
        return tuple(dict.fromkeys(w.memory for w in inputs))


@dataclass(slots=True, eq=False)
class Graph:
    """The steps, what goes in and what comes out."""

    steps: list[Step]
    inputs: tuple[Window, ...]
    outputs: tuple[Window, ...]
    exact: bool
    #: By output: the window it is a differentiable view of, None if of none.
    bases: tuple[Window | None, ...] = ()
    #: By output: the input that it is a differentiable view of, -1 if of none.
    origins: tuple[int, ...] = ()
    #: By input memory: how often the program writes to it.
    written: dict[Memory, int] = field(default_factory=dict)
    #: Inputs that gradients are recorded for: they must be leaves when it runs.
    leaves: tuple[int, ...] = ()
    notes: list[str] = field(default_factory=list)  # what the passes did, for explain()

    def memories(self) -> list[Memory]:
        """Return the program's own memories, in order of their first use."""
        seen: dict[Memory, None] = {}
        for step in self.steps:
            for memory in (*step.reads, *step.writes):
                if memory.input < 0:
                    seen[memory] = None
        return list(seen)
