"""Which session has which worker, and who waits in line: a state machine.

No I/O or clock inside: `handle(input, now) -> outputs`. It knows only workers that a link reaches.
A worker serves one tenant at a time; sessions of that tenant may share it up to a bound.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

#: Sessions that may wait in line; the next is refused at once.
LINE_MAX: Final = 10_000
STATES: Final = ("idle", "busy", "leaving")  # of a worker


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


@dataclass(slots=True, frozen=True)
class Released:
    """A session has ended, in line or on its workers."""

    session: str


@dataclass(slots=True, frozen=True)
class Tick:
    """Time has passed."""


@dataclass(slots=True, frozen=True)
class Drain:
    """No more sessions go to this worker; it is replaced when those that it has are gone."""

    worker: str


Input = Joined | Left | Claimed | Released | Drain | Tick


# --- outputs -------------------------------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class Granted:
    """The session has these workers, in the order of its devices."""

    session: str
    workers: tuple[Worker, ...]


@dataclass(slots=True, frozen=True)
class Placed:
    """The session's place in line, from 1."""

    session: str
    place: int


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


Output = Granted | Placed | Denied | Bereft | Replace | Want


@dataclass(slots=True)
class _Slot:
    worker: Worker
    tenant: str | None = None  # of its sessions now or, when it has none, the last one
    sessions: set[str] = field(default_factory=set)
    leaving: bool = False
    draining: bool = False  # leaving, and to be replaced once it has no sessions

    @property
    def state(self) -> str:
        if self.leaving:
            return "leaving"
        return "busy" if self.sessions else "idle"


class Pool:
    """Workers, their sessions, the line.

    sessions_per_worker_max: sessions of one tenant that may share a worker when none is free.
    """

    def __init__(self, sessions_per_worker_max: int) -> None:
        self._share = sessions_per_worker_max
        self._slots: dict[str, _Slot] = {}
        self._line: dict[str, Claimed] = {}
        self._places: dict[str, int] = {}
        self._grants: dict[str, tuple[str, ...]] = {}
        self._wanted: Counter[str] = Counter()

    @property
    def workers(self) -> list[tuple[Worker, int]]:
        """The workers and the number of sessions on each."""
        return [(slot.worker, len(slot.sessions)) for slot in self._slots.values()]

    @property
    def line(self) -> int:
        """How many sessions wait for workers."""
        return len(self._line)

    @property
    def states(self) -> Counter[tuple[str, str]]:
        """How many workers of each kind are in each of STATES."""
        return Counter((slot.worker.kind, slot.state) for slot in self._slots.values())

    def states_of(self) -> dict[str, str]:
        """Return the state of each worker, by its slot."""
        return {name: slot.state for name, slot in self._slots.items()}

    def handle(self, given: Input, now: float) -> list[Output]:
        """Return what follows from an input."""
        out: list[Output] = []
        match given:
            case Joined(worker):
                known = self._slots.get(worker.worker)
                if known is not None and known.worker.epoch >= worker.epoch:
                    return out
                if known is not None:
                    self._leave(worker.worker, known.worker.epoch, "it was replaced", out)
                self._slots[worker.worker] = _Slot(worker)
            case Left(worker_id, epoch, reason):
                self._leave(worker_id, epoch, reason, out)
            case Claimed():
                if len(self._line) >= LINE_MAX:
                    return [Denied(given.session, "too many sessions wait for workers")]
                self._line[given.session] = given
            case Released(session):
                self._line.pop(session, None)
                self._release(session)
            case Drain(worker_id):
                if worker_id in self._slots and not self._slots[worker_id].leaving:
                    self._slots[worker_id].leaving = self._slots[worker_id].draining = True
            case Tick():
                for claim in [c for c in self._line.values() if now >= c.deadline]:
                    del self._line[claim.session]
                    out.append(Denied(claim.session, self._shortage(claim)))
        self._replace_drained(out)
        self._serve(out)
        return out

    def _replace_drained(self, out: list[Output]) -> None:
        for slot in self._slots.values():
            if slot.draining and not slot.sessions:
                slot.draining = False
                if slot.worker.supervised:
                    out.append(Replace(slot.worker, "it was drained"))

    def _release(self, session: str) -> None:
        for worker in self._grants.pop(session, ()):
            if worker in self._slots:
                self._slots[worker].sessions.discard(session)

    def _leave(self, worker: str, epoch: int, reason: str, out: list[Output]) -> None:
        slot = self._slots.get(worker)
        if slot is None or slot.worker.epoch > epoch:
            return
        del self._slots[worker]
        for session in sorted(slot.sessions):
            device = self._grants[session].index(worker)
            out.append(Bereft(session, device, slot.worker, reason))
            self._release(session)

    def _serve(self, out: list[Output]) -> None:
        """Grant what can be granted in order of arrival; nobody overtakes on the same kind."""
        short: Counter[str] = Counter()
        for claim in list(self._line.values()):
            if not short.keys() & set(claim.kinds):
                chosen = self._choose(claim)
                if chosen is not None:
                    self._grant(claim, chosen, out)
                    continue
            short.update(claim.kinds)
        self._make_room(short, out)
        for place, session in enumerate(self._line, 1):
            if self._places.get(session) != place:
                out.append(Placed(session, place))
        self._places = {session: place for place, session in enumerate(self._line, 1)}
        for kind in sorted(self._wanted.keys() | short.keys()):
            if self._wanted[kind] != short[kind]:
                out.append(Want(kind, short[kind]))
        self._wanted = short

    def _choose(self, claim: Claimed) -> list[_Slot] | None:
        """Return a distinct worker for each device: a free one first, else one to share."""
        chosen: list[_Slot] = []
        for kind in claim.kinds:
            able = [
                slot
                for slot in self._slots.values()
                if slot.worker.kind == kind
                and not slot.leaving
                and slot not in chosen
                and self._may_have(slot, claim.tenant)
            ]
            if not able:
                return None
            chosen.append(min(able, key=lambda s: (len(s.sessions), s.tenant != claim.tenant)))
        return chosen

    def _may_have(self, slot: _Slot, tenant: str) -> bool:
        if slot.tenant == tenant:
            return len(slot.sessions) < self._share
        # Another tenant's process is replaced, not reused, where someone can replace it.
        return not slot.sessions and (slot.tenant is None or not slot.worker.supervised)

    def _grant(self, claim: Claimed, chosen: list[_Slot], out: list[Output]) -> None:
        del self._line[claim.session]
        for slot in chosen:
            slot.tenant = claim.tenant
            slot.sessions.add(claim.session)
        self._grants[claim.session] = tuple(slot.worker.worker for slot in chosen)
        out.append(Granted(claim.session, tuple(slot.worker for slot in chosen)))

    def _make_room(self, short: Counter[str], out: list[Output]) -> None:
        """Replace workers that wait with another tenant's past, as many as are wanted."""
        for slot in self._slots.values():
            kind = slot.worker.kind
            going = sum(s.leaving for s in self._slots.values() if s.worker.kind == kind)
            if going < short[kind] and not slot.sessions and not slot.leaving and slot.tenant:
                if slot.worker.supervised:
                    slot.leaving = True
                    out.append(Replace(slot.worker, "its tenant has left"))

    def _shortage(self, claim: Claimed) -> str:
        asked = ", ".join(f"{n} {kind}" for kind, n in Counter(claim.kinds).items())
        there = Counter(slot.worker.kind for slot in self._slots.values())
        has = ", ".join(f"{there[kind]} {kind}" for kind in dict.fromkeys(claim.kinds))
        return (
            f"no worker became free in time: asked for {asked}; the gateway has {has}, "
            "all in use or fewer than asked for. Try later, ask for fewer, or start more workers."
        )
