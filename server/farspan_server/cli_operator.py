"""The operator's options and subcommands of the `farspan` command; `cli.py` has the others."""

from __future__ import annotations

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
    """Give a command the options of the operator's port."""
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
        command = each(command)
    return command


def port_config(
    metrics_port: int | None,
    metrics_host: str,
    operator_token_file: Path | None,
    metrics_open: bool,
) -> OperatorPort | None:
    """Return what the options of the operator's port come to."""
    from farspan_server.config import OperatorPort

    if metrics_port is None:
        if operator_token_file is not None or metrics_open:
            raise click.UsageError("an operator's token or --metrics-open need --metrics-port")
        return None
    token = "" if operator_token_file is None else operator_token_file.read_text().strip()
    return OperatorPort(metrics_host, metrics_port, token, metrics_open)
