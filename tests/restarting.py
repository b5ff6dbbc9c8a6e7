"""A gateway and a supervisor as processes of their own, so that either can die and be started anew.

Same port, token and directory each time, as an operator's service manager would do it.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


class Service:
    """`directory` holds secrets, logs and the journal. `kill_gateway` and `start_gateway` pair."""

    def __init__(self, directory: Path, *options: str, workers: int = 1) -> None:
        self.directory = directory
        self.token = secrets.token_hex(16)
        self.journal = directory / "journal"
        (directory / "token").write_text(self.token + "\n")
        (directory / "key").write_text(secrets.token_hex(32) + "\n")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._options = options
        # The kernel ends a child with the thread that made it: this one lives as long as they.
        self._maker = ThreadPoolExecutor(1)
        self._listen = f"unix:{directory}/supervisor.sock"
        self._supervisor: subprocess.Popen[str] | None = None
        self.gateway = self._start_gateway()
        self._listening(self.gateway)
        self._supervisor = self._start(
            *("supervisor", "--gateway", self._listen, "--key-file", str(directory / "key")),
            *("--workers", f"cpu:{workers}", "--no-ray", "--threads", "1"),
        )
        self._listening(self._supervisor)
        self.address = f"grpc://127.0.0.1:{self._port}"

    def _start_gateway(self) -> subprocess.Popen[str]:
        return self._start(
            *("serve", "--port", str(self._port), "--token-file", str(self.directory / "token")),
            *("--supervisor-listen", self._listen),
            *("--supervisor-key-file", str(self.directory / "key")),
            *("--journal", str(self.journal), *self._options),
        )

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "farspan_server", *arguments, "--json"]
        command += ["--parent", str(os.getpid())]
        with (self.directory / f"{arguments[0]}.log").open("a") as log:
            return self._maker.submit(
                subprocess.Popen, command, stdout=subprocess.PIPE, stderr=log, text=True
            ).result()

    def _listening(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Wait until a process says that it is ready."""
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (self.directory / "serve.log").read_text()
        return dict(json.loads(line))

    def kill_gateway(self, sign: int = signal.SIGKILL) -> None:
        """End the gateway and return when it is gone."""
        self.gateway.send_signal(sign)
        self.gateway.wait(30)

    def start_gateway(self) -> None:
        """Start it where it was; returns when it serves."""
        self.gateway = self._start_gateway()
        self._listening(self.gateway)

    def restart_gateway(self, sign: int = signal.SIGKILL) -> None:
        """End the gateway now and start another, which comes up while the caller goes on."""
        self.kill_gateway(sign)
        self.gateway = self._start_gateway()

    def close(self) -> str:
        """End all of it; return what the gateways logged."""
        for process in (self._supervisor, self.gateway):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait(30)
        self._maker.shutdown()
        return (self.directory / "serve.log").read_text()
