"""What does an operation cost when its tensors live in another process?

Prints farspan over gRPC beside local torch and a bare gRPC stream, in alternating runs; every timed
region ends in a read of a value that depends on all of it. Medians of seven alternations.

    python benchmarks/overhead.py [--rounds 7] [--address grpc://... --token-file F]

Bytes go both ways in the same run: by the stream, in a session that is opened for it, and through
shared memory where the service offers that (--no-shared: by the stream only). The service that it
starts keeps a journal: each way is measured in a durable session and in one with durability off,
and beside the durable ones what the disk takes for the same bytes, written and synced.
All other rows are of a session of --durability (durable).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import farspan
import grpc
import numpy as np

MIB = 1 << 20
BULK_BYTES = int(os.environ.get("OVERHEAD_BULK_BYTES", 64 * MIB))  # the bare server's as well
CHUNK_BYTES = 1 * MIB
OPS = 20_000
PINGS = 300
STEPS = 100


# ------------------------------------------------------------------------- the bare gRPC stream --
class BareStream:
    """A grpc.aio server in a process of its own that echoes, swallows and pours bytes."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--bare-server"], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        port = int(self.process.stdout.readline())
        options = [("grpc.max_receive_message_length", 4 * MIB)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)

    def ping(self, count: int) -> float:
        """Return seconds per round trip of 60 bytes on a standing stream."""
        import queue

        outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        call = self.channel.stream_stream("/bare/Echo")(iter(outgoing.get, None))
        times = []
        for _ in range(count):
            begun = time.perf_counter()
            outgoing.put(b"x" * 60)
            next(call)
            times.append(time.perf_counter() - begun)
        outgoing.put(None)
        return statistics.median(times)

    def up(self) -> float:
        """Return seconds to send BULK_BYTES of an array in chunks and hear that they came."""
        array = np.random.default_rng(0).random(BULK_BYTES // 8)
        view = memoryview(array).cast("B")
        begun = time.perf_counter()
        chunks = (bytes(view[i : i + CHUNK_BYTES]) for i in range(0, BULK_BYTES, CHUNK_BYTES))
        self.channel.stream_unary("/bare/Swallow")(chunks)
        return time.perf_counter() - begun

    def down(self) -> float:
        """Return seconds to receive BULK_BYTES in chunks into one array."""
        target = np.empty(BULK_BYTES, np.uint8)
        begun = time.perf_counter()
        at = 0
        for chunk in self.channel.unary_stream("/bare/Pour")(b""):
            target[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
            at += len(chunk)
        return time.perf_counter() - begun

    def close(self) -> None:
        self.channel.close()
        self.process.terminate()
        self.process.wait(10)


def serve_bare() -> None:
    """Run the bare server until its parent ends it; prints its port."""
    import asyncio

    async def echo(requests: Any, context: Any) -> Any:
        async for message in requests:
            yield message

    async def swallow(requests: Any, context: Any) -> bytes:
        target = np.empty(BULK_BYTES, np.uint8)
        at = 0
        async for chunk in requests:
            target[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
            at += len(chunk)
        return b"done"

    async def pour(request: bytes, context: Any) -> Any:
        view = memoryview(np.random.default_rng(0).random(BULK_BYTES // 8)).cast("B")
        for i in range(0, BULK_BYTES, CHUNK_BYTES):
            yield bytes(view[i : i + CHUNK_BYTES])

    async def run() -> None:
        server = grpc.aio.server(
            futures.ThreadPoolExecutor(1), options=[("grpc.max_receive_message_length", 4 * MIB)]
        )
        methods = {
            "Echo": grpc.stream_stream_rpc_method_handler(echo),
            "Swallow": grpc.stream_unary_rpc_method_handler(swallow),
            "Pour": grpc.unary_stream_rpc_method_handler(pour),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", methods),))
        print(server.add_insecure_port("127.0.0.1:0"), flush=True)
        await server.start()
        await server.wait_for_termination()

    asyncio.run(run())


# ------------------------------------------------------------------------------------- farspan --
def issue(f: Callable[[], Any], last: Callable[[Any], float]) -> tuple[float, float]:
    """Return us an op to issue `f`, and us an op until the value of the last one is read."""
    begun = time.perf_counter()
    for _ in range(OPS):
        result = f()
    issued = time.perf_counter() - begun
    last(result)
    whole = time.perf_counter() - begun
    return issued / OPS * 1e6, whole / OPS * 1e6


def read_back(x: Any, y: Any, count: int) -> float:
    """Return seconds from issuing `x + y` of one element to having its value."""
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        (x + y).item()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def mlp_step(lib: Any, steps: int) -> float:
    """Return seconds a training step of an MLP 64-128-10, batch 32, SGD; losses chain them."""
    lib.manual_seed(0)
    model = lib.nn.Sequential(lib.nn.Linear(64, 128), lib.nn.ReLU(), lib.nn.Linear(128, 10))
    optimizer = lib.optim.SGD(model.parameters(), lr=0.01)
    x = lib.randn(32, 64)
    y = lib.randint(0, 10, (32,))
    loss_of = lib.nn.CrossEntropyLoss()
    loss = None
    begun = time.perf_counter()
    for step in range(steps + 5):
        if step == 5:
            loss.item()
            begun = time.perf_counter()
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
    loss.item()
    return (time.perf_counter() - begun) / steps


def move(session: Any, bare: BareStream, way: str) -> dict[str, float]:
    """Return MiB/s of BULK_BYTES up and down a session, beside the bare stream and memcpy."""
    rate = lambda begun: BULK_BYTES / MIB / (time.perf_counter() - begun)  # noqa: E731
    found: dict[str, float] = {}
    found[f"bare up beside {way}, MiB/s"] = BULK_BYTES / MIB / bare.up()
    array = np.random.default_rng(0).random(BULK_BYTES // 8)
    begun = time.perf_counter()
    sent = farspan.tensor(array)
    session.synchronize()
    found[f"up, {way}, MiB/s"] = rate(begun)
    found[f"bare down beside {way}, MiB/s"] = BULK_BYTES / MIB / bare.down()
    begun = time.perf_counter()
    back = sent.numpy()
    found[f"down, {way}, MiB/s"] = rate(begun)
    assert back[-1] == array[-1]
    del back
    begun = time.perf_counter()
    copied = array.copy()
    found[f"memcpy beside {way}, MiB/s"] = rate(begun)
    assert copied[-1] == array[-1]
    return found


def disk() -> float:
    """Return MiB/s of BULK_BYTES written to a file and synced at the end, by one thread.

    It lies where the journals of a service do that is started here.
    """
    view = memoryview(np.random.default_rng(0).random(BULK_BYTES // 8)).cast("B")
    with tempfile.TemporaryFile(prefix="farspan-bench-", buffering=0) as file:
        begun = time.perf_counter()
        for at in range(0, BULK_BYTES, CHUNK_BYTES):
            file.write(view[at : at + CHUNK_BYTES])
        os.fdatasync(file.fileno())
        return BULK_BYTES / MIB / (time.perf_counter() - begun)


def overlap(session: Any, way: str) -> dict[str, float]:
    """Return ms of products of matrices, of an upload, and of both when the products go first.

    Of both also when the upload was over for the caller. There must be a core for each: on a busy
    machine both take the sum, whatever waits for whatever.
    """
    x = farspan.ones(768, 768) / 768
    array = np.zeros(BULK_BYTES, np.uint8)
    products = 20 if BULK_BYTES > MIB else 1

    def timed(compute: bool, upload: bool) -> float:
        session.synchronize()
        begun = time.perf_counter()
        y = x
        for _ in range(products * compute):
            y = y @ x
        session.flush()
        if upload:
            farspan.tensor(array)
        returned.append((time.perf_counter() - begun) * 1e3)
        session.synchronize()
        return (time.perf_counter() - begun) * 1e3

    returned: list[float] = []
    return {
        f"compute, {way}, ms": timed(True, False),
        f"upload, {way}, ms": timed(False, True),
        f"both, {way}, ms": timed(True, True),
        f"both, {way}, upload over after ms": returned[-1],
    }


def measure(session: Any, ways: dict[str, Any], bare: BareStream, torch: Any) -> dict[str, float]:
    """Return one round of every measurement; farspan, torch and the bare stream in turn.

    ways: sessions whose bytes go one way each.
    """
    a, b, row = farspan.ones(4, 4), farspan.ones(4, 4), farspan.ones(4)
    one = farspan.ones(1)
    found: dict[str, float] = {}
    last = lambda t: float(t.sum())  # noqa: E731
    found["issue a+b, us/op"], found["pipelined a+b, us/op"] = issue(lambda: a + b, last)
    found["issue broadcast, us/op"], found["pipelined broadcast, us/op"] = issue(
        lambda: a + row, last
    )
    ta, tb, trow = torch.ones(4, 4), torch.ones(4, 4), torch.ones(4)
    found["torch a+b, us/op"] = issue(lambda: ta + tb, last)[1]
    found["torch broadcast, us/op"] = issue(lambda: ta + trow, last)[1]
    found["bare ping, us"] = bare.ping(PINGS) * 1e6
    found["read-back, us"] = read_back(one, one, PINGS) * 1e6
    for way, one_of in ways.items():
        farspan._state.push(one_of)
        if "durable" in way:
            found[f"disk beside {way}, MiB/s"] = disk()
        found |= move(one_of, bare, way) | overlap(one_of, way)
    farspan._state.push(session)
    found["MLP step, us"] = mlp_step(farspan, STEPS) * 1e6
    found["torch MLP step, us"] = mlp_step(torch, STEPS) * 1e6
    return found


#: label, ours, bar (value, "at most" or "at least"), and what it is divided by.
BARS: list[tuple[str, str, str | None, float, bool]] = [
    ("client issue of a + b / torch's a + b", "issue a+b, us/op", "torch a+b, us/op", 1.0, True),
    ("pipelined a + b, end to end (us/op)", "pipelined a+b, us/op", None, 10.0, True),
    ("read-back / bare ping", "read-back, us", "bare ping, us", 2.5, True),
]


def bars_of(way: str) -> list[tuple[str, str, str | None, float, bool]]:
    """Return the bars of bytes that go one way."""
    base, bar = ("memcpy", 0.5) if way.startswith("shared") else ("bare {}", 0.8)
    return [
        (
            f"64 MiB {to}, {way} / {base.format('stream')}",
            f"{to}, {way}, MiB/s",
            f"{base.format(to)} beside {way}, MiB/s",
            bar,
            False,
        )
        for to in ("up", "down")
    ]


def hidden(medians: dict[str, float], way: str) -> float:
    """Return which part of the shorter of computing and uploading went on during the other."""
    compute, upload, both = (medians[f"{k}, {way}, ms"] for k in ("compute", "upload", "both"))
    return (compute + upload - both) / min(compute, upload)


def report(rounds: list[dict[str, float]], ways: list[str]) -> None:
    """Print medians of all rounds, then the bars."""
    medians = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"\nmedians of {len(rounds)} rounds; {load}")
    for name, value in medians.items():
        print(f"  {name:32s} {value:12.1f}")
    print("\nbars")
    for label, name, base, bar, most in [*BARS, *(bar for way in ways for bar in bars_of(way))]:
        if base is None:
            value = medians[name]
        else:
            value = statistics.median(r[name] / r[base] for r in rounds)
        held = value <= bar if most else value >= bar
        word = "<=" if most else ">="
        print(f"  {label:38s} {value:10.2f}  {word} {bar:<8g} {'held' if held else 'MISSED'}")
    for way in ways:
        if (name := f"disk beside {way}, MiB/s") in medians:
            part = statistics.median(r[f"up, {way}, MiB/s"] / r[name] for r in rounds)
            print(f"  {f'64 MiB up, {way} / write and sync':38s} {part:10.2f}")
    for way in ways:
        part = hidden(medians, way)
        print(f"  {f'of upload hidden by compute, {way}':38s} {part:10.2f}")


@contextlib.contextmanager
def service(address: str | None, token_file: str | None) -> Iterator[tuple[str, str]]:
    """Yield the address and token of the given service, or of one that runs meanwhile."""
    if address:
        yield address, Path(token_file or "").read_text().strip() if token_file else ""
        return
    folder = tempfile.TemporaryDirectory(prefix="farspan-bench-")
    command = [sys.executable, "-m", "farspan_server", "up", "--workers", "cpu:2", "--json"]
    command += ["--journal", folder.name]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert up.stdout is not None
        ready = json.loads(up.stdout.readline())
        yield ready["address"], Path(ready["token_file"]).read_text().strip()
    finally:
        up.terminate()
        up.wait(60)
        folder.cleanup()


def shrink() -> None:
    """Let every measurement be as short as it can be."""
    global BULK_BYTES, OPS, PINGS, STEPS
    BULK_BYTES, OPS, PINGS, STEPS = MIB, 50, 3, 2
    os.environ["OVERHEAD_BULK_BYTES"] = str(BULK_BYTES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--address")
    parser.add_argument("--token-file")
    parser.add_argument("--durability", default="durable", help="durable|off, of all other rows")
    parser.add_argument("--no-shared", action="store_true", help="bytes by the stream only")
    parser.add_argument("--smoke", action="store_true", help="local:, tiny sizes, one round")
    parser.add_argument("--bare-server", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare_server:
        serve_bare()
        return
    if options.smoke:
        shrink()
        options.address, options.rounds = "local:", 1
    import torch

    torch.set_num_threads(1)
    bare = BareStream()
    try:
        with (
            service(options.address, options.token_file) as (address, token),
            opened(address, token, options) as (session, ways),
        ):
            measure(session, ways, bare, torch)  # warm up
            rounds = []
            for i in range(options.rounds):
                rounds.append(measure(session, ways, bare, torch))
                print(f"round {i + 1} of {options.rounds}: load {os.getloadavg()[0]:.1f}")
            report(rounds, list(ways))
    finally:
        bare.close()


@contextlib.contextmanager
def opened(address: str, token: str, options: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield the session that is measured, and one for each way of bytes, by its name."""
    with contextlib.ExitStack() as stack:

        def connect(**more: Any) -> Any:
            return stack.enter_context(farspan.connect(address, token=token, **more))

        if options.smoke:
            session = connect()
            yield session, {"stream": session}
            return
        ways = {}
        for durability in ("durable", "off") if options.address is None else (None,):
            name = f", {durability}" if durability else ""
            ways[f"stream{name}"] = connect(shared_memory=False, durability=durability)
            if not options.no_shared:
                ways[f"shared{name}"] = connect(durability=durability)
        kind = "stream" if options.no_shared else "shared"
        yield ways[kind if options.address else f"{kind}, {options.durability}"], ways


if __name__ == "__main__":
    main()
