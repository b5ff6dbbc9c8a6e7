"""What a worker has received and not yet run: sessions, their frames, the transfers they wait for.

A state machine without threads, sockets or clock; `server.py` calls it under one lock.
Order holds within a session; a session that waits for bytes holds up no other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from farspan.core import limits, link
from farspan.core.command import ErrorInfo, Event, Frame
from farspan.core.errors import CapacityError, ProtocolError
from farspan.core.units import human
from farspan.core.words import Switch

from farspan_worker.snapshot import Held, Transfers
from farspan_worker.turns import Share, piece_of

if TYPE_CHECKING:
    from farspan_worker.shared import Segment
    from farspan_worker.snapshot import Restorer
    from farspan_worker.unchanged import Remembered

#: What a Put reads: the bytes of its transfer, or why they will not come.
Transfer = memoryview | ErrorInfo


class Engine(Protocol):
    """The state machine of one session; `engine.py` holds the real one."""

    timeline: Any  # of what ran, while the client profiles; else None
    #: Gives room for so many bytes where the client reads them itself, or None. Not all use it.
    outlet: Any
    steady: bool  # which kernels run may not depend on time
    programs: Any  # which hears of switches, where the gateway orders them

    running: int  # the number of the command that runs, or ran last

    def handle(self, frame: Frame, transfers: dict[int, Any]) -> list[Event]: ...
    def resume(self, frame: Frame, transfers: dict[int, Any]) -> list[Event]: ...
    def close(self) -> None: ...
    def stats(self) -> dict[str, Any]: ...


@dataclass(slots=True, frozen=True)
class Cut:
    """Stands between two frames: there a snapshot is taken.

    base: of the last one whose files the new one may refer to; 0: none.
    """

    number: int
    base: int = 0


@dataclass(slots=True, eq=False)
class Session:
    """One session on this worker. `owner` is whatever sent the OPEN; it gets the events."""

    channel: int
    body: link.Open
    engine: Engine
    owner: Any
    frames: deque[tuple[Frame | Cut | Switch, list[int]]] = field(default_factory=deque)
    transfers: dict[int, link.Assembly | ErrorInfo] = field(default_factory=dict)
    transfer_bytes: int = 0  # of all assemblies held
    unsent_bytes: int = 0  # of downloads and sends that wait for their link
    applied: int = 0  # sequence of the last frame that ran
    queued: bool = False  # stands in the worker's queue, or runs
    closed: bool = False
    restorer: Restorer | None = None  # takes the state that the session begins with
    loading: bool = False  # from files
    memos: dict[int, Remembered] = field(default_factory=dict)  # of the latest snapshots
    used: dict[int, None] = field(default_factory=dict)  # transfers, the latest ones
    segment: Segment | None = None  # memory that its client has mapped too
    marks: int = 0  # what is none, among the frames
    share: Share = field(default_factory=Share)
    #: Of a frame of which a piece has run: what the rest may read.
    carried: dict[int, Transfer] | None = None


@dataclass(slots=True, frozen=True)
class Taken:
    """A frame, or a piece of one, that is to run."""

    frame: Frame | Cut | Switch
    transfers: dict[int, Transfer]
    resumes: bool = False  # pieces of the same frame have run before
    last: bool = True  # with it the frame has run


class Inbox:
    """The sessions of a worker. `queue(session)` is called once each time one becomes runnable."""

    def __init__(self, queue: Callable[[Session], None]) -> None:
        self.sessions: dict[int, Session] = {}
        self.tenant = ""  # of all sessions that this process has had
        self._queue = queue
        self._ended: deque[int] = deque(maxlen=4_096)  # channels whose late bytes are dropped

    def knows(self, channel: int) -> bool:
        """Return whether the channel is open or was; bytes for any other come too early."""
        return channel in self.sessions or channel in self._ended

    def open(self, channel: int, body: link.Open, engine: Engine, owner: Any) -> Session:
        """Return the new session; raise CapacityError if the process has been another tenant's.

        Also when that one's sessions have ended: what they have freed lies about in this memory.
        """
        if self.knows(channel):
            raise ProtocolError(f"channel {channel} has been used")
        if self.tenant not in ("", body.tenant):
            raise CapacityError("the worker serves another tenant; ask for another worker")
        self.tenant = body.tenant
        session = Session(channel, body, engine, owner)
        self.sessions[channel] = session
        return session

    def end(self, channel: int) -> Session | None:
        """Forget a session and what it waits for; return it, or None if it is not here.

        Its engine is the caller's to close, on the thread that runs frames.
        """
        self._ended.append(channel)
        session = self.sessions.pop(channel, None)
        if session is not None:
            session.closed = True
            if session.segment is not None:
                session.segment.close()
            session.frames.clear()
            session.transfers.clear()
        return session

    def refuse(self, channel: int) -> None:
        """Drop what still comes for a channel that never opened."""
        self._ended.append(channel)

    def frame(self, session: Session, frame: Frame) -> None:
        """Take a frame; raise ProtocolError if it is not for this device or breaks the credits."""
        if frame.device != session.body.device:
            raise ProtocolError(f"a frame for device {frame.device} on {session.body.device}")
        # A replay may still be under way when what came meanwhile follows, a client's credits each.
        most = limits.CREDIT_FRAMES * (2 if session.body.steady else 1)
        if len(session.frames) - session.marks >= most:
            raise ProtocolError(f"more than {most} frames without an ack")
        session.frames.append((frame, frame.transfers()))
        self.wake(session)

    def chunk(self, session: Session, chunk: link.Chunk) -> None:
        """Take a piece of a transfer, or the reason why it fails.

        One that exceeds the session's memory fails by itself: its Put is poisoned.
        """
        if chunk.transfer in session.used:
            return  # a replay: the snapshot has what was made of it
        if chunk.failed:
            self._drop(session, chunk.transfer)
            session.transfers[chunk.transfer] = link.unpack_failure(chunk)
        else:
            assembly = self.assembly(session, chunk)
            if assembly is not None:
                assembly.add(chunk)
        self.wake(session)

    def assembly(self, session: Session, of: link.Chunk | link.Piece) -> link.Assembly | None:
        """Return the transfer that a piece belongs to, or None if it has failed.

        ProtocolError for a first piece that is none, and for more transfers than there may be.
        """
        held = session.transfers.get(of.transfer)
        if isinstance(held, ErrorInfo):
            return None  # the rest of one that failed
        if held is not None:
            return held
        if of.offset and session.body.restore:
            return None  # a replay of one that was given up before the snapshot
        if of.offset:
            raise ProtocolError(f"transfer {of.transfer} begins at {of.offset}")
        if len(session.transfers) >= limits.UPLOADS_MAX and of.transfer < link.MARKERS:
            raise ProtocolError(f"more than {limits.UPLOADS_MAX} transfers under way")
        budget = session.body.memory_bytes_max
        if session.transfer_bytes + of.total > budget:
            session.transfers[of.transfer] = ErrorInfo(
                "OutOfMemoryError",
                f"a transfer of {of.total} bytes ({human(of.total)}) beside "
                f"{session.transfer_bytes} that wait does not fit into the session's "
                f"{budget} ({human(budget)})",
                0,
            )
            return None
        assembly = session.transfers[of.transfer] = link.Assembly(of.total)
        session.transfer_bytes += of.total
        return assembly

    def give_up(self, session: Session, transfer: int) -> None:
        """Forget a transfer that will not go on, and of which no Put is to come."""
        self._drop(session, transfer)

    def cut(self, session: Session, number: int, base: int = 0) -> None:
        """Take a snapshot after the frames before, when all bytes sent before it have come."""
        session.marks += 1
        others = {p.index for p in session.body.devices}  # its own number stands for the gateway
        session.frames.append((Cut(number, base), [link.marker(number, k) for k in sorted(others)]))
        self.wake(session)

    def switch(self, session: Session, switch: Switch) -> None:
        """Switch a plan after the frames before. ProtocolError: there are too many of them."""
        if session.marks >= limits.SWITCHES_MAX:
            raise ProtocolError(f"more than {limits.SWITCHES_MAX} switches that wait")
        session.marks += 1
        session.frames.append((switch, []))
        self.wake(session)

    def transfers(self, session: Session) -> Transfers:
        """Return what a snapshot keeps of the bytes on their way."""
        held: dict[int, Held | ErrorInfo] = {}
        for number, x in session.transfers.items():
            if number < link.MARKERS:
                held[number] = x if isinstance(x, ErrorInfo) else Held(len(x.data), x.come)
        return Transfers(held, list(session.used))

    def restored(self, session: Session, restorer: Restorer) -> None:
        """Let a session go on that has its state; its frames may run."""
        transfers, memo = restorer.transfers, restorer.memo
        session.memos = {memo.number: memo} if memo.number else {}
        for number, x in transfers.held.items():
            if isinstance(x, ErrorInfo):
                session.transfers[number] = x
                continue
            assembly = session.transfers[number] = link.Assembly(x.total)
            session.transfer_bytes += x.total
            flags = link.LAST if len(x.data) == x.total else 0
            assembly.add(link.Chunk(number, x.total, 0, flags, x.data))
        session.used.update(dict.fromkeys(transfers.used))
        session.applied = restorer.applied
        session.restorer = None
        self.wake(session)

    def take(self, session: Session, most: int = limits.FRAME_COMMANDS_MAX) -> Taken | None:
        """Return a queued session's next frame with its transfers, or None if it has ended.

        Of a frame of more than `most` commands a piece is taken; the rest is the next frame.
        """
        if session.closed:
            return None
        frame, names = session.frames.popleft()
        if isinstance(frame, Switch):
            session.marks -= 1
            return Taken(frame, {})
        if isinstance(frame, Cut):
            session.marks -= 1
        resumes = session.carried is not None
        transfers = session.carried if session.carried is not None else {}
        session.carried = None
        for name in names:
            held = self._drop(session, name)
            if held is not None:  # twice in a frame: the engine sees it once and refuses
                transfers[name] = held if isinstance(held, ErrorInfo) else memoryview(held.data)
                if name < link.MARKERS:
                    session.used[name] = None
                    if len(session.used) > limits.TRANSFERS_USED_MAX:
                        del session.used[next(iter(session.used))]
        if (
            isinstance(frame, Cut)
            or len(frame) <= most
            or (count := piece_of(frame, most)) == len(frame)
        ):
            return Taken(frame, transfers, resumes)
        piece, rest = frame.split(count)
        session.frames.appendleft((rest, []))
        session.carried = transfers
        return Taken(piece, transfers, resumes, last=False)

    def ran(self, session: Session, frame: Frame | Cut | Switch, last: bool = True) -> None:
        """Note that what was taken has run; the session may be queued again."""
        if isinstance(frame, Frame) and last:
            session.applied = frame.sequence
        session.queued = False
        self.wake(session)

    def wake(self, session: Session) -> None:
        """Queue the session if its next frame can run now and it does not stand there yet."""
        if session.closed or session.queued or not session.frames or session.restorer is not None:
            return
        if session.unsent_bytes > min(limits.UNSENT_BYTES_MAX, session.body.memory_bytes_max // 8):
            return  # it waits for its reader; other sessions go on
        held = session.transfers
        for name in session.frames[0][1]:
            transfer = held.get(name)
            if transfer is None or (isinstance(transfer, link.Assembly) and not transfer.done):
                return
        session.queued = True
        self._queue(session)

    def _drop(self, session: Session, transfer: int) -> link.Assembly | ErrorInfo | None:
        held = session.transfers.pop(transfer, None)
        if isinstance(held, link.Assembly):
            session.transfer_bytes -= len(held.data)
        return held
