"""`farspan serve`: the gateway's options, and what it is made of.

Nothing is decided here; read `gateway.py` next.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from farspan.core import limits

from farspan_server import cli_options as options
from farspan_server.cli_operator import port_options
from farspan_server.cli_process import Stop, begin, either, until_stopped

if TYPE_CHECKING:
    from farspan_server.config import GatewayConfig, OperatorPort, StaticWorker


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@options.port
@click.option(
    "--token-file",
    "token_files",
    type=options.FILE,
    multiple=True,
    help="As `farspan token` keeps it, or lines of token or tenant:token; watched. May be given "
    "several times; or the lines stand in the variable FARSPAN_TOKENS.",
)
@click.option("--end-revoked", is_flag=True, help="End the streams of tokens that are revoked.")
@options.tenants
@options.audit
@click.option("--tls-certificate", type=options.FILE, help="PEM; required beyond this machine.")
@click.option("--tls-key", type=options.FILE)
@click.option(
    "--tls-client-ca", type=options.FILE, help="Then clients must show a certificate of it."
)
@click.option("--supervisor-listen", metavar="ADDRESS", help="Where a supervisor reports workers.")
@click.option("--supervisor-key-file", type=options.FILE, help="32 bytes in hex.")
@click.option(
    "--worker",
    "by_hand",
    multiple=True,
    metavar="ADDRESS=KEYFILE",
    help="A worker started by `farspan worker`; may be given several times.",
)
@options.journal
@options.snapshots
@options.command_seconds
@options.durability
@options.retention_days
@options.retention_bytes("0")
@port_options
@options.log_format
@click.option(
    "--lease",
    type=click.FloatRange(1.0),
    default=limits.LEASE_S,
    show_default=True,
    metavar="SECONDS",
    help="So long a session keeps its workers without its client.",
)
@options.as_json
@options.parent
def serve(as_json: bool, parent: int, **asked: Any) -> None:
    """Run the gateway."""
    # gRPC's event engine hands what it reads from thread to thread before asyncio sees it: four
    # changes and a tenth of the time of a read more than its older poller. Read when grpc loads.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener,-event_engine_client")
    begin("gateway", parent)

    def run(stop: Stop) -> Coroutine[Any, Any, None]:
        stop.watched = bool(parent)
        return _serve(stop, as_json, **asked)

    sys.exit(asyncio.run(until_stopped(run)))


def quiet() -> None:
    """Let the garbage collector leave alone what is there for good: modules and tables.

    Looking through them took it 30 ms, and every session waited meanwhile.
    """
    gc.collect()
    gc.freeze()


async def _serve(stop: Stop, as_json: bool, drain_seconds: float, **asked: Any) -> None:
    """Run a gateway until it is told to stop, and then so long for its sessions."""
    from farspan_server.gateway import Gateway

    gateway = Gateway(_config(**asked))
    stop.reload = lambda: gateway.tenancy.look(again=True)
    address = await gateway.start()
    quiet()
    said = {"address": address, "metrics": gateway.operations.address, "pid": os.getpid()}
    _say(said, as_json, f"gateway serves at {address}")
    try:
        await stop.wait()
        if drain_seconds:  # for sessions that end with the gateway; told again, it stops at once
            stop.clear()
            await either(gateway.drain(drain_seconds), stop.wait())
    finally:
        await gateway.stop()


def _config(
    *,
    host: str,
    port: int,
    token_files: tuple[Path, ...],
    end_revoked: bool,
    tenants: Path | None,
    audit: Path | None,
    supervisor_listen: str | None,
    supervisor_key_file: Path | None,
    by_hand: tuple[str, ...],
    journal: Path | None,
    snapshot_every: float,
    snapshot_bytes: int,
    snapshot_frames: int,
    command_seconds: float,
    durability: str,
    retention_days: float,
    retention_bytes: int,
    operator: OperatorPort | None,
    lease: float,
    **tls: Path | None,
) -> GatewayConfig:
    """Return what the options come to."""
    from farspan.core.op import table_hash

    from farspan_server import token_file
    from farspan_server.config import GatewayConfig, SupervisorPort

    supervisor = None
    if supervisor_listen is not None:
        if supervisor_key_file is None:
            raise click.UsageError("--supervisor-listen needs --supervisor-key-file")
        supervisor = SupervisorPort(supervisor_listen, options.read_key(supervisor_key_file))
    return GatewayConfig(
        tokens=token_file.plain(os.environ.pop("FARSPAN_TOKENS", "")),
        token_files=token_files,
        end_revoked=end_revoked,
        tenants=tenants,
        audit=audit,
        table_hash=table_hash(),
        host=host,
        port=port,
        workers=tuple(_static_worker(each) for each in by_hand),
        supervisor=supervisor,
        journals=journal,
        snapshot_every_s=snapshot_every,
        snapshot_bytes=snapshot_bytes,
        snapshot_frames=snapshot_frames,
        command_s_max=command_seconds,
        durability=durability,
        retention_s=retention_days * 86_400.0,
        retention_bytes=retention_bytes,
        operator=operator,
        lease_s=lease,
        **tls,
    )


def _say(body: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        print(json.dumps(body), flush=True)
    else:
        print(text, file=sys.stderr)


def _static_worker(text: str) -> StaticWorker:
    from farspan_server.config import StaticWorker

    address, _, path = text.rpartition("=")
    if not address:
        raise click.BadParameter(f"{text!r}: write ADDRESS=KEYFILE")
    return StaticWorker(address, options.read_key(Path(path)))
