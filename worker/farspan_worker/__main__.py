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

from farspan_worker import process


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
    parser.add_argument("--json", action="store_true", help="say address and pid on stdout")
    parser.add_argument("--parent", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    process.die_with_parent(options.parent)
    process.set_threads(options.threads or process.cores())
    process.set_level(options.cpu_level)
    logging.basicConfig(format="%(asctime)s worker %(levelname)s: %(message)s")
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    try:
        key = bytes.fromhex(options.key_file.read_text().strip())
        run(options.listen, key, stop, as_json=options.json)
    except (OSError, ValueError) as error:  # the address is taken or wrong, the key cannot be read
        print(f"farspan worker: {error}", file=sys.stderr)
        return 1
    return 0


def run(listen: str, key: bytes, stop: threading.Event, *, as_json: bool) -> None:
    """Serve until `stop` is set."""
    from farspan_worker.server import Worker, warm_engine

    worker = Worker(key, warm_engine())
    address = worker.listen(listen)
    if as_json:
        ready = {"address": address, "pid": os.getpid(), "host": socket.gethostname()}
        print(json.dumps(ready), flush=True)
    else:
        print(f"worker {os.getpid()} listens at {address}", file=sys.stderr)
    stop.wait()
    worker.close()


if __name__ == "__main__":
    sys.exit(main())
