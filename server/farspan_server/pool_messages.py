"""What the pool of workers hears, and what it wants done: inputs and outputs of its machine.

Plain data; `pool.py` says what follows from what.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, frozen=True)
class Worker:
    """A worker process. `key` opens links to it; a restarted worker has a higher epoch."""

    worker: str
    epoch: int
    address: str
    key: bytes = field(repr=False)
    kind: str
    host: str
    pid: int
    supervised: bool  # a supervisor can replace it
    numerics: str = ""  # its key, as it says itself once it is reached: equal keys, equal bits
    tenant: str = ""  # whose sessions its process has had, as it says itself


# --- inputs --------------------------------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class Joined:
    """A link to this worker is open."""

    worker: Worker


@dataclass(slots=True, frozen=True)
class Left:
    """The worker is gone or suspect."""

    worker: str
    epoch: int
    reason: str


@dataclass(slots=True, frozen=True)
class Claimed:
    """A session wants one worker of each kind, until a deadline."""

    session: str
    tenant: str
    kinds: tuple[str, ...]
    deadline: float
    memory_bytes: int = 0  # that each device may take
    numerics: tuple[str, ...] = ()  # the key that the worker of each device must have; (): any


@dataclass(slots=True, frozen=True)
class Allowed:
    """What a tenant's sessions may have together; None: whatever there is.

    Sessions that have more by now keep it. weight: devices that it gets in its turn.
    """

    tenant: str
    devices: int | None = None
    memory_bytes: int | None = None
    weight: int = 1


@dataclass(slots=True, frozen=True)
class Released:
    """A session has ended, in line or on its workers, or sleeps."""

    session: str


@dataclass(slots=True, frozen=True)
class Rested:
    """A session has let go of its workers, of which it lost one, and will claim others.

    Until then it keeps its part of its tenant's quota, and then it comes before those that have
    had none yet. The same holds for a session that was told Bereft.
    """

    session: str


@dataclass(slots=True, frozen=True)
class Moved:
    """A session has let go of its workers for others, which it gets at once.

    claim: what it wants. workers: one for each device; (): any that it has not. `refusal` has
    said that they can be had; if they cannot, by a defect, the claim waits in line.
    """

    claim: Claimed
    workers: tuple[str, ...] = ()


@dataclass(slots=True, frozen=True)
class Tick:
    """Time has passed."""


@dataclass(slots=True, frozen=True)
class Drain:
    """No more sessions go to this worker; it is replaced when those that it has are gone."""

    worker: str


Input = Joined | Left | Claimed | Allowed | Released | Rested | Moved | Drain | Tick


# --- outputs -------------------------------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class Granted:
    """The session has these workers, in the order of its devices."""

    session: str
    workers: tuple[Worker, ...]


@dataclass(slots=True, frozen=True)
class Placed:
    """The session's place in line, from 1. It may grow: a tenant that has waited less often comes
    before the second session of one that has had its turn."""

    session: str
    place: int


@dataclass(slots=True, frozen=True)
class Held:
    """The session waits for others of its tenant, whose quota is used up; said once."""

    session: str
    message: str


@dataclass(slots=True, frozen=True)
class Denied:
    """No worker became free in time."""

    session: str
    message: str


@dataclass(slots=True, frozen=True)
class Bereft:
    """A worker of the session is gone."""

    session: str
    device: int
    worker: Worker
    reason: str


@dataclass(slots=True, frozen=True)
class Replace:
    """End this worker and make another of its kind."""

    worker: Worker
    reason: str


@dataclass(slots=True, frozen=True)
class Want:
    """So many more workers of this kind would have work; said when it changes."""

    kind: str
    count: int


Output = Granted | Placed | Held | Denied | Bereft | Replace | Want
