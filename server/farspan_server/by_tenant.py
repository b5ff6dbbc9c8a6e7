"""What each tenant of a gateway has and has done, for metrics and for `farspan status --tenants`.

Read on the gateway's loop when somebody asks, from numbers that are there anyway. Tenants are
named up to a bound and go together beyond it (`Totals.label`); sessions are never named.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from farspan_server.totals import Work

if TYPE_CHECKING:
    from farspan_server.service import Service

#: Quotas by the names that errors have, as labels; `tenancy.quota_hit` says the former.
_LABELS = {
    "bytes of memory": "memory",
    "bytes of journals": "journal",
    "commands_per_s": "commands",
}


@dataclass(slots=True)
class Account:
    """One tenant, or those beyond the bound together."""

    work: Work = field(default_factory=Work)  # since the gateway began
    states: Counter[str] = field(default_factory=Counter)  # sessions now
    devices: int = 0
    memory_bytes: int = 0  # reserved on those devices
    journal_bytes: int = 0  # on disk, with snapshots, of sessions that sleep too
    refused: Counter[str] = field(default_factory=Counter)  # by quota: refused or made to wait
    waits: int = 0  # for workers, since the gateway began
    wait_s: float = 0.0  # of them all
    slowed_s: float = 0.0  # that its rate of commands had frames wait

    def to_json(self) -> dict[str, Any]:
        """Return all of it."""
        work = self.work
        return {
            "sessions": dict(self.states),
            "devices": self.devices,
            "memory_bytes": self.memory_bytes,
            "journal_bytes": self.journal_bytes,
            "frames": work.frames,
            "commands": work.commands,
            "received_bytes": work.bytes_received,
            "sent_bytes": work.bytes_sent,
            "refused": dict(self.refused),
            "waits": self.waits,
            "wait_s": self.wait_s,
            "slowed_s": self.slowed_s,
        }


def read(service: Service) -> dict[str, Account]:
    """Return what each tenant has at this moment, by its label."""
    totals, tenancy = service.totals, service.tenancy
    found: dict[str, Account] = {}

    def of(tenant: str) -> Account:
        return found.setdefault(totals.label(tenant), Account())

    for label, ended in totals.ended.items():
        found[label] = Account(replace(ended))
    for live in service.sessions:
        account = of(live.tenant)
        account.work.add(live)
        account.states[live.machine.state] += 1
    for (tenant, state), count in service.sleepers().items():
        of(tenant).states[state] += count
    for tenant in tenancy.tenants:
        account = of(tenant)
        devices, memory_bytes = service.pool.used(tenant)
        account.devices += devices
        account.memory_bytes += memory_bytes
        account.journal_bytes += tenancy.disk.used(tenant)
    for (tenant, quota), count in tenancy.hits.items():
        of(tenant).refused[_LABELS.get(quota, quota)] += count
    for tenant, count in tenancy.disk.refused().items():
        of(tenant).refused["journal"] += count
    for tenant, seconds in tenancy.slowed_s.items():
        of(tenant).slowed_s += seconds
    for label, (waits, wait_s) in totals.waits.items():
        account = found.setdefault(label, Account())
        account.waits, account.wait_s = waits, wait_s
    return found
