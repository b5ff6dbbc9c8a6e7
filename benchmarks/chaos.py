"""What a session survives, counted: kills, cuts, frozen peers, hostile bytes, neighbours.

    PYTHONPATH=client:server:worker:tests python benchmarks/chaos.py --seconds 120
    python benchmarks/chaos.py --only workers,gateways --kills 500 --seconds 3600
    python benchmarks/chaos.py --table   # what docs/reliability.md shows

Each part ends after `--seconds` or when it has done as many as asked. What was measured replaces
its part of `benchmarks/reliability.json`, with machine, date and commit; other parts stay.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import itertools
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"
sys.path.insert(0, str(TESTS))

import farspan as torch  # noqa: E402
from chaos import PHASES, Chaos, Outcome, Service, by_phase, status_of, wait_until, worker_of  # noqa: E402
from chaos_client import Client  # noqa: E402
from chaos_programs import MODELS, MODES, train  # noqa: E402
from cutting_proxy import CuttingProxy  # noqa: E402

RESULTS = HERE / "reliability.json"
KIB, MIB = 2**10, 2**20


class Bound:
    """So many seconds and so many turns, whichever ends first."""

    def __init__(self, seconds: float, count: int) -> None:
        self._until, self._count = time.monotonic() + seconds, count

    def turns(self) -> Iterator[int]:
        """Count the turns that are left."""
        for turn in range(self._count):
            if time.monotonic() > self._until:
                return
            yield turn


def percentile(values: list[float], part: float) -> float:
    """Return the smallest value that so large a part does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]


def spread(values: list[float]) -> dict[str, float]:
    """Return median, p99 and count."""
    return {
        "p50": round(statistics.median(values), 4),
        "p99": round(percentile(values, 0.99), 4),
        "count": len(values),
    }


# --- kills ---------------------------------------------------------------------------------------
def told(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return the figures of many faults."""
    return {
        "kills": len(outcomes),
        "differing": sum(not o.same for o in outcomes if not o.error),
        "lost": sum(bool(o.error) for o in outcomes),
        "lost_or_twice": sum(o.twice_or_lost for o in outcomes),
        "freed_before": sum(o.freed for o in outcomes),
        "phases": by_phase(outcomes),
        "pause_s": spread([o.pause_s for o in outcomes]),
        "bad": [repr(o) for o in outcomes if o.error or not o.same or o.twice_or_lost][:5],
    }


def kills(part: str, options: Any) -> dict[str, Any]:
    """Kill a part of a service under one program after the other."""
    outcomes = []
    rng = random.Random(options.seed)
    with Service() as service:
        chaos = Chaos(service)
        for turn in Bound(options.seconds, options.kills).turns():
            mode, name = MODES[turn % 3], MODELS[turn // 3 % 3]
            phase = ("upload", "forward", "backward", "step", "ops", "fetch")[turn % 6]
            phases = () if turn % 2 or mode == "compiled" else (phase,)
            outcomes.append(chaos.under(part, name, mode, rng, phases, freed=turn % 2 == 0))
    return told(outcomes)


def matrix(options: Any) -> dict[str, Any]:
    """Let each part die, and freeze, in each phase."""
    from chaos_heirs import frozen_client, inherited

    found: dict[str, str] = {}
    rng = random.Random(options.seed)
    bound = Bound(options.seconds / 2, 6 * len(PHASES)).turns()
    with Service() as service:
        chaos = Chaos(service)
        for (part, frozen), phase in itertools.product(
            itertools.product(("gateway", "worker", "client"), (False, True)), PHASES
        ):
            if (part, phase) == ("client", "snapshot"):
                continue  # a client takes none
            if (turn := next(bound, None)) is None:
                break
            cell, name = f"{part} {'frozen' if frozen else 'killed'} {phase}", MODELS[turn % 3]
            service.wait_for_gateway()
            if part != "client":
                found[cell] = judged(chaos.in_phase(part, phase, name, rng, frozen))
            elif frozen:
                found[cell] = frozen_client(chaos, name, phase, turn)
            else:
                found[cell] = inherited(service, name, phase, turn)
    found |= cluster_matrix(options, rng)
    bad = {cell: what for cell, what in found.items() if what}
    return {"cells": len(found), "same": len(found) - len(bad), "bad": bad}


def judged(outcome: Outcome) -> str:
    """Return what is wrong with the outcome of a fault; "" if nothing."""
    good = outcome.phase and outcome.same and not outcome.twice_or_lost
    return "" if good else repr(outcome)


def cluster_matrix(options: Any, rng: random.Random) -> dict[str, str]:
    """Let a node's raylet and the GCS of a Ray cluster die, and freeze, in each phase.

    A cluster that lost its GCS starts no worker any more, so each such phase has one of its own.
    """
    from test_cluster import add_node, made_nodes

    found: dict[str, str] = {}
    bound = Bound(options.seconds / 2, 4 * len(PHASES)).turns()
    for group in ([("raylet", False), ("raylet", True), ("GCS", True)], *[[("GCS", False)]] * 8):
        with made_nodes() as nodes, Service(spares=0, ray=nodes.address) as service:
            chaos = Chaos(service)
            for (part, frozen), phase in itertools.product(group, PHASES):
                cell = f"{part} {'frozen' if frozen else 'killed'} {phase}"
                if cell in found:
                    continue
                if (turn := next(bound, None)) is None:
                    return found
                name = MODELS[turn % 3]
                found[cell] = judged(chaos.in_phase(part, phase, name, rng, frozen))
                if (part, frozen) == ("raylet", False):
                    add_node(nodes)
                if (part, frozen) == ("GCS", False):
                    break
    return found


def in_snapshot(service: Service, least: int) -> bool:
    """Whether a session of so many bytes is in a snapshot that counts."""
    for directory in service.journal.glob("*"):
        with contextlib.suppress(OSError):
            sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
            snapshot = sum(size for name, size in sizes.items() if name.startswith("snapshot"))
            first = min((name for name in sizes if name.endswith(".journal")), default="0.")
            if snapshot > least and int(first.partition(".")[0]) > 1:
                return True
    return False


def recovery(options: Any) -> dict[str, Any]:
    """Measure the seconds from a worker's death to the next value, for sessions of some sizes."""
    found = {}
    with Service(snapshot_every_s=2.0) as service:
        for size in (10 * MIB, 100 * MIB, 1000 * MIB):
            seconds = []
            with service.connect() as session:
                kept = [torch.rand(size // 40) for _ in range(10)]
                began, expected = time.monotonic(), float(kept[9][5] + kept[0][5])
                while not in_snapshot(service, size) and time.monotonic() - began < 60:
                    kept[0][:10].mul_(1.0001)
                    expected = float(kept[9][5] + kept[0][5])
                for _ in Bound(options.seconds / 3, options.recoveries).turns():
                    service.kill("worker", session)
                    at = time.perf_counter()
                    assert float(kept[9][5] + kept[0][5]) == expected, "a wrong number"
                    seconds.append(time.perf_counter() - at)
                    time.sleep(1.5)  # until there is a spare worker again
            found[f"{size // MIB} MB"] = spread(seconds)
    return found


# --- cuts ----------------------------------------------------------------------------------------
def cuts(options: Any) -> dict[str, Any]:
    """Cut a session after every byte, and one with uploads and fetches after as many as fit."""
    import test_cuts

    with Service(spares=0, snapshot_every_s=5) as service:
        small = test_cuts.cuts(service)
        # About 20 cuts a second and process.
        step = max(test_cuts.AT_ONCE, int(1_700_000 / max(1.0, options.seconds * 10)))
        bulk = test_cuts.cuts(service, "bulk", step=step)
    return {"control": small, "bulk": bulk}


# --- what is run elsewhere too -------------------------------------------------------------------
def simulator(options: Any) -> dict[str, Any]:
    """Run seeds of the simulator."""
    from simulator import Violation, World

    violations = []
    seeds = 0
    first = 1_000_000 + options.seed * 1_000_000  # not those of every test run
    for turn in Bound(options.seconds, options.seeds).turns():
        try:
            World(first + turn).run()
        except Violation as error:
            violations.append(f"{first + turn}: {error}"[:200])
        seeds += 1
    return {"seeds": seeds, "violations": len(violations), "bad": violations[:5]}


def fuzz(options: Any) -> dict[str, Any]:
    """Give a worker's engine hostile frames."""
    from fuzzing.run import fuzz as run

    total: dict[str, Any] = {"inputs": 0, "decoded": 0, "findings": 0, "bad": []}
    for turn in Bound(options.seconds, max(1, options.inputs // 20_000)).turns():
        seed = f"{options.seed}.{turn}"
        report = run(20_000, seed, processes=os.cpu_count() or 1)
        found = [f"--repeat {seed}:{f['session']}: {f['finding']}" for f in report.findings]
        total["bad"] = [*total["bad"], *found][:5]
        if found:
            print("\n".join(report.lines()), file=sys.stderr, flush=True)
        total["inputs"] += report.counts["inputs"]
        total["decoded"] += report.counts["decoded"]
        total["findings"] += len(report.findings)
    return total


# --- what is held --------------------------------------------------------------------------------
def idle(options: Any) -> dict[str, Any]:
    """Hold idle sessions and measure the gateway."""
    count = options.sessions
    with Service(workers=1, spares=0) as service:
        held = [service.connect() for _ in range(50)]
        before = status_of(service.gateway)
        held += [service.connect() for _ in range(count - 50)]
        each = (status_of(service.gateway) - before) / (count - 50)
        with held[count // 2]:
            assert torch.ones(3).sum().item() == 3.0
        for session in held:
            session.close()
    return {"sessions": count, "each_kib": round(each / KIB, 1)}


def half_open(options: Any) -> dict[str, Any]:
    """Measure how soon each side notices that the way to the other is dead."""
    from test_holding import stalled_reader, streams

    with Service(workers=1, spares=0) as service:
        with CuttingProxy(service.address.removeprefix("grpc://")) as proxy:
            with service.connect(address=f"grpc://{proxy.address}") as session:
                torch.ones(3).sum().item()
                before = streams(service)
                proxy.silence(True)
                ledger = session.transport._ledger
                began = time.monotonic()
                ends: dict[str, float] = {}

                def watch() -> None:
                    wait_until(lambda: not ledger.connected, 60)
                    ends["client"] = time.monotonic() - began

                watching = threading.Thread(target=watch)
                watching.start()
                wait_until(lambda: not before & streams(service), 60)
                ends["gateway"] = time.monotonic() - began
                watching.join()
                proxy.silence(False)
        stalled_s = stalled_reader(service)
    return {**{f"{k}_s": round(v, 1) for k, v in ends.items()}, "stalled_s": round(stalled_s, 1)}


def note(times: list[float], phase: str) -> None:
    """Note when a step begins."""
    if phase == "upload":
        times.append(time.perf_counter())


def neighbour(options: Any) -> dict[str, Any]:
    """Measure a tenant's steps and round trips alone, and beside one that floods its own worker.

    On all cores together, and with the flood's client and worker on cores of their own; the gateway
    serves both, on the first tenant's.
    """
    cores = sorted(os.sched_getaffinity(0))
    half = max(1, len(cores) // 2)
    apart = _neighbour(options, set(cores[:half]), set(cores[half:]) or set(cores))
    together = _neighbour(options, set(cores), set(cores))
    return {**apart, "same_cores": together}


def _neighbour(options: Any, mine: set[int], theirs: set[int]) -> dict[str, Any]:
    steps: dict[str, list[float]] = {"solo": [], "beside": []}
    trips: dict[str, list[float]] = {"solo": [], "beside": []}
    digests = set()
    before = os.sched_getaffinity(0)
    with Service(tenants=2, workers=2, spares=0) as service, contextlib.ExitStack() as after:
        after.callback(place, os.getpid(), before)
        for pid in (os.getpid(), service.gateway):
            place(pid, mine)
        for _ in Bound(options.seconds / 2, 6).turns():
            for kind in ("solo", "beside"):
                with contextlib.ExitStack() as stack:
                    if kind == "beside":
                        flood = stack.enter_context(Client(service, "flood", tenant=1))
                        flood.hear("floods")
                        place(flood.pid, theirs)
                    session = stack.enter_context(service.connect())
                    for pid in children_of(service.supervisor):
                        place(pid, theirs)
                    place(worker_of(session), mine)
                    times: list[float] = []
                    hear = functools.partial(note, times)
                    digests.add(train("mlp", "replay", 60, hear, wide=False))
                    steps[kind] += [b - a for a, b in itertools.pairwise(times[5:])]
                    one = torch.ones(1)
                    for _ in range(200):
                        at = time.perf_counter()
                        one.item()
                        trips[kind].append(time.perf_counter() - at)

    def ratio(times: dict[str, list[float]], part: float) -> float:
        return round(percentile(times["beside"], part) / percentile(times["solo"], part), 2)

    return {
        "step_p99_ratio": ratio(steps, 0.99),
        "round_trip_p99_ratio": ratio(trips, 0.99),
        "step_p50_ratio": ratio(steps, 0.5),
        "differing": len(digests) - 1,
    }


def place(pid: int, cores: set[int]) -> None:
    """Keep all threads of a process, and those it starts from now on, on some cores."""
    for each in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):  # it has ended
            os.sched_setaffinity(int(each.name), cores)


def children_of(parent: int) -> list[int]:
    """Return the pids of the processes that a process has started."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if status_of(int(each.name), "PPid") == parent:
                found.append(int(each.name))
    return found


def durable(options: Any) -> dict[str, Any]:
    """Measure a training step of a durable session beside one that is kept by nothing."""
    found = {}
    with Service(snapshot_every_s=2.0) as service:
        for name in MODELS:
            ratios = []
            for _ in Bound(options.seconds / 3, 7).turns():
                took = {}
                for durability in ("off", "durable"):
                    with service.connect(durability=durability):
                        train(name, "replay", 15, wide=False)
                        began = time.perf_counter()
                        train(name, "replay", 60, wide=False)
                        took[durability] = time.perf_counter() - began
                ratios.append(took["durable"] / took["off"])
            found[name] = round(statistics.median(ratios), 3)
    return found


PARTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "workers": lambda options: kills("worker", options),
    "gateways": lambda options: kills("gateway", options),
    "matrix": matrix,
    "recovery": recovery,
    "cuts": cuts,
    "simulator": simulator,
    "fuzz": fuzz,
    "idle": idle,
    "half_open": half_open,
    "neighbour": neighbour,
    "durable": durable,
}


# --- the table -----------------------------------------------------------------------------------
def table(results: dict[str, Any]) -> str:
    """Return the figures as a table of Markdown."""
    found = {name: part["figures"] for name, part in results.items()}
    rows = []

    def row(part: str, what: str, figure: Callable[[Any], str], bar: str) -> None:
        if part in found:
            rows.append(f"| {what} | {figure(found[part])} | {bar} |")

    for part, name in (("workers", "worker"), ("gateways", "gateway")):
        row(part, f"{name} killed mid-training, at a random command",
            lambda f: f"{f['kills']} kills, {f['differing']} runs with a differing byte, "
            f"{f['lost_or_twice']} commands lost or run twice, {f['lost']} sessions lost; "
            f"pause {f['pause_s']['p50']:.2f} s, p99 {f['pause_s']['p99']:.2f} s", "0")  # fmt: skip
    row("matrix", "client, gateway, worker, raylet and GCS killed, and frozen, in each phase",
        lambda f: f"{f['same']} of {f['cells']} with the same bytes", "all")  # fmt: skip
    row("recovery", "from a worker's death to the next value",
        lambda f: "; ".join(f"{k}: {v['p50']:.2f} s, p99 {v['p99']:.2f} s ({v['count']})"
                            for k, v in f.items()), "≤ 5 s, p99 ≤ 15 s")  # fmt: skip
    row("cuts", "connection cut after every byte of a small session",
        lambda f: f"{f['control']['cuts']} cuts, {f['control']['wrong']} wrong states, "
        f"{f['control']['lost']} sessions lost", "0")  # fmt: skip
    row("cuts", "connections cut under uploads and fetches",
        lambda f: f"{f['bulk']['cuts']} of {f['bulk']['offsets']} bytes, {f['bulk']['wrong']} "
        f"wrong states, {f['bulk']['lost']} sessions lost", "0")  # fmt: skip
    row("simulator", "simulator",
        lambda f: f"{f['seeds']:,} seeds, {f['violations']} violations", "0")  # fmt: skip
    row("fuzz", "hostile frames",
        lambda f: f"{f['inputs']:,} inputs ({100 * f['decoded'] // max(1, f['inputs'])} % pass the "
        f"decoder), {f['findings']} findings", "0")  # fmt: skip
    row("idle", "idle sessions held by one gateway",
        lambda f: f"{f['sessions']:,}, {f['each_kib']} KiB each", "≤ 100 KiB")  # fmt: skip
    row("half_open", "half-open peer noticed by client / gateway",
        lambda f: f"{f['client_s']} s / {f['gateway_s']} s", "≤ 15 s")  # fmt: skip
    row("half_open", "a client that does not read is cut after",
        lambda f: f"{f['stalled_s']} s", "≤ 30 s")  # fmt: skip
    beside = "beside a tenant that floods: p99 of steps / of round trips ÷ solo"
    row("neighbour", f"{beside}; its client and worker on cores of their own", floods,
        "≤ 1.25 / ≤ 2")  # fmt: skip
    row("neighbour", f"{beside}; all on the same cores", lambda f: floods(f["same_cores"]), "")
    row("durable", "training step, durable ÷ off",
        lambda f: ", ".join(f"{k} {v}" for k, v in f.items()), "≤ 1.05")  # fmt: skip
    return "\n".join(["| what | measured | bar |", "|---|---|---|", *rows])


def floods(found: dict[str, Any]) -> str:
    """Say what a neighbour of a flood felt."""
    ratios = f"{found['step_p99_ratio']} / {found['round_trip_p99_ratio']}"
    return f"{ratios}, {found['differing']} runs with a differing byte"


def about() -> dict[str, Any]:
    """Return where and when this is measured."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True
    ).stdout.strip()
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"machine": f"{model}, {os.cpu_count()} cores", "date": day, "commit": commit,
            "load": round(os.getloadavg()[0], 1)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each part, about")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--recoveries", type=int, default=20, help="of each size")
    parser.add_argument("--seeds", type=int, default=100_000)
    parser.add_argument("--inputs", type=int, default=2_000_000)
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what was measured and end")
    options = parser.parse_args()
    results = json.loads(options.json.read_text()) if options.json.exists() else {}
    if not options.table:
        for name in options.only.split(","):
            began = time.monotonic()
            where = about()
            figures = PARTS[name](options)
            seconds = round(time.monotonic() - began)
            results[name] = {**where, "seconds": seconds, "figures": figures}
            print(f"{name} ({seconds} s): {json.dumps(figures)}", flush=True)
            ordered = {part: results[part] for part in PARTS if part in results}
            options.json.write_text(json.dumps(ordered, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
