"""A small session, cut at byte after byte: `python cuts.py ADDRESS TOKEN FIRST STEP [bulk|shared]`.

bulk: with uploads and fetches by the stream; shared: by memory shared with the worker.

Each process of it takes every STEP-th cut from FIRST on, of all that the connection carries up and
down; what became of them is a line of JSON. What a session computes depends on every one of its
frames, applied once and in order.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from typing import Any

import farspan as torch
import numpy as np
from cutting_proxy import DOWN, UP, CuttingProxy, Plan
from farspan import wire

#: Seconds that a session may wait for its gateway; more is a hang.
PATIENCE_S = 20.0


def small(session: Any, bulk: bool) -> list[Any]:
    """Compute something that shows a frame lost or applied twice."""
    found: list[Any] = []
    with session:
        torch.manual_seed(5)
        x = torch.arange(6.0)
        w = torch.ones(6, requires_grad=True)
        for k in range(3):
            x.mul_(1.5).add_(torch.rand(6))
            (w * x).sum().backward()
            found.append(x.sum().item())
            if bulk:
                up = torch.tensor(np.arange(70_000, dtype="float32") + k)  # 273 KiB each way
                found.append(float((up * x[0]).numpy().sum()))
        assert w.grad is not None
        found += [w.grad.tolist(), torch.rand(2).tolist()]
        session.synchronize()
    return found


class Cutter:
    """Sessions through a proxy, to be cut."""

    def __init__(self, address: str, token: str, bulk: bool, shared: bool) -> None:
        self._proxy = CuttingProxy(address.removeprefix("grpc://"))
        self._direct, self._token, self._bulk, self._shared = address, token, bulk, shared
        self.counts = dict.fromkeys(("same", "refused", "lost", "wrong", "not reached"), 0)
        self.bad: list[str] = []
        self.worst_s = 0.0

    def __enter__(self) -> Cutter:
        self._proxy.__enter__()
        plans = [self._record() for _ in range(5)]
        self.expected = self._run()
        #: By connection, what each way carries at least, and at most.
        connections = min(len(p.passed) for p in plans)
        self.least = [
            [min(p.passed[c][way] for p in plans) for way in (UP, DOWN)] for c in range(connections)
        ]
        self.most = [
            [max(p.passed[c][way] for p in plans) for way in (UP, DOWN)] for c in range(connections)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.__exit__()

    def _record(self) -> Plan:
        plan = self._proxy.plan()
        self._run()
        time.sleep(0.05)
        return plan

    def _run(self) -> list[Any]:
        return small(self._connect(), self._bulk)

    def _connect(self) -> Any:
        address = f"grpc://{self._proxy.address}"
        options = {"timeout": PATIENCE_S, "shared_memory": self._shared}
        return torch.connect(address, token=self._token, **options)

    def cut(self, connection: int, way: int, after: int) -> None:
        """Run the session with one cut and note how it ends."""
        plan = self._proxy.plan(after, way, connection, reset=bool(after % 2))
        began = time.monotonic()
        session = None
        try:
            session = self._connect()
            found = small(session, self._bulk)
            kind = "wrong" if found != self.expected else "same" if plan.struck else "not reached"
        except torch.FarspanError as error:
            kind = "refused" if session is None else "lost"
            found = [type(error).__name__, str(error)[:200]]
        self.worst_s = max(self.worst_s, time.monotonic() - began)
        self.counts[kind] += 1
        if kind in ("wrong", "lost"):
            self.bad.append(f"connection {connection} way {way} byte {after}: {kind} {found}")
        if session is not None and plan.struck:
            self._close(session.id)

    def _close(self, session: str) -> None:
        """End a session whose last word may have been cut off: it holds its worker else."""
        import grpc

        with contextlib.suppress(grpc.RpcError), grpc.insecure_channel(self._target()) as channel:
            channel.unary_unary(f"/{wire.SERVICE}/Close")(
                wire.encode(wire.CloseRequest(session)),
                metadata=(("authorization", f"Bearer {self._token}"),), timeout=10,
            )  # fmt: skip

    def _target(self) -> str:
        return self._direct.removeprefix("grpc://")


def offsets(cutter: Cutter, connections: int) -> list[tuple[int, int, int]]:
    """Return every place to cut at: connection, way, bytes that pass before."""
    return [
        (connection, way, after)
        for connection in range(min(connections, len(cutter.most)))
        for way in (UP, DOWN)
        for after in range(cutter.most[connection][way] + 1)
    ]


def main() -> None:
    address, token, first, step, *flags = sys.argv[1:]
    logging.getLogger("farspan").setLevel(logging.ERROR)  # that it is cut is known
    with Cutter(address, token, bool(flags), "shared" in flags) as cutter:
        every = offsets(cutter, 2 if flags else 1)
        mine = every[int(first) :: int(step)]
        for each in mine:
            cutter.cut(*each)
        print(json.dumps({
            "offsets": len(every), "cuts": len(mine), "least": cutter.least, "most": cutter.most,
            **cutter.counts, "worst_s": cutter.worst_s, "bad": cutter.bad[:5],
        }))  # fmt: skip


if __name__ == "__main__":
    main()
