"""Tenants' bytes reach no interpreter: proved while a service runs, and as a law over the source.

What is allowed, and why: `direct.py` evaluates a call's text, made of places alone ("t[0].array"),
of which there are few; `core/op.py` does the same with the table's text while the table is edited.
Loops are compiled by llvmlite: instructions of our own kinds over checked shapes, machine code that
reads and writes the arrays of one plan; no text of a tenant is in it. Modules that are imported
when first needed are installed files, whose names no tenant chooses.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import farspan
import pytest
from test_adversary import BOMBS, Target

HERE = Path(__file__).resolve().parents[1]
#: The text that `direct.py` evaluates: places of arguments, and nothing else.
PLACES = re.compile(
    r"\(b?['\"]lambda k, t, s, c: k\(np"
    r"((, |\[|\]|[tsc]\[\d+\](\.array)?|None))*\)['\"], '<string>'\)"
)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, Path]]:
    """A service each process of which notes what it does, and where the notes are."""
    folder = tmp_path_factory.mktemp("audit")
    path = os.pathsep.join([str(HERE / "tests" / "audited"), os.environ.get("PYTHONPATH", "")])
    command = ["up", "--no-ray", "--workers", "cpu:1", "--threads", "1", "--no-journal", "--json"]
    up = subprocess.Popen(
        [sys.executable, "-m", "farspan_server", *command], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path, "FARSPAN_AUDIT": str(folder)},
    )  # fmt: skip
    try:
        assert up.stdout is not None
        ready = json.loads(up.stdout.readline())
        token = Path(ready["token_file"]).read_text().strip()
        yield Target(ready["address"], token, up.pid), folder
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(30) == 0


def ordinary(target: Target) -> None:
    """Train a small network, eagerly and compiled, and move tensors both ways."""
    with farspan.connect(target.address, token=target.token, timeout=60):
        net = farspan.nn.Sequential(farspan.nn.Linear(8, 16), farspan.nn.ReLU(),
                                    farspan.nn.Linear(16, 3))  # fmt: skip
        optimizer = farspan.optim.Adam(net.parameters(), lr=0.01)
        x, y = farspan.randn(32, 8), farspan.randint(0, 3, (32,))
        step = farspan.compile(lambda a: farspan.tanh(a * 2 + 1).sum())
        for _ in range(4):
            optimizer.zero_grad()
            loss = farspan.nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            step(x)
        assert loss.item() > 0
        assert farspan.ones(300_000).sum().item() == 300_000
        assert farspan.arange(300_000).numpy()[-1] == 299_999


def test_tenants_bytes_reach_no_interpreter_and_no_other_process(
    audited: tuple[Target, Path],
) -> None:
    target, folder = audited
    processes = len(target.rss())
    (folder / "armed").touch()
    ordinary(target)
    for name in BOMBS:
        target.say(BOMBS[name]())
    ordinary(target)
    (folder / "armed").unlink()
    events = [json.loads(line) for file in folder.glob("*.audit")
              for line in file.read_text().splitlines()]  # fmt: skip
    print(f"{processes} processes, {len(events)} events of "
          f"{sorted({e['event'] for e in events})}")  # fmt: skip
    wrong = [e for e in events if not allowed(e)]
    assert not wrong, json.dumps(wrong[:5], indent=1)
    assert any(e["event"] == "compile" for e in events), "the hook sees what there is to see"


def allowed(event: dict[str, Any]) -> bool:
    """Return whether an event is one of those that the head of this file gives a reason for."""
    kind, stack = event["event"], event["stack"]
    if kind == "import" or kind.startswith("import ("):
        return True  # an installed module, for the first time
    if any("farspan_worker/direct.py" in f and f.endswith(":_compiled") for f in stack):
        return kind in ("compile", "exec") and (kind == "exec" or bool(PLACES.match(event["args"])))
    if kind == "ctypes.dlopen":  # onednn, libc: names of ours
        return any("farspan_worker" in f or "llvmlite" in f for f in stack)
    if kind in ("socket.connect", "os.posix_spawn", "subprocess.Popen", "os.fork", "code.__new__"):
        # Links to workers and their start, by the gateway's and supervisor's own word.
        return any(f"farspan_{part}" in f for f in stack for part in ("server/workers.py",
                   "server/fleet.py", "server/supervisor", "worker/process.py"))  # fmt: skip
    if kind in ("exec", "compile"):  # classes of the standard library: dataclass, namedtuple
        return any("dataclasses.py" in f or "collections/__init__.py" in f for f in stack)
    return False


# ------------------------------------------------------------------------------------------ law --
SERVED = ("client/farspan/core", "client/farspan/wire", "server/farspan_server",
          "worker/farspan_worker")  # fmt: skip
BANNED_MODULES = {
    "pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "yaml", "runpy", "code",
    "codeop", "pty", "xmlrpc", "imp", "jsonpickle",
}  # fmt: skip
BANNED_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
BANNED_ATTRIBUTES = {"system", "popen", "Popen", "execv", "execve", "spawnv", "check_output",
                     "create_subprocess_exec", "create_subprocess_shell", "run_path", "loads_class",
                     "import_module"}  # fmt: skip
#: file -> what it may do, and why nobody else chooses what.
GRANTED = {
    "client/farspan/core/op.py": {"exec"},  # binders of the table, while it is edited
    "worker/farspan_worker/direct.py": {"eval"},  # places of arguments
    "server/farspan_server/processes.py": {"create_subprocess_exec"},  # workers, our own program
    # An operator's command that begins again as the same program, with other settings.
    "server/farspan_server/cli.py": {"execv"},
    "server/farspan_server/__main__.py": {"execv"},
    "server/farspan_server/up.py": {"create_subprocess_exec"},  # gateway and supervisor
}


def found_in(path: Path) -> set[str]:
    """Return the banned names that a file uses."""
    used = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            used |= {a.name.partition(".")[0] for a in node.names} & BANNED_MODULES
        elif isinstance(node, ast.ImportFrom) and not node.level:
            used |= {(node.module or "").partition(".")[0]} & BANNED_MODULES
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                used |= {node.func.id} & BANNED_CALLS
            elif isinstance(node.func, ast.Attribute):
                used |= {node.func.attr} & BANNED_ATTRIBUTES
                if "allow_pickle" in [k.arg for k in node.keywords]:
                    used.add("allow_pickle")
    return used


def test_the_served_side_names_nothing_that_executes() -> None:
    wrong = {}
    for folder in SERVED:
        for path in sorted((HERE / folder).rglob("*.py")):
            name = str(path.relative_to(HERE))
            used = found_in(path) - GRANTED.get(name, set())
            if used:
                wrong[name] = sorted(used)
    assert not wrong


def test_the_law_sees_what_it_bans(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import pickle\nfrom os import path\nimport os\nos.system('x')\neval('1')\n")
    assert found_in(bad) == {"pickle", "system", "eval"}
