"""What a tenant feels of another one that floods the gateway.

    python benchmarks/neighbours.py [--seconds 2] [--rounds 3]     # round trips, beside those alone
    python benchmarks/neighbours.py --turns                        # the gateway's turns

A service of real processes with a worker for each tenant. The neighbour reads a number back, over
and over; meanwhile the other sends as fast as it can, in each of the ways below. Alone and beside
it alternate; printed are medians over the rounds of the median and of the 99th percentile.

The machine's cores are shared too, which farspan cannot change: `spin` and `spin3` show what one
and three plain busy processes cost by themselves, with no flood. The second pair of ratios is
without the time in which the kernel let the neighbour's way (its client, gateway, its worker) wait
for a core, as /proc tells of their busiest threads: what is left is farspan's own.

A turn of the gateway's loop is what everybody waits for who comes meanwhile. `--turns` measures
them in CPU time of the gateway's thread, which other processes do not change.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import farspan
import grpc
from farspan import wire
from farspan.core import link
from farspan.core.op import table_hash
from farspan_server import auth, token_file
from farspan_server.cli_serve import quiet
from farspan_server.config import GatewayConfig, StaticWorker
from farspan_server.gateway import Gateway


@contextmanager
def service() -> Iterator[tuple[str, str, str, int]]:
    """Yield the address, two tenants' tokens, and the process of the gateway."""
    with tempfile.TemporaryDirectory(prefix="neighbours-") as folder:
        path, tokens = Path(folder) / "tokens", []
        for tenant in ("anna", "bert"):
            token, kept = auth.new_token(tenant, time.time())
            line = token_file.line_of(kept)
            token_file.change(path, lambda lines, line=line: lines.append(line))
            tokens.append(token)
        up = subprocess.Popen(
            [sys.executable, "-m", "farspan_server", "up", "--no-ray", "--workers", "cpu:2",
             "--threads", "1", "--token-file", str(path), "--no-journal", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            assert up.stdout is not None
            ready = json.loads(up.stdout.readline())
            yield ready["address"], tokens[0], tokens[1], ready["pids"]["gateway"]
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(30)


# --- floods: each runs until it is killed ---------------------------------------------------------
def commands(address: str, token: str) -> None:
    """Operations without a pause, as fast as credits allow."""
    with farspan.connect(address, token=token, devices="cpu"):
        x = farspan.zeros(8)
        while True:
            x = x + 1


def uploads(address: str, token: str) -> None:
    """Tensors of 16 MB, one after the other."""
    import numpy as np

    with farspan.connect(address, token=token, devices="cpu"):
        data = np.zeros(4_000_000, np.float32)
        while True:
            farspan.tensor(data)


def questions(address: str, token: str) -> None:
    """Lists of sessions, 64 at a time."""
    with _channel(address) as channel:
        call = channel.unary_unary(f"/{wire.SERVICE}/List")
        body = wire.encode(wire.ListRequest())
        while True:
            for each in [call.future(body, metadata=_bearer(token)) for _ in range(64)]:
                each.result()


def guesses(address: str, token: str) -> None:
    """Wrong tokens, 64 at a time."""
    with _channel(address) as channel:
        call = channel.unary_unary(f"/{wire.SERVICE}/List")
        while True:
            for each in [call.future(b"", metadata=_bearer("x" * 60)) for _ in range(64)]:
                each.exception()


def crumbs(address: str, token: str) -> None:
    """Messages of 4,000 frames that have been seen before."""
    from farspan.core.command import FREE, Frame

    frame = Frame(0, sequence=1, epoch=1, opcodes=[FREE], modes=[0], counts=[1], ids=[1],
                  statics=[()], scalar_counts=[0], numbers=[0])  # fmt: skip
    data = wire.encode_frame(frame)
    many = wire.encode(wire.Up(frames=(data,) * 4_000))

    def say() -> Iterator[bytes]:
        hello = wire.Hello(table_hash(), devices="cpu")
        yield wire.encode(wire.Up(hello=hello, frames=(data,)))
        while True:
            yield many

    with _channel(address) as channel:
        for _ in channel.stream_stream(f"/{wire.SERVICE}/Session")(say(), metadata=_bearer(token)):
            pass


def spin(address: str, token: str) -> None:
    """Nothing of farspan's: a core is busy."""
    while True:
        pass


def spin3(address: str, token: str) -> None:
    """Nothing of farspan's: three processes want a core, as client, gateway and worker do."""
    for _ in range(2):
        if not os.fork():
            while os.getppid() != 1:
                pass
            os._exit(0)
    spin(address, token)


FLOODS: tuple[Callable[[str, str], None], ...] = (
    commands, uploads, questions, guesses, crumbs, spin, spin3,
)  # fmt: skip


def start(flood: Callable[[str, str], None], address: str, token: str) -> tuple[Any, Any]:
    """Return the process of a flood, and an event that is set when it begins to connect."""
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    arguments = (flood.__name__, address, token, begun)
    process = context.Process(target=_run, args=arguments, daemon=True)
    process.start()
    return process, begun


def _run(name: str, address: str, token: str, begun: Any) -> None:
    begun.set()
    next(flood for flood in FLOODS if flood.__name__ == name)(address, token)


def _channel(address: str) -> Any:
    return grpc.insecure_channel(address.removeprefix("grpc://"))


def _bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


# --- the neighbour --------------------------------------------------------------------------------
class Waits:
    """For how long processes have waited for a core, as the kernel tells of their busiest threads:
    a round trip goes through one of each after the other."""

    def __init__(self, pids: list[int]) -> None:
        self.files = [open(max(self._threads(pid))[1]) for pid in pids]

    @staticmethod
    def _threads(pid: int) -> list[tuple[int, str]]:
        """Return the nanoseconds of each thread, and where its times stand."""
        names = [f"/proc/{pid}/task/{task}/schedstat" for task in os.listdir(f"/proc/{pid}/task")]
        return [(int(Path(name).read_text().split()[0]), name) for name in names]

    def seconds(self) -> float:
        """Return them all together."""
        found = 0
        for file in self.files:
            file.seek(0)
            found += int(file.read().split()[1])
        return 1e-9 * found


def trip() -> Callable[[], object]:
    """Return a round trip."""
    x = farspan.ones(1)
    return lambda: (x + 1).item()


def step() -> Callable[[], object]:
    """Return a training step of a small net."""
    from farspan import nn, optim

    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 8))
    optimizer, x = optim.SGD(net.parameters(), lr=0.01), farspan.randn(64, 64)

    def train() -> object:
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return train


def times(
    work: Callable[[], object], seconds: float, pids: list[int]
) -> tuple[list[float], list[float]]:
    """Return the seconds of each turn of work, and those without waits of processes for a core."""
    found, own = [], []
    for _ in range(20):
        work()
    waits, ends = Waits(pids), time.perf_counter() + seconds
    after = waits.seconds()
    while time.perf_counter() < ends:
        before = after
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
        after = waits.seconds()
        own.append(max(0.0, found[-1] - (after - before)))
    return found, own


def summary(found: list[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile, in microseconds."""
    ordered = sorted(found)
    return 1e6 * statistics.median(ordered), 1e6 * ordered[int(0.99 * (len(ordered) - 1))]


def measure(
    flood: Callable[[str, str], None], seconds: float, rounds: int, steps: bool = False
) -> dict[str, float]:
    """Return medians over the rounds: alone, beside the flood; of training steps or round trips."""
    alone, beside = [], []

    def looked() -> tuple[float, ...]:
        found, own = times(work, seconds, pids)
        return *summary(found), *summary(own)

    with service() as (address, anna, bert, gateway):
        with farspan.connect(address, token=bert, devices="cpu") as session:
            pids = [os.getpid(), gateway, int(session.transport.devices[0]["pid"])]
            work = step() if steps else trip()
            times(work, 0.3, pids)
            for _ in range(rounds):
                alone.append(looked())
                other, begun = start(flood, address, anna)
                begun.wait(60)
                time.sleep(1.0)
                beside.append(looked())
                assert other.is_alive(), f"{flood.__name__} has ended"
                os.kill(other.pid or 0, signal.SIGKILL)
                other.join()
                time.sleep(0.5)
    names = [f"{when}_{what}_us" for when in ("alone", "beside")
             for what in ("p50", "p99", "own_p50", "own_p99")]  # fmt: skip
    columns = zip(*([*a, *b] for a, b in zip(alone, beside, strict=True)), strict=True)
    return {name: statistics.median(c) for name, c in zip(names, columns, strict=True)}


# --- turns ----------------------------------------------------------------------------------------
class Loop(asyncio.SelectorEventLoop):
    """An event loop that notes the CPU seconds of each of its turns."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[float] = []

    def _run_once(self) -> None:
        begun = time.thread_time()
        super()._run_once()  # type: ignore[misc]
        self.turns.append(time.thread_time() - begun)


async def turns(
    loop: Loop, flood: Callable[[str, str], None], seconds: float, journal: bool
) -> list[float]:
    """Return the turns of a gateway in this process under a flood."""
    key = secrets.token_bytes(link.KEY_BYTES)
    token = secrets.token_hex(32)
    with tempfile.TemporaryDirectory(prefix="neighbours-") as folder:
        path = Path(folder) / "key"
        path.write_text(key.hex())
        worker = subprocess.Popen(
            [sys.executable, "-m", "farspan_server", "worker", "--listen", "127.0.0.1:0",
             "--key-file", str(path), "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert worker.stdout is not None
        where = json.loads(worker.stdout.readline())["address"]
        config = GatewayConfig(
            {token: "anna"}, table_hash(), workers=(StaticWorker(where, key),),
            journals=Path(folder) / "journals" if journal else None,
        )  # fmt: skip
        gateway = Gateway(config)
        address = await gateway.start()
        quiet()
        other, begun = start(flood, address, token)
        await asyncio.to_thread(begun.wait, 60)
        await asyncio.sleep(1.0)
        loop.turns.clear()
        await asyncio.sleep(seconds)
        found = sorted(loop.turns)
        assert other.is_alive(), f"{flood.__name__} has ended"
        os.kill(other.pid or 0, signal.SIGKILL)
        worker.terminate()
        await gateway.stop(0.1)
        worker.wait(30)
    return found


def tell_turns(flood: Callable[[str, str], None], seconds: float, journal: bool) -> None:
    """Print a flood's turns."""
    loop = Loop()
    found = loop.run_until_complete(turns(loop, flood, seconds, journal))
    p50, p99 = 1e6 * statistics.median(found), 1e6 * found[int(0.99 * (len(found) - 1))]
    print(
        f"{flood.__name__:10s} {len(found):7d} turns, us: median {p50:5.0f}"
        f"   p99 {p99:6.0f}   longest {1e6 * found[-1]:6.0f}",
        flush=True,
    )


def main() -> None:
    """Print a line a flood."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=[flood.__name__ for flood in FLOODS])
    parser.add_argument("--steps", action="store_true", help="Training steps, no round trips.")
    parser.add_argument("--turns", action="store_true")
    parser.add_argument(
        "--journal", action="store_true", help="With --turns: sessions are durable."
    )
    asked = parser.parse_args()
    if asked.turns:
        for flood in FLOODS:
            if asked.only in (None, flood.__name__):
                tell_turns(flood, asked.seconds, asked.journal)
        return
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}; microseconds, p50 / p99")
    for flood in FLOODS:
        if asked.only in (None, flood.__name__):
            m = measure(flood, asked.seconds, asked.rounds, asked.steps)
            print(
                f"{flood.__name__:10s} alone {m['alone_p50_us']:6.0f} /{m['alone_p99_us']:7.0f}"
                f"   beside {m['beside_p50_us']:6.0f} /{m['beside_p99_us']:7.0f}"
                f"   {m['beside_p50_us'] / m['alone_p50_us']:5.2f} x"
                f" /{m['beside_p99_us'] / m['alone_p99_us']:6.2f} x{_own(m, asked.steps)}",
                flush=True,
            )


def _own(m: dict[str, float], steps: bool) -> str:
    """Return the ratios without waits for a core; in a step those of several processes overlap."""
    if steps or not (m["alone_own_p50_us"] and m["alone_own_p99_us"]):
        return ""
    return (
        f"   own {m['beside_own_p50_us'] / m['alone_own_p50_us']:5.2f} x"
        f" /{m['beside_own_p99_us'] / m['alone_own_p99_us']:6.2f} x"
    )


if __name__ == "__main__":
    main()
