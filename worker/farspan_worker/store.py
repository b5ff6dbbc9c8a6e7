"""Storage and Array: the engine's tensors - memory that views share, and a window on it.

A storage owns bytes and charges them to the session's budget; an Array is a numpy (or cupy) array
over a storage plus its place in the graph. Nothing here knows operators; read engine.py next.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from farspan.core import limits
from farspan.core.call import Value
from farspan.core.errors import OutOfMemoryError, ProtocolError
from farspan.core.tape import Variable
from farspan.core.units import human

from . import plan as plans
from .backend import HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from farspan.core.command import ErrorInfo
    from farspan.core.op import Op
    from farspan.core.spec import Spec

    from .backend import Host


_new = object.__new__  # and all fields set one by one: half the time of a call of __init__


class Budget:
    """Bytes that a session may hold, and where; every storage charges it before it exists."""

    __slots__ = ("backend", "limit", "nodes", "objects", "peak", "spare", "used", "weigh")

    def __init__(self, limit: int, backend: Host = HOST) -> None:
        self.backend = backend
        self.limit = limit  # bytes, less `objects`
        self.objects = 0  # bytes that are charged for tensors and nodes as Python's objects
        self.nodes = 0  # of the tape, alive
        self.used = 0
        self.peak = 0
        #: Lets go of what is kept only for speed, so that what fits does not depend on the past.
        self.spare: Callable[[], None] = _nothing
        #: Charges the objects that there are now.
        self.weigh: Callable[[], None] = _nothing

    @property
    def whole(self) -> int:
        """The bytes that the session may hold, its objects included."""
        return self.limit + self.objects

    def charge_objects(self, tensors: int, generators: int) -> None:
        """Let so many objects, and the nodes that are alive, take some of the bytes from now on."""
        taken = (
            tensors * limits.TENSOR_BYTES
            + self.nodes * limits.NODE_BYTES
            + generators * limits.GENERATOR_BYTES
        )
        least, most = limits.OBJECTS_FREE_BYTES
        if taken > least or self.objects:
            free = max(least, min(most, int(self.whole * limits.OBJECTS_FREE_SHARE)))
            nbytes = max(0, taken - free)
            self.limit += self.objects - nbytes
            self.objects = nbytes

    def check(self, nbytes: int) -> None:
        """Raise OutOfMemoryError if `nbytes` more would not fit, whatever is let go of."""
        if self.used + nbytes > self.limit:
            self.spare()
            self.weigh()  # what was freed in this frame counts
            if self.used + nbytes > self.limit:
                used, whole, small = self.used + self.objects, self.whole, ""
                if self.objects:
                    small = f", {human(self.objects)} by the objects of tensors and graphs"
                raise OutOfMemoryError(
                    f"tried to allocate {nbytes} bytes ({human(nbytes)}); {used} of {whole} bytes "
                    f"are in use ({human(used)} of {human(whole)}{small}). "
                    "Nothing was allocated; the session goes on."
                )

    def make_room(self, nbytes: int) -> None:
        """Let go of what is kept only for speed if `nbytes` more would not fit as it is."""
        if self.used + nbytes > self.limit:
            self.spare()

    def take(self, nbytes: int) -> None:
        self.used += nbytes
        if self.used > self.peak:
            self.peak = self.used


def default_memory_bytes() -> int:
    """Return the budget of a session that was given none: most of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 4 // 5


def _nothing() -> None:
    """Nothing is kept."""


class Recorded:
    """Counts a node of the tape, or a few, while it is alive: its node's `site`, unused here."""

    __slots__ = ("budget", "count")

    def __init__(self, budget: Budget, count: int = 1) -> None:
        self.budget = budget
        self.count = count
        budget.nodes += count

    def __del__(self) -> None:
        self.budget.nodes -= self.count


class Storage:
    """Memory shared by views. `array` is dense; `flat` is the same memory as bytes.

    version: counts writes. `writes`, unset until it counts any, those that `version` does not.
    """

    __slots__ = (
        "__weakref__", "_flat", "_whole", "array", "budget", "nbytes", "version", "writes",
    )  # fmt: skip

    def __init__(self, array: Any, budget: Budget) -> None:
        self.array = array
        self.version = 0
        self.nbytes: int = array.nbytes
        self.budget = budget
        self._flat: Any = None
        self._whole: Storage | None = None
        budget.take(self.nbytes)

    @property
    def memory(self) -> Storage:
        """What is one object for all tensors on this memory, also for those of `.data`."""
        return self._whole or self

    def apart(self) -> Storage:
        """Return the same memory with a count of writes of its own."""
        made = Apart.__new__(Apart)
        made.array, made.nbytes, made.budget, made._flat = (
            self.array, self.nbytes, self.budget, self.flat,
        )  # fmt: skip
        made._version = 0
        made._whole = self.memory
        return made

    def wrote(self) -> None:
        """Count a write that no version tells of; for who asks whether the memory is as it was."""
        whole = self.memory
        whole.writes = getattr(whole, "writes", 0) + 1

    @property
    def flat(self) -> Any:
        """The memory as one row of bytes, in address order."""
        if self._flat is None:
            a = self.array
            order = sorted(range(a.ndim), key=lambda d: -a.strides[d])
            self._flat = a.transpose(order).reshape(-1).view(np.uint8)
        return self._flat

    def window(self, spec: Spec, offset: int) -> Any:
        """Return the array of `spec` that starts `offset` elements into this memory.

        ProtocolError if it would reach outside.
        """
        dtype = spec.dtype.numpy
        size = dtype.itemsize
        if not spec.numel:
            return self.budget.backend.xp.empty(spec.shape, dtype)
        if offset < 0 or (offset + spec.span()) * size > self.nbytes:
            raise ProtocolError("a view reaches outside of its storage")
        strides = tuple([s * size for s in spec.stride])
        return self.budget.backend.window(self.flat, spec, offset * size, strides)

    def grow(self, nbytes: int) -> None:
        """Become `nbytes` long; what is new is zero. Windows made before see the old memory.

        OutOfMemoryError, and nothing changes, if the session has not so much left.
        """
        self.budget.check(nbytes)  # for a moment there are both
        longer = self.budget.backend.xp.zeros(nbytes, np.uint8)
        longer[: self.nbytes] = self.flat
        self.budget.take(nbytes - self.nbytes)
        self.array, self._flat, self.nbytes = longer, longer, nbytes

    def follow(self) -> None:
        """Be as long as the memory that this is a part of has become."""
        whole = self.memory
        self.array, self._flat, self.nbytes = whole.array, whole._flat, whole.nbytes

    def __del__(self) -> None:
        if self._whole is None:
            self.budget.used -= self.nbytes


class Apart(Storage):
    """Memory whose writes are counted apart from those of what it is a part of; see `apart`."""

    __slots__ = ("_version",)

    @property
    def version(self) -> int:  # type: ignore[override]
        """Counts the writes by way of this one; the memory's `writes` count them too."""
        return self._version

    @version.setter
    def version(self, count: int) -> None:
        self._version = count
        self.wrote()


class Foreign(Storage):
    """Memory that `from_numpy` brought: another one may lie over the same bytes."""

    __slots__ = ()

    @property
    def begin(self) -> int:
        """The address of its first byte."""
        return int(self.array.ctypes.data)


class Array(Variable, Value):
    """A tensor in the engine. Ops on it (those of formulas) run at once and are not recorded."""

    __slots__ = ("array",)

    def __init__(self, array: Any, spec: Spec, storage: Storage, offset: int = 0) -> None:
        self.array = array
        self._spec = spec
        self._storage = storage
        self._offset = offset
        self._node = None
        self._index = 0
        self._base = None
        self._generation = 0

    def _save(self) -> Array:
        made = _new(Array)
        made.array = self.array
        made._spec = self._spec
        made._storage = self._storage
        made._offset = self._offset
        made._index = made._generation = 0
        made._node = made._base = None
        return made

    @classmethod
    def _apply(
        cls, op: Op, tensors: Sequence[Any], static: Any, scalars: tuple[Any, ...], form: int
    ) -> Any:
        results = plans.run(op, tensors, static, scalars, form, tensors[0]._storage.budget)
        return results[0] if len(results) == 1 and not op.lists else tuple(results)


def adopt(array: Any, spec: Spec, budget: Budget) -> Array:
    """Return the tensor whose memory is `array`, laid out as `spec` says; charges the budget.

    The same as `Array(array, spec, Storage(array, budget))`, in half the time.
    """
    storage = _new(Storage)
    storage.array = array
    storage.version = 0
    storage.nbytes = nbytes = array.nbytes
    storage.budget = budget
    storage._flat = storage._whole = None
    used = budget.used = budget.used + nbytes
    if used > budget.peak:
        budget.peak = used
    made = _new(Array)
    made.array = array
    made._spec = spec
    made._storage = storage
    made._offset = made._index = made._generation = 0
    made._node = made._base = None
    return made


@dataclass(slots=True, eq=False)
class Poison:
    """What stands in for a tensor whose command failed, or depended on one that did."""

    error: ErrorInfo
    _spec: Spec | None = None  # its metadata, where known, so that a fill can heal it
    base: Poison | None = None  # what it is a view of
    _offset: int = 0  # elements from the start of its memory, had it any
