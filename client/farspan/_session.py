"""Session: the client's end of the stream - ids, open frames and what is sent when.

Commands gather in one open frame a device; frames share one sequence. A session may be used from
several threads. `_answers.py` waits and takes what comes back. The transport moves frames and
delivers events: `_local.LocalTransport` in this process, `_transport.GrpcTransport` over the wire.
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
from ._sending import Sending
from ._sites import Site, call_site, describe_site
from .core import command as cmd
from .core import limits
from .core.command import Event, Frame
from .core.dtype import Defaults, Device
from .core.errors import (
    BadValueError,
    DeviceError,
    FarspanError,
    ProtocolError,
    SessionClosedError,
)
from .core.limits import (
    FLUSH_COMMANDS,
    FLUSH_IDS,
    FLUSH_WORK_BYTES,
    FREE_IDS,
    IDLE_COMMANDS,
    IDLE_WORK_BYTES,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger("farspan")


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
        """Take the frame. If that fails or is interrupted before, its sequence is 0 again."""

    def upload(self, transfer: int, device: int, data: memoryview) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def give_up(self, request: int) -> None:
        """Stop the download of an answer that nobody waits for any more."""

    def worker_stats(self) -> list[dict[str, Any]]: ...
    def close(self) -> None: ...


class Ref:
    """A counted claim on an engine's tensor; when it goes, so does the tensor."""

    __slots__ = ("__weakref__", "device", "id", "large", "session")

    def __init__(self, session: Session, device: int, id_: int, nbytes: int = 0) -> None:
        self.session = session
        self.device = device
        self.id = id_
        self.large = nbytes >= limits.FREE_BYTES
        session._held[device][id_] = nbytes

    def __del__(self) -> None:
        # Runs at any time, inside of other calls too: a deque's append is one atomic step.
        self.session._freed[self.device].append(self.id)
        if self.large:
            self.session._free_now[self.device] = True


def device_names(kinds: Sequence[str]) -> list[str]:
    """Return the devices' names by kind: the first CPU is ``cpu``, as torch calls it."""
    names = [f"{kind}:{list(kinds[:i]).count(kind)}" for i, kind in enumerate(kinds)]
    return ["cpu" if name == "cpu:0" else name for name in names]


class Session(Answers, Sending):
    """A connection to devices that hold tensors. Made by `farspan.connect`."""

    def __init__(self, transport: Transport, address: str, replay: bool = False) -> None:
        Answers.__init__(self)
        Sending.__init__(self, len(transport.kinds), replay)
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
        self._ids = itertools.count(1)
        self._numbers = itertools.count(1)
        self._requests = itertools.count(1)
        self._open = [Frame(i) for i in range(len(self.devices))]
        self._sites: list[list[Site | None]] = [[] for _ in self.devices]
        self._freed: list[deque[int]] = [deque() for _ in self.devices]
        self._free_now = [False] * len(self.devices)  # much memory waits to be freed
        self._pending_bytes = [0] * len(self.devices)  # of results, by the open frame
        self._loss_seen = False  # somebody was told of it
        self._closed = False
        self._over = False  # closed, lost or inherited by a fork: one flag for the hot path
        self._pid = os.getpid()
        _sessions.add(self)
        self.debug: str | None = None
        self._commands = 0
        self.last_number, self.last_site = 0, None  # of the last command
        self._held: list[dict[int, int]] = [{} for _ in self.devices]  # id -> bytes, 0 for views
        self._owed = threading.Event()  # an open frame waits for company
        transport.set_sink(self._deliver)
        self._flusher_awake = False
        if getattr(transport, "needs_timer", False):
            threading.Thread(
                target=_flush_late, args=(weakref.ref(self), self._owed), daemon=True
            ).start()

    # ---------------------------------------------------------------------------------- issue --
    def new_id(self) -> int:
        return next(self._ids)

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
        payload: bytes | None = None,
    ) -> int:
        """Append a command to the device's open frame and return its number. Does not wait.

        payload: the bytes of an inline Put. This is what every operation pays: keep it short.
        """
        site = call_site()
        with self._lock:
            if self._over:
                self._refuse()
            if len(ids) > limits.TENSORS_PER_COMMAND_MAX:
                raise BadValueError(
                    f"one operation on {len(ids)} tensors; at most {limits.TENSORS_PER_COMMAND_MAX}"
                )
            frame = self._open[device]
            if frame.default_dtype != Defaults.dtype.code:
                if frame.opcodes:
                    self._send(device)
                    frame = self._open[device]
                frame.default_dtype = Defaults.dtype.code
            if self._free_now[device] or len(self._freed[device]) >= FREE_IDS:
                self._append_frees(frame, device)
            sites, count = self._sites[device], len(frame.opcodes)
            number = next(self._numbers)
            try:
                frame.opcodes.append(opcode)
                frame.modes.append(mode)
                frame.counts.append(len(ids))
                frame.ids += ids
                if payload is not None:
                    static = (*static, len(frame.payloads), 0)
                    frame.payloads.append(payload)
                frame.statics.append(static)
                frame.scalar_counts.append(len(scalars))
                if scalars:
                    frame.scalars += scalars
                sites.append(site)
                frame.numbers.append(number)
            except BaseException:  # Ctrl-C between two columns
                if len(frame.numbers) == count:
                    frame.cut(count)
                    del sites[count:]
                raise
            self._commands += 1
            self.last_number, self.last_site = number, site
            pending = self._pending_bytes[device] = self._pending_bytes[device] + nbytes
            count += 1
            if (
                count >= FLUSH_COMMANDS
                or pending >= FLUSH_WORK_BYTES
                or self.transport.watched
                or ((count >= IDLE_COMMANDS or pending >= IDLE_WORK_BYTES) and self.transport.idle)
                or len(frame.ids) >= FLUSH_IDS
                or len(frame.scalars) >= FLUSH_IDS
            ):
                self._send(device)
            elif count == 1 and not self._flusher_awake:
                self._owed.set()
        if self.debug is not None and opcode != cmd.GET:
            self.synchronize()
        return number

    def put(self, device: int, id_: int, dtype: int, shape: tuple[int, ...], data: Any) -> None:
        """Make tensor `id_` from bytes: inline if small, else by a transfer beside the stream."""
        view = memoryview(data)
        nbytes = view.nbytes
        if nbytes <= limits.INLINE_BYTES_MAX:
            # Inline bytes weigh more than results: 32 KiB of them end a frame.
            weight = max(nbytes, nbytes * limits.FLUSH_WORK_BYTES // limits.FLUSH_BYTES)
            static: cmd.Static = (dtype, shape)
            self.issue(device, cmd.PUT, 0, (id_,), static, (), weight, bytes(view))
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

    def _append_frees(self, frame: Frame, device: int) -> None:
        freed, count = self._freed[device], len(frame.opcodes)
        self._free_now[device] = False
        try:
            ids = [freed.popleft() for _ in range(min(len(freed), limits.FREE_IDS_MAX))]
            frame.opcodes.append(cmd.FREE)
            frame.modes.append(0)
            frame.counts.append(len(ids))
            frame.ids += ids
            frame.statics.append(())
            frame.scalar_counts.append(0)
            self._sites[device].append(None)
            frame.numbers.append(0)  # it cannot fail
        except BaseException:  # Ctrl-C: the worker may keep a few tensors too long
            if len(frame.numbers) == count:
                frame.cut(count)
                del self._sites[device][count:]
            raise
        held = self._held[device]
        for id_ in ids:
            held.pop(id_, None)

    # -------------------------------------------------------------------------------- closing --
    def _refuse(self) -> None:
        if os.getpid() != self._pid:
            raise SessionClosedError(
                "this session was opened before a fork; a child process must connect for itself"
            )
        if self._lost is not None:
            self._loss_seen = True
            raise type(self._lost)(*self._lost.args)
        raise SessionClosedError("this session is closed")

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
            self._tell_unread(wait)
        finally:
            with self._lock:
                self._closed = self._over = True
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

    # ------------------------------------------------------------------------------ reporting --
    def describe(self) -> dict[str, Any]:
        """Return ``{"id", "address", "devices": [{"name", "kind", "host", "pid", "epoch"}]}``."""
        devices = [dict(d) for d in self.transport.devices]
        return {"id": self.id, "address": self.address, "devices": devices}

    def worker_stats(self) -> list[dict[str, Any]]:
        """Return what each device's worker counts of this session: commands, bytes, tensors."""
        self.flush()
        return self.transport.worker_stats()

    def stats(self) -> dict[str, Any]:
        """Return counts: commands, frames, bytes each way, sync points by line, live tensors."""
        live = {}
        for device, held, freed in zip(self.devices, self._held, self._freed, strict=True):
            gone = set(freed)
            sizes = [n for i, n in list(held.items()) if i not in gone]
            live[str(device)] = {"tensors": len(sizes), "bytes": sum(sizes)}
        syncs = {describe_site(site): n for site, n in self._syncs.items()}
        return {
            "commands": self._commands,
            **self.transport.stats(),
            "sync_points": sum(syncs.values()),
            "sync_sites": syncs,
            "live": live,
        }

    def __repr__(self) -> str:
        names = ", ".join(map(str, self.devices))
        state = "closed" if self._closed else "lost" if self._lost else "open"
        return f"<farspan session {self.id} at {self.address}: {names} ({state})>"


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _after_fork() -> None:
    for session in list(_sessions):
        session._over = True
        session._lock = threading.RLock()  # a thread that is not here may have held it


os.register_at_fork(after_in_child=_after_fork)


def _flush_late(ref: weakref.ref[Session], owed: threading.Event) -> None:
    """Send open frames that have waited FLUSH_DELAY_S for company; ends with its session.

    While commands come it looks by itself, every FLUSH_DELAY_S: waking it by each of them would put
    a change of threads into the way of every value that is read.
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
        quiet = 0
        while quiet < limits.FLUSH_QUIET_ROUNDS:
            issued = session._commands
            del session
            time.sleep(limits.FLUSH_DELAY_S)
            session = ref()
            if session is None or session._over:
                return  # whoever uses the session next is told why
            quiet = quiet + 1 if session._commands == issued else 0
            session._flush_old()
        session._flusher_awake = False
        session._flush_old()  # what came before the flag was seen
        del session
