"""The operator's options and subcommands of the `farspan` command; `cli.py` has the others."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from farspan_server.config import OperatorPort

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
    return with_port


def _port(number: int | None, host: str, token: Path | None, to_all: bool) -> OperatorPort | None:
    from farspan_server.config import OperatorPort

    if number is None:
        if token is not None or to_all:
            raise click.UsageError("an operator's token or --metrics-open need --metrics-port")
        return None
    return OperatorPort(host, number, "" if token is None else token.read_text().strip(), to_all)
