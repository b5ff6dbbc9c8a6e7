"""What a session waits for and hears: answers, acknowledgements and errors that come later.

The part of `Session` behind its transport's events. Only `get`, `spec_of`, `wait_for`,
`synchronize` and `memory_of` wait. Read `_session.py` for what is sent.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from ._program import CallSite
from ._sites import Site, call_site, describe_site
from .core import command as cmd
from .core import limits
from .core.command import Acked, Changed, ErrorInfo, Event, Failed, Lost, Value
from .core.errors import BY_NAME, ControlFlowError, FarspanError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._gather import Ref
    from ._moving import Flight
    from ._session import Transport

#: Seconds after which a waiting thread looks whether the session is lost: a precaution, as a loss
#: wakes it. A Ctrl-C needs no look.
_LOOK_S = 1.0


class Wait:
    """One answer that a thread waits for: a lock that opens when it is there."""

    __slots__ = ("_done", "value")

    def __init__(self) -> None:
        # Not an Event: that is a condition, a lock and a queue more for every value that is read.
        self._done = threading.Lock()
        self._done.acquire()
        self.value: Value | None = None

    def end(self) -> None:
        """Wake whoever waits; with no value the session is lost. May be called twice."""
        try:  # `suppress` is four calls, before somebody who waits
            self._done.release()
        except RuntimeError:
            pass  # it was open

    def done(self, timeout_s: float) -> bool:
        """Wait for the end; return whether it came. A Ctrl-C interrupts the wait at once."""
        return self._done.acquire(timeout=timeout_s)


def _fresh(error: FarspanError) -> FarspanError:
    """Return an error like one that is remembered, to be raised.

    Where that itself was raised its traceback would stay with it, and what the frames of its user
    hold: after OutOfMemoryError the very tensors that are to go.
    """
    fresh = type(error)(*error.args)
    fresh.site, fresh.forward = error.site, error.forward
    return fresh


class Answers:
    """The waiting half of a session; `_session.Session` is the other and owns the state."""

    id: str
    devices: tuple[Any, ...]
    transport: Transport
    lanes: list[Any]
    _lock: threading.RLock
    _pid: int
    _requests: itertools.count[int]
    _in_flight: deque[Flight]
    _recent: deque[Flight]
    _untold: deque[str]  # warnings for whoever waits next
    traced: list[Any] | None
    tracer: int
    _over: bool  # closed, lost or inherited by a fork: one flag for the hot path

    def __init__(self) -> None:
        super().__init__()
        self._waits: dict[int, Wait] = {}
        self._errors: deque[FarspanError] = deque()
        self._known: dict[int, FarspanError] = {}  # by command number, to name its line again
        self._lost: FarspanError | None = None
        #: Of commands of backward, by number: the forward op's line, or lines by forward command.
        self._forward: dict[int, Any] = {}
        #: The same of what a pass issues now, and the number before its commands.
        self.walking: tuple[int, Any] | None = None
        self._traced_lines: dict[int, Any] = {}  # the first, of a function that is traced
        self._syncs: dict[Site | None, int] = {}

    if TYPE_CHECKING:

        def issue(
            self, device: int, opcode: int, mode: int, ids: Sequence[int], static: cmd.Static
        ) -> int: ...
        def flush(self, device: int | None = None) -> None: ...
        def look_at_all(self) -> None: ...
        def _refuse(self) -> None: ...
        def _hear_changes(self, event: Changed) -> None: ...
        def _tell_changes(self) -> None: ...

    # ---------------------------------------------------------------------------------- waits --
    def get(self, ref: Ref) -> Value:
        """Return a tensor's dtype, shape and bytes. Waits. Raises what it is poisoned by."""
        lane = ref.lane
        nbytes = lane.held.get(ref.id, 0)
        if nbytes > limits.INLINE_BYTES_MAX:
            self.transport.expect(lane.device, nbytes)
        return self._ask(lane.device, (ref.id,), cmd.GET_BYTES)

    def spec_of(self, ref: Ref) -> Value:
        """Return a tensor's dtype and shape, for ops whose result depends on values. Waits."""
        return self._ask(ref.device, (ref.id,), cmd.GET_SPEC)

    def wait_for(self, ref: Ref) -> None:
        """Wait until a tensor is computed; raise what it is poisoned by."""
        self._ask(ref.device, (ref.id,), cmd.GET_SPEC)

    def synchronize(self, device: int | None = None) -> None:
        """Wait until all commands have run; raise the first error that nobody has seen."""
        for i in range(len(self.devices)) if device is None else (device,):
            self._ask(i, (), cmd.GET_SPEC)

    def memory_of(self, device: int, anew: bool = False) -> tuple[int, int, int]:
        """Return the bytes of this session's tensors on a device: now, at most so far, the limit.

        anew: from now on another most is counted. Waits for all commands before it.
        """
        self.flush(device)  # frees that wait come first
        kind = cmd.GET_MEMORY_ANEW if anew else cmd.GET_MEMORY
        used, peak, limit = np.frombuffer(self._ask(device, (), kind).data, np.int64).tolist()
        return used, peak, limit

    def release_memory(self, device: int) -> None:
        """Let a worker give back what it keeps: freed memory, and room of programs. Waits."""
        self.flush(device)
        self._ask(device, (), cmd.GET_RELEASE)

    def _ask(self, device: int, ids: tuple[int, ...], kind: int, about: int = 0) -> Value:
        site = call_site()
        if self.traced is not None and self.tracer == threading.get_ident():
            raise ControlFlowError(
                f"{describe_site(site)}\n  This line needs a value in the middle of a compiled "
                "function, which is one command for the worker. Use torch.where or torch.cond "
                "instead, read the value after the call, or leave the function uncompiled"
            )
        self._syncs[site] = self._syncs.get(site, 0) + 1
        request = next(self._requests)
        wait = self._waits[request] = Wait()
        try:
            with self._lock:
                self.issue(device, cmd.GET, 0, ids, (request, kind, about))
                self.flush()
            while not wait.done(_LOOK_S) and not self._over:
                pass
        except BaseException:  # Ctrl-C: the bytes need not come
            self.transport.give_up(request)
            raise
        finally:
            self._waits.pop(request, None)
        if wait.value is None:
            self._refuse()
        assert wait.value is not None
        if wait.value.error is not None:
            raise self._resolve(wait.value.error)
        self.raise_pending()
        return wait.value

    def raise_pending(self) -> None:
        """Raise the first error that came since the last wait; the others are noted on it."""
        if self._untold:
            self._tell_changes()
        errors = self._take_errors()
        if errors:
            first = _fresh(errors[0])
            for other in errors[1:]:
                first.add_note(f"also: {type(other).__name__}: {other}")
            raise first

    def _take_errors(self) -> list[FarspanError]:
        errors: list[FarspanError] = []
        if not self._errors:
            return errors
        with contextlib.suppress(IndexError):  # no lock: a sender may hold it while it waits
            while True:
                errors.append(self._errors.popleft())
        return errors

    def _resolve(self, info: ErrorInfo) -> FarspanError:
        """Return the error of a poisoned read; reading counts as having seen it."""
        error = self._known.get(info.command)
        if error is None:
            return self._make_error(info)
        with contextlib.suppress(ValueError):
            self._errors.remove(error)
        return _fresh(error)

    # --------------------------------------------------------------------------------- events --
    def _deliver(self, event: Event) -> None:
        """Take an event from the transport; runs on a thread of its, or inside `send`."""
        if isinstance(event, Value):
            wait = self._waits.get(event.request)
            if wait is not None:
                wait.value = event
                wait.end()
        elif isinstance(event, Acked):
            flights = self._in_flight
            while flights and flights[0][0] <= event.applied:
                flight = flights.popleft()
                self._recent.append(flight)
                numbers = flight[1]
                if self._forward and numbers:
                    self._forget_forward(max(numbers))  # a Free has none
        elif isinstance(event, Failed):
            error = self._make_error(event.error)
            if len(self._known) >= limits.MEMO_ENTRIES_MAX:
                self._known.clear()
            self._known[event.error.command] = error
            if len(self._errors) < limits.ERRORS_UNREAD_MAX:  # the first ones say most
                self._errors.append(error)
        elif isinstance(event, Changed):
            self._hear_changes(event)
        elif isinstance(event, Lost):
            cls = BY_NAME.get(event.kind, ServiceError)
            info = ErrorInfo(event.kind, event.message, event.command)
            self._lost = cls(event.message) if event.command < 0 else self._make_error(info)
            self._over = True
            self.look_at_all()
            for wait in list(self._waits.values()):
                wait.end()

    def _make_error(self, info: ErrorInfo) -> FarspanError:
        site, call, begin = self._site_of(info.command)
        where = describe_site(site)
        cls = BY_NAME.get(info.kind, ServiceError)
        text = f"{info.message}\n  command {info.command} of session {self.id}, issued at {where}"
        forward = self._forward.get(info.command)
        if forward is None and self.walking is not None and info.command > self.walking[0]:
            forward = self.walking[1]
        if type(forward) is dict:
            forward = forward.get(info.forward)
        if forward is None and call is not None:
            forward = call.forward(info.command - begin, info.forward - begin)
        if forward is not None:
            text += f"\n  in the backward of {describe_site(forward)}"
        error = cls(text)
        error.site, error.forward = where, info.forward
        return error

    def note_forward(self, number: int, lines: Any) -> None:
        """Remember the forward line, or lines by forward command, of a command of backward."""
        self._forward[number] = lines
        if self.traced is not None:
            self._traced_lines[number] = lines

    def _forward_lines(self, number: int) -> Any:
        """Return the forward lines of a backward pass while these commands are being traced."""
        return self._traced_lines.get(number)

    def _forget_forward(self, last: int) -> None:
        """Forget the forward lines of commands that have run."""
        with contextlib.suppress(RuntimeError):  # another thread is adding: the next ack comes back
            while self._forward and (number := next(iter(self._forward))) <= last:
                del self._forward[number]

    def _site_of(self, number: int) -> tuple[Site | None, CallSite | None, int]:
        """Return the line of a command; of one in a Call also that, and the Call's number."""
        for _, numbers, sites, _ in list(self._in_flight):
            for have, site in zip(numbers, sites, strict=False):
                if type(site) is CallSite:
                    line = site.at(number - have)
                    if line is not None:
                        return line, site, have
                elif have == number:
                    return site, None, have
        return None, None, 0
