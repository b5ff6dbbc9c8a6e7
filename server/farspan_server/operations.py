"""What an operator sees and does of one gateway: readiness, health, metrics, drains.

The glue between the service and the operator's port; the parts decide (`readiness.py`,
`metrics.py`, `drain.py`), the gateway's gRPC server only gets a health that is true.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any

from farspan import wire

from farspan_server.config import GatewayConfig
from farspan_server.operator_port import Port
from farspan_server.readiness import LOOK_S, Readiness
from farspan_server.service import Service

log = logging.getLogger(__name__)


class Operations:
    """The operator's side of a gateway. `start` when it serves, `stop` at its end."""

    def __init__(self, service: Service, config: GatewayConfig) -> None:
        self._service = service
        self._config = config
        self._readiness = Readiness(service, config.journals)
        self._health: Any = None  # grpc_health's servicer
        self._port: Port | None = None
        self._task: asyncio.Task[None] | None = None
        self._said: list[str] = []

    @property
    def address(self) -> str:
        """Where the operator's port listens; empty if there is none."""
        return self._port.address if self._port is not None else ""

    async def start(self, health: Any) -> None:
        """Begin to tell. OSError if the port is taken."""
        self._health = health
        if self._config.operator is not None:
            self._port = Port(self._config.operator, self, self._tls())
            log.info("metrics and health at %s", self.address)
        await self._look()
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Tell that nobody serves here any more, then nothing."""
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
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(config.tls_certificate, config.tls_key)
        return context

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except Exception:  # a defect of ours must not leave an old answer standing unseen
                log.exception("readiness")

    async def _look(self) -> None:
        from grpc_health.v1 import health_pb2

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
        return []

    def drain(self, asked: dict[str, Any]) -> None:
        raise NotImplementedError
