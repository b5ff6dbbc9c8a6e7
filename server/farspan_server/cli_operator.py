"""The operator's options and subcommands of the `farspan` command; `cli.py` has the others."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from farspan.core import limits

from farspan_server import cli_options as options

if TYPE_CHECKING:
    from farspan_server.config import OperatorPort


def port_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of the operator's port, and what they come to as `operator`."""

    @functools.wraps(command)
    def with_port(
        *arguments: Any,
        metrics_port: int | None,
        metrics_host: str,
        operator_token_file: Path | None,
        metrics_open: bool,
        **others: Any,
    ) -> Any:
        operator = _port(metrics_port, metrics_host, operator_token_file, metrics_open)
        return command(*arguments, operator=operator, **others)

    for each in (
        click.option(
            "--metrics-open", is_flag=True, help="Other machines may read metrics without a token."
        ),
        click.option(
            "--operator-token-file", type=options.FILE,
            help="A token for metrics from other machines, and for drains from anywhere.",
        ),
        click.option("--metrics-host", default="127.0.0.1", show_default=True),
        options.metrics_port,
    ):  # fmt: skip
        with_port = each(with_port)
    return drain_seconds(with_port)


drain_seconds = click.option(
    "--drain-seconds", type=click.FloatRange(0.0), default=0.0, show_default=True,
    help="After SIGTERM, for sessions that end with the gateway; no new ones meanwhile.",
)  # fmt: skip


def _port(number: int | None, host: str, token: Path | None, to_all: bool) -> OperatorPort | None:
    from farspan_server.config import OperatorPort

    if number is None:
        if token is not None or to_all:
            raise click.UsageError("an operator's token or --metrics-open need --metrics-port")
        return None
    secret = "" if token is None else token.read_text().strip()
    if token is not None and not secret:
        raise click.UsageError(f"{token} holds no token: nobody could drain with it")
    return OperatorPort(host, number, secret, to_all)


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
@click.option(
    "--token-file", type=options.FILE, help="Default: the variable FARSPAN_OPERATOR_TOKEN."
)
@click.option("--ca", type=options.FILE, help="The authority of its certificate, for https.")
def drain(
    workers: tuple[str, ...], all_of_them: bool, wait: float, operator: str,
    token_file: Path | None, ca: Path | None,
) -> None:  # fmt: skip
    """Move the sessions off WORKERS and replace these.

    Sessions with a journal go on at another worker and see a pause; others are waited for, and then
    end with an error. Without workers named, show what there is.
    """
    from farspan.core.errors import FarspanError

    from farspan_server import draining

    if workers and all_of_them:
        raise click.UsageError("name workers or say --all, not both")
    token = options.token_of(token_file, "FARSPAN_OPERATOR_TOKEN")
    try:
        asked = draining.Operator(operator, token, ca)
        if not workers and not all_of_them:
            click.echo(draining.table(asked.workers()))
            return
        names = "all" if all_of_them else list(workers)
        done = draining.drain(asked, names, wait, lambda line: click.echo(line, err=True))
    except FarspanError as error:
        raise click.ClickException(str(error)) from None
    sys.exit(0 if done else 1)


@click.command()
@options.reaching(required=False)
@click.option("--tenants", is_flag=True, help="All tenants, as an operator sees them.")
@click.option(
    "--operator",
    envvar="FARSPAN_OPERATOR",
    default="",
    metavar="URL",
    help="With --tenants: the operator's port; also the variable FARSPAN_OPERATOR.",
)
@options.operator_token_file
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 60.0),
    default=1.0,
    show_default=True,
    help="With --tenants: over which rates are taken.",
)
@options.as_json
def status(
    address: str, token_file: Path | None, tenants: bool, operator: str,
    operator_token_file: Path | None, seconds: float, as_json: bool, **tls: Path | None,
) -> None:  # fmt: skip
    """Show your sessions on a gateway; with --tenants, what each tenant has and does."""
    from farspan.core.errors import FarspanError

    from farspan_server import draining
    from farspan_server import status as asking

    if not (operator if tenants else address):
        name = "operator" if tenants else "address"
        variable = f"FARSPAN_{name.upper()}"
        raise click.UsageError(f"Missing option '--{name}' (env var: '{variable}').")
    try:
        if tenants:
            token = options.token_of(operator_token_file, "FARSPAN_OPERATOR_TOKEN")
            asked = draining.Operator(operator, token, tls["ca"])
            rows = asking.rates(asked.tenants, seconds)
            click.echo(json.dumps(rows) if as_json else asking.tenants_table(rows))
            return
        token = options.token_of(token_file, "FARSPAN_TOKEN").rpartition(":")[2]
        found = asking.sessions(address, token, **tls)
    except FarspanError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(each) for each in found]))
    else:
        click.echo(asking.table(found) if found else "no session")


@click.command()
@options.reaching(required=False)
@click.option("--operator", envvar="FARSPAN_OPERATOR", default="", metavar="URL")
@options.operator_token_file
@click.option(
    "--journal",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Where a gateway on this machine keeps sessions.",
)
@click.option(
    "--tls-certificate",
    "tls_certificates",
    type=options.FILE,
    multiple=True,
    help="Of a gateway on this machine; may be given several times.",
)
@click.option("--tokens", type=options.FILE, help="The --token-file of a gateway on this machine.")
@click.option(
    "--tenants", type=options.FILE, help="And its --tenants; may be one that is to be used."
)
@click.option("--ray-address", default="", metavar="HOST:PORT")
@click.option(
    "--ray-token-file", type=options.FILE, help="The token that cluster was started with."
)
@options.as_json
def doctor(
    token_file: Path | None, operator_token_file: Path | None, as_json: bool, **where: Any
) -> None:  # fmt: skip
    """Check this machine and, where it is told of them, a gateway, its workers, disk and Ray.

    Changes nothing. The exit status is 1 if something does not work; a warning is no failure.
    """
    from farspan_server import doctor as asking

    asked = asking.Asked(
        token=options.token_of(token_file, "FARSPAN_TOKEN").rpartition(":")[2],
        operator_token=options.token_of(operator_token_file, "FARSPAN_OPERATOR_TOKEN"),
        **where,
    )
    found = asking.examine(asked)
    click.echo(asking.to_json(found) if as_json else asking.table(found))
    sys.exit(asking.status(found))
