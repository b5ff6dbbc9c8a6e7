"""The `farspan` command: each subcommand says what it needs and starts one thing.

numpy, grpc and ray are imported inside the subcommands: `farspan worker` sets its thread policy
before numpy loads, and `farspan --help` is quick. Modules `cli_*` have the longer subcommands.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from farspan_server import cli_operator
from farspan_server import cli_options as options
from farspan_server.cli_serve import serve
from farspan_server.cli_sessions import sessions
from farspan_server.cli_supervisor import supervisor
from farspan_server.token_cli import token


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="farspan")
def main() -> None:
    """Distributed tensors with PyTorch's API: the service's side."""


@main.command()
@options.workers
@options.spares
@options.port
@options.threads
@options.cpu_level
@click.option("--no-ray", is_flag=True, help="Workers as plain processes; CPU only.")
@options.journal
@click.option(
    "--no-journal", is_flag=True,
    help="Keep no sessions; without it and --journal: in the user's state directory.",
)  # fmt: skip
@options.snapshots
@options.command_seconds
@options.durability
@options.retention_days
@options.retention_bytes("20 GB")  # of a user's own disk
@click.option(
    "--token-file", type=options.FILE, help="More tokens than the one that is made; watched."
)
@options.tenants
@options.audit
@options.metrics_port
@options.log_format
@options.as_json
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


def _passed_on(command: Callable[[tuple[str, ...]], None]) -> click.Command:
    """Make it a subcommand whose arguments, `--help` among them, another program reads."""
    arguments = click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    settings = {"ignore_unknown_options": True, "help_option_names": []}
    return main.command(context_settings=settings, add_help_option=False)(arguments(command))


@_passed_on
def worker(arguments: tuple[str, ...]) -> None:
    """Run one worker without Ray; see `farspan worker --help`."""
    from farspan_worker.__main__ import main as run

    sys.exit(run(arguments))


@_passed_on
def demo(arguments: tuple[str, ...]) -> None:
    """Train a CNN on handwritten digits on a worker; see `farspan demo --help`."""
    # A client's program, so a process of its own: the server's side imports no client.
    os.execv(sys.executable, [sys.executable, "-m", "farspan.demo", *arguments])


@_passed_on
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


for each in (
    serve, supervisor, sessions, cli_operator.drain, cli_operator.doctor, cli_operator.status, token
):  # fmt: skip
    main.add_command(each)
