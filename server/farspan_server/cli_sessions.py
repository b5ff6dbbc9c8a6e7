"""`farspan sessions`: those of a token's tenant on a gateway, over the same API as any client.

What is shown is what `stream.proto` tells of a session: states, devices, names; never a value.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from farspan_server import cli_options as options

_asking = options.reaching(required=True)
_session = click.argument("session")


def _ask(
    method: str,
    asked: Any,
    *,
    address: str,
    token_file: Path | None,
    timeout_s: float | None = None,
    **tls: Path | None,
) -> bytes:
    """Return the gateway's answer; a ClickException if it has none for us."""
    from farspan_server import status

    def ask(address: str, token: str, **more: Any) -> bytes:
        return status.ask(address, token, method, asked, timeout_s=timeout_s, **more)

    return _asked(ask, address=address, token_file=token_file, **tls)


def _asked(
    ask: Callable[..., Any], *, address: str, token_file: Path | None, **tls: Path | None
) -> Any:
    """Return what is answered to whose token it is; a ClickException if there is no answer."""
    from farspan.core.errors import FarspanError

    token = options.token_of(token_file, "FARSPAN_TOKEN").rpartition(":")[2]
    try:
        return ask(address, token, **tls)
    except FarspanError as error:
        raise click.ClickException(str(error)) from None


@click.group()
def sessions() -> None:
    """List, show, move and close your sessions, those that sleep on disk too."""


@sessions.command("list")
@_asking
@options.as_json
def list_(as_json: bool, **where: Any) -> None:
    """Show all of them, the oldest first."""
    from farspan_server import status

    found = _asked(status.sessions, **where)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(each) for each in found]))
    else:
        click.echo(status.table(found) if found else "no session")


@sessions.command()
@_session
@_asking
@options.as_json
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
        changes = [dataclasses.asdict(each) for each in described.numerics]
        told = dataclasses.asdict(described.session) | {"kept": names, "numerics": changes}
        click.echo(json.dumps(told))
        return
    click.echo(status.table((described.session,)))
    click.echo("kept: " + (", ".join(names) or "nothing"))
    _show_numerics(described.session.devices, described.numerics)


def _show_numerics(devices: tuple[Any, ...], changes: tuple[Any, ...]) -> None:
    for each in devices:
        click.echo(f"{each.name}: worker {each.worker}, numerics {each.numerics or 'not known'}")
    for each in changes:
        since = f"from command {each.command}" if each.command else "from the next command"
        click.echo(
            f"numerics changed {since} on (after frame {each.frame}): bits may differ; "
            f"before {', '.join(each.before)}; then {', '.join(each.after)}"
        )


@sessions.command()
@_session
@click.option(
    "--to", default="", metavar="WORKER|KIND",
    help="A worker, as `show` names it (of several devices one each: a,b), or cpu or cuda; "
    "default: any others.",
)  # fmt: skip
@click.option(
    "--allow-numerics-change", is_flag=True,
    help="Workers that compute other bits will do; of a session that has none now, any.",
)  # fmt: skip
@_asking
def move(session: str, to: str, allow_numerics_change: bool, **where: Any) -> None:
    """Let one go on with other workers, while its client goes on."""
    from farspan import wire
    from farspan.core import limits

    asked = wire.MoveRequest(session, to, allow_numerics_change)
    answer = _ask("Move", asked, timeout_s=limits.MOVE_S, **where)
    reply = wire.decode(wire.MoveReply, answer)
    if not reply.devices:
        click.echo(f"session {session} goes on with any workers, at its next use")
    _show_numerics(reply.devices, reply.numerics)


@sessions.command()
@_session
@_asking
def close(session: str, **where: Any) -> None:
    """End one, whoever opened it; what it has on disk is removed."""
    from farspan import wire

    _ask("Close", wire.CloseRequest(session), **where)
    click.echo(f"session {session} has ended")
