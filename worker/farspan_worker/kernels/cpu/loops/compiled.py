"""Loops by group: the latest used are kept, compiled at once or on one thread behind.

What is compiled follows from the group alone. A Loop that is held stays callable after it was
forgotten here.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from farspan.core import limits
from farspan.core.dtype import Defaults
from farspan.core.errors import FarspanError

from . import native
from .group import EXAMPLES, Group, Number, Step, Unfused, key_of
from .nest import write
from .trace import ELIGIBLE, trace

if TYPE_CHECKING:
    from farspan.core.op import Op
    from farspan.core.spec import Spec

#: Loops kept, the latest used; each is some KiB of code.
LOOPS_MAX: Final = 1_024
#: Loops waiting for the background thread; beyond, `loop_for` compiles at once.
PENDING_MAX: Final = 256

#: What a trace may raise for a group that cannot be fused, or whose ops refuse their arguments.
_REFUSALS: Final = (Unfused, FarspanError, AttributeError, TypeError, ValueError, OverflowError)


class Loop:
    """A compiled group. `function` takes addresses and numbers, and blocks until it is done."""

    __slots__ = ("_code", "function", "text")

    def __init__(self, group: Group, text: str, code: native.Code) -> None:
        self.text = text  # LLVM's IR, for those who look
        self._code = code
        count = len(group.inputs) + len(group.outputs)
        #: ctypes: addresses of the inputs, of the outputs, then numbers. Releases the GIL.
        self.function = native.function(code.address, count, group.numbers)

    def ready(self) -> bool:
        return True


class Pending:
    """A group that is not compiled yet; the first to need it, or the background thread, does it."""

    __slots__ = ("_group", "_lock", "_made", "text")

    def __init__(self, group: Group, text: str) -> None:
        self._group, self.text = group, text
        self._lock = threading.Lock()
        self._made: Loop | Exception | None = None

    def ready(self) -> bool:
        """Return whether `result` would return at once."""
        return self._made is not None

    def load(self) -> bool:
        """Return whether `result` would return at once, after a look on the disk."""
        if self._made is None:
            code = native.on_disk(self.text)
            if code is not None:
                self._make(code)
        return self._made is not None

    def result(self) -> Loop:
        """Return the loop; compiles it, or waits for who does. Raises what LLVM raised."""
        self._make(None)
        if isinstance(self._made, Exception):
            raise self._made
        assert self._made is not None
        return self._made

    def _make(self, object_code: bytes | None) -> None:
        with self._lock:
            if self._made is None:
                try:
                    code = native.Code(object_code or native.to_object(self.text))
                    self._made = Loop(self._group, self.text, code)
                except Exception as error:
                    self._made = error


class _Background:
    """One thread that compiles what waits, and ends when nothing has for a second."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Pending] = SimpleQueue()
        self._lock = threading.Lock()
        self._busy = False

    def add(self, pending: Pending) -> bool:
        """Take one to compile; return False if too many wait."""
        if self._waiting.qsize() >= PENDING_MAX:
            return False
        self._waiting.put(pending)
        with self._lock:
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._work, name="farspan-loops", daemon=True).start()
        return True

    def forget(self) -> None:
        """Be as if nothing had been added: this process is a copy, without the thread."""
        self._waiting, self._lock, self._busy = SimpleQueue(), threading.Lock(), False

    def _work(self) -> None:
        native.be_behind()
        while True:
            try:
                pending = self._waiting.get(timeout=1.0)
            except Empty:
                with self._lock:
                    if self._waiting.empty():
                        self._busy = False
                        return
                continue
            with contextlib.suppress(Exception):  # it is kept, and raised to who asks for the loop
                pending.result()


_lock: Final = threading.Lock()
_loops: OrderedDict[Any, Loop | Pending | None] = OrderedDict()
_background: Final = _Background()


def _after_fork() -> None:
    """Forget, in a child, what a thread that is not here was about to make."""
    for key in [k for k, loop in _loops.items() if isinstance(loop, Pending)]:
        del _loops[key]
    _background.forget()
    _lock.release()


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork)


def loop_for(group: Group, wait: bool = True) -> Loop | Pending | None:
    """Return the loop of a group, or None if it cannot be fused or there is no compiler.

    wait: False returns a Pending while the compiler works, and the Loop from then on.
    """
    if native.missing():
        return None
    key = key_of(group), Defaults.dtype
    with _lock:
        known = key in _loops
        found = _loops[key] if known else _traced(group)
        _loops[key] = found
        _loops.move_to_end(key)
        while len(_loops) > LOOPS_MAX:
            _loops.popitem(last=False)
    if not isinstance(found, Pending):
        return found
    if not wait and not found.ready():
        if known or (not found.load() and _background.add(found)):
            return found
    loop = found.result()
    with _lock:
        if _loops.get(key) is found:
            _loops[key] = loop
    return loop


def _traced(group: Group) -> Pending | None:
    """Trace a group here and now: the trace depends on the thread's default dtype."""
    try:
        return Pending(group, write(trace(group)))
    except _REFUSALS:
        return None


def fusible(
    op: Op, static: Any, specs: Sequence[Spec], exact: bool, scalars: Sequence[Any] = ()
) -> bool:
    """Return whether an op on tensors of these specs may be a step of a group. Memoised: cheap.

    scalars: as a command has them, or `Number`s; ints and floats count by their type and by the
    values for which kernels have ways of their own.
    """
    if op.family != "pointwise" and op.name not in ELIGIBLE:
        return False
    kinds = tuple([s if type(s) is Number else (type(s), repr(s)) for s in scalars])
    key = op.name, static, exact, Defaults.dtype, kinds, *[(s.dtype, s.ndim > 0) for s in specs]
    found = _fusible.get(key)
    if found is None:
        if len(_fusible) > limits.MEMO_ENTRIES_MAX:
            _fusible.clear()
        found = _fusible[key] = _fits(op, static, specs, exact, tuple(scalars))
    return found


_fusible: dict[Any, bool] = {}


def _fits(
    op: Op, static: Any, specs: Sequence[Spec], exact: bool, scalars: tuple[Any, ...]
) -> bool:
    """Trace the op alone, its result stored."""
    places = {s.index: i for i, s in enumerate(s for s in scalars if type(s) is Number)}
    numbered = [Number(places[s.index], s.kind) if type(s) is Number else s for s in scalars]
    examples = [EXAMPLES[s.kind] if type(s) is Number else s for s in scalars]
    step = Step(op, static, tuple(range(len(specs))), tuple(numbered))
    try:
        outs, _ = op.infer(op.recipe(static).args(specs, examples))
        trace(Group(tuple(specs), (step,), ((len(specs), outs[0]),), exact))
    except _REFUSALS:
        return False
    return True
