"""Session: the client's end of the stream - ids, open frames and what is sent when.

Commands gather in one open frame a device; frames share one sequence. A session may be used from
several threads. `_answers.py` waits and takes what comes back, `_lasting.py` says what outlives the
client. The transport moves frames and delivers events: `_local.LocalTransport` in this process,
`_transport.GrpcTransport` over the wire.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from ._answers import Answers
from ._gather import Lane, Ref, Sealed
from ._lasting import Lasting
from ._moving import Flight, Moving
from ._program import Program, undefine
from ._replay import Replay
from ._reporting import Reporting
from ._sites import Site, call_site
from .core import command as cmd
from .core import limits
from .core.command import Event, Frame
from .core.dtype import Device
from .core.errors import (
    BadValueError,
    DeviceError,
    FarspanError,
    ProtocolError,
    SessionClosedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger("farspan")

#: What is no op and no backward pass, of what there may be many.
_NEITHER = (cmd.FREE, cmd.GET, cmd.PUT, cmd.CALL, cmd.LINK, cmd.GROW)


class Transport(Protocol):
    """What carries frames to the engines and brings events back."""

    session_id: str
    kinds: Sequence[str]  # of each device; known without a worker
    devices: Sequence[dict[str, Any]]  # {"name", "kind", "host", "pid", "epoch"}; takes workers
    #: Whether a frame sent now would be the only one under way, so that waiting for company
    #: would only add latency.
    idle: bool
    #: Whether somebody looks at the memory itself (numpy on local:), so that nothing may wait.
    watched: bool
    ready: bool  # whether a frame sent now would not have to wait

    def set_sink(self, sink: Callable[[Event], None]) -> None: ...
    def send(self, frame: Frame) -> Any:
        """Take the frame and number it; its sequence is 0 if that fails or is interrupted."""

    def upload(self, transfer: int, device: int, data: memoryview) -> None: ...
    def stats(self) -> dict[str, Any]: ...
    def give_up(self, request: int) -> None:
        """Stop the download of an answer that nobody waits for any more."""

    def expect(self, device: int, nbytes: int) -> None: ...  # an answer of so many bytes; may wait
    def worker_stats(self) -> list[dict[str, Any]]: ...

    numerics: Sequence[str]  # the key of each device's worker; does not wait

    def move(self, to: str, allow_numerics_change: bool) -> list[dict[str, Any]]: ...  # waits
    def keep(self, name: str, body: str) -> None: ...  # waits; an empty body takes the name back
    def kept(self) -> dict[str, str]: ...
    def detach(self) -> None: ...
    def hurry(self) -> None: ...  # the end is near: a gateway that is away is not waited for long
    def close(self) -> None: ...


def device_names(kinds: Sequence[str]) -> list[str]:
    """Return the devices' names by kind: the first CPU is ``cpu``, as torch calls it."""
    names = [f"{kind}:{list(kinds[:i]).count(kind)}" for i, kind in enumerate(kinds)]
    return ["cpu" if name == "cpu:0" else name for name in names]


class Session(Answers, Lasting, Moving, Reporting):
    """A connection to devices that hold tensors. Made by `farspan.connect`."""

    def __init__(self, transport: Transport, address: str, replay: bool = False) -> None:
        super().__init__()
        self.transport = transport
        self.address = address
        self.id = transport.session_id
        self.devices = tuple(map(Device, device_names(transport.kinds)))
        self._index = {d: i for i, d in enumerate(self.devices)}
        first_cpu = next((i for i, d in enumerate(self.devices) if d.type == "cpu"), 0)
        self._index[Device("cpu")] = self._index[Device("cpu", 0)] = first_cpu
        cuda = next((i for i, d in enumerate(self.devices) if d.type == "cuda"), None)
        if cuda is not None:
            self._index[Device("cuda")] = cuda
        self.default_device = self.devices[first_cpu]
        self._lock = threading.RLock()
        first = getattr(transport, "first_number", 1)  # of a client that took the session over
        self._ids = itertools.count(first)
        self._counted: Iterator[int] = itertools.count(first)
        self._requests = itertools.count(first)
        self.lanes = [Lane(self, i) for i in range(len(self.devices))]
        self._ready: list[Sealed] = []  # sealed, to be sent before all that comes
        self._replays = [Replay(lane, replay) for lane in self.lanes]
        self._calls = 0  # Calls sent
        self._applied = 0  # ops and backward passes sent by themselves
        self.generators: set[int] = set()  # ids of those that are no default
        self.tracer = 0  # the thread that traces
        #: While a function is traced: every frame that left, and its numbers as they were given.
        self.traced: list[tuple[Frame, list[Any], list[Any]]] | None = None
        self.traced_room = 0  # commands that may be noted still: more of them are no program
        self._sequence = getattr(transport, "sequence", 0)
        self._in_flight: deque[Flight] = deque()
        self._loss_seen = False  # somebody was told of it
        self._closed = False
        self._ended = "this session is closed"  # why nothing can be done, once it is
        self._over = False  # closed, lost or inherited by a fork: one flag for the hot path
        self._pid = os.getpid()
        _sessions.add(self)
        self._debug: str | None = None
        self.last_site: Site | None = None  # of the last `issue`
        self._sealed_commands = 0
        self._owed = threading.Event()  # an open frame waits for company
        self._has_timer = getattr(transport, "needs_timer", False)
        transport.set_sink(self._deliver)
        self._flusher_awake = False
        for lane in self.lanes:
            self._begin(lane)
        if self._has_timer:
            mine = (weakref.ref(self), self._owed)
            threading.Thread(target=_flush_late, args=mine, daemon=True).start()

    # ---------------------------------------------------------------------------------- issue --
    def new_id(self) -> int:
        return next(self._ids)

    @property
    def _numbers(self) -> Iterator[int]:
        """What numbers commands; lanes have it too, as every command asks."""
        return self._counted

    @_numbers.setter
    def _numbers(self, numbers: Iterator[int]) -> None:
        self._counted = numbers
        for lane in self.lanes:
            lane.numbers = numbers

    def index_of(self, device: Device) -> int:
        """Return the number of a device. DeviceError if the session has no such device."""
        found = self._index.get(device)
        if found is None:
            have = ", ".join(map(str, self.devices))
            raise DeviceError(
                f"this session has no device {str(device)!r}; it has {have}. "
                f'Ask for more with farspan.connect(..., devices="{device.type}:N")'
            )
        return found

    def issue(
        self,
        device: int,
        opcode: int,
        mode: int,
        ids: Sequence[int],
        static: cmd.Static,
        scalars: Sequence[Any] = (),
        nbytes: int = 0,
    ) -> int:
        """Append a command to what gathers for the device and return its number. Does not wait."""
        site = call_site()
        lane = self.lanes[device]
        if self._over:
            self._refuse()
        if len(ids) > limits.TENSORS_PER_COMMAND_MAX:
            raise BadValueError(
                f"one operation on {len(ids)} tensors; at most {limits.TENSORS_PER_COMMAND_MAX}"
            )
        if lane.free_now:
            lane.free()
        number, self.last_site = next(lane.numbers), site
        lane.add((opcode, mode, tuple(ids), static, tuple(scalars), number, site))
        lane.work += max(
            1,
            nbytes // limits.WORK_BYTES,
            len(ids) // limits.WORK_IDS,
            len(scalars) // limits.WORK_IDS,
        )
        if lane.work >= lane.due:
            self._look(lane)
        if self._debug is not None and opcode != cmd.GET:
            self.synchronize()
        return number

    def look(self, lane: Lane) -> None:
        """Do what is due on a lane: what an operation does that has appended its command itself."""
        self._look(lane)
        if self._debug is not None:
            self.synchronize()

    def _look(self, lane: Lane) -> None:
        """Send what has gathered if it is much, or if nothing else is under way."""
        with self._lock:
            if self._over:
                lane.commands.clear()
                self._refuse()
            if lane.free_now:
                lane.free()
            work, transport = lane.work, self.transport
            # Of a run that goes as predicted the flusher sends what gathers, within a millisecond.
            gathers = self._flusher_awake and self._replays[lane.device].expects
            if work >= limits.FLUSH_COMMANDS and lane.grows():
                lane.due = work + limits.FLUSH_COMMANDS
            elif (
                work >= limits.FLUSH_COMMANDS
                or transport.watched
                or (work >= limits.IDLE_COMMANDS and transport.idle and not gathers)
            ):
                self._send(lane)
            else:
                self._begin(lane)
                if work >= limits.IDLE_COMMANDS:  # look rarely while a worker is busy
                    lane.due = min(2 * work, limits.FLUSH_COMMANDS)
                elif work and not self._flusher_awake:
                    self._owed.set()
                    lane.due = limits.IDLE_COMMANDS

    def _begin(self, lane: Lane) -> None:
        """Say when a lane is looked at next, if nothing has gathered."""
        if self.transport.watched or self._debug is not None or self._over:
            lane.due = 0
        elif self._has_timer:
            lane.due = limits.IDLE_COMMANDS if self._flusher_awake else 1
        else:  # gathering costs nothing where nothing travels
            lane.due = limits.FLUSH_COMMANDS

    def look_at_all(self) -> None:
        """Let the next command of every lane find out what has changed: a mode, or the end."""
        for lane in self.lanes:
            lane.due = 0

    @property
    def debug(self) -> str | None:
        """``"sync"`` while every command waits until it has run."""
        return self._debug

    @debug.setter
    def debug(self, mode: str | None) -> None:
        self._debug = mode
        self.look_at_all()

    @property
    def last_number(self) -> int:
        """The number of the last command."""
        return max([lane.last_number() for lane in self.lanes])

    def put(self, device: int, id_: int, dtype: int, shape: tuple[int, ...], data: Any) -> None:
        """Make tensor `id_` from bytes: inline if small, else by a transfer beside the stream."""
        view = memoryview(data)
        nbytes = view.nbytes
        if nbytes <= limits.INLINE_BYTES_MAX or nbytes <= self.transport.payload_bytes_max:
            # Inline bytes weigh more than results: 32 KiB of them end a frame, so that they leave
            # early. Long ones are a step's batch, which its commands follow: 1 MiB of those does.
            short = nbytes <= limits.INLINE_BYTES_MAX
            end = limits.FLUSH_BYTES if short else limits.FRAME_PAYLOADS_BYTES
            weight = nbytes * limits.FLUSH_WORK_BYTES // end
            static: cmd.Static = (dtype, shape, bytes(view))
            self.issue(device, cmd.PUT, 0, (id_,), static, (), weight)
        else:
            transfer = next(self._requests)
            self.transport.upload(transfer, device, view)
            static = (dtype, shape, -1, transfer)
            self.issue(device, cmd.PUT, 0, (id_,), static, (), nbytes)

    def copy_across(self, source: Ref, id_: int, to: int, dtype: int, shape: Any) -> None:
        """Copy a tensor to another device of the session, worker to worker. Does not wait."""
        transfer = next(self._requests)
        static = (transfer, cmd.GET_SEND, to)
        with self._lock:
            self.issue(source.device, cmd.GET, 0, (source.id,), static, ())
            self.flush(source.device)  # the sender goes first, so the receiver cannot starve
            self.issue(to, cmd.PUT, 0, (id_,), (dtype, shape, -1, transfer), ())

    def flush(self, device: int | None = None) -> None:
        """Send what has gathered. Does not wait for it to run."""
        with self._lock:
            for lane in self.lanes if device is None else (self.lanes[device],):
                if self._over:
                    self._refuse()
                self._send(lane, all_frees=True, ending=True)

    def _flush_old(self, last: bool = False) -> bool:
        """Send what is open, unless the worker is behind: the flusher shall not hold the lock.

        What is held until its run is complete has more time, and all the time while the worker has
        something to do. A frame that grows is left to grow until it is seen once more.
        last: nobody looks again. Returns whether anything was open or held.
        """
        if not (self._ready or any(r.held or r.lane.commands for r in self._replays)):
            return False
        if not self.transport.ready:
            return True
        try:
            with self._lock:
                for replay in self._replays:
                    lane = replay.lane
                    seen, lane.seen_number = lane.seen_number, lane.sealed_number
                    if seen != lane.sealed_number and not last and lane.grows():
                        continue
                    if not replay.held or (replay.overdue() and self.transport.idle):
                        self._send(lane, all_frees=True, late=True)
        except FarspanError as error:
            log.debug("a frame could not be sent yet: %s", error)
        return True

    def _send(
        self, lane: Lane, all_frees: bool = False, ending: bool = False, late: bool = False
    ) -> None:
        """Seal what has gathered and hand it over; what is not taken now is sent before the rest.

        all_frees: few ids of small tensors are freed too. ending: somebody waits, so that a run
        is over. late: what is held has been held for too long.
        """
        self._hand_over()
        numbers = self._replays[lane.device].numbers
        # Before the commands are taken: all Calls of what is gone are among these.
        gone = numbers.take_gone() if numbers.gone or numbers.leaving else ()
        while lane.commands or (all_frees and lane.freed):
            self._seal(lane, all_frees)
            self._hand_over()
        if gone:
            self._ready += ((undefine(lane.device, gone), [None]),)
            numbers.give(gone)
            self._hand_over()
        if (ending or late) and self._replays[lane.device].held:
            self._release(self._replays[lane.device])
            self._hand_over()

    def _seal(self, lane: Lane, all_frees: bool = False) -> None:
        """Move a frame's worth of commands from a lane to what is ready to be sent, or is held."""
        # First the counts, then the commands: a thread that appends meanwhile at worst looks early.
        lane.work = 0
        self._begin(lane)
        sealed, count = lane.seal(all_frees)
        last, commands = max(sealed[0].numbers, default=0), lane.commands
        replay = self._replays[lane.device]
        out, held, failure = (sealed,), [], None
        if self.traced is not None:
            self._watch(*sealed)
        elif replay.on:
            try:
                out, held = replay.take(*sealed)
            except BaseException as error:  # Ctrl-C, or a defect: all of it goes as it came
                replay.lose()
                out, held, failure = (*replay.held, sealed), [], error
        # No calls from here on, so a Ctrl-C or another thread finds all of it done, or none.
        self._ready += out
        replay.held = held
        del commands[:count]
        lane.sealed_number = last or lane.sealed_number
        self._sealed_commands += count
        if isinstance(failure, Exception):
            replay.switch(False)
            log.error("a defect in automatic replay, which is off from now on", exc_info=failure)
        elif failure is not None:
            raise failure

    def note_region(self) -> None:
        """Note that a compiled function has run eagerly: a run with it may be rounded elsewhere."""
        for replay in self._replays:
            replay.note_region()

    def take_numbers(self, numbers: Iterator[int]) -> None:
        """Let commands take their numbers from there."""
        for lane in self.lanes:
            lane.numbers = numbers
        self._numbers = numbers

    def tracer_off(self) -> bool:
        """Return whether commands must be seen one by one."""
        from ._anomaly import anomaly

        return anomaly.enabled

    def ask_program(self, device: int, number: int) -> bytes:
        """Return what a worker says of a program, as JSON. Waits."""
        answer = self._ask(device, (), cmd.GET_PROGRAM, number)
        return bytes(answer.data or b"{}")

    def define(self, lane: Lane, program: Program) -> None:
        """Let the worker know a program, before whatever comes next. The caller has the lock."""
        program.told = False
        frame = program.define(lane.device)
        sealed = ((frame, [None] * len(frame)),)
        while lane.commands:
            self._seal(lane)
        self._release(self._replays[lane.device])
        self._ready += sealed  # no calls from here on: see `_seal`
        program.told = True

    def _release(self, replay: Replay) -> None:
        """Let what is held be sent as it came."""
        replay.lose()
        self._ready += replay.held
        replay.held = []

    def _watch(self, frame: Frame, sites: list[Any]) -> None:
        """Note a frame of a function that is traced; its numbers leave as Python's own."""
        assert self.traced is not None
        tagged = frame.scalars
        frame.scalars = [x.real if isinstance(x, float) else x for x in tagged]
        if self.traced_room > 0:
            self.traced.append((frame, sites, tagged))
            self.traced_room -= len(frame)

    def seal_all(self) -> None:
        """Seal what has gathered: what comes runs under another default dtype. Does not send."""
        with self._lock:
            for lane in self.lanes:
                while lane.commands:
                    self._seal(lane)

    def _hand_over(self) -> None:
        """Give what is ready to the transport, in order; what is not taken stays."""
        while self._ready:
            frame, sites = self._ready[0]
            try:
                self._hand_over_one(frame, sites)
            except ProtocolError:
                if frame.sequence or len(frame) == 1 or frame.opcodes[0] == cmd.DEFINE:
                    raise
                half = len(frame) // 2  # too long for one message on the wire
                first, rest = frame.split(half)
                self._ready[:1] = [(first, sites[:half]), (rest, sites[half:])]

    def _hand_over_one(self, frame: Frame, sites: list[Site | None]) -> None:
        frame.sequence = 0  # until the transport has taken it
        numbers = [] if frame.opcodes[0] == cmd.DEFINE else frame.numbers  # not those of commands
        flight = (self._sequence + 1, numbers, sites, frame.opcodes)
        try:
            self._in_flight.append(flight)  # before: on `local:` its events come within `send`
            self.transport.send(frame)
        finally:
            if frame.sequence:  # taken, whatever has interrupted us since: never twice
                self._sequence = frame.sequence
                del self._ready[0]
            elif self._in_flight and self._in_flight[-1] is flight:
                self._in_flight.pop()
        if numbers:
            opcodes = frame.opcodes
            if min(opcodes) < cmd.FIRST_OPCODE:
                self._applied -= sum(map(opcodes.count, _NEITHER))
                self._calls += opcodes.count(cmd.CALL)
            self._applied += len(opcodes)

    # -------------------------------------------------------------------------------- closing --
    def _refuse(self) -> None:
        if os.getpid() != self._pid:
            raise SessionClosedError(
                "this session was opened before a fork; a child process must connect for itself"
            )
        if self._lost is not None:
            self._loss_seen = True
            raise type(self._lost)(*self._lost.args)
        raise SessionClosedError(self._ended)

    def _leave(self, why: str) -> None:
        from . import _state

        _state.forget(self)
        with self._lock:
            self._ended = why
            self._closed = self._over = True
            self.look_at_all()

    def close(self) -> None:
        """End the session and free its tensors. Waits; errors that nobody read are printed."""
        self._close(wait=True)

    def _close(self, *, wait: bool) -> None:
        from . import _state

        _state.forget(self)
        if self._closed or os.getpid() != self._pid:
            self._closed = self._over = True
            return
        try:
            self.transport.hurry()  # another thread may wait, and hold the lock
            self._tell_unread(wait)
        finally:
            with self._lock:
                self._closed = self._over = True
                self.look_at_all()
            self.transport.close()

    def _tell_unread(self, wait: bool) -> None:
        """Print the errors that no wait has raised; the last commands may still add some."""
        if self._lost is None and wait:
            try:
                self.synchronize()
            except FarspanError as error:
                self._errors.appendleft(error)
        unread = self._take_errors()
        if self._lost is not None and not self._loss_seen:
            unread.append(self._lost)
        for e in unread:
            notes = "".join(f"\n  {note}" for note in getattr(e, "__notes__", ()))
            text = f"farspan: an error that nobody read: {type(e).__name__}: {e}{notes}"
            print(text, file=sys.stderr)

    def __enter__(self) -> Session:
        from . import _state

        _state.push(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        # After a Ctrl-C nobody wants to wait for the rest.
        self._close(wait=kind is None or issubclass(kind, Exception))

    # -------------------------------------------------------------------------------- settings --
    @property
    def replay(self) -> bool:
        """Whether runs of commands that repeat are sent as one Call; results do not depend on it.

        >>> import farspan
        >>> with farspan.connect("local:") as session:
        ...     session.replay = False
        ...     session.stats()["replay"]["on"]
        False
        """
        return self._replays[0].on

    @replay.setter
    def replay(self, on: bool) -> None:
        with self._lock:
            self.flush()
            for replay in self._replays:
                replay.switch(bool(on))

    def __repr__(self) -> str:
        names = ", ".join(map(str, self.devices))
        state = "closed" if self._closed else "lost" if self._lost else "open"
        return f"<farspan session {self.id} at {self.address}: {names} ({state})>"


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _after_fork() -> None:
    for session in list(_sessions):
        session._over = True
        session.look_at_all()
        session._lock = threading.RLock()  # a thread that is not here may have held it


def default_dtype_changes() -> None:
    """Seal what all sessions have gathered: a frame has one default dtype."""
    for session in list(_sessions):
        if not session._over:
            session.seal_all()


os.register_at_fork(after_in_child=_after_fork)


def _flush_late(ref: weakref.ref[Session], owed: threading.Event) -> None:
    """Send open frames that have waited FLUSH_DELAY_S for company; ends with its session.

    While commands come it looks by itself, every FLUSH_DELAY_S: waking it by each of them would put
    a change of threads into the way of every value that is read. It looks more rarely while whoever
    issues them leaves nothing open, because each is followed by a read that sends it.
    """
    while True:
        if not owed.wait(1.0):
            if ref() is None:
                return
            continue
        owed.clear()
        session = ref()
        if session is None:
            return
        session._flusher_awake = True
        quiet, delay_s = 0, limits.FLUSH_DELAY_S
        while quiet < limits.FLUSH_QUIET_ROUNDS:
            issued = session.commands
            del session
            time.sleep(delay_s)
            session = ref()
            if session is None or session._over:
                return  # whoever uses the session next is told why
            quiet = quiet + 1 if session.commands == issued else 0
            if session._flush_old() or quiet:
                delay_s = limits.FLUSH_DELAY_S
            else:
                delay_s = min(2 * delay_s, limits.FLUSH_RARELY_S)
        with session._lock:
            session._flusher_awake = False
            for lane in session.lanes:
                lane.due = min(lane.due, 1)  # the next command wakes it
        session._flush_old(last=True)  # what came before the flag was seen
        del session
