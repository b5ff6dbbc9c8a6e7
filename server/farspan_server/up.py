"""`farspan up`: gateway and supervisor as children of this process, all of them ended with it.

Order: gateway, then supervisor (which starts Ray and the workers), then one line that says ready.
However this process ends, its children do too: they ask the kernel for a signal at its death.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farspan.core import limits
from farspan.core.errors import ServiceError

_PR_SET_CHILD_SUBREAPER = 36  # from linux/prctl.h
_STOP_S = 10.0  # for a child to end by itself; Ray takes about two


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start. workers: how many of each kind."""

    workers: dict[str, int]
    spares: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    threads: int = 0
    cpu_level: str = ""
    ray: bool = True
    journal: Path | None = None
    snapshot_every_s: float = limits.SNAPSHOT_EVERY_S
    metrics_port: int | None = None  # of the gateway, on this machine only; 0 picks one
    token_file: Path | None = None  # tokens beside the one that is made
    tenants: Path | None = None
    audit: Path | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """What is told once all of it serves."""

    address: str
    token_file: str
    pids: dict[str, Any]
    metrics: str = ""  # where metrics and health are told; empty: nowhere
    operator_token_file: str = ""

    def to_json(self) -> str:
        """Return one line."""
        body = {"address": self.address, "token_file": self.token_file, "pids": self.pids}
        if self.metrics:
            body |= {"metrics": self.metrics, "operator_token_file": self.operator_token_file}
        return json.dumps(body)


class Up:
    """A whole service on this machine. `start` returns when it serves, `stop` leaves nothing."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._directory = Path()

    async def start(self) -> Ready:
        """Return once every worker listens; raise ServiceError if a part does not come up."""
        # Short, because Ray puts sockets far below it and a socket's path has 107 characters.
        self._directory = Path(tempfile.mkdtemp(prefix="farspan-"))
        token = self._secret("token")
        key = self._secret("supervisor.key")
        port = f"unix:{self._directory}/supervisor.sock"
        plan = self._plan
        told: list[str] = []
        operator = ""
        if plan.metrics_port is not None:
            operator = str(self._secret("operator.token"))
            told = ["--metrics-port", str(plan.metrics_port), "--operator-token-file", operator]
        gateway = await self._child(
            "gateway",
            *("serve", "--host", plan.host, "--port", str(plan.port), "--token-file", str(token)),
            *("--supervisor-listen", port, "--supervisor-key-file", str(key)),
            *([] if plan.journal is None else ["--journal", str(plan.journal)]),
            *("--snapshot-every", str(plan.snapshot_every_s)),
            *told,
            *([] if plan.token_file is None else ["--token-file", str(plan.token_file)]),
            *([] if plan.tenants is None else ["--tenants", str(plan.tenants)]),
            *([] if plan.audit is None else ["--audit", str(plan.audit)]),
        )
        supervisor = await self._child(
            "supervisor",
            *("supervisor", "--gateway", port, "--key-file", str(key)),
            *("--workers", ",".join(f"{kind}:{n}" for kind, n in plan.workers.items())),
            *("--spares", str(plan.spares)),
            *("--directory", str(self._directory), "--threads", str(plan.threads)),
            *("--cpu-level", plan.cpu_level),
            *("--first-epoch", "1"),  # this gateway has seen none
            *([] if plan.ray else ["--no-ray"]),
        )
        pids = {
            "gateway": self._children["gateway"].pid,
            "supervisor": self._children["supervisor"].pid,
            "workers": supervisor["workers"],
        }
        return Ready(gateway["address"], str(token), pids, gateway["metrics"], operator)

    async def ended(self) -> str:
        """Wait until a child ends by itself and return which."""
        waits = {asyncio.ensure_future(c.wait()): name for name, c in self._children.items()}
        done, rest = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in rest:
            each.cancel()
        first = done.pop()
        return f"the {waits[first]} ended with status {first.result()}"

    async def stop(self) -> None:
        """End all processes, the supervisor first, and remove the files."""
        for name in ("supervisor", "gateway"):
            child = self._children.get(name)
            if child is None or child.returncode is not None:
                continue
            child.terminate()
            try:
                async with asyncio.timeout(_STOP_S):
                    await child.wait()
            except TimeoutError:
                child.kill()
                await child.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _secret(self, name: str) -> Path:
        path = self._directory / name
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32) + "\n")
        return path

    async def _child(self, name: str, *arguments: str) -> dict[str, Any]:
        """Start a child and return what it says when it is ready."""
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "farspan_server", *arguments),
            *("--json", "--parent", str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours; we end them in order
        )
        self._children[name] = child
        assert child.stdout is not None
        line = await child.stdout.readline()
        if not line:
            raise ServiceError(f"the {name} did not start (status {await child.wait()})")
        ready: dict[str, Any] = json.loads(line)
        return ready


async def run(plan: Plan, *, as_json: bool) -> int:
    """Serve until SIGINT, SIGTERM or the end of a part; return the exit status."""
    _adopt_orphans()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stop.set)
    up = Up(plan)
    stopped = asyncio.ensure_future(stop.wait())
    starting = asyncio.ensure_future(up.start())
    try:
        await asyncio.wait({stopped, starting}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return 130
        ready = starting.result()
        print(ready.to_json() if as_json else _greeting(ready), flush=True)
        ended = asyncio.ensure_future(up.ended())
        await asyncio.wait({stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            print(f"farspan: {ended.result()}", file=sys.stderr)
            return 1
        ended.cancel()
        return 0
    except ServiceError as error:
        print(f"farspan: {error}", file=sys.stderr)
        return 1
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await up.stop()
        _end_descendants()


def _greeting(ready: Ready) -> str:
    lines = [
        f"farspan serves at {ready.address} (Ctrl-C ends it)",
        f"  export FARSPAN_ADDRESS={ready.address}",
        f"  export FARSPAN_TOKEN=$(cat {ready.token_file})",
    ]
    if ready.metrics:
        lines += [
            f"metrics and health are told at {ready.metrics}",
            f"  export FARSPAN_OPERATOR={ready.metrics}",
            f"  export FARSPAN_OPERATOR_TOKEN=$(cat {ready.operator_token_file})",
        ]
    return "\n".join(lines)


# --- leaving nothing behind ----------------------------------------------------------------------
def _adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that none is lost sight of."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_descendants() -> None:
    """Kill every process below this one, by pid, until there is none."""
    while pids := _descendants(os.getpid()):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)


def _descendants(root: int) -> list[int]:
    if sys.platform != "linux":
        return []
    found: list[int] = []
    queue = [root]
    while queue:
        pid = queue.pop()
        with contextlib.suppress(OSError):  # it may end while we look
            for task in os.listdir(f"/proc/{pid}/task"):
                children = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
                queue += [int(child) for child in children]
                found += [int(child) for child in children]
    return found
