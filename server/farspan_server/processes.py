"""Workers as plain child processes, without Ray: one machine, fast to start, good for tests.

`supervisor.py` uses it through the same four methods as `cluster.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

from farspan.core.errors import ServiceError

from farspan_server.fleet import Started


class Processes:
    """Starts and ends `python -m farspan_worker` children, which die with this process.

    listen: where a worker listens; ``{process}`` is filled in.
    """

    def __init__(self, listen: str = "127.0.0.1:0", threads: int = 1, cpu_level: str = "") -> None:
        self._listen = listen
        self._level = ("--cpu-level", cpu_level) if cpu_level else ()
        self._threads = threads
        self._children: dict[int, asyncio.subprocess.Process] = {}

    async def start(self, process: int, kind: str, key: bytes) -> Started:
        """Return once the worker listens; raise ServiceError if it never does."""
        if kind != "cpu":
            raise ServiceError(f"a plain process cannot be a {kind} worker; use Ray")
        # The key goes through a pipe: an argument or the environment could be seen by others.
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "farspan_worker", "--json", "--key-file", "/dev/stdin"),
            *("--listen", self._listen.format(process=process), "--threads", str(self._threads)),
            *self._level,
            *("--parent", str(os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for the parent, which ends us
        )
        self._children[process] = child
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(key.hex().encode())
        child.stdin.close()
        line = await child.stdout.readline()
        if not line:
            raise ServiceError(await self.ended(process))
        ready = json.loads(line)
        return Started(process, ready["address"], ready["host"], ready["pid"])

    async def ended(self, process: int) -> str:
        """Wait for the process to end and return how it did."""
        status = await self._children[process].wait()
        if status < 0:
            return f"the process was killed by {signal.Signals(-status).name}"
        return f"the process ended with status {status}"

    def drain(self, process: int) -> None:
        """Let a process end when its sessions have left it, in a bounded time."""
        child = self._children.get(process)
        if child is not None and child.returncode is None:
            child.terminate()

    async def kill(self, process: int) -> None:
        """End a process for good, and wait for it."""
        child = self._children.pop(process, None)
        if child is None:
            return
        if child.returncode is None:
            child.kill()
        await child.wait()

    async def close(self) -> None:
        """End all of them."""
        for process in list(self._children):
            await self.kill(process)
