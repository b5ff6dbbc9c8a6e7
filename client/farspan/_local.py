"""LocalTransport: engines in this process. The same frames as over the wire, without the bytes.

The only module of the client that imports the worker, and only when `local:` is used. Frames run
inside `send`, on the caller's thread; the session's lock keeps their order.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import socket
from typing import TYPE_CHECKING, Any

from ._signals import Uninterrupted
from .core import limits
from .core.command import Acked, Event, Frame, Lost, Send
from .core.errors import BadValueError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("farspan")


def parse_devices(text: str) -> list[str]:
    """Return device names for ``"cpu:2"`` -> [cpu, cpu:1], ``"cpu,cuda:2"``. BadValueError."""
    counts: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(cpu|cuda)(?::(\d{1,3}))?\s*", part)
        if match is None or match[2] == "0":
            raise BadValueError(f'devices={text!r}: write e.g. "cpu:2" or "cpu,cuda:4"')
        counts[match[1]] = counts.get(match[1], 0) + int(match[2] or 1)
    counts.setdefault("cpu", 1)
    names = ["cpu" if i == 0 else f"cpu:{i}" for i in range(counts["cpu"])]
    return names + [f"cuda:{i}" for i in range(counts.get("cuda", 0))]


_numbers = itertools.count(1)


class LocalTransport:
    """Runs frames at once, in this process."""

    def __init__(self, devices: str) -> None:
        from farspan_worker.engine import Engine

        self.session_id = f"local-{next(_numbers)}"
        names = parse_devices(devices)
        self.engines = [Engine(name) for name in names]
        host, pid = socket.gethostname(), os.getpid()
        self.kinds = [n.partition(":")[0] for n in names]
        self.devices = [
            {
                "name": n,
                "kind": n.partition(":")[0],
                "host": host,
                "pid": pid,
                "epoch": 0,
                "worker": "",
            }
            for n in names
        ]
        self.exported = 0  # storages that numpy can see: then every command runs at once
        self._transfers: dict[int, Any] = {}
        self._sink: Callable[[Event], None] = lambda event: None
        self._frames = 0
        self._kept: dict[str, str] = {}

    idle = False  # gathering costs nothing where nothing travels
    payload_bytes_max = limits.INLINE_BYTES_MAX  # larger tensors are not copied into a frame

    @property
    def watched(self) -> bool:
        return self.exported > 0

    def set_sink(self, sink: Callable[[Event], None]) -> None:
        self._sink = sink

    def send(self, frame: Frame) -> None:
        with Uninterrupted():  # half of a frame would leave the engine torn
            self._frames += 1
            frame.sequence = self._frames
            try:
                transfers = {t: self._transfers.pop(t) for t in frame.transfers()}
                events = self.engines[frame.device].handle(frame, transfers)
            except ProtocolError as e:
                self._sink(Lost("ProtocolError", str(e)))
                return
            except Exception as e:  # a defect of ours ends this session, as in a worker
                log.exception("frame %d", frame.sequence)
                self._sink(Lost("ServiceError", f"the engine failed: {e!r}"))
                return
            for event in events:
                if isinstance(event, Send):
                    self._transfers[event.transfer] = event.error or event.data
                else:
                    self._sink(event)
            self._sink(Acked(frame.sequence, frame.sequence))

    def upload(self, transfer: int, device: int, data: memoryview) -> None:
        self._transfers[transfer] = data

    def give_up(self, request: int) -> None:
        """Do nothing: answers do not travel."""

    def expect(self, device: int, nbytes: int) -> None:
        """Do nothing: answers are where they are."""

    def stats(self) -> dict[str, Any]:
        bulk = dict.fromkeys(("shared_up", "shared_down", "streamed_up", "streamed_down"), 0)
        ways = {"shared_memory": "the engine is in this process", **bulk}
        return {"frames": self._frames, "bytes_up": 0, "bytes_down": 0, "bulk": ways}

    def worker_stats(self) -> list[dict[str, Any]]:
        return [dict(engine.stats()) for engine in self.engines]

    def keep(self, name: str, body: str) -> None:
        """Give tensors a name; an empty body takes it back."""
        self._kept.pop(name, None)
        if body:
            self._kept[name] = body

    def kept(self) -> dict[str, str]:
        """Return what `keep` was told."""
        return dict(self._kept)

    def move(self, to: str, allow_numerics_change: bool) -> list[dict[str, Any]]:
        """Raise: there is no other worker in this process."""
        raise BadValueError("a local: session is this process; connect to a gateway to move one")

    @property
    def numerics(self) -> list[str]:
        """The numerics key of each device's engine."""
        from farspan_worker.numerics import numerics_key

        return [numerics_key(kind) for kind in self.kinds]

    def detach(self) -> None:
        """Raise: nothing outlives this process."""
        raise BadValueError(
            "a local: session lives in this process and ends with it; connect to a gateway"
        )

    def hurry(self) -> None:
        """Do nothing: nobody is away."""

    def close(self) -> None:
        for engine in self.engines:
            engine.close()
