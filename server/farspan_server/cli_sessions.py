"""`farspan sessions`: those of a token's tenant on a gateway, over the same API as any client.

What is shown is what `stream.proto` tells of a session: states, devices, names; never a value.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option("--address", envvar="FARSPAN_ADDRESS", required=True, help="grpc://host:port."),
    click.option("--token-file", type=_FILE, help="Default: the variable FARSPAN_TOKEN."),
    click.option("--ca", type=_FILE, help="The authority of the gateway's certificate."),
    click.option("--cert", type=_FILE, help="Yours, for a gateway with --tls-client-ca."),
    click.option("--key", type=_FILE, help="That certificate's key."),
)
_json = click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")
_session = click.argument("session")


def _asking(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which gateway is asked, and as whom."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _ask(
    method: str, asked: Any, *, address: str, token_file: Path | None, **tls: Path | None
) -> bytes:
    """Return the gateway's answer; a ClickException if it has none for us."""
    from farspan.core.errors import FarspanError

    from farspan_server import status

    text = token_file.read_text() if token_file else os.environ.get("FARSPAN_TOKEN", "")
    token = (text.split() or [""])[0].rpartition(":")[2]
    try:
        return status.ask(address, token, method, asked, **tls)
    except FarspanError as error:
        raise click.ClickException(str(error)) from None


@click.group()
def sessions() -> None:
    """List, show and close your sessions, those that sleep on disk too."""


@sessions.command("list")
@_asking
@_json
def list_(as_json: bool, **where: Any) -> None:
    """Show all of them, the oldest first."""
    from farspan import wire

    from farspan_server import status

    answer = _ask("List", wire.ListRequest(), **where)
    found = wire.decode(wire.ListReply, answer).sessions
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(each) for each in found]))
    else:
        click.echo(status.table(found) if found else "no session")


@sessions.command()
@_session
@_asking
@_json
def show(session: str, as_json: bool, **where: Any) -> None:
    """Show one, with the names that its client gave."""
    from farspan import wire

    from farspan_server import status

    described = wire.decode(
        wire.DescribeReply, _ask("Describe", wire.DescribeRequest(session), **where)
    )
    kept = wire.decode(wire.KeptReply, _ask("Kept", wire.KeptRequest(session), **where))
    names = [each.name for each in kept.entries]
    assert described.session is not None
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(described.session) | {"kept": names}))
        return
    click.echo(status.table((described.session,)))
    click.echo("kept: " + (", ".join(names) or "nothing"))


@sessions.command()
@_session
@_asking
def close(session: str, **where: Any) -> None:
    """End one, whoever opened it; what it has on disk is removed."""
    from farspan import wire

    _ask("Close", wire.CloseRequest(session), **where)
    click.echo(f"session {session} has ended")
