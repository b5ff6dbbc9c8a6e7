"""`farspan supervisor`: what it starts workers with, and how it ends.

Nothing is decided here; read `supervisor.py` next.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farspan_server import cli_options as options
from farspan_server.cli_process import Stop, begin, either, until_stopped

if TYPE_CHECKING:
    from farspan_server.fleet import Started


@click.command()
@click.option("--gateway", required=True, metavar="ADDRESS", help="Its --supervisor-listen.")
@click.option("--key-file", type=options.FILE, required=True, help="Its --supervisor-key-file.")
@options.workers
@options.spares
@click.option("--ray-address", help="host:port of a Ray cluster; else one is started here.")
@click.option(
    "--ray-token-file", type=options.FILE, help="The token that cluster was started with."
)
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
@options.threads
@options.cpu_level
@options.log_format
@options.as_json
@options.parent
def supervisor(as_json: bool, parent: int, first_epoch: int, **asked: Any) -> None:
    """Run the supervisor: make workers, watch them, tell the gateway."""
    from farspan.core.errors import FarspanError

    begin("supervisor", parent)
    say = _own_stdout()
    try:
        launcher, capacity = _launcher(**asked)  # Ray wants this thread, before any event loop
    except FarspanError as error:
        raise click.ClickException(str(error)) from None
    spares = {"cpu": asked["spares"]}
    gateway, key = asked["gateway"], options.read_key(asked["key_file"])

    async def run(stop: Stop) -> None:
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
            await either(made.drain(asked["drain_seconds"]), stop.at_once.wait(), running)
        running.cancel()
        try:
            await asyncio.gather(running, return_exceptions=not running.done())
        finally:  # also where the gateway, which the same death ends, went first
            orphaned = stop.orphaned or (parent and os.getppid() != parent)
            if orphaned and asked["directory"]:
                shutil.rmtree(asked["directory"], ignore_errors=True)  # nobody else will

    sys.exit(asyncio.run(until_stopped(run)))


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


def _own_stdout() -> Callable[[str], None]:
    """Return a function that writes a line to stdout, and send all else there to stderr.

    Ray prints what its processes have to say; who reads our stdout wants one line.
    """
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lambda line: print(line, file=stdout, flush=True)
