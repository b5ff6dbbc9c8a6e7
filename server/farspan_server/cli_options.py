"""Options that subcommands of `farspan` share: each declared once, with its default and its help.

numpy, grpc and ray are not imported here: `farspan --help` is quick.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from farspan.core import limits
from farspan_worker import logs
from farspan_worker.process import LEVELS

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
cpu_level = click.option(
    "--cpu-level", type=click.Choice(["", *LEVELS]), default="", metavar="v3|v4",
    help="Instructions that workers may use; for unlike machines the lowest. Default: all.",
)  # fmt: skip
as_json = click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")
parent = click.option("--parent", type=int, default=0, hidden=True)
port = click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 picks one."
)
threads = click.option(
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


workers = click.option("--workers", type=_Workers(), default="cpu:2", show_default=True)
spares = click.option(
    "--spares", type=int, default=0, show_default=True, help="Warm CPU workers beyond those."
)


journal = click.option(
    "--journal", type=click.Path(file_okay=False, path_type=Path), metavar="DIRECTORY",
    help="Keep sessions there, so that they survive workers and gateway; of one gateway alone.",
)  # fmt: skip

command_seconds = click.option(
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


def snapshots(command: Any) -> Any:
    """Add when snapshots are taken to a command."""
    return _every(_bytes(_frames(command)))


durability = click.option(
    "--durability", type=click.Choice(("durable", "snapshot-only", "off")), default="durable",
    show_default=True, help="Of sessions that do not say it; without a journal: off.",
)  # fmt: skip

retention_days = click.option(
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


def retention_bytes(default: str) -> Callable[[Any], Any]:
    return click.option(
        "--retention-bytes", type=_Bytes(), default=default, show_default=True,
        help="Of all sessions on disk that nobody uses; those used longest ago go. 0: no bound.",
    )  # fmt: skip


tenants = click.option("--tenants", type=FILE, help="Quotas of tenants, TOML; watched.")

audit = click.option(
    "--audit", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write down there who did what, a JSON object a line.",
)  # fmt: skip


metrics_port = click.option(
    "--metrics-port", type=click.IntRange(0, 65535),
    help="Of /metrics, /healthz and /readyz over HTTP; 0 picks one; default: none.",
)  # fmt: skip


def _choose_format(context: Any, parameter: Any, value: str | None) -> None:
    if value:
        os.environ[logs.FORMAT] = value  # what this process starts logs so too


log_format = click.option(
    "--log-format", type=click.Choice(logs.FORMATS), expose_value=False, callback=_choose_format,
    help=f"Of what goes to stderr; default: the variable {logs.FORMAT}, or text.",
)  # fmt: skip


# --- of those who ask a gateway ------------------------------------------------------------------
def reaching(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what gives a command the options that say which gateway is asked, and as whom."""
    options = (
        click.option(
            "--address", envvar="FARSPAN_ADDRESS", help="grpc://host:port.", show_envvar=True,
            **({"required": True} if required else {"default": ""}),
        ),
        click.option("--token-file", type=FILE, help="Default: the variable FARSPAN_TOKEN."),
        click.option("--ca", type=FILE, help="The authority of the gateway's certificate."),
        click.option("--cert", type=FILE, help="Yours, for a gateway with --tls-client-ca."),
        click.option("--key", type=FILE, help="That certificate's key."),
    )  # fmt: skip

    def give(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return give


operator_token_file = click.option(
    "--operator-token-file", type=FILE, help="Default: the variable FARSPAN_OPERATOR_TOKEN."
)


# --- secrets -------------------------------------------------------------------------------------
def token_of(path: Path | None, variable: str) -> str:
    """Return the first token in a file, or that of a variable."""
    text = path.read_text() if path else os.environ.get(variable, "")
    return (text.split() or [""])[0]


def read_key(path: Path) -> bytes:
    """Return the key that a file holds in hex."""
    return bytes.fromhex(path.read_text().strip())
