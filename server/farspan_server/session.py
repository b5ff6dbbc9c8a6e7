"""One session as the gateway sees it: a state machine over frames, acks, workers and its client.

No I/O, clock or randomness inside: `handle(input, now) -> outputs`, and the gateway carries the
outputs out, in their order. It knows frames by their headers only. Read `pool.py` for how workers
are found, `history.py` for what a journalled session leaves on disk.

A journalled session survives its worker and its client's connection. When a worker is lost it
claims others, and the frames since its last snapshot are forwarded again; what those tell a second
time is dropped here. When the stream breaks, events that the client has not confirmed are told
again to the stream that resumes, under a new epoch, which fences the old one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from farspan.core import limits
from farspan.core.errors import ProtocolError
from farspan.wire import FrameHeader

from farspan_server.session_messages import (
    Again,
    Append,
    Assigned,
    Attached,
    Bereft,
    Claim,
    ClientClosed,
    ClientGone,
    Commit,
    Confirmed,
    Cut,
    CutFailed,
    CutTaken,
    Do,
    End,
    EventsIn,
    EventsOut,
    Fault,
    Forward,
    FrameIn,
    Input,
    JournalFailed,
    Leave,
    Load,
    Mark,
    Note,
    Noted,
    Output,
    Ready,
    Refuse,
    Replay,
    Reserve,
    Rest,
    Resumed,
    SetAside,
    Synced,
    TakeCut,
    Tick,
    Welcomed,
    Written,
)
from farspan_server.switched import Placed, Switched
from farspan_server.unconfirmed import Unconfirmed

WAITING: Final = "waiting"  # in line for workers
OPEN: Final = "open"
DETACHED: Final = "detached"  # without its client, until the lease ends
ASLEEP: Final = "asleep"  # without client or workers; all that it is lies on disk
FAILED: Final = "failed"  # its journal could not be written; what it had lies on disk
ENDED: Final = "ended"

_HOLDS_ALL: Final = "the session waits for workers and holds all that it may"


class Session:
    """Sequence, epoch, credits, acks, lease and recovery of one session.

    kinds: the kind of each device. lease_s: seconds it keeps its workers without a client.
    journalled: frames are written to a journal, so that a lost worker costs nothing but time.
    syncs: the journal is synced: what the client is told to forget survives a loss of power.
    stays: it survives the gateway and outlives its lease, on disk; None: as it syncs.
    resumes: its client confirms, and may come back on another stream; None: as it is journalled.
    """

    def __init__(
        self,
        kinds: tuple[str, ...],
        lease_s: float,
        journalled: bool = False,
        syncs: bool = False,
        stays: bool | None = None,
        resumes: bool | None = None,
    ) -> None:
        self.kinds = kinds
        self.epoch = 1
        self.state = OPEN
        self.journalled = journalled
        self.stays = syncs if stays is None else stays
        self._syncs = syncs
        self.resumes = journalled if resumes is None else resumes
        self.frames = 0
        self.commands = 0
        self.recoveries = 0
        self.moves = 0  # to other workers, because it was asked to
        self._attempt = 0  # of the client's streams, the last one
        self.lease_s = lease_s
        self._lease_ends: float | None = None
        self._claimed = False
        self._assigned = False
        self._replaced = ""  # why it waits for others than it had
        self._forwarding = False  # the workers have all that was received before
        self._received = 0  # sequence of the last frame accepted
        self._acked = 0  # of the last frame acknowledged to the client
        self._durable = 0  # of the last frame that survives the gateway
        self._confirmed = 0  # the client needs nothing again of what came before its ack
        self._promised = 0  # the same of an ack that may be still to come, after a loss of power
        self._heard = 0  # of the last ack that the client had seen when it came back
        self._base = 0  # of the last frame that is in the last snapshot
        self._replay_to = 0  # of the last frame that the journal gives again
        self._begun = False  # workers had something of it: others are given what is on disk
        self._given: deque[tuple[int, int]] = deque()  # of a replay, not run yet: frame, device
        self._in_a_row = 0  # losses of workers that brought the session nowhere
        self._acked_then = 0  # at the last loss
        self._assigned_at = 0.0
        # By device, of the last frame: forwarded; run; whose events went to the client.
        self._forwarded = [0] * len(kinds)
        self._applied = [0] * len(kinds)
        self._told = [0] * len(kinds)
        self._frames: dict[int, tuple[int, int]] = {}  # not confirmed yet: device, bytes
        self._credit_base = 0  # frames up to it were received before this stream of the client
        self._in_flight_bytes = 0  # of the others, while they are not acknowledged
        self._held: deque[tuple[int, int, bytes]] = deque()  # not forwarded yet
        self._unconfirmed = Unconfirmed()
        self._cut: _Cut | None = None  # the snapshot under way
        self._switched = Switched(self.stays)

    @classmethod
    def woken(
        cls,
        kinds: tuple[str, ...],
        lease_s: float,
        epoch: int,
        base: int,
        frames: dict[int, tuple[int, int]],
        syncs: bool = True,
        switches: tuple[Placed, ...] = (),
    ) -> Session:
        """Return a session as its journal tells.

        base: the last frame that is in its snapshot. frames: those after it, device and bytes.
        """
        made = cls(kinds, lease_s, journalled=True, syncs=syncs, stays=True)
        made.state = ASLEEP
        made.epoch = epoch
        made._base = base
        made._received = made._durable = max(frames, default=base)
        made._frames = frames
        made._switched = Switched(True, switches)
        made._let_go()
        return made

    @property
    def received(self) -> int:
        """The sequence number of the last frame accepted."""
        return self._received

    @property
    def base(self) -> int:
        """The sequence number of the last frame that is in the last snapshot."""
        return self._base

    @property
    def replaced(self) -> str:
        """Why it waits for other workers than it had, as the beginning of a sentence, or ""."""
        return self._replaced

    @property
    def waits(self) -> bool:
        """Whether it has claimed workers and has none yet."""
        return self._claimed and not self._assigned

    @property
    def begun(self) -> bool:
        """Whether its next workers are given all that the journal has."""
        return self._begun

    @property
    def load(self) -> Load:
        """What waits here at this moment."""
        frames = self._received - max(self._acked, self._credit_base)
        return Load(
            frames, self._in_flight_bytes, len(self._held), len(self._unconfirmed),
            self._unconfirmed.nbytes,
        )  # fmt: skip

    @property
    def room(self) -> bool:
        """Whether another frame of a replay may be given: workers take only so many at a time.

        As many as the client had under way: with fewer, one that waits for bytes which the journal
        has behind later frames would wait for ever.
        """
        given = self._given
        while given and self._applied[given[0][1]] >= given[0][0]:
            given.popleft()
        return len(given) < limits.CREDIT_FRAMES

    @property
    def caught_up(self) -> bool:
        """Whether it has workers, which have run all that those before them had."""
        return self.room and self._forwarding and not self._given

    @property
    def cut_waits_for_client(self) -> bool:
        """Whether all that keeps a snapshot from counting is what its client has not confirmed."""
        return self._cut is not None and not self._cut.missing

    def handle(self, given: Input, now: float) -> list[Output]:
        """Return what follows from an input. After an End or SetAside everything is ignored."""
        if self.state in (ENDED, FAILED):
            return []
        try:
            return self._handle(given, now)
        except ProtocolError as error:
            return self._end("ProtocolError", str(error))

    def _handle(self, given: Input, now: float) -> list[Output]:
        match given:
            case FrameIn(header, data):
                return self._frame(header, data)
            case EventsIn(device, applied, data):
                return self._events(device, applied, data)
            case Synced(sequence):
                return self._synced(sequence)
            case Written(count):
                return self._written(count)
            case Confirmed(sequence):
                return self._confirm(sequence)
            case Again(header, data):
                return self._again(header, data)
            case Reserve():
                return self._claim()
            case Assigned():
                self._assigned_at = now
                return self._start()
            case Bereft(message):
                return self._bereft(message, now)
            case Leave():
                return self._leave()
            case Resumed(attempt, confirmed, applied):
                return self._resume(attempt, confirmed, applied)
            case Attached():
                return self._attach()
            case Cut(number):
                return self._begin_cut(number)
            case CutTaken(number, device):
                return self._cut_taken(number, device)
            case CutFailed(number):
                return self._cut_failed(number)
            case Ready(device, switch):
                return self._ready(Placed(self._received, device, switch))
            case Noted(count):
                self._switched.safe(count)
                return self._forward_held()
            case ClientGone():
                self.state = DETACHED
                self._lease_ends = now + self.lease_s
                return self._tick(now)
            case ClientClosed():
                return self._end("", "")
            case Fault(kind, message):
                return self._end(kind, message)
            case JournalFailed(message):
                return self._fail(message)
            case Tick():
                return self._tick(now)

    # --- workers ---------------------------------------------------------------------------------
    def _claim(self) -> list[Output]:
        if self._claimed or self.state == ASLEEP:  # what comes without a client wakes nobody
            return []
        self._claimed = True
        if self.state == OPEN:
            self.state = WAITING
        return [Claim()]

    def _start(self) -> list[Output]:
        if self.state == WAITING:
            self.state = OPEN
        self._assigned, self._replaced = True, ""
        replay: list[Output] = []
        if self._begun:  # without a frame too: bytes that were uploaded are on disk
            replay.append(Replay(self._base + 1, self._replay_to))
        self._begun = True
        return [*replay, *self._switch(), *self._caught_up()]

    def _caught_up(self) -> list[Output]:
        """Go on with the frames that came meanwhile, if the workers have all before them."""
        if max(self._forwarded) < self._replay_to:
            return []
        self._forwarding = True
        return self._forward_held()

    def _forward_held(self) -> list[Output]:
        """Forward what nothing keeps back."""
        if not self._forwarding or (self._cut and self._cut.waits):
            return []
        forwarded = self._switch()
        while self._held and not self._switched.holds(self._held[0][0]):
            forwarded += [self._forward(*self._held.popleft()), *self._switch()]
        return forwarded

    def _switch(self) -> list[Output]:
        """Tell the workers of switches that come after the last frame that they were given."""
        return [Do(p.device, p.switch) for p in self._switched.due(max(self._forwarded))]

    def _ready(self, placed: Placed) -> list[Output]:
        if not self.journalled or not self._assigned or not self._switched.add(placed):
            return []
        return [Note(*placed), *self._forward_held()]

    def _forward(self, sequence: int, device: int, data: bytes) -> Output:
        self._forwarded[device] = sequence
        if sequence <= self._confirmed:  # what it tells is known, or nobody's business any more
            self._told[device] = sequence
        return Forward(device, data)

    def _bereft(self, message: str, now: float) -> list[Output]:
        if not self.journalled:
            return self._end("WorkerLostError", message)
        if self._acked > self._acked_then or now - self._assigned_at > limits.START_S:
            self._in_a_row = 0
        self._acked_then = self._acked
        self._in_a_row += 1
        if self._in_a_row > limits.RECOVERIES_MAX:  # what it does ends them, or its snapshot
            text = f"{message} ({limits.RECOVERIES_MAX} others in its place were lost as well)"
            return self._end("WorkerLostError", text)
        self.recoveries += 1
        self._let_go()
        self._replaced = "a worker was lost with all that it held, and "
        return [Rest(), *self._claim()]

    def _leave(self) -> list[Output]:
        """Go to other workers, as after a loss, which nobody may hold against the session."""
        if not self.journalled or not self._assigned:
            return []
        self.moves += 1
        self._let_go()
        self._replaced = "a worker of the session was drained, and "
        return [Rest(), *self._claim()]

    def _let_go(self) -> None:
        """Be without workers. All that they had is in the journal; what was held stays held."""
        self._claimed = self._assigned = self._forwarding = False
        self._replaced = ""
        self._cut = None
        self._begun = True
        self._given.clear()
        self._switched.again()
        self._replay_to = self._held[0][0] - 1 if self._held else self._received
        self._forwarded = [self._base] * len(self.kinds)
        self._applied = [self._base] * len(self.kinds)

    def _again(self, header: FrameHeader, data: bytes) -> list[Output]:
        if self._forwarding or header.sequence != max(self._forwarded) + 1:
            return []  # of a replay that another one took the place of
        self._given.append((header.sequence, header.device))
        forwarded = self._forward(header.sequence, header.device, data)
        return [forwarded, *self._switch(), *self._caught_up()]

    # --- frames ----------------------------------------------------------------------------------
    def _frame(self, header: FrameHeader, data: bytes) -> list[Output]:
        if header.epoch != self.epoch:
            raise ProtocolError(f"frame of epoch {header.epoch}; the session's is {self.epoch}")
        if header.device >= len(self.kinds):
            raise ProtocolError(
                f"frame for device {header.device}; the session has {len(self.kinds)}"
            )
        if header.sequence <= self._received:
            return []  # sent again after a reconnect: it has been taken
        if header.sequence != self._received + 1:
            raise ProtocolError(f"frame {header.sequence} follows {self._received}")
        if (
            self._received - max(self._acked, self._credit_base) >= limits.CREDIT_FRAMES
            or self._in_flight_bytes + len(data) > limits.CREDIT_BYTES
        ):
            raise ProtocolError("more frames or bytes in flight than the credits allow")
        if len(self._frames) >= limits.FRAMES_UNCONFIRMED_MAX:
            raise ProtocolError("the client does not confirm what it was told")
        self._received = header.sequence
        self.frames += 1
        self.commands += header.command_count
        self._frames[header.sequence] = (header.device, len(data))
        self._in_flight_bytes += len(data)
        first: list[Output] = [Append(header, data)] if self.journalled else []
        if self._switched.wishes:
            first += [Note(*each) for each in self._switched.granted(self._received)]
        waits = self._held or self._switched.waits or (self._cut and self._cut.waits)
        if self._forwarding and not waits:
            return [*first, self._forward(header.sequence, header.device, data)]
        self._held.append((header.sequence, header.device, data))
        return [*first, *self._forward_held(), *self._claim()]

    def _synced(self, sequence: int) -> list[Output]:
        if sequence <= self._durable:
            return []
        self._durable = sequence
        return [EventsOut(b"", 0, sequence)]

    # --- events ----------------------------------------------------------------------------------
    def _events(self, device: int, applied: int, data: bytes) -> list[Output]:
        if applied > self._forwarded[device]:
            return self._end("WorkerLostError", "a worker acknowledged what it was not sent")
        advances, told = applied > self._applied[device], self._told[device]
        # A worker that was made anew counts from the last frame that it knows.
        applied = self._applied[device] = max(self._applied[device], applied)
        if applied < told or (applied == told and advances):
            data = b""  # a replay: the client has heard it
        self._told[device] = max(told, applied)
        # The first ack that can follow these events; a confirmation of it covers them.
        covered = max(applied if advances else applied + 1, self._acked + 1)
        ack = self._advance()
        more = self._settle() if ack and self._promised > self._confirmed else []
        more += self._cut_waited()
        if not data and not ack:
            return more
        if data:
            self._unconfirmed.add(covered, data)
        if self._unconfirmed.too_many:
            return self._end("SessionClosedError", "the client did not read its events")
        # Where nothing survives the gateway a client may forget what has run.
        return [EventsOut(data, ack, 0 if self._syncs else ack), *more]

    def _advance(self) -> int:
        """Return the frame up to which all have run now, over all devices; 0: as before."""
        before = self._acked
        while (frame := self._frames.get(self._acked + 1)) is not None:
            device, size_bytes = frame
            if self._acked >= self._applied[device]:
                break
            self._acked += 1
            if self._acked > self._credit_base:
                self._in_flight_bytes -= size_bytes
            if not self.resumes:
                del self._frames[self._acked]
        return self._acked if self._acked > before else 0

    def _written(self, count: int) -> list[Output]:
        if not self.resumes:
            for _ in range(count):
                self._unconfirmed.drop()
        return []

    def _confirm(self, sequence: int) -> list[Output]:
        if sequence > max(self._acked, self._promised, self._heard):
            raise ProtocolError(f"frame {sequence} was confirmed before it was acknowledged")
        self._promised = max(self._promised, sequence)
        return self._settle()

    def _settle(self) -> list[Output]:
        """Forget what the client will never ask for again."""
        sequence = min(self._promised, self._acked)
        for each in range(self._confirmed + 1, sequence + 1):
            self._frames.pop(each, None)
        self._confirmed = max(self._confirmed, sequence)
        self._unconfirmed.settle(sequence)
        return self._committed()

    # --- the client ------------------------------------------------------------------------------
    def _resume(self, attempt: int, confirmed: int, applied: int) -> list[Output]:
        asleep = self.state == ASLEEP
        known = self._base if asleep else self._confirmed
        if attempt <= self._attempt or not known <= confirmed <= applied:
            return [
                Refuse(
                    f"stream {attempt} knows frames {confirmed} to {applied}; the session is at "
                    f"stream {self._attempt} and frame {known}"
                )
            ]
        if asleep and not self._syncs and applied > self._received:
            return [Refuse(f"frames after {self._received} were lost with the gateway's machine")]
        if self._holds_all:
            return [Refuse(_HOLDS_ALL, for_now=True)]
        self._attempt = attempt
        if asleep:
            # What the client has not confirmed is computed again, and so told again. A loss of
            # power may have taken frames that it has heard of: then it sends those again.
            self._told = [self._base] * len(self.kinds)
            self._acked = min(applied, self._received)
            self._confirmed = min(confirmed, self._received)
            # What it sends again it may have seen computed.
            self._switched.quiet(max(applied, self._received) + limits.CREDIT_FRAMES)
        self._promised, self._heard = confirmed, applied
        self._credit_base, self._in_flight_bytes = self._received, 0
        told = [*self._welcome_back(), *self._settle()]
        told += [EventsOut(data, 0, 0) for data in self._unconfirmed]
        told.append(EventsOut(b"", self._acked, self._durable if self._syncs else self._acked))
        return [*told, *(self._claim() if self._received else [])]

    def _attach(self) -> list[Output]:
        """Take another client, which knows nothing and expects nothing of what came before."""
        if self._holds_all:
            return [Refuse(_HOLDS_ALL, for_now=True)]
        self._unconfirmed.clear()
        self._in_flight_bytes = 0
        self._frames.clear()
        self._confirmed = self._promised = self._acked = self._credit_base = self._received
        self._told = [max(pair) for pair in zip(self._told, self._forwarded, strict=True)]
        self._attempt = self._heard = 0  # it counts its own streams
        told = self._welcome_back()
        return [*told, *self._committed(), *(self._claim() if self._received else [])]

    @property
    def _holds_all(self) -> bool:
        """Whether no client may come, who would send more: nobody has taken what is held."""
        return sum(len(data) for *_, data in self._held) > 2 * limits.CREDIT_BYTES

    def _welcome_back(self) -> list[Output]:
        self.epoch += 1
        self._lease_ends = None
        self.state = OPEN
        return [Welcomed()]

    def _tick(self, now: float) -> list[Output]:
        if self._lease_ends is None or now < self._lease_ends:
            return []
        if not self.stays:  # there is no way back to it, so it may not stay for ever
            return self._end("SessionClosedError", "the lease ended without a client")
        if self._cut is not None and self._cut.missing:
            return []  # who wakes it then waits for no replay; one that takes long is given up
        if self._switched.unsafe:
            return []  # what is held comes behind it
        self._lease_ends = None
        self.state = ASLEEP
        self._unconfirmed.clear()
        self._held.clear()
        self._let_go()
        return [Rest()]

    # --- snapshots -------------------------------------------------------------------------------
    def _begin_cut(self, number: int) -> list[Output]:
        if self._cut is not None or not self._forwarding or max(self._forwarded) <= self._base:
            return []
        if self._switched.waits:  # it stands before the mark, and would not be in the snapshot
            return []
        self._cut = _Cut(number, max(self._forwarded), set(range(len(self.kinds))))
        return [Mark(number, self._cut.sequence), *self._cut_waited()]

    def _cut_waited(self) -> list[Output]:
        """Mark the cut when it can be: several devices are cut where none is ahead of another."""
        cut = self._cut
        if cut is None or not cut.waits:
            return []
        behind = [a < f for a, f in zip(self._applied, self._forwarded, strict=True)]
        if len(self.kinds) > 1 and any(behind):
            return []
        cut.waits = False
        return [TakeCut(cut.number), *self._forward_held()]

    def _cut_taken(self, number: int, device: int) -> list[Output]:
        if self._cut is None or self._cut.number != number:
            return []
        self._cut.missing.discard(device)
        return self._committed()

    def _cut_failed(self, number: int) -> list[Output]:
        if self._cut is None or self._cut.number != number:
            return []
        self._cut = None
        return self._forward_held()

    def _committed(self) -> list[Output]:
        """Begin replays at the snapshot, once nothing before it may have to be told again."""
        cut = self._cut
        if cut is None or cut.missing or cut.sequence > self._confirmed:
            return []
        self._cut = None
        self._base = cut.sequence
        self._switched.forget(cut.sequence)
        return [Commit(cut.number, cut.sequence)]

    def _fail(self, message: str) -> list[Output]:
        if not self.stays:
            return self._end("JournalError", message)
        self._lease_ends = None
        self.state = FAILED
        self._unconfirmed.clear()
        self._held.clear()
        self._let_go()
        return [SetAside(message)]

    def _end(self, kind: str, message: str) -> list[Output]:
        self.state = ENDED
        self._held.clear()
        self._frames.clear()
        self._unconfirmed.clear()
        return [End(kind, message)]


@dataclass(slots=True)
class _Cut:
    """A snapshot under way."""

    number: int
    sequence: int  # of the last frame that is in it
    missing: set[int]  # devices whose part is not on disk
    waits: bool = True  # until the workers may be told
