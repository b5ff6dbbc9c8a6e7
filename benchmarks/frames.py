"""What does a frame cost the client's transport, without a wire: sent, kept, acknowledged?

CPU time in microseconds of a frame of one command, encoded, and of its ack, decoded; the best of
several rounds. A session that outlasts its streams keeps frames and confirms acks; one that does
not is beside it.

    python benchmarks/frames.py [--count 5000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from farspan import wire
from farspan._transport import GrpcTransport
from farspan.core import command as cmd
from farspan.core.command import Frame


class Swallowing:
    """A stream that takes messages and forgets them."""

    def put(self, item: Any) -> None:
        pass

    put_uninterrupted = put

    def wait(self, timeout_s: float) -> bool:
        return True

    def cancel(self) -> None:
        pass


def open_(lasts: bool) -> GrpcTransport:
    """Return a transport of a session that was welcomed, with nobody at the other end."""
    transport = GrpcTransport("grpc://127.0.0.1:1", "nobody", None, 60.0 if lasts else 0.0)
    stream: Any = Swallowing()
    transport._stream = stream
    welcome = wire.Welcome("0" * 32, 1, ("cpu",), secret=bytes(32) if lasts else b"")
    transport._take(0, wire.encode(wire.Down(welcome)))
    transport.set_sink(lambda event: None)
    return transport


def frame_us(transport: GrpcTransport, count: int) -> float:
    """Return the CPU time of a frame and its ack."""
    frame = Frame(0)
    frame.add(cmd.GET, [5], (1, cmd.GET_BYTES, 0), number=1)
    begun = time.process_time_ns()
    for _ in range(count):
        sent = transport.send(frame)
        transport._take(0, wire.encode(wire.Down(applied=sent, durable=sent)))
    return (time.process_time_ns() - begun) / count / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=5000, help="frames a round")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    transports = {name: open_(lasts) for name, lasts in (("as is", False), ("lasting", True))}
    found: dict[str, list[float]] = {name: [] for name in transports}
    for _ in range(given.rounds):
        for name, transport in transports.items():
            found[name].append(frame_us(transport, given.count))
    for name, times in found.items():
        print(f"{name:8} {min(times):6.1f} us of CPU a frame")
    for transport in transports.values():
        transport.close()


if __name__ == "__main__":
    main()
