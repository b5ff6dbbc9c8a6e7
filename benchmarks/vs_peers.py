"""Is farspan faster than other ways to compute with tensors that another process holds?

Every system runs in processes of its own, on loopback; farspan beside one other at a time, for some
keep cores busy while they wait. They are asked in turn, the order alternating, and must find the
same losses. A system that is not installed is left out, in words.

    python benchmarks/vs_peers.py [--peers farspan,rpc,ray] [--rows ops,tiny] [--rounds 7] [--write]

What a peer needs may stand in an environment of its own: --python dask=/venvs/dask/bin/python
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import vs_torch
from peer_loop import PEERS, PLAIN

HERE = Path(__file__).resolve().parent
REPLY_S = 600.0  # a system that answers nothing for so long is ended, and left out
RESULTS = HERE / "vs_peers.json"
README = HERE.parent / "docs" / "peers.md"
BEGIN, END = "<!-- vs_peers: begin -->", "<!-- vs_peers: end -->"

#: (system, mode): title. The order of the table.
TITLES = {
    ("torch", "eager"): "PyTorch in the same process",
    ("farspan", "eager"): "farspan, eager",
    ("farspan", "compiled"): "farspan, compiled",
    ("farspan-off", "eager"): "farspan without journal, eager",
    ("farspan-off", "compiled"): "farspan without journal, compiled",
    ("rpc", "per op"): "torch.distributed.rpc, RRefs",
    ("rpc", "modules"): "torch.distributed.rpc, RemoteModule",
    ("rpc", "whole step"): "torch.distributed.rpc, a step a call",
    ("ray", "per op"): "Ray actor, per op",
    ("ray", "whole step"): "Ray actor, a step a call",
    ("dask", "per op"): "Dask actor, per op",
    ("dask", "whole step"): "Dask actor, a step a call",
    ("monarch", "per op"): "Monarch, tensor engine",
    ("monarch", "whole step"): "Monarch actor, a step a call",
    ("tf", "per op"): "TensorFlow remote eager",
    ("tf", "whole step"): "TensorFlow remote tf.function",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One column of the table: what it is, and in which unit."""

    name: str
    title: str
    unit: str  # us, ms or MiB/s


ROWS = [
    Row("ops", "pipelined 4x4 `a + b`", "us"),
    Row("read", "`a + b` and its value", "us"),
    Row("up", "64 MiB up", "MiB/s"),
    Row("down", "64 MiB down", "MiB/s"),
    Row("tiny", "step of an MLP 64-128-10", "ms"),
    Row("tiny-each", "the same, each loss read", "ms"),
    Row("mlp", "step of an MLP 784-512-512-10", "ms"),
    Row("mlp-each", "the same, each loss read", "ms"),
]
BY_NAME = {row.name: row for row in ROWS}
#: How far losses may be apart, relatively. Adam divides by the size of gradients near zero, so that
#: rounding alone moves it.
AGREE = {"tiny": 1e-4, "mlp": 3e-2}


# ----------------------------------------------------------------------------------- the systems --
class System:
    """A child process that starts a system, or says why it cannot, and runs its rows."""

    def __init__(self, name: str, python: str, smoke: bool, service: dict[str, Any] | None) -> None:
        command = [python, str(HERE / "peer_loop.py"), "--peer", name]
        if service is not None:
            command += ["--address", service["address"], "--token-file", service["token_file"]]
        elif name.startswith("farspan"):
            command += ["--address", "local:"]
        command += ["--durability", "off" if name.endswith("-off") else ""]
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self.name = name
        self.modes: list[str] = []
        self.error = ""
        self._process = subprocess.Popen(
            command + ["--smoke"] * smoke, env={**vs_torch.environment(1), "PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def started(self) -> None:
        """Wait until it has started, or has said why not."""
        reply = self._reply()
        self.modes, self.error = reply.get("modes", []), reply.get("error", "")

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer, or {"error": why}."""
        if self.error:
            return {"error": self.error}
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: so says its reply
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        late = threading.Timer(REPLY_S, self._process.kill)
        late.daemon = True
        late.start()
        line = self._process.stdout.readline()
        late.cancel()
        if not line:
            self.error = f"its process ended with status {self._process.wait()}"
            return {"error": self.error}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process, which ends what it started: it stops when its stdin does."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def running(names: list[str], pythons: dict[str, str], smoke: bool) -> Iterator[list[System]]:
    """Yield the systems, and keep the service that farspan uses until the end.

    smoke: farspan computes in its own process, without a service.
    """
    ours = sum(name.startswith("farspan") for name in names)
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(vs_torch.service(1, ours, True)) if ours and not smoke else None
        systems = []
        for name in names:
            python = pythons.get(name.partition("-")[0], sys.executable)
            service = found if name.startswith("farspan") else None
            for _ in range(2):  # some give up when a start takes long
                system = System(name, python, smoke, service)
                stack.callback(system.close)
                system.started()
                if "its process ended" not in system.error:
                    break
            if system.error:
                print(f"left out: {name}: {system.error}")
            systems.append(system)
        yield systems


# ------------------------------------------------------------------------------------ one row --
def run_row(row: Row, systems: list[System], rounds: int) -> dict[str, Any]:
    """Return what was measured: by "system/mode" the seconds of each round, or an error."""
    asked: list[tuple[System, str, int]] = []
    found: dict[str, dict[str, Any]] = {}
    for system in systems:
        for mode in system.modes[:1] if row.name in PLAIN else system.modes:
            answer = system.ask("prepare", row=row.name, mode=mode)
            found[f"{system.name}/{mode}"] = answer
            if "error" not in answer:
                asked.append((system, mode, answer["count"]))
    loads, memcpy = [], []
    seconds: dict[str, list[float]] = {f"{s.name}/{m}": [] for s, m, _ in asked}
    for number in range(rounds):
        loads.append(os.getloadavg()[0])
        if row.unit == "MiB/s" and asked:
            memcpy.append(asked[0][0].ask("memcpy"))
        for system, mode, count in asked if number % 2 == 0 else asked[::-1]:
            key = f"{system.name}/{mode}"
            answer = system.ask("run", row=row.name, mode=mode, count=count)
            if "error" in answer:
                found[key] = answer
            else:
                seconds[key].append(answer["wall_s"])
    for key, cell in found.items():
        if "error" not in cell:
            cell["wall_s"] = seconds[key]
    whole = {"load": [min(loads), max(loads)], "systems": found}
    if memcpy:
        whole |= {"mib": memcpy[0]["mib"], "memcpy_s": [m["wall_s"] for m in memcpy]}
    return whole


def merge(row: Row, whole: dict[str, Any], found: dict[str, Any]) -> None:
    """Take what was measured beside one other system into the whole of a row."""
    ours = {k: c["wall_s"] for k, c in found["systems"].items() if k.startswith("farspan")}
    systems = whole.setdefault("systems", {})  # none, if what was asked for is not installed
    for key, cell in found["systems"].items():
        if not key.startswith(("farspan", "torch")):
            cell["beside_s"] = ours
        before = systems.setdefault(key, cell)
        if before is not cell and "wall_s" in cell:
            before["wall_s"] += cell["wall_s"]
    check(row, {name: cell["first"] for name, cell in systems.items() if "first" in cell})
    loads = [*whole.get("load", ()), *found["load"]]
    whole["load"] = [min(loads), max(loads)]
    if "mib" in found:
        whole["mib"] = found["mib"]
        whole["memcpy_s"] = [*whole.get("memcpy_s", ()), *found["memcpy_s"]]


def check(row: Row, first: dict[str, list[float]]) -> None:
    """Raise SystemExit unless all systems computed the same."""
    bound = AGREE.get(row.name.partition("-")[0], 0.0)
    for values in zip(*first.values(), strict=True):
        middle = statistics.median(values)
        for name, value in zip(first, values, strict=True):
            if not abs(value - middle) <= bound * abs(middle):
                raise SystemExit(f"{row.name}: {name} computes something else: {first}")


def median(found: dict[str, Any], key: str) -> float | None:
    """Return the median of a system's seconds, or None where it was not measured."""
    values = found["systems"].get(key, {}).get("wall_s")
    return statistics.median(values) if values else None


def ratio(found: dict[str, Any], key: str, ours: str) -> float | None:
    """Return the median of a system's seconds over ours within each round."""
    cell = found["systems"].get(key, {})
    theirs = cell.get("wall_s")
    base = cell.get("beside_s", {}).get(ours) or found["systems"].get(ours, {}).get("wall_s")
    if not theirs or not base:
        return None
    return statistics.median(a / b for a, b in zip(theirs, base, strict=False))


def shown(row: Row, found: dict[str, Any], seconds: float) -> str:
    """Return seconds in the row's unit, of three digits."""
    scale = {"us": 1e6, "ms": 1e3}
    value = found["mib"] / seconds if row.unit == "MiB/s" else seconds * scale[row.unit]
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show(row: Row, found: dict[str, Any]) -> None:
    """Print one row, with how many times farspan's time each took in the same mode's best."""
    low, high = found["load"]
    rounds = max((len(c.get("wall_s", ())) for c in found["systems"].values()), default=0)
    print(f"\n{row.title}, {row.unit}: {rounds} rounds, load {low:.1f}-{high:.1f}")
    if "memcpy_s" in found:
        copied = statistics.median(found["memcpy_s"])
        print(f"  {'memcpy':38}{shown(row, found, copied):>10}")
    for (name, mode), title in TITLES.items():
        key = f"{name}/{mode}"
        cell = found["systems"].get(key)
        if cell is None:
            continue
        if not cell.get("wall_s"):
            print(f"  {title:38}{'-':>10}  {cell.get('error', '')[:150]}")
            continue
        middle = statistics.median(cell["wall_s"])
        times = ratio(found, key, "farspan/eager")
        text = f"{times:9.2f} x farspan's eager time" if times is not None else ""
        print(f"  {title:38}{shown(row, found, middle):>10}{text}", flush=True)


# --------------------------------------------------------------------------------------- reports --
def fastest(row: Row, found: dict[str, Any], name: str) -> tuple[str, str, float] | None:
    """Return farspan's fastest mode, the fastest peer and that peer's time over farspan's.

    name: of farspan, as it is by default or, like the peers, without a journal.
    """
    keys = [f"{each}/{mode}" for each, mode in TITLES if each != "torch"]
    timed = {key: value for key in keys if (value := median(found, key)) is not None}
    ours = [key for key in timed if key.startswith(f"{name}/")]
    peers = [key for key in timed if not key.startswith("farspan")]
    if not ours or not peers:
        return None
    mine, other = min(ours, key=timed.__getitem__), min(peers, key=timed.__getitem__)
    value = ratio(found, other, mine)
    return None if value is None else (mine, other, value)


def verdicts(results: dict[str, Any]) -> list[str]:
    """Return for each row who is faster, farspan or the fastest peer; no peer has a journal."""
    lines = []
    for row in ROWS:
        parts = []
        for name, suffix in (("farspan", ""), ("farspan-off", " without journal")):
            found = results["rows"].get(row.name)
            judged = fastest(row, found, name) if found else None
            if judged is not None:
                mine, other, value = judged
                title = TITLES[tuple(other.split("/"))]  # type: ignore[index]
                how = f"{value:.2f} times as fast" if value >= 1 else f"{1 / value:.2f} BEHIND"
                parts.append(f"farspan{suffix} {how} ({mine.partition('/')[2]}; next {title})")
        if parts:
            lines.append(f"{row.title}: " + "; ".join(parts))
    return lines


def table(results: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    rows = [row for row in ROWS if row.name in results["rows"]]
    heads = ["", *(f"{row.title}, {row.unit}" for row in rows)]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * len(rows)]
    for (name, mode), title in TITLES.items():
        key = f"{name}/{mode}"
        values = [median(results["rows"][row.name], key) for row in rows]
        if any(value is not None for value in values):
            cells = [
                "-" if value is None else shown(row, results["rows"][row.name], value)
                for row, value in zip(rows, values, strict=True)
            ]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def describe(results: dict[str, Any]) -> str:
    """Return what was measured where, in one sentence or two."""
    of, rows = results["machine"], results["rows"].values()
    loads = [load for row in rows for load in row["load"]]
    rounds = [len(c["wall_s"]) for r in rows for c in r["systems"].values() if c.get("wall_s")]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    copies = [row["mib"] / s for row in rows for s in row.get("memcpy_s", ())]
    memcpy = f" memcpy: {statistics.median(copies):,.0f} MiB/s." if copies else ""
    return (
        f"Medians of at least {min(rounds)} alternating rounds, one thread a process: {of['cpu']}, "
        f"{of['cores']} cores shared with others (load {min(loads):.1f}-{max(loads):.1f}), "
        f"{versions}, {of['date']}, commit {of['commit']}.{memcpy}"
    )


def versions(pythons: dict[str, str]) -> dict[str, str]:
    """Return the versions of what was compared, by the name of its package."""
    wanted = {"torch": "torch", "rpc": "torch", "ray": "ray", "dask": "distributed",
              "monarch": "torchmonarch", "tf": "tensorflow-cpu"}  # fmt: skip
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    found = {}
    for name, package in wanted.items():
        if name in pythons:
            done = subprocess.run(
                [pythons[name], "-c", code, package], capture_output=True, text=True
            )
            if done.returncode == 0:
                found[package] = done.stdout.strip()
        else:
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[package] = metadata.version(package)
    return found


def write(results: dict[str, Any]) -> None:
    """Write the table between the markers of docs/peers.md."""
    text = README.read_text()
    before, found, rest = text.partition(BEGIN)
    if not found or END not in rest:
        raise SystemExit(f"{README.name} has no place for the table: {BEGIN} ... {END}")
    lines = "\n".join(f"- {line}" for line in verdicts(results))
    body = f"{describe(results)}\n\n{table(results)}\n\n{lines}"
    README.write_text(f"{before}{BEGIN}\n{body}\n{END}{rest.partition(END)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", default="", help=f"of {','.join(PEERS)}; default all")
    parser.add_argument("--rows", default="", help=f"of {','.join(BY_NAME)}; default all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH")
    parser.add_argument("--json", type=Path, help="file whose rows are replaced by those measured")
    parser.add_argument("--write", action="store_true", help="results and the table of docs")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round, no service")
    options = parser.parse_args()
    pythons = dict(pair.split("=", 1) for pair in options.python)
    names = [n for n in options.peers.split(",") if n] or list(PEERS)
    rows = [BY_NAME[n] for n in options.rows.split(",") if n] or ROWS
    path = options.json or (RESULTS if options.write else None)
    results: dict[str, Any] = {"rows": {}}
    if path and path.exists():
        results = json.loads(path.read_text())
    fresh: dict[str, dict[str, Any]] = {row.name: {} for row in rows}
    with running([n for n in names if n.startswith("farspan")], pythons, options.smoke) as ours:
        for name in [n for n in names if not n.startswith("farspan")] or [""]:
            with running([name] if name else [], pythons, options.smoke) as other:
                for row in rows:
                    turns = 1 if options.smoke else options.rounds
                    merge(row, fresh[row.name], run_row(row, [*ours, *other], turns))
    results["rows"] |= fresh
    for row in rows:
        show(row, fresh[row.name])
    results |= {"machine": vs_torch.machine(1), "versions": versions(pythons)}
    print("\n" + "\n".join(verdicts(results)))
    if path:
        path.write_text(json.dumps(vs_torch.rounded(results), indent=1) + "\n")
    if options.write:
        write(results)


if __name__ == "__main__":
    main()
