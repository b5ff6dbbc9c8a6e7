"""What an operator sees and does of one gateway: readiness, health, metrics, drains.

The glue between the service and the operator's port; the parts decide (`readiness.py`,
`metrics.py`, `drain.py`), the gateway's gRPC server only gets a health that is true.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from typing import Any, Final

from farspan import wire
from farspan.core import limits
from farspan.core.errors import BadValueError

from farspan_server import by_tenant
from farspan_server.config import GatewayConfig
from farspan_server.drain import Drains
from farspan_server.operator_port import Port
from farspan_server.pool_messages import Worker
from farspan_server.readiness import LOOK_S, Readiness
from farspan_server.service import Service
from farspan_server.watched import Watched

log = logging.getLogger(__name__)

_WAIT_S_MAX: Final = 86_400.0  # that an operator may let a drain wait


class Operations:
    """The operator's side of a gateway. `start` when it serves, `stop` at its end."""

    def __init__(self, service: Service, config: GatewayConfig) -> None:
        self._service = service
        self._config = config
        self._readiness = Readiness(service, config.journals)
        self._drains = Drains(service)
        self._left: dict[str, int] = {}  # by worker, the last epoch that wanted to end
        service.on_leaving = self._leaving
        self._health: Any = None  # grpc_health's servicer
        self._port: Port | None = None
        self._certificate: Watched[None] | None = None  # of the port, if it has one
        self._task: asyncio.Task[None] | None = None
        self._said = ["it has not begun to serve"]

    @property
    def address(self) -> str:
        """Where the operator's port listens; empty if there is none."""
        return self._port.address if self._port is not None else ""

    @property
    def ready(self) -> bool:
        """Whether load balancers were told last that new sessions may come."""
        return not self._said

    async def start(self, health: Any) -> None:
        """Begin to tell. OSError if the port is taken."""
        self._health = health
        if self._config.operator is not None:
            self._port = Port(self._config.operator, self, self._tls())
            log.info("metrics and health at %s", self.address)
        await self.look()
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Tell that nobody serves here any more, then nothing."""
        self._drains.stop()
        if self._task is not None:
            self._task.cancel()
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        if self._port is not None:
            await self._port.close()

    def _tls(self) -> ssl.SSLContext | None:
        """Return the gateway's own certificate for a port that others can reach."""
        config = self._config
        assert config.operator is not None
        if config.operator.loopback or config.tls_certificate is None:
            return None
        pair = (config.tls_certificate, config.tls_key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2

        def load() -> None:  # a pair that does not fit would leave the context without a key
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*pair)
            context.load_cert_chain(*pair)

        self._certificate = Watched(tuple(path for path in pair if path is not None), load)
        return context

    def _renew(self) -> None:
        """Take a new certificate, if there is one, for the connections to come."""
        try:
            if self._certificate is not None and self._certificate.look():
                log.info("the operator's port has a new certificate")
        except OSError as error:
            log.warning("the operator's port keeps its certificate: %s", error)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except Exception:  # a defect of ours must not leave an old answer standing unseen
                log.exception("readiness")

    async def look(self) -> None:
        """Tell load balancers how it is now."""
        from grpc_health.v1 import health_pb2

        self._renew()
        await self._readiness.look()
        reasons = self.reasons()
        if reasons != self._said:
            log.info("not ready: %s", "; ".join(reasons)) if reasons else log.info("ready")
            self._said = reasons
        answer = health_pb2.HealthCheckResponse
        status = answer.NOT_SERVING if reasons else answer.SERVING
        await self._health.set(wire.SERVICE, status)

    # --- for the port (operator_port.Subject) ----------------------------------------------------
    def metrics(self) -> list[Any]:
        from farspan_server.metrics import read

        return read(self._service, self._readiness.reasons())

    def reasons(self) -> list[str]:
        return self._readiness.reasons()

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers that are reached or drained, by slot."""
        states = self._service.pool.states_of()
        found: dict[str, dict[str, Any]] = {}
        aheads = {each.worker.worker: each.clock_ahead_s for each in self._service.links}
        for worker, sessions in self._service.workers:
            found[worker.worker] = {
                "kind": worker.kind,
                "host": worker.host,
                "pid": worker.pid,
                "epoch": worker.epoch,
                "state": states[worker.worker],
                "sessions": sessions,
                "numerics": worker.numerics,
                "clock_ahead_s": aheads.get(worker.worker, 0.0),
            }
        for name, state in self._drains.states.items():
            found.setdefault(name, {"state": "gone", "sessions": 0})["drain"] = state
        return [{"worker": name, **found[name]} for name in sorted(found)]

    def tenants(self) -> list[dict[str, Any]]:
        """Return what each tenant has and has done, by name, with the gateway's clock."""
        found, now_s = by_tenant.read(self._service), time.monotonic()
        return [
            {"tenant": label, "clock_s": now_s} | found[label].to_json() for label in sorted(found)
        ]

    def drain(self, asked: dict[str, Any]) -> None:
        """Begin the drain of workers. BadValueError.

        asked: {"workers": names or "all", "wait_s": seconds for sessions without a journal}.
        """
        there = [worker.worker for worker, _ in self._service.workers]
        names = asked.get("workers")
        wait_s = asked.get("wait_s", limits.DRAIN_WAIT_S)
        if names == "all":
            names = sorted(there)
        if not isinstance(names, list) or not names or not isinstance(wait_s, int | float):
            raise BadValueError('drain: send {"workers": ["cpu:0"] or "all", "wait_s": seconds}')
        unknown = sorted({str(name)[:64] for name in names if name not in there})
        if unknown:
            raise BadValueError(f"drain: no worker {', '.join(unknown[:4])} is reached here")
        self._drains.begin(names, min(max(0.0, float(wait_s)), _WAIT_S_MAX))

    def _leaving(self, worker: Worker) -> None:
        """Drain a worker that says itself that it is about to end; it says so again and again.

        The next one of its name may be there when it says so for the last time.
        """
        now = self._service.find_worker(worker.worker)
        if now is None or now.epoch != worker.epoch or self._left.get(now.worker) == now.epoch:
            return
        if self._drains.begin_now(now.worker, limits.DRAIN_WAIT_S):
            self._left[now.worker] = now.epoch
