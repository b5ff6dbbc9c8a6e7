"""`python -m farspan_worker`: a worker without Ray, until SIGTERM, SIGINT or its parent's end.

The thread policy is set before anything imports numpy; keep the top of this file free of it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from farspan_worker import logs, process
from farspan_worker.leaving import DRAIN_S, drain

if TYPE_CHECKING:
    from farspan_worker.server import Worker


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="farspan worker", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--listen", default="127.0.0.1:0", help="host:port or unix:/path")
    parser.add_argument("--key-file", type=Path, required=True, help="32 bytes in hex, mode 0600")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    parser.add_argument(
        "--cpu-level", choices=process.LEVELS, default="", help="x86-64 level; default: this CPU's"
    )
    parser.add_argument(
        "--drain-seconds", type=float, default=DRAIN_S, help="after SIGTERM, for sessions to leave"
    )
    parser.add_argument("--log-format", choices=logs.FORMATS, help="of what goes to stderr")
    parser.add_argument("--json", action="store_true", help="say address and pid on stdout")
    parser.add_argument("--parent", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    process.die_with_parent(options.parent)
    process.set_threads(options.threads or process.cores())
    process.set_level(options.cpu_level)
    if options.log_format:
        os.environ[logs.FORMAT] = options.log_format
    logs.begin("worker", level=logging.WARNING)
    stop, at_once = threading.Event(), threading.Event()

    def told(number: int, _: object) -> None:
        if number == signal.SIGINT or stop.is_set():
            at_once.set()
        stop.set()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, told)
    try:
        key = bytes.fromhex(options.key_file.read_text().strip())
        worker = start(options.listen, key, as_json=options.json)
        stop.wait()
        drain(worker, options.drain_seconds, at_once)
        worker.close()
    except (OSError, ValueError) as error:  # the address is taken or wrong, the key cannot be read
        print(f"farspan worker: {error}", file=sys.stderr)
        return 1
    return 0


def start(listen: str, key: bytes, *, as_json: bool) -> Worker:
    """Return a worker that serves, and say where."""
    from farspan_worker.server import Worker
    from farspan_worker.warm import warm_engine

    worker = Worker(key, warm_engine(), end=process.end)
    address = worker.listen(listen)
    if as_json:
        ready = {"address": address, "pid": os.getpid(), "host": socket.gethostname()}
        print(json.dumps(ready), flush=True)
    else:
        print(f"worker {os.getpid()} listens at {address}", file=sys.stderr)
    return worker


if __name__ == "__main__":
    sys.exit(main())
