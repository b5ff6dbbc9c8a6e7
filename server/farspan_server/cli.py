"""The `farspan` command: each subcommand says what it needs and starts one thing.

numpy, grpc and ray are imported inside the subcommands: `farspan worker` sets its thread policy
before numpy loads, and `farspan --help` is quick.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from farspan.core import limits
from farspan_worker.process import LEVELS

from farspan_server import cli_sessions
from farspan_server.cli_operator import (
    doctor,
    drain,
    drained,
    log_format,
    metrics_port,
    port_options,
    status,
)
from farspan_server.token_cli import token

if TYPE_CHECKING:
    from farspan_server.config import OperatorPort, StaticWorker
    from farspan_server.fleet import Started

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_level = click.option(
    "--cpu-level", type=click.Choice(["", *LEVELS]), default="", metavar="v3|v4",
    help="Instructions that workers may use; for unlike machines the lowest. Default: all.",
)  # fmt: skip
_json = click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")
_parent = click.option("--parent", type=int, default=0, hidden=True)
_port = click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 picks one."
)
_threads = click.option(
    "--threads", type=int, default=0, help="Of each worker; 0 divides the cores of this machine."
)


class _Workers(click.ParamType):
    """`cpu:2,cuda:1` as {"cpu": 2, "cuda": 1}."""

    name = "KIND:COUNT,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> dict[str, int]:
        if isinstance(value, dict):
            return value
        counts: dict[str, int] = {}
        for part in str(value).split(","):
            kind, _, count = part.strip().partition(":")
            if kind not in ("cpu", "cuda") or not count.isdecimal() or kind in counts:
                self.fail(f"{value!r}: write cpu:2 or cpu:2,cuda:1", param, ctx)
            counts[kind] = int(count)
        if not any(counts.values()):
            self.fail(f"{value!r} is no worker at all; write cpu:2 or cpu:2,cuda:1", param, ctx)
        return counts


_workers = click.option("--workers", type=_Workers(), default="cpu:2", show_default=True)
_spares = click.option(
    "--spares", type=int, default=0, show_default=True, help="Warm CPU workers beyond those."
)


_journal = click.option(
    "--journal", type=click.Path(file_okay=False, path_type=Path), metavar="DIRECTORY",
    help="Keep sessions there, so that they survive workers and gateway; of one gateway alone.",
)  # fmt: skip

_command = click.option(
    "--command-seconds", type=click.FloatRange(0), default=limits.COMMAND_S, show_default=True,
    metavar="SECONDS", help="A command that runs longer ends its session; 0: none does.",
)  # fmt: skip

_every = click.option(
    "--snapshot-every", type=click.FloatRange(0.1), default=limits.SNAPSHOT_EVERY_S,
    show_default=True, metavar="SECONDS", help="Of work, between snapshots of a session.",
)  # fmt: skip


_bytes = click.option(
    "--snapshot-bytes", type=click.IntRange(1), default=limits.SNAPSHOT_EVERY_BYTES,
    show_default=True, metavar="BYTES", help="Of journal: then a snapshot comes sooner.",
)  # fmt: skip
_frames = click.option(
    "--snapshot-frames", type=click.IntRange(1), default=limits.SNAPSHOT_EVERY_FRAMES,
    show_default=True, metavar="COUNT", help="Of frames: then a snapshot comes sooner.",
)  # fmt: skip


def _snapshots(command: Any) -> Any:
    """Add when snapshots are taken to a command."""
    return _every(_bytes(_frames(command)))


_durability = click.option(
    "--durability", type=click.Choice(("durable", "snapshot-only", "off")), default="durable",
    show_default=True, help="Of sessions that do not say it; without a journal: off.",
)  # fmt: skip

_retention = click.option(
    "--retention-days", type=click.FloatRange(0.0), default=7.0, show_default=True,
    help="Then a session on disk that nobody uses is removed.",
)  # fmt: skip


class _Bytes(click.ParamType):
    """`10 GiB` or 10737418240, as bytes."""

    name = "BYTES"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        from farspan.core.errors import BadValueError

        from farspan_server.quotas import size

        try:
            return value if isinstance(value, int) else size(str(value))
        except BadValueError:
            self.fail(f"{value!r}: write bytes, or as in '10 GiB'", param, ctx)


def _retention_bytes(default: str) -> Callable[[Any], Any]:
    return click.option(
        "--retention-bytes", type=_Bytes(), default=default, show_default=True,
        help="Of all sessions on disk that nobody uses; those used longest ago go. 0: no bound.",
    )  # fmt: skip


_tenants = click.option("--tenants", type=_FILE, help="Quotas of tenants, TOML; watched.")

_audit = click.option(
    "--audit", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write down there who did what, a JSON object a line.",
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="farspan")
def main() -> None:
    """Distributed tensors with PyTorch's API: the service's side."""


@main.command()
@_workers
@_spares
@_port
@_threads
@_level
@click.option("--no-ray", is_flag=True, help="Workers as plain processes; CPU only.")
@_journal
@click.option(
    "--no-journal", is_flag=True,
    help="Keep no sessions; without it and --journal: in the user's state directory.",
)  # fmt: skip
@_snapshots
@_command
@_durability
@_retention
@_retention_bytes("20 GB")  # of a user's own disk
@click.option("--token-file", type=_FILE, help="More tokens than the one that is made; watched.")
@_tenants
@_audit
@metrics_port
@log_format
@_json
def up(
    workers: dict[str, int], spares: int, port: int, threads: int, cpu_level: str, no_ray: bool,
    journal: Path | None, no_journal: bool, snapshot_every: float, snapshot_bytes: int,
    snapshot_frames: int, command_seconds: float,
    durability: str, retention_days: float, retention_bytes: int, token_file: Path | None,
    tenants: Path | None, audit: Path | None, metrics_port: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Start gateway, supervisor, Ray and workers on this machine, until Ctrl-C."""
    from farspan.core.errors import ServiceError

    from farspan_server import state_directory
    from farspan_server import up as ups

    if journal is not None and no_journal:
        raise click.UsageError("--journal and --no-journal: which?")
    if journal is None and not no_journal:
        try:
            journal = state_directory.journal_of(port)
        except ServiceError as error:
            raise click.ClickException(str(error)) from None
    plan = ups.Plan(
        workers, spares, port=port, threads=threads, cpu_level=cpu_level, ray=not no_ray,
        journal=journal, snapshot_every_s=snapshot_every, snapshot_bytes=snapshot_bytes,
        snapshot_frames=snapshot_frames, token_file=token_file, tenants=tenants,
        audit=audit, metrics_port=metrics_port, durability=durability,
        retention_days=retention_days, retention_bytes=retention_bytes,
        command_s_max=command_seconds,
    )  # fmt: skip
    sys.exit(asyncio.run(ups.run(plan, as_json=as_json)))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@_port
@click.option(
    "--token-file",
    "token_files",
    type=_FILE,
    multiple=True,
    help="As `farspan token` keeps it, or lines of token or tenant:token; watched. May be given "
    "several times; or the lines stand in the variable FARSPAN_TOKENS.",
)
@click.option("--end-revoked", is_flag=True, help="End the streams of tokens that are revoked.")
@_tenants
@_audit
@click.option("--tls-certificate", type=_FILE, help="PEM; required beyond this machine.")
@click.option("--tls-key", type=_FILE)
@click.option("--tls-client-ca", type=_FILE, help="Then clients must show a certificate of it.")
@click.option("--supervisor-listen", metavar="ADDRESS", help="Where a supervisor reports workers.")
@click.option("--supervisor-key-file", type=_FILE, help="32 bytes in hex.")
@click.option(
    "--worker",
    "by_hand",
    multiple=True,
    metavar="ADDRESS=KEYFILE",
    help="A worker started by `farspan worker`; may be given several times.",
)
@_journal
@_snapshots
@_command
@_durability
@_retention
@_retention_bytes("0")
@port_options
@log_format
@click.option(
    "--lease",
    type=click.FloatRange(1.0),
    default=limits.LEASE_S,
    show_default=True,
    metavar="SECONDS",
    help="So long a session keeps its workers without its client.",
)
@_json
@_parent
def serve(as_json: bool, parent: int, **options: Any) -> None:
    """Run the gateway."""
    # gRPC's event engine hands what it reads from thread to thread before asyncio sees it: four
    # changes and a tenth of the time of a read more than its older poller. Read when grpc loads.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener,-event_engine_client")
    _begin("gateway", parent)

    def run(stop: _Stop) -> Coroutine[Any, Any, None]:
        stop.watched = bool(parent)
        return _serve(stop, as_json, **options)

    sys.exit(asyncio.run(_until_stopped(run)))


def quiet() -> None:
    """Let the garbage collector leave alone what is there for good: modules and tables.

    Looking through them took it 30 ms, and every session waited meanwhile.
    """
    gc.collect()
    gc.freeze()


async def _serve(
    stop: _Stop,
    as_json: bool,
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
    drain_seconds: float,
    lease: float,
    **tls: Path | None,
) -> None:
    from farspan.core.op import table_hash

    from farspan_server import token_file
    from farspan_server.config import GatewayConfig, SupervisorPort
    from farspan_server.gateway import Gateway

    supervisor = None
    if supervisor_listen is not None:
        if supervisor_key_file is None:
            raise click.UsageError("--supervisor-listen needs --supervisor-key-file")
        supervisor = SupervisorPort(supervisor_listen, _read_key(supervisor_key_file))
    config = GatewayConfig(
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
    gateway = Gateway(config)
    stop.reload = lambda: gateway.tenancy.look(again=True)
    address = await gateway.start()
    quiet()
    said = {"address": address, "metrics": gateway.operations.address, "pid": os.getpid()}
    _say(said, as_json, f"gateway serves at {address}")
    try:
        await stop.wait()
        await drained(gateway, stop, drain_seconds)
    finally:
        await gateway.stop()


@main.command()
@click.option("--gateway", required=True, metavar="ADDRESS", help="Its --supervisor-listen.")
@click.option("--key-file", type=_FILE, required=True, help="Its --supervisor-key-file.")
@_workers
@_spares
@click.option("--ray-address", help="host:port of a Ray cluster; else one is started here.")
@click.option("--ray-token-file", type=_FILE, help="The token that cluster was started with.")
@click.option("--no-ray", is_flag=True, help="Workers as plain processes; CPU only.")
@click.option("--directory", type=click.Path(file_okay=False, path_type=Path), help="For sockets.")
@click.option(
    "--drain-seconds",
    type=click.FloatRange(0.0),
    default=30.0,
    show_default=True,
    help="After SIGTERM, for sessions to leave its workers. SIGINT or a second one: at once.",
)
@click.option("--first-epoch", type=int, default=0, help="Default: the time in seconds.")
@_threads
@_level
@log_format
@_json
@_parent
def supervisor(as_json: bool, parent: int, first_epoch: int, **options: Any) -> None:
    """Run the supervisor: make workers, watch them, tell the gateway."""
    from farspan.core.errors import FarspanError

    _begin("supervisor", parent)
    say = _own_stdout()
    try:
        launcher, capacity = _launcher(**options)  # Ray wants this thread, before any event loop
    except FarspanError as error:
        raise click.ClickException(str(error)) from None
    spares = {"cpu": options["spares"]}
    gateway, key = options["gateway"], _read_key(options["key_file"])

    async def run(stop: _Stop) -> None:
        from farspan_server.fleet import Fleet
        from farspan_server.supervisor import Supervisor

        def ready(workers: list[Started]) -> None:
            if as_json:
                say(json.dumps({"pid": os.getpid(), "workers": [w.pid for w in workers]}))

        # Epochs must outgrow those of a supervisor before this one; the time does.
        fleet = Fleet(capacity, spares, first_epoch or int(time.time()))
        made = Supervisor(fleet, launcher, gateway, key, ready)
        running = asyncio.create_task(made.run())
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done() and not stop.at_once.is_set():
            await _either(made.drain(options["drain_seconds"]), stop.at_once.wait(), running)
        running.cancel()
        try:
            await asyncio.gather(running, return_exceptions=not running.done())
        finally:  # also where the gateway, which the same death ends, went first
            orphaned = stop.orphaned or (parent and os.getppid() != parent)
            if orphaned and options["directory"]:
                shutil.rmtree(options["directory"], ignore_errors=True)  # nobody else will

    sys.exit(asyncio.run(_until_stopped(run)))


def _launcher(
    *,
    workers: dict[str, int],
    spares: int,
    ray_address: str | None,
    ray_token_file: Path | None,
    no_ray: bool,
    directory: Path | None,
    threads: int,
    cpu_level: str,
    **_: Any,
) -> tuple[Any, dict[str, int]]:
    """Return what starts workers, and how many there can be of each kind."""
    from farspan_worker.process import cores

    here = sum(workers.values()) + spares
    threads = threads or max(1, cores() // max(1, here))
    listen = "127.0.0.1:0" if directory is None else f"unix:{directory}/worker-{{process}}.sock"
    if no_ray:
        if workers.get("cuda"):
            raise click.UsageError("--no-ray starts CPU workers only; Ray assigns the GPUs")
        from farspan_server.processes import Processes

        return Processes(listen, threads, cpu_level), workers
    from farspan_server import cluster

    if ray_address is not None:
        cluster.join(ray_address, ray_token_file)
        return cluster.Cluster(
            workers, listen="node", threads=threads, cpu_level=cpu_level
        ), workers
    if directory is None:
        raise click.UsageError("a Ray of our own needs --directory; or give --ray-address")
    cluster.start_local(directory, workers)
    made = cluster.Cluster(workers, listen=listen, threads=threads, cpu_level=cpu_level, own=True)
    return made, workers


@main.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> None:
    """Run one worker without Ray; see `farspan worker --help`."""
    from farspan_worker.__main__ import main as run

    sys.exit(run(arguments))


@main.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """Train a CNN on handwritten digits on a worker; see `farspan demo --help`."""
    # A client's program, so a process of its own: the server's side imports no client.
    os.execv(sys.executable, [sys.executable, "-m", "farspan.demo", *arguments])


@main.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(arguments: tuple[str, ...]) -> None:
    """Run a PyTorch program as it is, on farspan; see `farspan run --help`."""
    os.execv(sys.executable, [sys.executable, "-m", "farspan", "run", *arguments])


@main.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--host",
    "hosts",
    multiple=True,
    default=("localhost", "127.0.0.1"),
    show_default=True,
    help="A name or address by which clients reach the gateway; may be given several times.",
)
def certs(directory: Path, hosts: tuple[str, ...]) -> None:
    """Make a development authority with a server and a client certificate in DIRECTORY."""
    from farspan_server.certs import make_certificates

    try:
        made = make_certificates(directory, hosts)
    except FileExistsError as error:
        raise click.ClickException(f"{error.filename} is there already") from None
    for each in dataclasses.astuple(made):
        click.echo(each)


main.add_command(cli_sessions.sessions)
main.add_command(drain)
main.add_command(doctor)
main.add_command(status)
main.add_command(token)


# --- what the subcommands share ------------------------------------------------------------------
def _begin(name: str, parent: int) -> None:
    """Set up logging to stderr and, if a parent is given, end with it."""
    from farspan_worker import logs
    from farspan_worker.process import die_with_parent

    logs.begin(name)
    die_with_parent(parent, signal.SIGHUP)


class _Stop(asyncio.Event):
    """Set when the process is to end. `orphaned`: because its parent died, which SIGHUP tells.

    The signal may come before `os.getppid` shows it. Without a parent to watch, the signal means
    what it means to most services: `reload`, if there is something to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.at_once = asyncio.Event()  # nothing may be waited for any more

    orphaned = False
    _asked = False
    watched = False  # there is a parent whose death SIGHUP tells
    reload: Callable[[], None] | None = None

    def hang_up(self) -> None:
        if self.reload is not None and not self.watched:
            self.reload()
            return
        self.orphaned = True
        self.interrupt()

    def terminate(self) -> None:
        """Take SIGTERM; the second one is meant."""
        if self.is_set() or self._asked:
            self.at_once.set()
        self._asked = True
        self.set()

    def interrupt(self) -> None:
        """Take SIGINT, or that there is nobody any more who would wait."""
        self.at_once.set()
        self.set()


async def _either(*waits: Any) -> None:
    """Return when one of them is over; those that are no tasks end then."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task, each in zip(tasks, waits, strict=True):
        if task is not each:
            task.cancel()


async def _until_stopped(run: Callable[[_Stop], Coroutine[Any, Any, None]]) -> int:
    """Run until SIGINT, SIGTERM or the parent's death sets the event; return the exit status."""
    from farspan.core.errors import FarspanError

    stop = _Stop()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, stop.hang_up)
    loop.add_signal_handler(signal.SIGINT, stop.interrupt)
    loop.add_signal_handler(signal.SIGTERM, stop.terminate)
    try:
        await run(stop)
    except (FarspanError, OSError) as error:
        print(f"farspan: {error}", file=sys.stderr)
        return 1
    return 0


def _own_stdout() -> Callable[[str], None]:
    """Return a function that writes a line to stdout, and send all else there to stderr.

    Ray prints what its processes have to say; who reads our stdout wants one line.
    """
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lambda line: print(line, file=stdout, flush=True)


def _say(body: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        print(json.dumps(body), flush=True)
    else:
        print(text, file=sys.stderr)


def _read_key(path: Path) -> bytes:
    return bytes.fromhex(path.read_text().strip())


def _static_worker(text: str) -> StaticWorker:
    from farspan_server.config import StaticWorker

    address, _, path = text.rpartition("=")
    if not address:
        raise click.BadParameter(f"{text!r}: write ADDRESS=KEYFILE")
    return StaticWorker(address, _read_key(Path(path)))
