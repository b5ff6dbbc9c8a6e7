"""Does the cost of an operation stay what it is with ten times the ops, tensors or sessions?

Each row compares one size with ten times that size in alternating runs: microseconds an op, end to
end, by the CPU time of all processes and by the wall. The bar is issue 4's: at most 1.1 times.

    python benchmarks/growth.py [--rounds 7] [--address local:|grpc://... --token-file F]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import farspan
from overhead import service
from vs_backend import cpu_seconds

BAR = 1.1
Found = tuple[float, float]  # us an op: wall, CPU

#: The smaller size of each row; the larger is ten times that.
SIZES = {"ops": 4_000, "tensors": 2_000, "sessions": 10}
SMOKE = {"ops": 50, "tensors": 20, "sessions": 1}
PROBES = 4_000  # ops that a row times where something else grows


def add_chain(count: int, pids: tuple[int, ...]) -> Found:
    """Return us an op of a chain of additions that ends in a read."""
    x, one = farspan.zeros(4, 4), farspan.ones(4, 4)
    float(x.sum())
    cpu, begun = cpu_seconds(pids), time.perf_counter()
    for _ in range(count):
        x = x + one
    total = float(x.sum())
    wall, cpu = time.perf_counter() - begun, cpu_seconds(pids) - cpu
    assert total == 16.0 * count
    return wall / count * 1e6, cpu / count * 1e6


@contextlib.contextmanager
def alive(count: int) -> Iterator[None]:
    """Keep so many small tensors alive meanwhile."""
    kept = [farspan.ones(4) for _ in range(count)]
    float(kept[-1].sum())
    yield
    del kept


def idle_sessions(stack: contextlib.ExitStack, connect: Callable[[], Any], count: int) -> None:
    """Open so many sessions that do nothing: `local:` ones hold a tensor, others no worker yet."""
    for _ in range(count):
        if stack.enter_context(connect()).address == "local:":
            stack.callback(list, [farspan.ones(2)])


def measure(
    sizes: dict[str, int], rounds: int, probes: int, session: Any, connect: Callable[[], Any] | None
) -> dict[str, tuple[float, float]]:
    """Return for each row the median ratio, ten times to once: of the wall and of CPU time."""
    pids: tuple[int, ...] = ()
    if session.address != "local:":
        pids = (session.describe()["devices"][0]["pid"],)
    found: dict[str, tuple[float, float]] = {}

    def compare(name: str, small: Callable[[], Found], large: Callable[[], Found]) -> None:
        pairs: list[tuple[Found, Found]] = []
        small()
        for number in range(rounds):
            first, second = (small, large) if number % 2 == 0 else (large, small)
            one, other = first(), second()
            pairs.append((one, other) if number % 2 == 0 else (other, one))
        wall, cpu = (statistics.median(b[k] / a[k] for a, b in pairs) for k in (0, 1))
        found[name] = wall, cpu
        once = [statistics.median(a[k] for a, _ in pairs) for k in (0, 1)]
        print(
            f"  {name:34} {once[0]:8.2f} us an op ({once[1]:.2f} CPU); ten times: {wall:.2f} "
            f"({cpu:.2f} CPU)  <= {BAR}  {'held' if wall <= BAR else 'MISSED'}"
        )

    def with_alive(count: int) -> Found:
        with alive(count):
            return add_chain(probes, pids)

    n = sizes["ops"]
    compare(f"{n:,} -> {10 * n:,} ops", lambda: add_chain(n, pids), lambda: add_chain(10 * n, pids))
    n = sizes["tensors"]
    compare(f"{n:,} -> {10 * n:,} live tensors", lambda: with_alive(n), lambda: with_alive(10 * n))
    if connect is not None:
        # Sessions stay open once made, so these runs cannot alternate; both halves are repeated.
        n, before, after = sizes["sessions"], [], []
        with contextlib.ExitStack() as stack:
            idle_sessions(stack, connect, n)
            farspan._state.push(session)
            before += [add_chain(probes, pids) for _ in range(rounds)]
            idle_sessions(stack, connect, 9 * n)
            farspan._state.push(session)
            after += [add_chain(probes, pids) for _ in range(rounds)]
        medians = [[statistics.median(x[k] for x in half) for k in (0, 1)]
                   for half in (before, after)]  # fmt: skip
        wall, cpu = (medians[1][k] / medians[0][k] for k in (0, 1))
        found["sessions"] = wall, cpu
        print(
            f"  {f'{n} -> {10 * n} idle sessions':34} {medians[0][0]:8.2f} us an op "
            f"({medians[0][1]:.2f} CPU); ten times: {wall:.2f} ({cpu:.2f} CPU)  <= {BAR}  "
            f"{'held' if wall <= BAR else 'MISSED'}"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--address", help="local:, or a service; default one that runs meanwhile")
    parser.add_argument("--token-file")
    parser.add_argument("--smoke", action="store_true", help="local:, tiny sizes, one round")
    options = parser.parse_args()
    address = "local:" if options.smoke else options.address
    rounds, probes = (1, 50) if options.smoke else (options.rounds, PROBES)
    with service(address, options.token_file) as (where, token):

        def connect() -> Any:
            return farspan.connect(where, token=token)

        with connect() as session:
            add_chain(probes, ())
            low = os.getloadavg()[0]
            measure(SMOKE if options.smoke else SIZES, rounds, probes, session, connect)
            print(f"load {low:.1f}-{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {where}")


if __name__ == "__main__":
    main()
