"""The worker as a Ray actor: it starts the same server in its process, and no more.

The only module of the worker that imports ray. Ray places and supervises; it carries no frame
and no tensor. Restarts are the supervisor's (`max_restarts=0`, `max_task_retries=0`).
"""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import ray
import ray.util

from farspan_worker import process


@ray.remote(
    max_restarts=0,
    max_task_retries=0,
    num_cpus=0,
    concurrency_groups={"control": 2, "watch": 1},
)
class WorkerActor:
    """A worker process. Its thread policy is in the environment that Ray started it with."""

    def __init__(self, key: bytes, listen: str, make_engine: Any = None, kind: str = "cpu") -> None:
        from farspan_worker.leaving import Leaving
        from farspan_worker.server import Worker
        from farspan_worker.warm import warm_engine

        self._worker = Worker(key, make_engine or warm_engine(), kind, process.end)
        # "node" stands for this machine's address among Ray's, whatever that is.
        at = f"tls:{ray.util.get_node_ip_address()}:0" if listen == "node" else listen
        self._address = self._worker.listen(at)
        self._leaving = Leaving(self._worker)
        if threading.current_thread() is threading.main_thread():  # else Ray ends it at once
            self._leaving.on_sigterm()

    @ray.method(concurrency_group="control")
    def where(self) -> dict[str, Any]:
        """Return what the gateway is told of this worker; comes once it listens."""
        return {"address": self._address, "host": socket.gethostname(), "pid": os.getpid()}

    @ray.method(concurrency_group="control")
    def drain(self) -> None:
        """Let the sessions leave, for a bounded time; then the process ends."""
        self._leaving.begin()

    @ray.method(concurrency_group="watch")
    def live(self) -> None:
        """Never return: the call fails when the process or its node dies, and says how."""
        threading.Event().wait()
