"""The operator's options and subcommands of the `farspan` command; `cli.py` has the others."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from farspan.core import limits

if TYPE_CHECKING:
    from farspan_server.config import OperatorPort
    from farspan_server.gateway import Gateway

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


metrics_port = click.option(
    "--metrics-port", type=click.IntRange(0, 65535),
    help="Of /metrics, /healthz and /readyz over HTTP; 0 picks one; default: none.",
)  # fmt: skip


def port_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of the operator's port, and what they come to as `operator`."""

    @functools.wraps(command)
    def with_port(
        *arguments: Any,
        metrics_port: int | None,
        metrics_host: str,
        operator_token_file: Path | None,
        metrics_open: bool,
        **options: Any,
    ) -> Any:
        operator = _port(metrics_port, metrics_host, operator_token_file, metrics_open)
        return command(*arguments, operator=operator, **options)

    for each in (
        click.option(
            "--metrics-open", is_flag=True, help="Other machines may read metrics without a token."
        ),
        click.option(
            "--operator-token-file", type=_FILE,
            help="A token for metrics from other machines, and for drains from anywhere.",
        ),
        click.option("--metrics-host", default="127.0.0.1", show_default=True),
        metrics_port,
    ):  # fmt: skip
        with_port = each(with_port)
    return drain_seconds(with_port)


drain_seconds = click.option(
    "--drain-seconds", type=click.FloatRange(0.0), default=0.0, show_default=True,
    help="After SIGTERM, for sessions that end with the gateway; no new ones meanwhile.",
)  # fmt: skip


async def drained(gateway: Gateway, stop: asyncio.Event, seconds: float) -> None:
    """Return when sessions that end with the gateway have ended, or it is told again to stop."""
    if not seconds:
        return
    stop.clear()
    waits = [asyncio.ensure_future(each) for each in (gateway.drain(seconds), stop.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for each in waits:
        each.cancel()


def _port(number: int | None, host: str, token: Path | None, to_all: bool) -> OperatorPort | None:
    from farspan_server.config import OperatorPort

    if number is None:
        if token is not None or to_all:
            raise click.UsageError("an operator's token or --metrics-open need --metrics-port")
        return None
    return OperatorPort(host, number, "" if token is None else token.read_text().strip(), to_all)


@click.command()
@click.argument("workers", nargs=-1)
@click.option("--all", "all_of_them", is_flag=True, help="Every worker, one after another.")
@click.option(
    "--wait",
    type=click.FloatRange(0.0),
    default=limits.DRAIN_WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="For sessions without a journal to end; then they are ended.",
)
@click.option(
    "--operator",
    envvar="FARSPAN_OPERATOR",
    required=True,
    metavar="URL",
    help="The gateway's operator port, http://host:port; also the variable FARSPAN_OPERATOR.",
)
@click.option("--token-file", type=_FILE, help="Default: the variable FARSPAN_OPERATOR_TOKEN.")
@click.option("--ca", type=_FILE, help="The authority of its certificate, for https.")
def drain(
    workers: tuple[str, ...], all_of_them: bool, wait: float, operator: str,
    token_file: Path | None, ca: Path | None,
) -> None:  # fmt: skip
    """Move the sessions off WORKERS and replace these, without an error for anybody.

    Sessions with a journal go on at another worker; without workers named, show what there is.
    """
    from farspan.core.errors import FarspanError

    from farspan_server import draining

    if workers and all_of_them:
        raise click.UsageError("name workers or say --all, not both")
    token = token_file.read_text() if token_file else os.environ.get("FARSPAN_OPERATOR_TOKEN", "")
    asked = draining.Operator(operator, token.strip(), ca)
    try:
        if not workers and not all_of_them:
            click.echo(draining.table(asked.workers()))
            return
        names = "all" if all_of_them else list(workers)
        done = draining.drain(asked, names, wait, lambda line: click.echo(line, err=True))
    except FarspanError as error:
        raise click.ClickException(str(error)) from None
    sys.exit(0 if done else 1)
