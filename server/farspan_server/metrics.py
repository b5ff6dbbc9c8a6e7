"""A gateway as Prometheus reads it: families of samples, made when it asks and never before.

`read` runs on the gateway's loop and only looks; no frame is counted for it. Labels are kinds,
states, names of errors, and tenants and workers up to a bound: never sessions. Names end in their
unit. What each metric means stands in its HELP and in docs/operations.md.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from farspan.core import limits
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from farspan_server import by_tenant
from farspan_server import pool as pools
from farspan_server import session as sessions
from farspan_server.live import KINDS
from farspan_server.service import Service
from farspan_server.session_messages import Load
from farspan_server.totals import Durations

_STATES: Final = (
    sessions.WAITING, sessions.OPEN, sessions.DETACHED, sessions.ASLEEP, sessions.FAILED
)  # fmt: skip
_NO_LABELS: Final[tuple[str, ...]] = ()


def read(service: Service, reasons: Iterable[str]) -> list[Metric]:
    """Return all metrics of a gateway at this moment. reasons: why it takes no new sessions."""
    return [
        _gauge("ready", "1 if new sessions may come here.", int(not list(reasons))),
        *_sessions(service),
        *_workers(service),
        *_times(service),
        _counter("errors", "Errors told to clients.", ("kind",), dict(service.totals.errors)),
    ]


def _sessions(service: Service) -> Iterator[Metric]:
    accounts = by_tenant.read(service)
    loads = [Load(), *(live.machine.load for live in service.sessions)]
    load = Load(*map(sum, zip(*loads, strict=True)))
    states: Counter[str] = sum((each.states for each in accounts.values()), Counter())
    in_states = {state: states[state] for state in _STATES}
    yield _gauge("sessions", "Sessions that have not ended, by state.", in_states, ("state",))
    now = {label: count for label, a in accounts.items() if (count := a.states.total())}
    yield _gauge("tenant_sessions", "Sessions that have not ended.", now, ("tenant",))
    for name, field, text in (
        ("sessions_opened", "sessions", "Sessions that were opened."),
        ("session_frames", "frames", "Frames that sessions sent."),
        ("session_commands", "commands", "Commands in those frames."),
        ("recoveries", "recoveries", "Losses of workers after which a session went on."),
        ("received_bytes", "bytes_received", "Bytes of frames and tensors from clients."),
        ("sent_bytes", "bytes_sent", "Bytes of events and tensors to clients."),
    ):
        values = {label: getattr(each.work, field) for label, each in accounts.items()}
        yield _counter(name, text, ("tenant",), values)
    for name, field, text in (
        ("line_waits", "waits", "Times that a session got workers for which it had waited."),
        ("line_wait_seconds", "wait_s", "Time that they waited, a moment too."),
        ("slowed_seconds", "slowed_s", "Time that frames waited for the rate of their tenant."),
    ):
        values = {label: getattr(each, field) for label, each in accounts.items()}
        yield _counter(name, text, ("tenant",), values)
    refused = {(label, q): n for label, each in accounts.items() for q, n in each.refused.items()}
    text = "Times that a quota refused something, or had it wait."
    yield _counter("quota_hits", text, ("tenant", "quota"), refused)
    for name, field, text in (
        ("tenant_devices", "devices", "Workers of its sessions, shared ones counted for each."),
        ("tenant_memory_bytes", "memory_bytes", "Bytes reserved on those."),
        ("tenant_journal_bytes", "journal_bytes", "Bytes on disk: journals, uploads, snapshots."),
    ):
        values = {label: getattr(each, field) for label, each in accounts.items()}
        yield _gauge(name, text, values, ("tenant",))
    yield _gauge("credits_used_frames", "Frames that are not acknowledged yet.", load.frames)
    yield _gauge("credits_used_bytes", "Bytes of such frames.", load.frame_bytes)
    yield _gauge("held_frames", "Frames that wait for workers or a snapshot.", load.held)
    yield _gauge("unconfirmed_events", "Lists of events that clients have not taken.", load.events)
    yield _gauge("unconfirmed_event_bytes", "Bytes of such events.", load.event_bytes)
    journal_bytes = sum(each.journal_bytes for each in accounts.values())
    yield _gauge("journal_bytes", "Bytes of all sessions on disk.", journal_bytes)
    yield _gauge("line_sessions", "Sessions that wait in line for workers.", service.pool.line)


def _workers(service: Service) -> Iterator[Metric]:
    found = service.pool.states
    known = {*KINDS, *(kind for kind, _ in found)}
    states = {(kind, state): found[kind, state] for kind in known for state in pools.STATES}
    yield _gauge("workers", "Workers that are reached, by state.", states, ("kind", "state"))
    supervisor = service.supervisor
    connected = int(supervisor is not None and supervisor.connected)
    yield _gauge("supervisor_connected", "1 if a supervisor is connected.", connected)
    capacity = supervisor.capacity if supervisor is not None else {}
    text = "Workers that the supervisor wants to have."
    yield _gauge("workers_wanted", text, dict(capacity), ("kind",))
    counts = {each.worker.worker: each.counts for each in service.links}
    shown = dict(list(counts.items())[: limits.WORKERS_SHOWN_MAX])
    for key, name, text in (
        ("sessions", "worker_sessions", "Sessions in the worker."),
        ("transfer_bytes", "worker_transfer_bytes", "Bytes of uploads that no frame has used yet."),
        ("unsent_bytes", "worker_unsent_bytes", "Bytes of values that wait to be sent."),
        ("freed_bytes", "worker_freed_bytes", "Freed memory that the worker keeps for reuse."),
    ):
        values = {worker: each.get(key, 0) for worker, each in shown.items()}
        yield _gauge(name, text, values, ("worker",))
    for key, name, text in (
        ("busy_s", "worker_busy_seconds", "Time in which the worker ran frames."),
        ("frames", "worker_frames", "Frames that the worker ran."),
    ):
        values = {worker: each.get(key, 0) for worker, each in shown.items()}
        yield _counter(name, text, ("worker",), values)


def _times(service: Service) -> Iterator[Metric]:
    totals = service.totals
    yield _histogram("journal_sync_seconds", "Syncs of a journal's files.", totals.sync_s)
    text = "From the loss of a worker until others have all that it had."
    yield _histogram("recovery_seconds", text, totals.recovery_s)
    yield _histogram("event_loop_lag_seconds", "How late the gateway's loop came.", totals.lag_s)
    yield _gauge("scrape_timestamp_seconds", "The gateway's clock, to compare with.", time.time())


def _gauge(
    name: str, text: str, values: Any, labels: tuple[str, ...] = _NO_LABELS
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"farspan_{name}", text, labels=labels)
    _fill(family, values if labels else {(): values})
    return family


def _counter(
    name: str, text: str, labels: tuple[str, ...], values: dict[Any, float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"farspan_{name}", text, labels=labels)
    _fill(family, values)
    return family


def _fill(family: Any, values: dict[Any, float]) -> None:
    for label, value in values.items():
        family.add_metric((label,) if isinstance(label, str) else label, value)


def _histogram(name: str, text: str, durations: Durations) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"farspan_{name}", text)
    buckets, sum_s = durations.read()
    family.add_metric((), buckets, sum_s)
    return family
