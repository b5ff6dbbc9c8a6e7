"""A service of real processes that can be killed, stopped and started again, each by its pid.

Gateway and supervisor are started by the command line, workers by the supervisor (plain children,
or actors of a Ray cluster). `Fault` strikes at a command of a running program. Next:
`test_chaos.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chaos_programs
import farspan

PHASES = ("idle", "upload", "forward", "backward", "step", "ops", "fetch", "snapshot")
#: Seconds for anything to come back; what takes longer hangs.
PATIENCE_S = 60.0
#: Seconds that a part of the matrix is frozen: less than anybody takes for its death.
FROZEN_S = 1.0
#: Of workers: two runs of a compiled program run by loops from the same Call on, its first.
SAME_BITS = {"FARSPAN_LOOPS": "wait"}


class Service:
    """Gateway, supervisor and workers of one directory. `with` starts and ends all of them.

    The gateway is started again whenever it ends, on the same port and with the same directory, as
    an operator's init system would. ray: address of a cluster to take workers from; else they are
    plain processes. tenants: each has a token. more: further arguments of `farspan serve`. workers:
    with 0 there is no supervisor.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        spares: int = 1,
        snapshot_every_s: float = 0.3,
        journal: bool = True,
        ray: str = "",
        tenants: int = 1,
        more: tuple[str, ...] = (),
    ) -> None:
        self._stack = contextlib.ExitStack()
        self._workers, self._spares, self._ray = workers, spares, ray
        self._options = ["--snapshot-every", str(snapshot_every_s), *more]
        self._journal = journal
        self.tokens = [secrets.token_hex(16) for _ in range(tenants)]
        self.token = self.tokens[0]
        self.address = f"grpc://127.0.0.1:{free_port()}"
        self.restarts = -1  # of the gateway
        self._ending = False
        self._up = threading.Event()
        self._gateway: subprocess.Popen[str] | None = None
        self._supervisor: subprocess.Popen[str] | None = None

    def __enter__(self) -> Service:
        try:
            return self._enter()
        except BaseException:
            self.__exit__()
            raise

    def _enter(self) -> Service:
        # Short: a socket's path has 107 characters.
        temporary = tempfile.TemporaryDirectory(prefix="fs-", ignore_cleanup_errors=True)
        self.directory = Path(self._stack.enter_context(temporary))
        self.journal = self.directory / "journal"
        self._log = self._stack.enter_context((self.directory / "log").open("a"))
        self._token_file = self._secret(
            "token", "\n".join(f"tenant{k}:{each}" for k, each in enumerate(self.tokens))
        )
        self._key_file = self._secret("key", secrets.token_hex(32))
        threading.Thread(target=self._keep_gateway, daemon=True).start()
        self.wait_for_gateway()
        if self._workers:
            self.supervise(self._workers)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        for process in (self._supervisor, self._gateway):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                    process.terminate()
        for process in (self._supervisor, self._gateway):
            if process is not None:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(20)
        self._stack.close()

    # --- its processes ---------------------------------------------------------------------------
    def _secret(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text + "\n")
        return path

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a part of the service, which ends with this process, whatever ends it."""
        command = [sys.executable, "-m", "farspan_server", *arguments]
        return subprocess.Popen(
            [*command, "--json", "--parent", str(os.getpid())],
            stdout=subprocess.PIPE, stderr=self._log, stdin=subprocess.DEVNULL, text=True,
            start_new_session=True, env=os.environ | SAME_BITS,
        )  # fmt: skip

    def _keep_gateway(self) -> None:
        """Start the gateway and, when it ends, start it again.

        On a thread of its own: the kernel counts a thread that started a process as its parent.
        """
        while not self._ending:
            self._gateway = self._start(
                *("serve", "--port", self.address.rpartition(":")[2]),
                *("--token-file", str(self._token_file), "--supervisor-key-file"),
                *(str(self._key_file), "--supervisor-listen", f"unix:{self.directory}/s.sock"),
                *(["--journal", str(self.journal)] if self._journal else []),
                *self._options,
            )
            assert self._gateway.stdout is not None
            if self._gateway.stdout.readline():
                self.restarts += 1
                self._up.set()
            self._gateway.wait()
            self._up.clear()

    def supervise(self, workers: int) -> None:
        """Start a supervisor with so many workers."""
        self._workers = workers
        self._supervisor = self._start_supervisor()

    def _start_supervisor(self) -> subprocess.Popen[str]:
        where = ["--ray-address", self._ray] if self._ray else ["--no-ray"]
        made = self._start(
            *("supervisor", "--gateway", f"unix:{self.directory}/s.sock", "--key-file"),
            *(str(self._key_file), "--workers", f"cpu:{self._workers}", "--threads", "1"),
            *("--spares", str(self._spares), "--directory", str(self.directory), *where),
        )
        assert made.stdout is not None
        ready = made.stdout.readline()
        if not ready:
            raise RuntimeError(f"no supervisor:\n{self.log()[-4000:]}")
        self.first_workers: list[int] = json.loads(ready)["workers"]
        return made

    def wait_for_gateway(self) -> None:
        """Return once it serves."""
        if not self._up.wait(PATIENCE_S):
            raise RuntimeError(f"no gateway:\n{self.log()[-4000:]}")

    @property
    def gateway(self) -> int:
        """The pid of the gateway that runs now, or ran last."""
        assert self._gateway is not None
        return self._gateway.pid

    @property
    def supervisor(self) -> int:
        """The supervisor's pid."""
        assert self._supervisor is not None
        return self._supervisor.pid

    @property
    def supervising(self) -> subprocess.Popen[str]:
        """The supervisor that runs now, or ran last."""
        assert self._supervisor is not None
        return self._supervisor

    def log(self) -> str:
        """Return what all parts have logged."""
        return (self.directory / "log").read_text()

    # --- what tests do with it -------------------------------------------------------------------
    def connect(self, tenant: int = 0, address: str = "", **options: Any) -> Any:
        """Open a session, which is current while it is entered."""
        options.setdefault("timeout", PATIENCE_S)
        return farspan.connect(address or self.address, token=self.tokens[tenant], **options)

    def victims(self, part: str, session: Any) -> list[int]:
        """Return the processes of a part: of this service, or of the Ray cluster that it is in."""
        if part == "worker":
            return [worker_of(session)]
        if part == "raylet":
            return [status_of(worker_of(session), "PPid")]
        if part == "GCS":
            raylet = command_line(status_of(worker_of(session), "PPid"))
            (cluster,) = (each for each in raylet if each.startswith("--session-name="))
            return processes("gcs_server", cluster)
        return [getattr(self, part)]

    def kill(self, part: str, session: Any = None) -> None:
        """Kill a part without a word; of workers and raylets the session's."""
        if part == "gateway":
            self._up.clear()
        for pid in self.victims(part, session):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def freeze(self, part: str, session: Any = None) -> None:
        """Freeze a part for `FROZEN_S`; do not wait."""
        for pid in self.victims(part, session):
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(FROZEN_S, os.kill, (pid, signal.SIGCONT)).start()

    @contextlib.contextmanager
    def stopped(self, part: str, session: Any = None) -> Iterator[int]:
        """Freeze a part meanwhile; yield its pid."""
        (pid,) = self.victims(part, session)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def writes_snapshot(self) -> bool:
        """Whether a snapshot is being written now: a part of it is there, and grows."""
        return any(self.journal.glob("*/*/snapshot-*")) or any(self.journal.glob("*/snapshot-*"))


class Fault:
    """Strikes once, at the first Python call after a session has issued so many commands.

    Only when frames are under way, so that something can be lost, and only in one of `phases` if
    any is named; of these "idle" has nothing under way, and "upload" no frame. `bare` strikes with
    nothing under way, too. With `when`, only at
    a moment for which that is true; it is asked at most every `ASKED_EVERY_S`. It works by the
    interpreter's profile hook, of the thread that enters it.
    """

    ASKED_EVERY_S = 5e-4

    def __init__(
        self,
        session: Any,
        command: int,
        strike: Callable[[], None],
        phases: tuple[str, ...] = (),
        freed: bool = False,
        when: Callable[[], bool] | None = None,
        bare: bool = False,
    ) -> None:
        self._session, self._command, self._strike = session, command, strike
        self._phases, self._freed, self._when = phases, freed, when
        self._bare = bare or not {"idle", "upload"}.isdisjoint(phases)
        self._asked_s = 0.0
        self.phase = "ops"  # that the program is in
        self.struck = ""  # the phase in which it struck
        self.window = 0  # frames under way then
        self.at_command = 0

    def at(self, phase: str) -> None:
        """Hear from the program which phase begins."""
        self.phase = phase

    def after(self, command: int) -> Fault:
        """Strike after this command, not the one named at first."""
        self._command = command
        return self

    def __enter__(self) -> Fault:
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _look(self, frame: Any, event: str, argument: Any) -> None:
        session = self._session
        if event != "call" or session.commands < self._command:
            return
        if self._phases and self.phase not in self._phases:
            return
        window = session.transport.pending()
        if not window and not self._bare:
            return
        if self._freed and not kept_is_freed(session):
            return
        if self._when is not None and not self._now():
            return
        sys.setprofile(None)
        self.struck, self.window, self.at_command = self.phase, window, session.commands
        self._strike()

    def _now(self) -> bool:
        assert self._when is not None
        now_s = time.monotonic()
        if now_s - self._asked_s < self.ASKED_EVERY_S:
            return False
        self._asked_s = now_s
        return self._when()


def kept_is_freed(session: Any) -> bool:
    """Whether the client has let go of frames, because they are durable."""
    return session.transport._ledger.durable > 0


def worker_of(session: Any) -> int:
    """Return the process of the session's first device."""
    pid: int = session.transport.devices[0]["pid"]
    return pid


def processes(program: str, argument: str) -> list[int]:
    """Return the pids of a program's processes that were given this argument."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            first, *rest = command_line(int(each.name))
            if Path(first).name == program and argument in rest:
                found.append(int(each.name))
    return found


def command_line(pid: int) -> list[str]:
    """Return what a process was started with."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")


def free_port() -> int:
    """Return a TCP port of this host that nobody listens at."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        port: int = made.getsockname()[1]
    return port


def wait_until(ready: Callable[[], Any], timeout_s: float = PATIENCE_S, what: str = "it") -> float:
    """Wait for something and return the seconds it took; AssertionError if it does not come."""
    began = time.monotonic()
    while not ready():
        assert time.monotonic() - began < timeout_s, f"{what} did not come within {timeout_s:g} s"
        time.sleep(0.01)
    return time.monotonic() - began


def status_of(pid: int, field: str = "VmRSS") -> int:
    """Return a number of /proc/PID/status; memory in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            number, *unit = line.split()[1:]
            return int(number) * (1024 if unit else 1)
    raise KeyError(field)


# --- one program under one fault -----------------------------------------------------------------
@dataclass
class Outcome:
    """What became of a program under a fault."""

    part: str
    program: str
    mode: str
    same: bool  # every byte as without the fault
    phase: str  # in which it struck; empty: it did not
    window: int = 0  # frames under way
    freed: bool = False  # the client had let go of frames
    error: str = ""  # how it ended, if it did not go on
    twice_or_lost: int = 0  # commands that ran more often or less often than they were sent
    pause_s: float = 0.0  # the longest in which nothing was heard since


class Chaos:
    """Programs and what they come to without faults, on one service."""

    def __init__(self, service: Service, steps: int = 8) -> None:
        self.service = service
        self.steps = steps
        self._expected: dict[tuple[str, str], tuple[str, int]] = {}

    def expected(self, name: str, mode: str) -> tuple[str, int]:
        """Return a program's digest without faults, and the number of its commands."""
        if (name, mode) not in self._expected:
            with self.service.connect(replay=mode != "eager") as session:
                digest = chaos_programs.train(name, mode, self.steps)
                self._expected[name, mode] = digest, session.commands
        return self._expected[name, mode]

    def under(
        self, part: str, name: str, mode: str, rng: random.Random,
        phases: tuple[str, ...] = (), freed: bool = False,
        strike: Callable[[Any], None] | None = None, when: Callable[[], bool] | None = None,
    ) -> Outcome:  # fmt: skip
        """Run a program and let a part die at a random command of it, or soon after, `when` so."""
        digest, commands = self.expected(name, mode)
        with self.service.connect(replay=mode != "eager") as session:
            sent = Sent(session)
            outcome = Outcome(part, name, mode, False, "")

            def kill() -> None:
                sent.heard_s = time.monotonic()
                outcome.freed = kept_is_freed(session)
                if strike is not None:
                    strike(session)
                else:
                    self.service.kill(part, session)

            at = rng.randrange(commands // 20, commands * (5 if phases else 9) // 10)
            fault = Fault(session, at, kill, phases, freed, when)
            try:
                with fault:
                    found = chaos_programs.train(name, mode, self.steps, fault.at)
                outcome.same = found == digest
                if mode == "eager":  # of a Define's body a worker counts nothing
                    session.synchronize()  # the question goes by another connection
                    (worker,) = session.worker_stats()
                    outcome.twice_or_lost = abs(worker["commands"] - sent.commands)
                outcome.pause_s = sent.pause_s
            except farspan.FarspanError as error:
                outcome.error = f"{type(error).__name__}: {error}"
            outcome.phase, outcome.window = fault.struck, fault.window
        return outcome

    def in_phase(
        self, part: str, phase: str, name: str, rng: random.Random, frozen: bool = False
    ) -> Outcome:
        """Run a program and let a part die, or freeze, in a phase of it or during a snapshot."""

        def strike(session: Any) -> None:
            (self.service.freeze if frozen else self.service.kill)(part, session)

        if phase != "snapshot":
            return self.under(part, name, "eager", rng, (phase,), strike=strike)
        # A snapshot comes by the time that a session has worked, so not in every run.
        ends_s = time.monotonic() + PATIENCE_S
        while True:
            when = self.service.writes_snapshot
            outcome = self.under(part, name, "eager", rng, strike=strike, when=when)
            if outcome.phase or outcome.error or time.monotonic() > ends_s:
                break
        outcome.phase = outcome.phase and phase
        return outcome


class Sent:
    """Counts the commands that a session sends and, once there was a fault, how long it pauses."""

    def __init__(self, session: Any) -> None:
        self._sent: list[int] = []  # by frame; two threads send
        self.heard_s = self.pause_s = 0.0  # heard_s: 0 until the fault
        transport = session.transport
        send = transport.send

        def counting(frame: Any) -> Any:
            number = send(frame)
            self._sent.append(len(frame))
            return number

        transport.send = counting
        deliver = session._deliver

        def hearing(event: Any) -> None:
            if self.heard_s:
                now_s = time.monotonic()
                self.pause_s = max(self.pause_s, now_s - self.heard_s)
                self.heard_s = now_s
            deliver(event)

        transport.set_sink(hearing)

    @property
    def commands(self) -> int:
        """How many were sent."""
        return sum(self._sent)


def by_phase(outcomes: list[Outcome]) -> dict[str, int]:
    """Return how many faults struck in each phase."""
    return {phase: n for phase in PHASES if (n := sum(o.phase == phase for o in outcomes))}
