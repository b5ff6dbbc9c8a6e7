"""Which session has which worker, and who waits in line: a state machine.

No I/O or clock inside: `handle(input, now) -> outputs`, which `pool_messages.py` declares. It knows
only workers that a link reaches. A worker serves one tenant at a time; sessions of that tenant may
share it up to a bound. Tenants take turns in the line: start-time fair queueing (Goyal, Vin and
Cheng 1996), by devices given.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from farspan_server.pool_messages import (
    Allowed,
    Bereft,
    Claimed,
    Denied,
    Drain,
    Granted,
    Held,
    Input,
    Joined,
    Left,
    Moved,
    Output,
    Placed,
    Released,
    Replace,
    Rested,
    Tick,
    Want,
    Worker,
)

#: Sessions that may wait in line; the next is refused at once.
LINE_MAX: Final = 10_000
_FIRST: Final = -1.0  # the turn of who has lost its workers; those of others are 0 and more
STATES: Final = ("idle", "busy", "leaving")  # of a worker
_ACCOUNTS_MAX: Final = 10_000  # tenants remembered: then those that have nothing are forgotten


@dataclass(slots=True)
class _Slot:
    worker: Worker
    tenant: str | None = None  # of its sessions, also when it has none any more
    sessions: set[str] = field(default_factory=set)
    leaving: bool = False
    draining: bool = False  # leaving, and to be replaced once it has no sessions

    @property
    def state(self) -> str:
        if self.leaving:
            return "leaving"
        return "busy" if self.sessions else "idle"

    @property
    def going(self) -> bool:
        """Whether another process is about to take its place; a drain may take an hour."""
        return self.leaving and not self.draining and self.worker.supervised


@dataclass(slots=True)
class _Waiting:
    claim: Claimed
    number: int  # of its arrival
    again: bool  # it had workers and lost them
    tag: float = 0.0  # its turn; what has the lowest is next
    held: str = ""  # the quota that it waits for


@dataclass(slots=True, frozen=True)
class _Grant:
    claim: Claimed
    workers: tuple[str, ...]


@dataclass(slots=True)
class _Account:
    """What a tenant has, and its turn."""

    allowed: Allowed
    devices: int = 0
    memory_bytes: int = 0
    turn: float = 0.0  # devices given to it by its weight, or to all when it last began to wait
    waiting: int = 0


class Pool:
    """Workers, their sessions, the line.

    sessions_per_worker_max: sessions of one tenant that may share a worker when none is free.
    """

    def __init__(self, sessions_per_worker_max: int) -> None:
        self._share = sessions_per_worker_max
        self._slots: dict[str, _Slot] = {}
        self._line: dict[str, _Waiting] = {}  # in the order of their turns
        self._places: dict[str, int] = {}
        self._grants: dict[str, _Grant] = {}
        self._kept: dict[str, Claimed] = {}  # what sessions had that are to have it again
        self._wanted: Counter[str] = Counter()
        self._accounts: dict[str, _Account] = {}
        self._turn = 0.0  # of the claim granted last
        self._arrivals = 0

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

    def used(self, tenant: str) -> tuple[int, int]:
        """Return the devices that a tenant's sessions have, and the bytes reserved on them."""
        found = self._accounts.get(tenant)
        return (0, 0) if found is None else (found.devices, found.memory_bytes)

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
                self._slots[worker.worker] = _Slot(worker, worker.tenant or None)
            case Left(worker_id, epoch, reason):
                self._leave(worker_id, epoch, reason, out)
            case Claimed():
                if len(self._line) >= LINE_MAX:
                    return [Denied(given.session, "too many sessions wait for workers")]
                self._join_line(given)
            case Allowed(tenant):
                self._account(tenant).allowed = given
            case Released(session):
                self._leave_line(session)
                self._release(session)
            case Rested(session):
                self._let_go(session)
            case Moved(claim, workers):
                self._move(claim, workers, out)
            case Drain(worker_id):
                if worker_id in self._slots and not self._slots[worker_id].leaving:
                    self._slots[worker_id].leaving = self._slots[worker_id].draining = True
            case Tick():
                for each in [w for w in self._line.values() if now >= w.claim.deadline]:
                    self._leave_line(each.claim.session)
                    self._release(each.claim.session)
                    message = each.held or self._shortage(each.claim)
                    out.append(Denied(each.claim.session, message))
        self._replace_drained(out)
        self._serve(out)
        return out

    def _replace_drained(self, out: list[Output]) -> None:
        for slot in self._slots.values():
            if slot.draining and not slot.sessions:
                slot.draining = False
                if slot.worker.supervised:
                    out.append(Replace(slot.worker, "it was drained"))

    # --- moves -----------------------------------------------------------------------------------
    def refusal(self, claim: Claimed, workers: tuple[str, ...] = ()) -> str:
        """Return why a session cannot move now, or "". Changes nothing; see `Moved`."""
        chosen = self._destination(claim, workers)
        return chosen if isinstance(chosen, str) else ""

    def _move(self, claim: Claimed, workers: tuple[str, ...], out: list[Output]) -> None:
        chosen = self._destination(claim, workers)
        if isinstance(chosen, str):
            self._join_line(claim)
            return
        self._let_go(claim.session)
        self._grant(_Waiting(claim, 0, again=True, tag=_FIRST), chosen, out)

    def _destination(self, claim: Claimed, workers: tuple[str, ...]) -> list[_Slot] | str:
        """Return a worker for each device, none of them where it is, or why there is none."""
        grant = self._grants.get(claim.session)
        if grant is None:
            return "it has no workers now"
        if not workers:
            left: dict[str, list[_Slot]] = {}
            for name, slot in self._slots.items():
                if name not in grant.workers:
                    left.setdefault(slot.worker.kind, []).append(slot)
            return self._choose(claim, left) or self._nowhere(claim, grant)
        if len(set(workers)) != len(claim.kinds) or len(workers) != len(claim.kinds):
            return f"it has {len(claim.kinds)} device(s); name a worker for each"
        for index, name in enumerate(workers):
            why = self._unfit(claim, index, name)
            if why:
                return why
        return [self._slots[name] for name in workers]

    def _unfit(self, claim: Claimed, index: int, name: str) -> str:
        """Return why a worker cannot be the device of a session that moves, or ""."""
        slot, numerics = self._slots.get(name), claim.numerics
        if slot is None or slot.leaving:
            there = ", ".join(each for each, s in self._slots.items() if not s.leaving)
            return f"no worker {name} is there; the gateway has {there[:256]}"
        if numerics and slot.worker.numerics != numerics[index]:
            return (
                f"worker {name} computes other bits ({slot.worker.numerics}) than the session's "
                f"({numerics[index]}): with allow_numerics_change it goes there all the same"
            )
        if claim.session not in slot.sessions and not self._may_have(slot, claim.tenant):
            return f"worker {name} is in use, or was another tenant's"
        return ""

    def _nowhere(self, claim: Claimed, grant: _Grant) -> str:
        """Say why no worker will do."""
        others = [s for name, s in self._slots.items() if name not in grant.workers]
        if claim.numerics and not any(s.worker.numerics in claim.numerics for s in others):
            if any(s.worker.kind in claim.kinds for s in others):
                return (
                    "none of the other workers computes the same bits (their numerics keys "
                    "differ): with allow_numerics_change it goes on with others"
                )
        asked = ", ".join(f"{n} {kind}" for kind, n in Counter(claim.kinds).items())
        has = Counter(slot.worker.kind for slot in others)
        there = ", ".join(f"{has[kind]} {kind}" for kind in dict.fromkeys(claim.kinds))
        return f"no other worker is free: it needs {asked}; beside its own the gateway has {there}"

    # --- accounts --------------------------------------------------------------------------------
    def _account(self, tenant: str) -> _Account:
        found = self._accounts.get(tenant)
        if found is None:
            if len(self._accounts) > _ACCOUNTS_MAX:
                self._forget_idle()
            found = self._accounts[tenant] = _Account(Allowed(tenant))
        return found

    def _forget_idle(self) -> None:
        """Forget tenants that have nothing and whose turn is over; they are allowed anew."""
        for tenant, each in list(self._accounts.items()):
            if not each.devices and not each.waiting and each.turn <= self._turn:
                del self._accounts[tenant]

    def _join_line(self, claim: Claimed) -> None:
        self._let_go(claim.session)
        account = self._account(claim.tenant)
        if not account.waiting:  # what it did not ask for meanwhile is not made up for
            account.turn = max(account.turn, self._turn)
        if claim.session not in self._line:
            account.waiting += 1
        self._arrivals += 1
        again = claim.session in self._kept
        self._line[claim.session] = _Waiting(claim, self._arrivals, again)

    def _leave_line(self, session: str) -> None:
        left = self._line.pop(session, None)
        if left is not None:
            self._account(left.claim.tenant).waiting -= 1

    def _let_go(self, session: str) -> None:
        """Take a session's workers, and leave it its part of the quota."""
        grant = self._grants.pop(session, None)
        if grant is None:
            return
        self._kept[session] = grant.claim
        for worker in grant.workers:
            if worker in self._slots:
                self._slots[worker].sessions.discard(session)

    def _release(self, session: str) -> None:
        self._let_go(session)
        claim = self._kept.pop(session, None)
        if claim is not None:
            self._charge(claim, -1)

    def _charge(self, claim: Claimed, sign: int) -> None:
        account, devices = self._account(claim.tenant), sign * len(claim.kinds)
        account.devices += devices
        account.memory_bytes += devices * claim.memory_bytes

    def _leave(self, worker: str, epoch: int, reason: str, out: list[Output]) -> None:
        slot = self._slots.get(worker)
        if slot is None or slot.worker.epoch > epoch:
            return
        del self._slots[worker]
        for session in sorted(slot.sessions):
            device = self._grants[session].workers.index(worker)
            out.append(Bereft(session, device, slot.worker, reason))
            self._let_go(session)

    # --- the line --------------------------------------------------------------------------------
    def _order(self) -> None:
        """Put the line into the order of turns: a tenant's own claims in that of their arrival."""
        turns = {tenant: account.turn for tenant, account in self._accounts.items()}
        for each in sorted(self._line.values(), key=lambda w: w.number):
            tenant = each.claim.tenant
            each.tag = _FIRST if each.again else turns[tenant]
            turns[tenant] += 0.0 if each.again else self._cost(each.claim)
        accounts = self._accounts
        line = sorted(
            self._line.values(),
            key=lambda w: (w.tag, accounts[w.claim.tenant].devices, w.number),
        )
        self._line = {each.claim.session: each for each in line}

    def _cost(self, claim: Claimed) -> float:
        return len(claim.kinds) / self._accounts[claim.tenant].allowed.weight

    def _serve(self, out: list[Output]) -> None:
        """Grant what can be granted in the line's order; nobody takes what one before could have.

        Who waits for the quota of its own tenant is no one's hindrance but its tenant's. Who waits
        for workers that compute other bits, or for such as another tenant's that nobody can
        replace, leaves those that are there to others.
        """
        self._order()
        left: dict[str, list[_Slot]] = {}  # by kind: what nobody before waits for
        for slot in self._slots.values():
            left.setdefault(slot.worker.kind, []).append(slot)
        short: Counter[str] = Counter()
        over: set[str] = set()
        for each in list(self._line.values()):
            claim = each.claim
            held = "" if claim.tenant in over else self._over_quota(claim)
            if held or claim.tenant in over:
                over.add(claim.tenant)
                if held and not each.held:
                    out.append(Held(claim.session, held))
                each.held = held or each.held
                continue
            each.held = ""
            chosen = self._choose(claim, left)
            if chosen is not None:
                self._grant(each, chosen, out)
                continue
            short.update(claim.kinds)
            for index, kind in enumerate(claim.kinds):
                rest = [s for s in left.get(kind, ()) if not _could_have(s, claim, index)]
                left[kind] = rest
        self._make_room(short, out)
        for place, session in enumerate(self._line, 1):
            if self._places.get(session) != place:
                out.append(Placed(session, place))
        self._places = {session: place for place, session in enumerate(self._line, 1)}
        for kind in sorted(self._wanted.keys() | short.keys()):
            if self._wanted[kind] != short[kind]:
                out.append(Want(kind, short[kind]))
        self._wanted = short

    def _over_quota(self, claim: Claimed) -> str:
        """Return which quota of its tenant has no room for a claim, or ""."""
        account = self._accounts[claim.tenant]
        allowed, more = account.allowed, len(claim.kinds)
        if claim.session in self._kept:
            return ""
        if allowed.devices is not None and account.devices + more > allowed.devices:
            return over_quota("devices", more, account.devices, allowed.devices)
        new = more * claim.memory_bytes
        if allowed.memory_bytes is not None and account.memory_bytes + new > allowed.memory_bytes:
            return over_quota("bytes of memory", new, account.memory_bytes, allowed.memory_bytes)
        return ""

    def _choose(self, claim: Claimed, left: dict[str, list[_Slot]]) -> list[_Slot] | None:
        """Return a distinct worker for each device: a free one first, else one to share.

        left: by kind, those that it may have as far as others before it are concerned.
        """
        chosen: list[_Slot] = []
        for index, kind in enumerate(claim.kinds):
            able = [
                slot
                for slot in left.get(kind, ())
                if (not claim.numerics or slot.worker.numerics == claim.numerics[index])
                and not slot.leaving
                and slot not in chosen
                and self._may_have(slot, claim.tenant)
            ]
            if not able:
                return None
            chosen.append(min(able, key=lambda s: (len(s.sessions), s.tenant != claim.tenant)))
        return chosen

    def _may_have(self, slot: _Slot, tenant: str) -> bool:
        """Return whether a tenant may use a worker: its own, or a process that nobody has used.

        Another tenant's process is replaced, never handed over. One that nobody can replace stays
        its tenant's until it is started anew.
        """
        return slot.tenant is None or (slot.tenant == tenant and len(slot.sessions) < self._share)

    def _grant(self, waiting: _Waiting, chosen: list[_Slot], out: list[Output]) -> None:
        claim = waiting.claim
        self._leave_line(claim.session)
        account = self._accounts[claim.tenant]
        self._turn = max(self._turn, waiting.tag)
        account.turn += 0.0 if waiting.again else self._cost(claim)
        self._release(claim.session)
        self._charge(claim, 1)
        for slot in chosen:
            slot.tenant = claim.tenant
            slot.sessions.add(claim.session)
        self._grants[claim.session] = _Grant(claim, tuple(slot.worker.worker for slot in chosen))
        out.append(Granted(claim.session, tuple(slot.worker for slot in chosen)))

    def _make_room(self, short: Counter[str], out: list[Output]) -> None:
        """Replace workers that wait with another tenant's past, as many as are wanted."""
        for slot in self._slots.values():
            kind = slot.worker.kind
            going = sum(s.going for s in self._slots.values() if s.worker.kind == kind)
            if going < short[kind] and not slot.sessions and not slot.leaving and slot.tenant:
                if slot.worker.supervised:
                    slot.leaving = True
                    out.append(Replace(slot.worker, "its tenant has left"))

    def _shortage(self, claim: Claimed) -> str:
        asked = ", ".join(f"{n} {kind}" for kind, n in Counter(claim.kinds).items())
        there = Counter(slot.worker.kind for slot in self._slots.values())
        has = ", ".join(f"{there[kind]} {kind}" for kind in dict.fromkeys(claim.kinds))
        alike = ""
        if claim.numerics:
            keys = {slot.worker.numerics for slot in self._slots.values()}
            if keys.isdisjoint(claim.numerics):
                alike = (
                    " None of them computes the same bits as those that the session had (their "
                    "numerics keys differ): allow_numerics_change=True lets it go on with others."
                )
        return (
            f"no worker became free in time: asked for {asked}; the gateway has {has}, "
            "all in use or fewer than asked for. Try later, ask for fewer, or start more workers."
            f"{alike}"
        )


def _could_have(slot: _Slot, claim: Claimed, index: int) -> bool:
    """Return whether a worker, or the one in its place, can come to be a claim's device."""
    if claim.numerics and slot.worker.numerics != claim.numerics[index]:
        return False
    return slot.tenant in (None, claim.tenant) or slot.worker.supervised


def over_quota(what: str, requested: int, used: int, limit: int) -> str:
    """Return what a client is told whose tenant has used up its quota.

    >>> over_quota("devices", 2, 3, 4)
    "the tenant's quota of devices: requested 2, used 3, limit 4; end a session or ask for less"
    """
    return (
        f"the tenant's quota of {what}: requested {requested}, used {used}, limit {limit}; "
        "end a session or ask for less"
    )
