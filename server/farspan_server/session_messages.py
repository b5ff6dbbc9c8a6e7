"""What a session of the gateway hears, and what it wants done: inputs and outputs of its machine.

Plain data; `session.py` says what follows from what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from farspan.core.words import Switch
from farspan.wire import FrameHeader


# What every frame makes is not frozen: that costs more than all else that is done with it.
# --- inputs --------------------------------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class Reserve:
    """The client wants its workers now."""


@dataclass(slots=True)
class FrameIn:
    """A frame from the client, as received."""

    header: FrameHeader
    data: bytes


@dataclass(slots=True, frozen=True)
class Assigned:
    """The session has its workers, one a device."""


@dataclass(slots=True, frozen=True)
class Bereft:
    """The worker of a device is gone, with all that it held."""

    message: str


@dataclass(slots=True, frozen=True)
class Leave:
    """The session's workers are wanted back, and it can go on with others."""


@dataclass(slots=True, frozen=True)
class Again:
    """A frame out of the journal, in answer to a Replay; in their order, all of them."""

    header: FrameHeader
    data: bytes


@dataclass(slots=True, frozen=True)
class Synced:
    """Frames up to this sequence number survive the gateway."""

    sequence: int


@dataclass(slots=True)
class Written:
    """So many event lists went to the client; without a journal none is told twice."""

    count: int


@dataclass(slots=True, frozen=True)
class Confirmed:
    """The client has taken all that it was told before the ack of this frame, and that ack."""

    sequence: int


@dataclass(slots=True, frozen=True)
class Resumed:
    """The session's client is back on another stream.

    attempt: the client counts its streams, so that one that comes late is known. confirmed: as in
    Confirmed. applied: the last ack that it has seen.
    """

    attempt: int
    confirmed: int
    applied: int


@dataclass(slots=True, frozen=True)
class Attached:
    """Another client of the tenant takes the session over."""


@dataclass(slots=True, frozen=True)
class Cut:
    """A snapshot of all devices is wanted, as they are after the frames forwarded so far."""

    number: int


@dataclass(slots=True, frozen=True)
class CutTaken:
    """A device's part of a snapshot is on disk."""

    number: int
    device: int


@dataclass(slots=True)
class EventsIn:
    """A worker's events, unread, and the last frame whose events are all sent."""

    device: int
    applied: int
    data: bytes


@dataclass(slots=True, frozen=True)
class Ready:
    """The worker of a device asks to switch a plan: its loops are compiled."""

    device: int
    switch: Switch


@dataclass(slots=True, frozen=True)
class Noted:
    """The first so many switches that were to be noted survive the gateway."""

    count: int


@dataclass(slots=True, frozen=True)
class CutFailed:
    """A snapshot will not be complete; there will be others."""

    number: int


@dataclass(slots=True, frozen=True)
class ClientGone:
    """The stream broke without a word."""


@dataclass(slots=True, frozen=True)
class ClientClosed:
    """The client said that the session ends."""


@dataclass(slots=True, frozen=True)
class Fault:
    """The session cannot go on: a worker, its place in line, its client's bytes."""

    kind: str
    message: str


@dataclass(slots=True, frozen=True)
class JournalFailed:
    """The journal cannot be written, or not be read; what it had before is still there."""

    message: str


@dataclass(slots=True, frozen=True)
class Tick:
    """Time has passed."""


Input = (
    Reserve | FrameIn | Assigned | Bereft | Leave | Again | EventsIn | Synced | Written | Confirmed
    | Resumed | Attached | Cut | CutTaken | CutFailed | Ready | Noted | ClientGone | ClientClosed
    | Fault | JournalFailed | Tick
)  # fmt: skip


# --- outputs -------------------------------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class Claim:
    """Ask the pool for a worker of each kind."""


@dataclass(slots=True, frozen=True)
class Append:
    """Write a frame to the journal, before anything else is done about it."""

    header: FrameHeader
    data: bytes


@dataclass(slots=True)
class Forward:
    """Send a frame to the worker of a device."""

    device: int
    data: bytes


@dataclass(slots=True, frozen=True)
class Note:
    """Write to the journal that a plan is switched here: after the frames appended so far.

    Where the session survives its gateway it is synced at once, and Noted follows.
    """

    sequence: int  # of the last of them
    device: int
    switch: Switch


@dataclass(slots=True, frozen=True)
class Do:
    """Tell the worker of a device to switch a plan, between the frames before and after."""

    device: int
    switch: Switch


@dataclass(slots=True, frozen=True)
class Replay:
    """Give new workers the last snapshot, then give the frames of the journal after it, as Again.

    first, last: sequence numbers; none if last is smaller.
    """

    first: int
    last: int


@dataclass(slots=True, frozen=True)
class Mark:
    """Note in the journal where a snapshot is cut: between the frames before and after."""

    number: int
    sequence: int  # of the last frame that is in it


@dataclass(slots=True, frozen=True)
class TakeCut:
    """Tell every worker to take its part of a snapshot when it has run what it was sent."""

    number: int


@dataclass(slots=True, frozen=True)
class Commit:
    """A snapshot is complete and nobody needs what led to it: it is where a replay begins now."""

    number: int
    sequence: int  # of the last frame that is in it


@dataclass(slots=True, frozen=True)
class Welcomed:
    """Tell the stream that resumes or attaches the new epoch and what was received."""


@dataclass(slots=True, frozen=True)
class Refuse:
    """End the stream that wanted to resume, and nothing else. for_now: it may come again."""

    message: str
    for_now: bool = False


@dataclass(slots=True, frozen=True)
class Rest:
    """Release the workers; what the session is lies on disk."""


@dataclass(slots=True)
class EventsOut:
    """Send events to the client; they come before the ack beside them. 0: no new ack."""

    data: bytes
    applied: int
    durable: int


@dataclass(slots=True, frozen=True)
class SetAside:
    """Release the workers, tell the client why, end its stream; the journal stays as it is.

    Somebody may open it again later, and go on from there.
    """

    message: str


@dataclass(slots=True, frozen=True)
class End:
    """Release the workers, tell the client why (if there is a why), end its stream."""

    kind: str = ""
    message: str = ""


Output = (
    Claim | Append | Forward | Note | Do | Replay | Mark | TakeCut | Commit | EventsOut | Welcomed
    | Refuse | Rest | SetAside | End
)  # fmt: skip


class Load(NamedTuple):
    """What a session has under way: frames that use credits, frames held back, events kept."""

    frames: int = 0
    frame_bytes: int = 0
    held: int = 0
    events: int = 0
    event_bytes: int = 0
