"""`farspan token`: make, list and revoke the tokens of a gateway's token file.

A new token is shown once, on stdout; the file keeps its hash. A gateway that runs takes the change
within a second.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import click

_file = click.option(
    "--file", "path", type=click.Path(dir_okay=False, path_type=Path), required=True,
    envvar="FARSPAN_TOKEN_FILE", help="The gateway's --token-file.",
)  # fmt: skip
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class _Span(click.ParamType):
    """`90d` as seconds."""

    name = "90d|12h|30m"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        found = re.fullmatch(r"(\d{1,6})([smhd])", str(value))
        if found is None or not int(found[1]):
            self.fail(f"{value!r}: write 90d, 12h or 30m", param, ctx)
        return float(int(found[1]) * _UNITS[found[2]])


@click.group()
def token() -> None:
    """Make, list and revoke the tokens that a gateway takes."""


@token.command()
@click.argument("tenant")
@_file
@click.option(
    "--expires", type=_Span(), metavar="90d|12h|30m", help="So long from now; default: never."
)
def new(tenant: str, path: Path, expires: float | None) -> None:
    """Make a token for TENANT and show it, this once."""
    from farspan.core.errors import FarspanError

    from farspan_server import auth, token_file

    now_s = time.time()
    try:
        made, kept = auth.new_token(tenant, now_s, None if expires is None else now_s + expires)
        token_file.change(path, lambda lines: lines.append(token_file.line_of(kept)))
    except (FarspanError, OSError) as error:
        raise click.ClickException(_said(error)) from None
    click.echo(f"token {kept.id} of tenant {tenant}", err=True)
    click.echo(made)


@token.command("list")
@_file
@click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")
def list_(path: Path, as_json: bool) -> None:
    """Show the tokens: ids, tenants and times."""
    from farspan.core.errors import FarspanError

    from farspan_server import token_file

    try:
        found = token_file.read(path)
    except (FarspanError, OSError) as error:
        raise click.ClickException(_said(error)) from None
    now_s = time.time()
    rows = [
        {
            "id": each.id,
            "tenant": each.tenant,
            "created": token_file.time_of(each.created_s or None),
            "expires": token_file.time_of(each.expires_s),
            "good": each.expires_s is None or now_s < each.expires_s,
        }
        for each in found
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        over = "" if row["good"] else "  (expired)"
        click.echo(f"{row['id']}  {row['tenant']}  {row['created']}  {row['expires']}{over}")


@token.command()
@click.argument("identifiers", nargs=-1, required=True, metavar="ID...")
@_file
def revoke(identifiers: tuple[str, ...], path: Path) -> None:
    """Remove tokens by their ids: new calls with them are refused at once."""
    from farspan_server import token_file

    if not path.exists():
        raise click.ClickException(f"{path} is not there")

    def edit(lines: list[str]) -> None:
        for each in identifiers:
            left = token_file.without(lines, each)
            if len(left) == len(lines):
                raise click.ClickException(f"no token {each}; `farspan token list` shows them")
            lines[:] = left

    try:
        token_file.change(path, edit)
    except OSError as error:
        raise click.ClickException(_said(error)) from None


def _said(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
