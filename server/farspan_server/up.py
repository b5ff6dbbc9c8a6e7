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
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farspan.core import limits
from farspan.core.errors import ServiceError

_PR_SET_CHILD_SUBREAPER = 36  # from linux/prctl.h
_STOP_S = 10.0  # for a child to end by itself; Ray takes about two
_RESTARTS_MAX, _RESTARTS_S = 5, 300.0  # of children in so long: what is wrong will stay so


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
    journal: Path | None = None  # None: no session survives
    snapshot_every_s: float = limits.SNAPSHOT_EVERY_S
    snapshot_bytes: int = limits.SNAPSHOT_EVERY_BYTES
    snapshot_frames: int = limits.SNAPSHOT_EVERY_FRAMES
    command_s_max: float = limits.COMMAND_S
    durability: str = "durable"  # of sessions that do not say it
    retention_days: float = 7.0
    retention_bytes: int = 0
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
    journal: str = ""  # where sessions are kept; empty: nowhere

    def to_json(self) -> str:
        """Return one line."""
        body = {"address": self.address, "token_file": self.token_file, "pids": self.pids}
        body["journal"] = self.journal
        if self.metrics:
            body |= {"metrics": self.metrics, "operator_token_file": self.operator_token_file}
        return json.dumps(body)


class Up:
    """A whole service on this machine. `start` returns when it serves, `stop` leaves nothing."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._commands: dict[str, tuple[str, ...]] = {}  # by child: what starts it again
        self._ends: deque[float] = deque(maxlen=_RESTARTS_MAX)  # when children ended, in seconds
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
        serve = (
            *("serve", "--host", plan.host, "--token-file", str(token)),
            *("--supervisor-listen", port, "--supervisor-key-file", str(key)),
            *([] if plan.journal is None else ["--journal", str(plan.journal)]),
            *("--snapshot-every", str(plan.snapshot_every_s)),
            *("--snapshot-bytes", str(plan.snapshot_bytes)),
            *("--snapshot-frames", str(plan.snapshot_frames)),
            *("--command-seconds", str(plan.command_s_max)),
            *("--durability", plan.durability, "--retention-days", str(plan.retention_days)),
            *("--retention-bytes", str(plan.retention_bytes)),
            *([] if plan.token_file is None else ["--token-file", str(plan.token_file)]),
            *([] if plan.tenants is None else ["--tenants", str(plan.tenants)]),
            *([] if plan.audit is None else ["--audit", str(plan.audit)]),
        )
        gateway = await self._child("gateway", *serve, "--port", str(plan.port), *told)
        if told:
            told[1] = gateway["metrics"].rpartition(":")[2]
        again = ("--port", gateway["address"].rpartition(":")[2], *told)
        self._commands["gateway"] = (*serve, *again)
        supervise = self._commands["supervisor"] = (
            *("supervisor", "--gateway", port, "--key-file", str(key)),
            *("--workers", ",".join(f"{kind}:{n}" for kind, n in plan.workers.items())),
            *("--spares", str(plan.spares)),
            *("--threads", str(plan.threads), "--cpu-level", plan.cpu_level),
            *([] if plan.ray else ["--no-ray"]),
        )
        supervisor = await self._child(
            "supervisor",
            *(*supervise, "--directory", str(self._directory)),
            *("--first-epoch", "1"),  # this gateway has seen none
        )
        pids = {
            "gateway": self._children["gateway"].pid,
            "supervisor": self._children["supervisor"].pid,
            "workers": supervisor["workers"],
        }
        kept = "" if plan.journal is None else str(plan.journal)
        return Ready(gateway["address"], str(token), pids, gateway["metrics"], operator, kept)

    async def ended(self) -> str:
        """Start children that end again, and return why when that does not help.

        A gateway comes back at its address; sessions that stay on disk go on. With a supervisor its
        Ray and its workers end; the gateway serves on, and sessions with a journal get others.
        """
        while True:
            name, why = await self._first_end()
            now = time.monotonic()
            if len(self._ends) == _RESTARTS_MAX and now - self._ends[0] < _RESTARTS_S:
                return why
            self._ends.append(now)
            print(f"farspan: {why}; it is started again", file=sys.stderr)
            command = self._commands[name]
            if name == "supervisor":
                _end_descendants(but=self._children["gateway"].pid)  # its Ray, its workers
                directory = self._directory / str(len(self._ends))  # no socket of before is there
                directory.mkdir(mode=0o700, exist_ok=True)
                command = (*command, "--directory", str(directory))
            try:
                await self._child(name, *command)
            except ServiceError:
                continue  # it has ended: the next turn counts it

    async def _first_end(self) -> tuple[str, str]:
        """Wait until a child ends by itself; return its name, and how it ended."""
        waits = {asyncio.ensure_future(c.wait()): name for name, c in self._children.items()}
        done, rest = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in rest:
            each.cancel()
        first = done.pop()
        return waits[first], f"the {waits[first]} ended with status {first.result()}"

    async def stop(self) -> None:
        """End all processes, the supervisor first, and remove the files."""
        for name in ("supervisor", "gateway"):
            child = self._children.get(name)
            if child is None or child.returncode is not None:
                continue
            child.send_signal(signal.SIGINT)  # all of it ends: nobody is there to go on elsewhere
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
        f"sessions are kept in {ready.journal} (--no-journal: nowhere)"
        if ready.journal
        else "sessions are kept nowhere: they end with their workers and this service",
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


def _end_descendants(but: int = 0) -> None:
    """Kill every process below this one, by pid, until there is none, but for one child's tree."""
    while pids := [pid for pid in _descendants(os.getpid(), but) if _is_alive(pid)]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _is_alive(pid: int) -> bool:
    """Whether a process is more than the note that it ended, which a parent may leave lying."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _descendants(root: int, but: int = 0) -> list[int]:
    if sys.platform != "linux":
        return []
    found: list[int] = []
    queue = [root]
    while queue:
        pid = queue.pop()
        with contextlib.suppress(OSError):  # it may end while we look
            for task in os.listdir(f"/proc/{pid}/task"):
                text = Path(f"/proc/{pid}/task/{task}/children").read_text()
                children = [int(child) for child in text.split() if int(child) != but]
                queue += children
                found += children
    return found
