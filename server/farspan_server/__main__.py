"""The `farspan` command; also `python -m farspan_server`.

The service's subcommands need click; `farspan run` needs the light client only, and is its.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; exits, at Ctrl-C with 130 as shells expect, whatever is loading."""
    try:
        _run()
    except KeyboardInterrupt:
        sys.exit(130)


def _run() -> None:
    if sys.argv[1:2] == ["run"]:
        os.execv(sys.executable, [sys.executable, "-m", "farspan", *sys.argv[1:]])
    try:
        from farspan_server.cli import main as command
    except ModuleNotFoundError as missing:
        sys.exit(
            f"farspan: the service needs the package {missing.name!r}, which the light client "
            "leaves out; install farspan[server]"
        )
    command(prog_name="farspan")


if __name__ == "__main__":
    main()
