"""What an operator may tune of a gateway; everything else is a constant of core/limits.py.

Secrets are marked so that no repr or log line shows them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from farspan.core import limits
from farspan.core.errors import AuthError, BadValueError

from farspan_server.auth import TOKEN_CHARACTERS_MIN


@dataclass(frozen=True, slots=True)
class StaticWorker:
    """A worker that was started by hand: where it listens and the key of its links."""

    address: str  # host:port or unix:/path
    key: bytes = field(repr=False)
    kind: str = "cpu"


@dataclass(frozen=True, slots=True)
class SupervisorPort:
    """Where a supervisor reports its workers, and the key that it must hold."""

    address: str  # host:port (0 picks one) or unix:/path
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OperatorPort:
    """Where metrics and health are told over HTTP, and who may do more than read."""

    host: str = "127.0.0.1"
    port: int = 0  # 0 picks one
    token: str = field(default="", repr=False)  # of an operator; without it nobody may drain
    open_to_all: bool = False  # metrics may be read from other machines without a token

    @property
    def loopback(self) -> bool:
        """Only this machine can reach the address."""
        return loopback(self.host)


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """A gateway: where it listens, whom it lets in, what workers it has."""

    tokens: Mapping[str, str] = field(repr=False)  # token to tenant
    table_hash: str  # of the op table that this build of farspan has
    host: str = "127.0.0.1"
    port: int = 0  # 0 picks one
    tls_certificate: Path | None = None  # PEM, with tls_key
    tls_key: Path | None = None
    tls_client_ca: Path | None = None  # then clients must show a certificate of this authority
    #: Watched while the gateway serves: more tokens (`token_file.py`), quotas (`quotas.py`).
    token_files: tuple[Path, ...] = ()
    tenants: Path | None = None
    end_revoked: bool = False  # a token that is not good any more ends its streams too
    audit: Path | None = None  # the audit log
    workers: tuple[StaticWorker, ...] = ()
    supervisor: SupervisorPort | None = None
    operator: OperatorPort | None = None
    lease_s: float = limits.LEASE_S  # a session keeps its workers this long without a client
    wait_s_max: float = 3_600.0  # seconds that a session may wait in line, whatever it asks for
    sessions_per_worker_max: int = 4  # sessions of one tenant that share a worker
    sessions_max: int = 10_000
    #: Where sessions keep journals and snapshots, so that they survive their workers and this
    #: process; a directory of this gateway alone. None: a session is lost with any of its workers.
    journals: Path | None = None
    #: What sessions survive that do not say it themselves: see `live.py`. Without journals: "off".
    durability: str = "durable"
    retention_s: float = 7 * 86_400.0  # a session on disk that nobody uses is removed after it
    retention_bytes: int = 0  # of sessions on disk that nobody uses, the oldest go; 0: no bound
    #: Of work, bytes of journal, frames: after any of these a session is in a new snapshot.
    snapshot_every_s: float = limits.SNAPSHOT_EVERY_S
    snapshot_bytes: int = limits.SNAPSHOT_EVERY_BYTES
    snapshot_frames: int = limits.SNAPSHOT_EVERY_FRAMES
    command_s_max: float = limits.COMMAND_S  # a longer command ends its session; 0: none does
    memory_bytes_max: int = 8 * limits.GiB  # of one session on one device

    def check(self) -> None:
        """Raise unless this is safe to serve: a token always, TLS beyond this machine."""
        if not self.tokens and not self.token_files:
            raise AuthError("gateway: no token given; one is required on any address")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise BadValueError("gateway: a certificate and its key go together; one is missing")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise BadValueError("gateway: client certificates need a server certificate")
        if not self.loopback and self.tls_certificate is None:
            raise AuthError(
                f"gateway: {self.host} can be reached from other machines; give a certificate and "
                "a key (`farspan certs` makes them for development), or listen on 127.0.0.1"
            )

        self._check_operator()

    def _check_operator(self) -> None:
        port = self.operator
        if port is None:
            return
        if port.token and len(port.token) < TOKEN_CHARACTERS_MIN:
            raise AuthError(f"operator: a token needs at least {TOKEN_CHARACTERS_MIN} characters")
        if not port.loopback and not port.token and not port.open_to_all:
            raise AuthError(
                f"operator: {port.host} can be reached from other machines; give a token "
                "(--operator-token-file) or say --metrics-open, or listen on 127.0.0.1"
            )
        if not port.loopback and port.token and self.tls_certificate is None:
            raise AuthError(
                f"operator: a token would travel in clear to {port.host}; give the gateway a "
                "certificate, which this port uses too"
            )

    @property
    def loopback(self) -> bool:
        """Only this machine can reach the address."""
        return loopback(self.host)


def loopback(host: str) -> bool:
    """Return whether only this machine can reach an address at a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
