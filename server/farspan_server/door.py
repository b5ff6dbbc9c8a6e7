"""Who may come in, and how often: bounds on calls, on streams that say nothing, on wrong tokens.

A machine: no I/O, times come in. A wrong token never keeps a right one out, from the same address
either: its refusal only comes later and later, and nobody waits in a bounded place for nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from farspan.core.errors import CapacityError

PEERS_MAX: Final = 10_000  # addresses remembered; the one that failed longest ago is forgotten
FAILURES_FREE: Final = 5  # wrong tokens of an address within FORGET_S that cost it no time
FORGET_S: Final = 60.0
DELAY_S_MAX: Final = 8.0  # of a refusal: 0.25 s at first, then twice as long each time
DELAYED_MAX: Final = 256  # refusals that wait at a time; others come at once
HELLOS_MAX: Final = 64  # streams of one address that have not said hello yet
NOTED_MAX: Final = 10  # refusals of an address within FORGET_S that the audit log names one by one


@dataclass(slots=True)
class _Failures:
    count: int
    since_s: float


@dataclass(slots=True, frozen=True)
class Refusal:
    """What a wrong token costs its sender, and whether to write it down."""

    delay_s: float
    count: int  # of that address, within FORGET_S
    noted: bool


class Door:
    """What is counted of those who call."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._hellos: Counter[str] = Counter()
        self._failures: dict[str, _Failures] = {}
        self._delayed = 0

    def enter(self, tenant: str, calls_max: int) -> None:
        """Count a call of a tenant until `leave`. CapacityError if it has too many under way."""
        if self._calls[tenant] >= calls_max:
            raise CapacityError(
                f"the tenant has {calls_max} calls under way, its most; end some of them"
            )
        self._calls[tenant] += 1

    def leave(self, tenant: str) -> None:
        """Forget a call."""
        _less(self._calls, tenant)

    def await_hello(self, peer: str) -> None:
        """Count a stream that has said nothing, until `heard`. CapacityError: too many."""
        if self._hellos[peer] >= HELLOS_MAX:
            raise CapacityError(f"{HELLOS_MAX} streams of this address have not said hello yet")
        self._hellos[peer] += 1

    def heard(self, peer: str) -> None:
        """Forget that a stream had said nothing."""
        _less(self._hellos, peer)

    def refuse(self, peer: str, now_s: float) -> Refusal:
        """Return how long the refusal of a wrong token waits; `refused` when it has."""
        known = self._failures.pop(peer, None)
        if known is None or now_s - known.since_s > FORGET_S:
            known = _Failures(0, now_s)
        known.count += 1
        self._failures[peer] = known  # as the latest one
        if len(self._failures) > PEERS_MAX:
            del self._failures[next(iter(self._failures))]
        beyond = known.count - FAILURES_FREE
        delay_s = 0.0
        if beyond > 0 and self._delayed < DELAYED_MAX:
            delay_s = min(DELAY_S_MAX, 0.25 * 2.0 ** min(beyond - 1, 10))
            self._delayed += 1
        noted = known.count <= NOTED_MAX or known.count % 1000 == 0
        return Refusal(delay_s, known.count, noted)

    def refused(self, refusal: Refusal) -> None:
        """Take that a refusal has been sent, or that nobody waits for it any more."""
        if refusal.delay_s:
            self._delayed -= 1


def address_of(peer: str) -> str:
    """Return the address in what gRPC calls a peer, without its port.

    >>> address_of("ipv4:10.0.0.7:41234"), address_of("ipv6:%5B::1%5D:41234"), address_of("unix:")
    ('10.0.0.7', '::1', 'unix')
    """
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind or "unknown"
    host = rest.rpartition(":")[0]
    return host.replace("%5B", "").replace("%5D", "").strip("[]")[:64]


def _less(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
